package breaker_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
)

// What gobreaker does when it is used as it comes, and a Breaker does not. A test that fails in its
// first half says that gobreaker has mended the matter.

var errTrap = errors.New("failure")

// tripped is a gobreaker that one failure opens for 5 s.
func tripped(t *testing.T, st gobreaker.Settings) *gobreaker.TwoStepCircuitBreaker[any] {
	st.Timeout = 5 * time.Second
	st.ReadyToTrip = func(gobreaker.Counts) bool { return true }
	cb := gobreaker.NewTwoStepCircuitBreaker[any](st)
	done, err := cb.Allow()
	require.NoError(t, err)
	done(errTrap)
	return cb
}

func TestTrap_ALostProbeWedgesHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cb := tripped(t, gobreaker.Settings{})
		time.Sleep(6 * time.Second)
		_, err := cb.Allow() // and done is never called
		require.NoError(t, err)
		time.Sleep(24 * time.Hour)
		_, err = cb.Allow()
		require.ErrorIs(t, err, gobreaker.ErrTooManyRequests, "for ever")
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		trip(t, b, "a")
		time.Sleep(6 * time.Second)
		_, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		require.False(t, ask(b, "a", breaker.Success), "opened again, since the probe is lost")
		time.Sleep(10 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
	})
}

func TestTrap_DoneTwiceCountsTwice(t *testing.T) {
	cb := gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{})
	done, err := cb.Allow()
	require.NoError(t, err)
	for range 6 {
		done(errTrap)
	}
	require.Equal(t, gobreaker.StateOpen, cb.State(), "one failure, told six times")

	b := newBreaker(t, breaker.Config{MinRequests: 6})
	ours, err := b.Acquire(t.Context(), "a")
	require.NoError(t, err)
	for range 6 {
		ours(breaker.Failure)
	}
	require.Equal(t, breaker.Closed, stateOf(b, "a"))
}

func TestTrap_StateInsideTheCallbackDeadlocks(t *testing.T) {
	var cb *gobreaker.CircuitBreaker[any]
	asking, answered := make(chan struct{}), make(chan struct{})
	early := false
	cb = gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		ReadyToTrip: func(gobreaker.Counts) bool { return true },
		OnStateChange: func(string, gobreaker.State, gobreaker.State) {
			go func() {
				close(asking)
				cb.State()
				close(answered)
			}()
			<-asking
			for range 1000 { // time enough for an answer, were there one
				runtime.Gosched()
				select {
				case <-answered:
					early = true
				default:
				}
			}
		},
	})
	_, _ = cb.Execute(func() (any, error) { return nil, errTrap })
	<-answered
	require.False(t, early,
		"nobody learns the state before the callback returns: in the callback itself it would deadlock")

	var b *breaker.Breaker
	var seen breaker.State
	b = newBreaker(
		t,
		breaker.Config{Observe: func(_ context.Context, e breaker.Event) { seen = stateOf(b, "a") }},
	)
	for range 20 {
		ask(b, "a", breaker.Failure)
	}
	require.Equal(t, breaker.Open, seen)
}

func TestTrap_DefaultsNeverClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cb := gobreaker.NewCircuitBreaker[any](gobreaker.Settings{})
		for range 5 { // a failure a month, and nothing else
			_, _ = cb.Execute(func() (any, error) { return nil, errTrap })
			time.Sleep(30 * 24 * time.Hour)
			require.Equal(t, gobreaker.StateClosed, cb.State())
		}
		_, _ = cb.Execute(func() (any, error) { return nil, errTrap })
		require.Equal(t, gobreaker.StateOpen, cb.State(), "for six failures in half a year")
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		for range 40 {
			require.True(t, ask(b, "a", breaker.Failure))
			time.Sleep(30 * 24 * time.Hour)
		}
	})
}

// gobreaker counts an outcome where its request began, and drops it if that has left the window.
func TestTrap_TimeoutsLongerThanTheWindowNeverOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cb := gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
			Interval: 10 * time.Second, BucketPeriod: time.Second,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.TotalFailures >= 20 },
		})
		for range 1000 {
			done, err := cb.Allow()
			require.NoError(t, err)
			time.AfterFunc(30*time.Second, func() { done(errTrap) })
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, gobreaker.StateClosed, cb.State(), "a hundred seconds of nothing but timeouts")
		time.Sleep(time.Minute)
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		for range 400 {
			done, err := b.Acquire(t.Context(), "a")
			if err != nil {
				break
			}
			time.AfterFunc(30*time.Second, func() { done(breaker.Failure) })
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, breaker.Open, stateOf(b, "a"))
		time.Sleep(time.Minute)
	})
}

func TestTrap_TheOpenTimeNeverGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cb := tripped(t, gobreaker.Settings{})
		for range 10 {
			time.Sleep(5*time.Second + 1)
			done, err := cb.Allow()
			require.NoError(t, err, "every 5 s, in step with all others")
			done(errTrap)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		trip(t, b, "a")
		for _, want := range []time.Duration{5, 10, 20, 40, 60} {
			require.Equal(t, want*time.Second, waitOf(t, b, "a"))
			time.Sleep(want * time.Second)
			require.True(t, ask(b, "a", breaker.Failure))
		}
	})
}
