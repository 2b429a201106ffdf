package balancer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/unsent"
)

// Errors of [Balancer.RoundTrip]: the request was not sent. What is returned says so by a method
// NotSent() bool; ErrNoEndpoints itself is returned as a [*NoEndpointsError].
var (
	// ErrNoEndpoints reports that no endpoint could be tried, or that none of those tried took the
	// request.
	ErrNoEndpoints = errors.New("balancer: no endpoints")

	// ErrFull reports that all endpoints had as many requests as [Config.MaxConns] allows, and none
	// of them had room in time. What is returned matches [ErrNoEndpoints] too.
	ErrFull = errors.New("balancer: full")

	// ErrTooManyTargets reports that a request named one target more than [Config.MaxTargets].
	ErrTooManyTargets = error(notSent("balancer: too many targets"))

	// ErrClosed reports that [Balancer.Close] has been called.
	ErrClosed = error(notSent("balancer: closed"))
)

// A notSent is an error that is final: the wait that it states is none.
type notSent string

func (e notSent) Error() string             { return string(e) }
func (e notSent) NotSent() bool             { return true }
func (e notSent) RetryAfter() time.Duration { return 0 }

// A NoEndpointsError says why a request was not sent. It matches [ErrNoEndpoints].
type NoEndpointsError struct {
	Target string
	Tried  int   // endpoints that could not be reached, or whose wrapper refused
	Err    error // the last of their errors, or the resolver's; may be nil
}

func (e *NoEndpointsError) Error() string {
	s := "balancer: no endpoints for " + e.Target
	if e.Tried > 0 {
		s += fmt.Sprintf(": tried %d", e.Tried)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is makes errors.Is(err, ErrNoEndpoints) true.
func (e *NoEndpointsError) Is(target error) bool { return target == ErrNoEndpoints }

// Unwrap returns the cause.
func (e *NoEndpointsError) Unwrap() error { return e.Err }

// NotSent tells a retry layer that the request never left.
func (e *NoEndpointsError) NotSent() bool { return true }

// RetryAfter returns the wait that Err states: how long the last endpoint's wrapper asked to wait,
// or 0 if it refused for good. If Err states none, that is a second, within which a health check or
// a resolver may find an endpoint.
func (e *NoEndpointsError) RetryAfter() time.Duration { return waitOf(e.Err) }

// waitOf returns the wait that err states, which may be 0, or a second if it states none.
func waitOf(err error) time.Duration {
	if wait, stated := unsent.Wait(err); stated {
		return wait
	}
	return time.Second
}

// A Balancer is an http.RoundTripper that spreads requests over the endpoints of their targets.
// Create one with [New]. It is safe for concurrent use.
type Balancer struct {
	origin   time.Time
	template *http.Transport // if Config.Transport is nil
	cfg      atomic.Pointer[Config]
	pools    atomic.Pointer[map[targetKey]*pool] // replaced as a whole
	views    sync.Pool                           // of *View

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	panics atomic.Uint64

	mu      sync.Mutex // guards the writing of pools, and the fields below
	closed  bool
	dropped Stats // what targets that have been dropped had counted
}

// New returns a Balancer. The error, if any, names every invalid field of cfg.
func New(cfg Config) (*Balancer, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Balancer{origin: time.Now(), template: defaultTransport()}
	cfg.Transport = cmp.Or(cfg.Transport, b.template)
	b.views.New = func() any { return new(View) }
	b.cfg.Store(&cfg)
	b.pools.Store(&map[targetKey]*pool{})
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b, nil
}

// now is the time as groups count it: monotonic nanoseconds since origin.
func (b *Balancer) now() int64 { return int64(time.Since(b.origin)) }

// Reload replaces the configuration. What is known of targets and endpoints stays, and so do
// connections if cfg.Transport, Conns and ConnLife are the same. A request that has begun keeps its
// Policy, and Observe gets its attempts as before. All else goes by cfg at once: an attempt is sent
// through the Transport and Wrap of its moment, and what its reply causes follows the Outlier and
// Observe of then. On an error nothing changes.
func (b *Balancer) Reload(cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	cfg.Transport = cmp.Or(cfg.Transport, b.template)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	b.cfg.Store(&cfg)
	for _, p := range *b.pools.Load() {
		p.reload(&cfg)
	}
	return nil
}

// CloseIdleConnections closes the connections that no request is using.
func (b *Balancer) CloseIdleConnections() {
	for _, p := range *b.pools.Load() {
		p.closeIdle()
	}
}

// Close refuses new requests, stops all goroutines and waits until the requests running have ended,
// or ctx ends. It returns context.Cause(ctx) if requests, or a resolver or a check that does not
// heed its context, were still running; they go on.
func (b *Balancer) Close(ctx context.Context) error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		b.cancel()
	}
	pools := *b.pools.Load()
	for _, p := range pools {
		p.dropped.Store(true)
	}
	b.mu.Unlock()
	defer b.CloseIdleConnections()
	// None of these goroutines waits for a request, but a user's resolver or check may be slow to
	// end.
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b.wg.Wait()
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		running := int64(0)
		for _, p := range pools {
			running += p.inFlight()
		}
		if running == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
