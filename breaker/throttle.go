package breaker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/blame"
	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultK              = 2
	defaultThrottleWindow = 30 * time.Second

	// onePasses is how long a throttle waits after the last request that it let through until it
	// lets the next one through in any case: otherwise it might never learn that all is well.
	onePasses = 10 * time.Second
)

// ErrThrottled reports that a [Throttle] refused a request. [*ThrottledError] has the details.
var ErrThrottled = errors.New("breaker: throttled")

// A ThrottledError describes a request that a [Throttle] refused. It matches [ErrThrottled].
type ThrottledError struct {
	Key  string
	Wait time.Duration // after which another attempt makes sense
}

func (e *ThrottledError) Error() string { return "breaker: throttled (" + e.Key + ")" }

// Is makes errors.Is(err, ErrThrottled) true, also through the *url.Error of [net/http.Client].
func (e *ThrottledError) Is(target error) bool { return target == ErrThrottled }

// NotSent tells retry and balancer around the transport that the request never left.
func (e *ThrottledError) NotSent() bool { return true }

// RetryAfter returns Wait.
func (e *ThrottledError) RetryAfter() time.Duration { return e.Wait }

// ThrottleConfig configures a [Throttle]. The zero ThrottleConfig is valid. Its functions are
// called by many requests at a time: they must be safe for concurrent use.
type ThrottleConfig struct {
	// Key says whose refusals count for a request; one that has no key (ok is false) passes
	// uncounted. If nil, it is the host of the URL.
	Key func(*http.Request) (key string, ok bool)

	// K is how many requests are sent for each that is accepted. With 2, half of what is sent may
	// be refused before anything is refused here. Zero means 2. Less than 1 is invalid.
	K float64

	// Window is the time that counts. It rolls in ten steps, and should be longer than requests
	// take to fail. Zero means 30 s. Negative is invalid.
	Window time.Duration

	// MaxKeys is how many keys are counted separately. Zero means 4,096. Negative is invalid. All
	// others are counted together.
	MaxKeys int

	// Skip names requests that are passed on untouched. If nil, none is.
	Skip func(*http.Request) bool

	// DryRun decides, counts and observes as always, and refuses nothing. What it would have
	// refused is sent, and counts when the server accepts it, so that it would refuse fewer than
	// without.
	DryRun bool

	// Observe, if not nil, receives every refusal. It is called on the request's goroutine with no
	// lock held, so it must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e ThrottleEvent)
}

func (c ThrottleConfig) withDefaults() (ThrottleConfig, error) {
	f := settings.Of("breaker", "ThrottleConfig")
	settings.Default(f, "K", &c.K, defaultK)
	if c.K < 1 {
		f.Add("K", "%v is less than 1", c.K)
	}
	settings.Positive(f, "Window", &c.Window, defaultThrottleWindow)
	if c.Window > longest {
		f.Add("Window", "%v is more than a year", c.Window)
	}
	settings.Positive(f, "MaxKeys", &c.MaxKeys, defaultMaxKeys)
	return c, f.Err()
}

// A ThrottleEvent is a request that a [Throttle] refused, or would have but for DryRun.
type ThrottleEvent struct {
	Key                string
	Requests, Accepted uint64 // of the window
}

// LogValue implements [slog.LogValuer]: the event's name, and the rest as detail.
func (e ThrottleEvent) LogValue() slog.Value {
	return slog.GroupValue(slog.String("event", "throttled"), slog.GroupAttrs("detail",
		slog.String("key", e.Key), slog.Uint64("requests", e.Requests), slog.Uint64("accepted", e.Accepted)))
}

// A Throttle refuses some of a client's requests by itself while a server refuses many: a refusal
// costs a server too, and one that is overloaded needs to be spared them. A request is refused with
// probability max(0, (requests − K·accepted) / (requests + 1)), where requests counts what was
// asked for in the window, refused or not, and accepted what the server took. Nothing is refused
// while the server has refused nothing in the window: a burst of requests that have no answer yet
// is no sign of overload. One request in 10 s passes in any case.
//
// The server has not accepted a request if it answers 429 or 503, or nothing at all.
//
// Create one with [NewThrottle]. A Throttle is safe for concurrent use and starts no goroutines.
type Throttle struct {
	cfg    ThrottleConfig // read-only after NewThrottle
	base   time.Time
	rand   func() float64 // in [0, 1)
	flows  *table[flow]
	shared *flow // of the keys beyond MaxKeys

	sent, throttled, overflowed atomic.Uint64
}

// NewThrottle returns a Throttle. The error, if any, names every invalid field of cfg.
func NewThrottle(cfg ThrottleConfig) (*Throttle, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &Throttle{cfg: cfg, base: time.Now(), rand: rand.Float64}
	fresh := func(string) *flow {
		w := newWindow(cfg.Window)
		return &flow{requests: w, accepted: w, refused: w}
	}
	idle := func(f *flow) bool { return f.idle(t.now()) }
	t.flows = newTable(cfg.MaxKeys, int64(step(cfg.Window)), fresh, idle)
	t.shared = fresh("")
	return t, nil
}

// A flow is what is counted of one key.
type flow struct {
	mu       sync.Mutex // guards the fields below
	requests window     // asked for, whatever became of them
	accepted window     // by the server
	refused  window     // by the server
	passed   int64      // when the last one was let through
}

func (f *flow) idle(now int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests.total(now) == 0
}

// take counts a request and decides whether it is let through. It returns when it was counted.
func (f *flow) take(t *Throttle) (at int64, ok bool, requests, accepted uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at = t.now()
	requests, accepted = f.requests.total(at), f.accepted.total(at)
	ok = true
	if f.refused.total(at) > 0 && at-f.passed < int64(onePasses) {
		excess := float64(requests) - t.cfg.K*float64(accepted)
		ok = excess <= 0 || t.rand() >= excess/float64(requests+1)
	}
	f.requests.add(at)
	if ok {
		f.passed = at
	}
	return at, ok, requests, accepted
}

// end counts how a request has ended that was counted at a time.
func (f *flow) end(now, at int64, o Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch o {
	case Success:
		f.accepted.add(now)
	case Failure:
		f.refused.add(now)
	default:
		f.requests.takeBack(now, at)
	}
}

func (t *Throttle) now() int64 { return 1 + int64(time.Since(t.base)) }

// ThrottleStats is a snapshot of a [Throttle]'s counters and gauges.
type ThrottleStats struct {
	Sent       uint64 `json:"sent"`
	Throttled  uint64 `json:"throttled"`
	Overflowed uint64 `json:"overflowed"` // requests that were counted together because there are MaxKeys
	Keys       int    `json:"keys"`
}

// Stats returns a snapshot.
func (t *Throttle) Stats() ThrottleStats {
	return ThrottleStats{
		Sent: t.sent.Load(), Throttled: t.throttled.Load(), Overflowed: t.overflowed.Load(),
		Keys: t.flows.len(),
	}
}

// Forget removes what is counted of key.
func (t *Throttle) Forget(key string) { t.flows.remove(key) }

// Transport returns a RoundTripper that sends requests through next, or refuses them with a
// [*ThrottledError]. If next is nil, [http.DefaultTransport] is used.
func (t *Throttle) Transport(next http.RoundTripper) http.RoundTripper {
	return t.TransportFor("", next)
}

// TransportFor is [Throttle.Transport] with one key for all requests. An empty key means each
// request's own.
func (t *Throttle) TransportFor(key string, next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &throttled{throttle: t, key: key, next: next}
}

type throttled struct {
	throttle *Throttle
	key      string // empty: the request's
	next     http.RoundTripper
}

func (t *throttled) RoundTrip(req *http.Request) (*http.Response, error) {
	th := t.throttle
	if th.cfg.Skip != nil && th.cfg.Skip(req) {
		return t.next.RoundTrip(req)
	}
	key := t.key
	if key == "" {
		if th.cfg.Key == nil {
			key = origin.URLHost(req.URL)
		} else {
			var ok bool
			if key, ok = th.cfg.Key(req); !ok {
				return t.next.RoundTrip(req)
			}
		}
	}
	ctx := req.Context()
	if ctx.Err() != nil {
		closeBody(req)
		return nil, context.Cause(ctx)
	}
	f := th.flow(key)
	at, ok, requests, accepted := f.take(th)
	if !ok {
		th.throttled.Add(1)
		if th.cfg.Observe != nil {
			th.cfg.Observe(ctx, ThrottleEvent{Key: key, Requests: requests, Accepted: accepted})
		}
		if !th.cfg.DryRun {
			closeBody(req)
			return nil, &ThrottledError{Key: key, Wait: th.wait()}
		}
	}
	th.sent.Add(1)
	outcome := Failure
	defer func() { f.end(th.now(), at, outcome) }() // also if next panics
	out, up := blame.Watch(req)
	resp, err := t.next.RoundTrip(out)
	switch {
	case err != nil:
		outcome = failureOf(req, err, up)
	case resp == nil: // a bug in next
	default:
		if out != req {
			resp.Request = req
		}
		if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
			outcome = Success
		}
	}
	return resp, err
}

func (t *Throttle) flow(key string) *flow {
	if f := t.flows.find(key); f != nil {
		return f
	}
	if f := t.flows.add(key, t.now); f != nil {
		return f
	}
	t.overflowed.Add(1)
	return t.shared
}

// wait returns what a refused request is told to wait: about a third of a step of the window, in
// which the counts change, and not the same for all.
func (t *Throttle) wait() time.Duration {
	return max(time.Millisecond, time.Duration((0.5+t.rand())*float64(t.cfg.Window)/(3*steps)))
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach next.
func (t *throttled) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
