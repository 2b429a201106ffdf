package health

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

// Health answers probes. Create one with [New].
// A Health is safe for concurrent use. Its only goroutines run checks, at most one for each.
type Health struct {
	delay    time.Duration // before Drain returns; negative for none
	checks   []*check      // read-only after New
	started  atomic.Bool
	draining atomic.Bool
}

// New returns a Health. The error, if any, names every invalid field of cfg.
func New(cfg Config) (*Health, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Health{delay: cfg.DrainDelay}
	for _, c := range cfg.Checks {
		h.checks = append(h.checks, &check{cfg: c})
	}
	return h, nil
}

// A CheckResult is what became of a check.
type CheckResult struct {
	Name     string        `json:"name"`
	OK       bool          `json:"ok"`
	Optional bool          `json:"optional,omitempty"`
	Duration time.Duration `json:"-"` // of the run; zero if the caller left before its end
	Err      error         `json:"-"` // nil if OK
}

// Check runs the checks whose results are too old and returns the results of all. ok is true if
// none failed that is not optional. Check returns at the latest when ctx ends: a check whose result
// is not there by then counts as failed.
func (h *Health) Check(ctx context.Context) (ok bool, results []CheckResult) {
	waits := make([]<-chan struct{}, len(h.checks))
	for i, c := range h.checks {
		waits[i] = c.refresh() // all start before the first is waited for
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

// Drain makes [Health.Ready] fail, then waits for [Config.DrainDelay], during which requests still
// arrive and must be served. Shut the server down after it. If ctx ends first, Drain returns
// context.Cause(ctx). Readiness stays failed in any case.
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

// Stats is a snapshot of a [Health].
type Stats struct {
	Started  bool              `json:"started"`  // all checks that count passed together, once
	Draining bool              `json:"draining"` // Drain was called
	Up       map[string]bool   `json:"up"`       // by check, as of its last run
	Errors   map[string]string `json:"errors"`   // by check that fails: for an admin page, not for strangers
}

// Stats returns a snapshot. It runs no checks.
func (h *Health) Stats() Stats {
	s := Stats{
		Started: h.started.Load(), Draining: h.draining.Load(),
		Up: map[string]bool{}, Errors: map[string]string{},
	}
	for _, c := range h.checks {
		ran, err := c.last()
		s.Up[c.cfg.Name] = ran && err == nil
		if err != nil {
			s.Errors[c.cfg.Name] = redact.Text(err.Error())
		}
	}
	return s
}
