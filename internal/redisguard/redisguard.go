// Package redisguard bounds what a sick Redis costs a program that can do without it: the time of
// its callers, goroutines, and attempts. Every adapter on Redis has a [Guard] around its calls:
//
//	g := redisguard.New()
//	var value string
//	err := g.Do(ctx, time.Now().Add(timeout), func(ctx context.Context) (err error) {
//		value, err = client.Get(ctx, key).Result()
//		return err
//	})
//
// go-redis bounds a call by its own time limits, which are seconds and can be off, and tries again
// within them. A Guard returns when its caller's time is over, whatever the client does.
package redisguard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	tripAfter = 3                      // failures in a row
	retryTime = 100 * time.Millisecond // between attempts while open
	maxCalls  = 256                    // that are out at once, abandoned ones included

	deadTogether = 100 * time.Millisecond // connections that die within this are one failure
)

// minWait is the share of a call's time after which a caller's cancellation counts as a failure of
// the server: callers with short deadlines must find the breaker open, but no caller can open it by
// leaving at once.
const minWait = 0.5

// ErrOpen reports that a call was not made: Redis has failed three times in a row, the last time a
// moment ago.
var ErrOpen = errors.New("redis: breaker open")

// errGone is how a call ends that has ended its goroutine.
var errGone = errors.New("redis: call called runtime.Goexit")

// A Guard bounds calls and stops making them for a while when three in a row have failed: then one
// call each 100 ms tries again, until one succeeds. At most 256 calls are out at once; further ones
// wait for a place until their deadline. Create one with [New]. A Guard is safe for concurrent use.
// It starts no goroutines but one for each call, which ends when the call does.
type Guard struct {
	base  time.Time
	calls chan struct{} // a send takes a place, a receive returns it

	failures atomic.Int64 // in a row
	retryAt  atomic.Int64 // since base; meaningful from tripAfter failures on
	deadAt   atomic.Int64 // when dead connections last counted as a failure, since base; zero: never
}

// New returns a Guard without failures.
func New() *Guard { return &Guard{base: time.Now(), calls: make(chan struct{}, maxCalls)} }

// Open reports whether the last calls have failed, so that most calls are not made.
func (g *Guard) Open() bool { return g.failures.Load() >= tripAfter }

// InFlight returns how many calls are out, those included that nobody waits for any more.
func (g *Guard) InFlight() int { return len(g.calls) }

// Do runs call on a goroutine of its own and returns its error, [ErrOpen], or the cause of the end
// of its context. It returns when ctx ends, or at the deadline, even if call does not; so call must
// write nothing that its caller reads unless Do returns nil. A panic of call is an error.
//
// An error counts as a failure of the server unless it is a reply about one key alone: redis.Nil,
// WRONGTYPE, or one of a script's own that begins with TRIVET. That ctx has ended counts as a
// failure only if half of the time until the deadline has passed.
func (g *Guard) Do(ctx context.Context, deadline time.Time, call func(context.Context) error) error {
	if !g.admit() {
		return ErrOpen
	}
	parent := ctx
	blame := time.Now()
	blame = blame.Add(time.Duration(minWait * float64(deadline.Sub(blame))))
	// The call ends a little before its caller stops waiting, and so can say what has failed:
	// clients that dial again until their time is over tell the reason only then.
	early := deadline.Add(-time.Until(deadline) / 8)
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
		err := errGone
		defer func() {
			<-g.calls
			done <- err
		}()
		inner, done := context.WithDeadline(ctx, early)
		defer done()
		err = recovered(inner, call)
	}()
	select {
	case err := <-done:
		return g.settle(parent, blame, err)
	case <-ctx.Done():
	}
	select {
	case err := <-done: // the call has ended, and its goroutine canceled ctx: both were ready
		return g.settle(parent, blame, err)
	default:
		g.fail(parent, blame)
		return context.Cause(ctx)
	}
}

// admit reports whether a call may be made now: always while closed, else one each retryTime.
func (g *Guard) admit() bool {
	if !g.Open() {
		return true
	}
	now := int64(time.Since(g.base))
	at := g.retryAt.Load()
	return now >= at && g.retryAt.CompareAndSwap(at, now+int64(retryTime))
}

// settle counts how a call ended.
func (g *Guard) settle(parent context.Context, blame time.Time, err error) error {
	switch {
	case err == nil || aboutKey(err):
		g.failures.Store(0)
	case IsDead(err) && !g.firstDead():
	default:
		g.fail(parent, blame)
	}
	return err
}

// IsDead reports whether err says that a connection was dead already, or died. A server that has
// cut off all that a pool keeps, by CLIENT KILL or a restart, may be well.
func IsDead(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// firstDead reports whether a dead connection is the first one for a while: those that died
// together are one failure.
func (g *Guard) firstDead() bool {
	now := int64(time.Since(g.base)) + 1
	last := g.deadAt.Load()
	return (last == 0 || now-last >= int64(deadTogether)) && g.deadAt.CompareAndSwap(last, now)
}

// fail counts a failure, unless the caller left before blame.
func (g *Guard) fail(parent context.Context, blame time.Time) {
	if parent.Err() != nil && time.Now().Before(blame) {
		return
	}
	// Set first: a call that finds the breaker open must not read the retry time of an earlier
	// outage.
	g.retryAt.Store(int64(time.Since(g.base) + retryTime))
	g.failures.Add(1)
}

// recovered runs call. What panics there are a user's dialer, hooks and credentials providers.
func recovered(ctx context.Context, call func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("redis: call panicked: %v", p)
		}
	}()
	return call(ctx)
}

// aboutKey reports whether err is a reply about one key, so that the server is well. go-redis marks
// replies by the method RedisError.
func aboutKey(err error) bool {
	var reply interface {
		error
		RedisError()
	}
	if !errors.As(err, &reply) {
		return false
	}
	text := reply.Error()
	return text == "redis: nil" || strings.HasPrefix(text, "WRONGTYPE") || strings.HasPrefix(text, "TRIVET")
}
