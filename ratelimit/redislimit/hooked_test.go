package redislimit_test

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// A stub answers in place of a Redis, so that simulated time can pass meanwhile.
type stub func(ctx context.Context) (answer []any, err error)

func (s stub) DialHook(next redis.DialHook) redis.DialHook { return next }
func (s stub) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		answer, err := s(ctx)
		cmd.SetErr(err)
		cmd.(interface{ SetVal(any) }).SetVal(answer)
		return err
	}
}
func (s stub) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// stubbed returns a limiter of 100 a day on a store that s answers for, and the store.
func stubbed(t *testing.T, s stub, cfg redislimit.Config) (*ratelimit.Limiter, *redislimit.Store) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:0"})
	t.Cleanup(func() { client.Close() })
	client.AddHook(s)
	store := newStore(t, client, cfg)
	return limiterOn(t, store, policyOf("p", ratelimit.PerDay(100).WithBurst(100))), store
}

// admits says that the request is admitted, and leased is bought beside.
func admits(leased int64) []any {
	return []any{int64(0), 99 - leased, int64(0), int64(1000), leased}
}

// TestLeasesAreAsOldAsTheirQuestion: Redis charges when it gets the question, so a lease begins
// with the sending and not when the answer comes.
func TestLeasesAreAsOldAsTheirQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		latency := time.Duration(0)
		l, store := stubbed(t, func(context.Context) ([]any, error) {
			time.Sleep(latency)
			return admits(10), nil
		}, redislimit.Config{
			Timeout: 10 * time.Second,
			Leases:  map[string]redislimit.LeaseConfig{"p": {TTL: 3 * time.Second}},
		})
		latency = 2 * time.Second
		require.True(t, take(t, l, "a").Allowed)
		time.Sleep(time.Second - 1)
		require.True(t, take(t, l, "a").Allowed)
		require.EqualValues(t, 1, store.Stats().Calls, "three seconds are not over")
		time.Sleep(time.Nanosecond)
		require.True(t, take(t, l, "a").Allowed)
		require.EqualValues(t, 2, store.Stats().Calls)
	})
}

// TestWaitingForALeaseIsWaitingForRedis: who waits for another's purchase that does not end waits
// no longer than one call may take.
func TestWaitingForALeaseIsWaitingForRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		defer close(over)
		l, _ := stubbed(t, func(context.Context) ([]any, error) {
			<-over
			return nil, io.ErrUnexpectedEOF
		}, redislimit.Config{
			Timeout: 25 * time.Millisecond, Leases: map[string]redislimit.LeaseConfig{"p": {}},
		})
		go take(t, l, "a")
		time.Sleep(10 * time.Millisecond)
		start := time.Now()
		require.True(t, take(t, l, "a").Degraded)
		require.Equal(t, 25*time.Millisecond, time.Since(start))
	})
}

// TestChargesAreMadeOnce: a connection that dies may have brought the charge, so only what decides
// is asked again.
func TestChargesAreMadeOnce(t *testing.T) {
	var calls atomic.Int64
	var dead atomic.Bool
	l, _ := stubbed(t, func(context.Context) ([]any, error) {
		calls.Add(1)
		if dead.Load() {
			return nil, io.EOF
		}
		return admits(0), nil
	}, redislimit.Config{Timeout: 10 * time.Second})
	d := take(t, l, "a")
	require.True(t, d.Allowed && !d.Degraded)
	dead.Store(true)
	calls.Store(0)
	require.ErrorIs(t, d.Charge(t.Context(), 1), io.EOF)
	require.EqualValues(t, 1, calls.Load())
	calls.Store(0)
	require.True(t, take(t, l, "a").Degraded)
	require.EqualValues(t, 3, calls.Load(), "a decision is asked for again, twice")
}

// TestR32_TheStoreItselfOutlivesTheRequest: what is settled after the answer does not end with the
// request, even for callers of the store who pass its context on.
func TestR32_TheStoreItselfOutlivesTheRequest(t *testing.T) {
	var calls atomic.Int64
	l, store := stubbed(t, func(ctx context.Context) ([]any, error) {
		calls.Add(1)
		return admits(0), ctx.Err()
	}, redislimit.Config{Timeout: 10 * time.Second})
	d := take(t, l, "a")
	gone, leave := context.WithCancel(t.Context())
	leave()
	require.NoError(t, store.Charge(gone, d.Claims()))
	require.NoError(t, store.Refund(gone, d.Claims()))
	require.EqualValues(t, 3, calls.Load())
}

// TestKnownDenialsOfGreaterCosts: a cost that does not fit says nothing of what smaller ones would
// find, so what is remembered of it does not either.
func TestKnownDenialsOfGreaterCosts(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:0"})
	t.Cleanup(func() { client.Close() })
	var calls atomic.Int64
	client.AddHook(stub(func(context.Context) ([]any, error) {
		calls.Add(1)
		hour := time.Hour.Microseconds()
		return []any{int64(1), int64(3), hour, 2 * hour, int64(0)}, nil
	}))
	p := policyOf("p", ratelimit.PerDay(10).WithBurst(10))
	p.Cost = func(*http.Request) int64 { return 7 }
	l := limiterOn(t, newStore(t, client, redislimit.Config{Timeout: 10 * time.Second}), p)
	for _, want := range []int64{3, -1, -1} {
		d, err := l.Take(t.Context(), new(http.Request))
		require.NoError(t, err)
		require.False(t, d.Allowed || d.Degraded)
		require.Equal(t, want, d.Remaining)
	}
	require.EqualValues(t, 1, calls.Load())
}
