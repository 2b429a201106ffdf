package balancer

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxQueueTime is how long a request waits at most for an endpoint that is full. A caller that gets
// its refusal after a second can still go elsewhere.
const maxQueueTime = time.Second

// A gate admits a bounded number of requests to an endpoint, and has a queue as long, first come
// first served. While there is room, it costs a request an atomic addition on its way in and one on
// its way out.
type gate struct {
	used  atomic.Int64 // requests that have a place or wait for one
	limit int64
	_     [48]byte // what follows is only touched while the endpoint is full

	mu      sync.Mutex // guards the fields below
	waiting list.List  // of chan struct{}; each is closed when its request has a place

	// owed is how many waiting requests have left whose places are still to come, from requests
	// that have counted themselves out and wait for mu. Those places go to nobody: they are
	// counted already.
	owed int
}

// newGate returns the gate of an endpoint under Config.MaxConns; nil if there is no bound.
func newGate(limit int) *gate {
	if limit < 0 {
		return nil
	}
	return &gate{limit: int64(limit)}
}

// enter takes a place if there is one and nobody waits for it. g may be nil.
func (g *gate) enter() bool {
	if g == nil {
		return true
	}
	for {
		n := g.used.Load()
		if n >= g.limit {
			return false
		}
		if g.used.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave gives a place to the request that has waited longest, if any does. g may be nil.
func (g *gate) leave() {
	if g != nil && g.used.Add(-1) >= g.limit {
		g.handOver()
	}
}

// handOver gives the place of a request that has counted itself out to the one that has waited
// longest.
func (g *gate) handOver() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.owed > 0 {
		g.owed--
	} else if first := g.waiting.Front(); first != nil {
		close(g.waiting.Remove(first).(chan struct{}))
	}
}

// wait waits for a place until ctx ends, at most maxQueueTime.
func (g *gate) wait(ctx context.Context) error {
	place, at, err := g.line()
	if place == nil {
		return err
	}
	timer := time.NewTimer(maxQueueTime)
	defer timer.Stop()
	select {
	case <-place:
		return nil
	case <-ctx.Done():
		err = &fullError{g.limit, context.Cause(ctx)}
	case <-timer.C:
		err = &fullError{g.limit, nil}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-place: // it came at the same moment
		return nil
	default:
	}
	g.waiting.Remove(at)
	if g.used.Add(-1) < g.limit {
		g.owed++
	}
	return err
}

// line lines up. It returns no place to wait for if there is one already, or if the queue is full.
func (g *gate) line() (place chan struct{}, at *list.Element, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if int64(g.waiting.Len()) >= g.limit {
		return nil, nil, &fullError{g.limit, nil}
	}
	if g.used.Add(1) <= g.limit {
		return nil, nil, nil
	}
	place = make(chan struct{})
	return place, g.waiting.PushBack(place), nil
}

// queued returns how many requests wait. g may be nil.
func (g *gate) queued() int {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting.Len()
}

// A fullError says that endpoints had as many requests as [Config.MaxConns] allows.
type fullError struct {
	limit int64
	cause error // of the end of the request's context; else nil
}

func (e *fullError) Error() string {
	return fmt.Sprintf("balancer: all endpoints have %d connections, and too many requests wait", e.limit)
}
func (e *fullError) Unwrap() error             { return e.cause }
func (e *fullError) Is(target error) bool      { return target == ErrFull }
func (e *fullError) NotSent() bool             { return true }
func (e *fullError) RetryAfter() time.Duration { return time.Second }

// awaitRoom makes e, which was full, the choice of the attempt as soon as it has room. The request
// is in flight there meanwhile, so that policies see who has a queue. It returns errDropped if that
// began too late.
func (a *attempt) awaitRoom(e *endpoint, try int) error {
	a.choice = choice{endpoint: e, reason: a.choice.reason, inFlight: e.inFlight.Add(1)}
	e.picked.Add(1)
	if try == 0 && a.pool.dropped.Load() {
		a.choice.undo()
		return errDropped
	}
	g := e.gate.Load()
	if !g.enter() { // a Reload may have taken the bound away
		if err := g.wait(a.ctx); err != nil {
			a.choice.undo()
			if a.ctx.Err() == context.Canceled {
				return context.Cause(a.ctx)
			}
			a.pool.unserved.Add(1)
			a.pool.full.Add(1)
			return &NoEndpointsError{Target: a.pool.name, Tried: try, Err: err}
		}
	}
	a.choice.gate, a.choice.at = g, a.now()
	return nil
}

// setMaxConns sets e's bound. Requests that are at e or wait there keep the gate that they know, so
// for a while there may be as many as both bounds allow.
func (e *endpoint) setMaxConns(limit int) {
	if g := e.gate.Load(); g == nil || g.limit != int64(limit) {
		e.gate.Store(newGate(limit))
	}
}

// among returns tried and full as one list. It never changes the array of tried.
func among(tried, full []*endpoint) []*endpoint {
	if len(full) == 0 {
		return tried
	}
	return slices.Concat(tried, full)
}
