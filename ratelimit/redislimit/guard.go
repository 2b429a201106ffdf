package redislimit

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

const (
	tripAfter = 3                      // failures in a row
	retryTime = 100 * time.Millisecond // between attempts while open
	maxCalls  = 256                    // that are out at once, those included that nobody waits for any more
)

// errOpen reports that Redis failed a moment ago.
var errOpen = errors.New("redislimit: breaker open")

// minWait is the part of the time for a call that must have passed before a caller's leaving counts as the server's
// failure: callers with short deadlines shall find the breaker open, but no caller shall open it by leaving.
const minWait = 0.5

// A guard bounds what a sick server costs: time of the callers, goroutines, and attempts.
type guard struct {
	base  time.Time
	calls chan struct{} // a send takes a place, a receive returns it

	failures atomic.Int64 // in a row
	retryAt  atomic.Int64 // since base; meaningful from tripAfter failures on
}

func newGuard() *guard {
	return &guard{base: time.Now(), calls: make(chan struct{}, maxCalls)}
}

func (g *guard) open() bool { return g.failures.Load() >= tripAfter }

// admit reports whether a call may be made now: always while closed, else one each retryTime.
func (g *guard) admit() bool {
	if !g.open() {
		return true
	}
	now := int64(time.Since(g.base))
	at := g.retryAt.Load()
	return now >= at && g.retryAt.CompareAndSwap(at, now+int64(retryTime))
}

// do runs call, which must heed its context but is not relied upon to: do returns when ctx ends or at the deadline.
// So call must not write to what its caller reads unless do returns nil.
func (g *guard) do(ctx context.Context, deadline time.Time, call func(context.Context) error) error {
	if !g.admit() {
		return errOpen
	}
	parent := ctx
	blame := time.Now()
	blame = blame.Add(time.Duration(minWait * float64(deadline.Sub(blame))))
	ctx, cancel := context.WithDeadline(parent, deadline)
	select {
	case g.calls <- struct{}{}:
	case <-ctx.Done():
		cancel()
		g.fail(parent, blame)
		return context.Cause(ctx)
	}
	done := make(chan error, 1)
	go func() {
		defer cancel()
		err := call(ctx)
		<-g.calls
		done <- err
	}()
	select {
	case err := <-done:
		return g.settle(parent, blame, err)
	case <-ctx.Done():
	}
	select {
	case err := <-done: // the call has ended, and its goroutine cancelled ctx: both were ready
		return g.settle(parent, blame, err)
	default:
		g.fail(parent, blame)
		return context.Cause(ctx)
	}
}

// settle counts how a call ended.
func (g *guard) settle(parent context.Context, blame time.Time, err error) error {
	if err == nil || isReply(err) {
		g.failures.Store(0)
	} else {
		g.fail(parent, blame)
	}
	return err
}

// fail counts a failure, unless it was the caller who left, before the time to blame the server.
func (g *guard) fail(parent context.Context, blame time.Time) {
	if parent.Err() != nil && time.Now().Before(blame) {
		return
	}
	if g.failures.Add(1) >= tripAfter {
		g.retryAt.Store(int64(time.Since(g.base) + retryTime))
	}
}
