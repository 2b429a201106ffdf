package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultCheckTimeout = 2 * time.Second
	defaultCheckTTL     = time.Second
	defaultDrainDelay   = 5 * time.Second
)

// A Check tells whether something that the process needs is there.
type Check struct {
	// Name identifies the check. Required, and different from that of others.
	Name string

	// Func returns nil if all is well. Required. It must end with its context: until it does, no other
	// run of this check starts, and the check fails.
	Func func(context.Context) error

	// Timeout ends a run. Zero means 2 s. Negative is invalid. A prober that waits for less, as Kubernetes'
	// does with its default of 1 s, takes the lack of an answer for a failure.
	Timeout time.Duration

	// TTL is how long a result is used again, however many probes come. Zero means 1 s.
	// Negative means not at all.
	TTL time.Duration

	// Optional says that a failure is reported and does not make the process unready: taking all
	// replicas out because a shared dependency is down turns a part of an outage into a whole one. Nor does
	// it delay a probe after its first run: the last result counts until the next is there.
	Optional bool
}

// HealthConfig configures a [Health]. The zero HealthConfig is valid and has no checks.
type HealthConfig struct {
	// Checks are what readiness depends on.
	Checks []Check

	// DrainDelay is how long [Health.Drain] waits for load balancers to notice. Zero
	// means 5 s. Negative means not at all.
	DrainDelay time.Duration
}

// Health answers probes. Create one with [NewHealth]. Its handlers belong on a listener of
// their own or behind [Config.Skip]. The bodies name checks but not errors: see [Health.Stats] for those.
//
// A Health is safe for concurrent use. Its only goroutines run checks, one each at most.
type Health struct {
	delay    time.Duration
	checks   []*checkState
	started  atomic.Bool
	draining atomic.Bool
}

type checkState struct {
	Check

	mu      sync.Mutex // guards the fields below
	running chan struct{}
	started time.Time
	at      time.Time // of the result; zero before the first
	took    time.Duration
	err     error
}

// NewHealth returns a Health. The error, if any, names every invalid field of cfg.
func NewHealth(cfg HealthConfig) (*Health, error) {
	var errs []error
	fault := func(i int, field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("telemetry: HealthConfig.Checks[%d].%s: "+format, append([]any{i, field}, args...)...))
	}
	h := &Health{delay: cfg.DrainDelay}
	if h.delay == 0 {
		h.delay = defaultDrainDelay
	}
	for i, c := range cfg.Checks {
		if c.Name == "" {
			fault(i, "Name", "is required")
		}
		if slices.ContainsFunc(cfg.Checks[:i], func(o Check) bool { return o.Name == c.Name }) {
			fault(i, "Name", "%q is taken", c.Name)
		}
		if c.Func == nil {
			fault(i, "Func", "is required")
		}
		if c.Timeout < 0 {
			fault(i, "Timeout", "%v is negative", c.Timeout)
		}
		if c.Timeout == 0 {
			c.Timeout = defaultCheckTimeout
		}
		if c.TTL == 0 {
			c.TTL = defaultCheckTTL
		}
		h.checks = append(h.checks, &checkState{Check: c})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return h, nil
}

// Live answers 200 as long as the process can answer at all. It runs no checks: restarting a process
// does not bring its database back.
func (h *Health) Live() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answerProbe(w, true, nil) })
}

// Ready answers 200 if the process should get requests: it has started, is not draining, and
// no check fails that is not optional. Else it answers 503.
func (h *Health) Ready() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ok, results := h.Check(r.Context())
		answerProbe(w, ok && !h.draining.Load(), results)
	})
}

// Startup answers 200 once all checks have passed together, and from then on. Until then it answers 503.
func (h *Health) Startup() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.started.Load() {
			answerProbe(w, true, nil)
			return
		}
		ok, results := h.Check(r.Context())
		answerProbe(w, ok, results)
	})
}

// CheckResult is what became of a [Check].
type CheckResult struct {
	Name     string        `json:"name"`
	OK       bool          `json:"ok"`
	Optional bool          `json:"optional,omitempty"`
	Took     time.Duration `json:"-"`
	Err      error         `json:"-"`
}

// Check runs the checks whose results are too old and reports all. ok says that none failed that is
// not optional. It returns when ctx ends at the latest; what is not known by then failed.
func (h *Health) Check(ctx context.Context) (ok bool, results []CheckResult) {
	waits := make([]<-chan struct{}, len(h.checks))
	for i, c := range h.checks {
		waits[i] = c.refresh()
	}
	ok = true
	for i, c := range h.checks {
		r := c.result(ctx, waits[i])
		results = append(results, r)
		ok = ok && (r.OK || r.Optional)
	}
	if ok {
		h.started.Store(true)
	}
	return ok, results
}

// refresh starts a run if there is none and the last result is too old. It returns the channel that is
// closed when the result is there, nil if it is.
func (c *checkState) refresh() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil {
		return c.running
	}
	if !c.at.IsZero() && c.TTL > 0 && time.Since(c.at) < c.TTL {
		return nil
	}
	c.running = make(chan struct{})
	c.started = time.Now()
	go c.run()
	return c.running
}

// run runs the check once. It is not part of the probe's request: others wait for it too.
func (c *checkState) run() {
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	err := func() (err error) {
		defer cancel()
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("check panicked: %v", v)
			}
		}()
		return c.Func(ctx)
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = time.Now()
	c.took = c.at.Sub(c.started)
	c.err = err
	close(c.running)
	c.running = nil
}

var errCheckTimeout = errors.New("telemetry: check timed out")

// result waits for a run, no longer than the check's timeout.
func (c *checkState) result(ctx context.Context, done <-chan struct{}) CheckResult {
	r := CheckResult{Name: c.Name, Optional: c.Optional}
	if done != nil && c.Optional {
		c.mu.Lock()
		if !c.at.IsZero() {
			done = nil
		}
		c.mu.Unlock()
	}
	if done != nil {
		c.mu.Lock()
		left := c.Timeout - time.Since(c.started)
		c.mu.Unlock()
		t := time.NewTimer(max(left, 0))
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			select {
			case <-done: // at the same moment
			default:
				r.Took, r.Err = c.Timeout, errCheckTimeout
				return r
			}
		case <-ctx.Done():
			r.Err = context.Cause(ctx)
			return r
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.OK, r.Took, r.Err = c.err == nil, c.took, c.err
	return r
}

// Drain makes [Health.Ready] fail, then waits [HealthConfig.DrainDelay], during which requests
// still arrive and must be served. Shut the server down after it. If ctx ends first,
// Drain returns context.Cause(ctx); readiness stays failed.
func (h *Health) Drain(ctx context.Context) error {
	h.draining.Store(true)
	if h.delay < 0 {
		return nil
	}
	t := time.NewTimer(h.delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// HealthStats is a snapshot of a [Health].
type HealthStats struct {
	Started  bool              `json:"started"`
	Draining bool              `json:"draining"`
	Up       map[string]bool   `json:"up"`     // by check; as of its last run
	Errors   map[string]string `json:"errors"` // texts of failures, for an admin page and not for strangers
}

// Stats returns a snapshot without running checks.
func (h *Health) Stats() HealthStats {
	s := HealthStats{Started: h.started.Load(), Draining: h.draining.Load(), Up: map[string]bool{}, Errors: map[string]string{}}
	for _, c := range h.checks {
		c.mu.Lock()
		s.Up[c.Name] = !c.at.IsZero() && c.err == nil
		if c.err != nil {
			s.Errors[c.Name] = scrub(c.err.Error())
		}
		c.mu.Unlock()
	}
	return s
}

func answerProbe(w http.ResponseWriter, ok bool, results []CheckResult) {
	status, word := http.StatusOK, "pass"
	if !ok {
		status, word = http.StatusServiceUnavailable, "fail"
	}
	body, _ := json.Marshal(struct {
		Status string        `json:"status"`
		Checks []CheckResult `json:"checks,omitempty"`
	}{word, results})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the prober is gone if this fails
}
