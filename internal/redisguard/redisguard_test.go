package redisguard_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/internal/redisguard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const timeout = 20 * time.Millisecond

var errDown = errors.New("down")

func fail(context.Context) error    { return errDown }
func succeed(context.Context) error { return nil }

// hang ignores its context for a minute.
func hang(context.Context) error {
	time.Sleep(time.Minute)
	return nil
}

func do(t *testing.T, g *redisguard.Guard, call func(context.Context) error) error {
	t.Helper()
	return g.Do(t.Context(), time.Now().Add(timeout), call)
}

func TestThreeFailuresOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := redisguard.New()
		for _, call := range []func(context.Context) error{fail, fail, succeed, fail, fail} {
			_ = do(t, g, call)
			require.False(t, g.Open(), "not in a row")
		}
		require.ErrorIs(t, do(t, g, fail), errDown)
		require.True(t, g.Open())
		require.Equal(t, redisguard.ErrOpen, do(t, g, succeed), "not called")

		// One call each 100 ms tries again.
		for range 3 {
			time.Sleep(100 * time.Millisecond)
			require.ErrorIs(t, do(t, g, fail), errDown)
			for range 5 {
				require.Equal(t, redisguard.ErrOpen, do(t, g, succeed))
			}
		}
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, do(t, g, succeed))
		require.False(t, g.Open())
		require.NoError(t, do(t, g, succeed))
	})
}

func TestOneCallAtATimeTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := redisguard.New()
		for range 3 {
			_ = do(t, g, fail)
		}
		time.Sleep(100 * time.Millisecond)
		results := make(chan error, 50)
		for range cap(results) {
			go func() {
				results <- g.Do(t.Context(), time.Now().Add(timeout), func(context.Context) error {
					time.Sleep(timeout / 2)
					return nil
				})
			}()
		}
		refused := 0
		for range cap(results) {
			if err := <-results; errors.Is(err, redisguard.ErrOpen) {
				refused++
			} else {
				require.NoError(t, err)
			}
		}
		require.Equal(t, cap(results)-1, refused)
	})
}

func TestDoReturnsAtTheDeadlineWhateverTheCallDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := redisguard.New()
		start := time.Now()
		require.ErrorIs(t, do(t, g, hang), context.DeadlineExceeded)
		require.Equal(t, timeout, time.Since(start))
		require.Equal(t, 1, g.InFlight())
		time.Sleep(time.Minute)
		require.Zero(t, g.InFlight())
		_ = do(t, g, hang)
		_ = do(t, g, hang)
		require.True(t, g.Open(), "a call that comes late is a failure")
		time.Sleep(2 * time.Minute)
		require.True(t, g.Open(), "and its late success is none of the next calls'")
	})
}

// A call that has ended in time counts by its result, though its goroutine has ended its context.
func TestResultsGoBeforeTheEndOfTheContext(t *testing.T) {
	g := redisguard.New()
	for range 2000 {
		require.NoError(t, g.Do(t.Context(), time.Now().Add(time.Minute), succeed))
	}
}

func TestCallersThatLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := redisguard.New()
		cause := errors.New("gone")
		leave := func(after time.Duration) {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(after, func() { cancel(cause) })
			require.ErrorIs(t, g.Do(ctx, time.Now().Add(timeout), hang), cause)
		}
		for range 10 {
			leave(timeout/2 - 1)
		}
		require.False(t, g.Open(), "nobody opens the breaker by leaving at once")
		for range 3 {
			leave(timeout / 2)
		}
		require.True(t, g.Open(), "but callers with little time find a server that hangs")
		time.Sleep(2 * time.Minute)
	})
}

func TestCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := redisguard.New()
		long := time.Now().Add(time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		for range 256 {
			go func() { _ = g.Do(ctx, long, hang) }()
		}
		synctest.Wait()
		cancel() // nobody waits, but all are out
		synctest.Wait()
		require.Equal(t, 256, g.InFlight())
		require.False(t, g.Open())
		called := false
		err := do(t, g, func(context.Context) error { called = true; return nil })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.False(t, called)
		require.Equal(t, 256, g.InFlight())
		time.Sleep(time.Minute)
		require.NoError(t, do(t, g, succeed))
	})
}

func TestRepliesAboutOneKeyAreNoFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := redisguard.New()
		for text, failure := range map[string]bool{
			"WRONGTYPE Operation against a key": false,
			"TRIVET not a count":                false,
			"LOADING Redis is loading":          true,
			"READONLY You can't write":          true,
			"OOM command not allowed":           true,
			"NOAUTH Authentication required.":   true,
		} {
			for range 3 {
				err := do(t, g, func(context.Context) error { return fmt.Errorf("script: %w", reply(text)) })
				require.ErrorIs(t, err, reply(text))
			}
			require.Equal(t, failure, g.Open(), text)
			g = redisguard.New()
		}
		for range 3 {
			require.ErrorIs(t, do(t, g, func(context.Context) error { return redis.Nil }), redis.Nil)
		}
		require.False(t, g.Open(), "no value is an answer")
		for range 3 {
			_ = do(t, g, func(context.Context) error {
				return errors.New(
					"WRONGTYPE, says something else than Redis",
				)
			})
		}
		require.True(t, g.Open())
	})
}

// A reply is an error reply as go-redis marks it.
type reply string

func (r reply) Error() string { return string(r) }
func (r reply) RedisError()   {}

var _ redis.Error = reply("")

func TestPanicsAreErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := redisguard.New()
		for range 3 {
			err := do(t, g, func(context.Context) error { panic("a hook") })
			require.EqualError(t, err, "redis: call panicked: a hook")
			require.Zero(t, g.InFlight())
		}
		require.True(t, g.Open())
	})
}

func TestACallThatEndsItsGoroutineGivesItsPlaceBack(t *testing.T) {
	g := redisguard.New()
	for range 1000 { // more than the places that there are
		err := g.Do(t.Context(), time.Now().Add(time.Minute), func(context.Context) error {
			runtime.Goexit()
			return nil
		})
		require.Error(t, err)
		if !errors.Is(err, redisguard.ErrOpen) {
			require.ErrorContains(t, err, "Goexit")
		}
	}
	require.Zero(t, g.InFlight())
}

// TestR35_DeadConnectionsCountOnce: those that die together are one failure, those that go on dying
// are more.
func TestR35_DeadConnectionsCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := func(context.Context) error { return &net.OpError{Op: "read", Err: syscall.ECONNRESET} }
		g := redisguard.New()
		do := func(call func(context.Context) error) {
			require.Error(t, g.Do(t.Context(), time.Now().Add(time.Second), call))
		}
		for range 20 {
			do(dead)
		}
		require.False(t, g.Open())
		do(func(context.Context) error { return errors.New("refused") })
		require.False(t, g.Open(), "two failures")
		do(func(context.Context) error { return errors.New("refused") })
		require.True(t, g.Open())

		g = redisguard.New()
		for range 3 {
			require.False(t, g.Open())
			do(dead)
			time.Sleep(100 * time.Millisecond)
		}
		require.True(t, g.Open(), "it does not get well")
	})
}

// TestCausesAreToldInTime: a call that ends with its context can say why, before its caller's time
// is over.
func TestCausesAreToldInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		start := time.Now()
		deadline := start.Add(800 * time.Millisecond)
		err := redisguard.New().Do(t.Context(), deadline, func(ctx context.Context) error {
			<-ctx.Done() // as go-redis dials again until then
			return refused
		})
		require.ErrorIs(t, err, refused)
		require.Equal(t, 700*time.Millisecond, time.Since(start))
	})
}
