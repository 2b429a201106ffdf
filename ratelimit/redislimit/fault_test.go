package redislimit_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// TestR14_EveryKeyExpires: whatever was done to it.
func TestR14_EveryKeyExpires(t *testing.T) {
	c := startRedis(t).client(t)
	window := policyOf("window", ratelimit.PerMinute(50))
	window.Algorithm = ratelimit.SlidingWindow
	policies := []ratelimit.Policy{policyOf("bucket", ratelimit.PerMinute(100)), window}
	plain := newLimiter(
		t,
		ratelimit.Config{
			Store: newStore(t, c, redislimit.Config{Timeout: 5 * time.Second}), Policies: policies,
		},
	)
	leased := newLimiter(t, ratelimit.Config{
		Store: newStore(
			t, c,
			redislimit.Config{
				Timeout: 5 * time.Second, Leases: map[string]redislimit.LeaseConfig{"leased": {}},
			},
		),
		Policies: []ratelimit.Policy{policyOf("leased", ratelimit.PerMinute(100))},
	})
	for i := range 300 {
		key := strconv.Itoa(i % 7)
		d := take(t, plain, key, key)
		require.False(t, d.Degraded)
		take(t, leased, key)
		if i%50 == 0 {
			require.NoError(t, d.Charge(t.Context(), 1<<40))
		}
	}
	keys, err := c.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 21)
	for _, key := range keys {
		ttl, err := c.PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		require.Positive(t, ttl, key)
		require.LessOrEqual(t, ttl, 6*366*24*time.Hour, key)
	}
}

// A spy sees what a client sends.
type spy struct {
	mu   sync.Mutex
	args [][]any
}

func (s *spy) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *spy) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		s.mu.Lock()
		s.args = append(s.args, cmd.Args())
		s.mu.Unlock()
		return next(ctx, cmd)
	}
}

func (s *spy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestR15_TheServersClockDecides: a caller sends no time of its own, so its clock cannot matter.
// And the server's does: a limit of a bucket that is used up at one time of it is not at a later
// one.
func TestR15_TheServersClockDecides(t *testing.T) {
	server := startRedis(t)
	var spies [2]spy
	for i := range spies {
		c := server.client(t)
		c.AddHook(&spies[i])
		store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second})
		l := limiterOn(t, store, policyOf("p", ratelimit.PerHour(3).WithBurst(1)))
		require.Equal(t, i == 0, take(t, l, "a").Allowed, "the processes share the count")
	}
	last := func(s *spy) (args []any) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, a := range s.args {
			if name, _ := a[0].(string); strings.HasPrefix(name, "eval") {
				args = a[2:] // after EVAL and script, or EVALSHA and hash
			}
		}
		require.NotEmpty(t, args)
		return args
	}
	require.Equal(t, last(&spies[0]), last(&spies[1]), "nothing in it depends on time or process")

	c := server.client(t)
	clock := func(us int64) { require.NoError(t, c.Set(t.Context(), "clock", us, 0).Err()) }
	for i, us := range []int64{1e15, 1e15 + 1_199_999_999, 1e15 + 1_200_000_000} {
		clock(us)
		store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second}) // knows of no denial
		store.ReadClock()
		l := limiterOn(t, store, policyOf("q", ratelimit.PerHour(3).WithBurst(1)))
		require.Equal(t, i != 1, take(t, l, "a").Allowed, "at %d", us)
	}
	// The server's clock is set back by an hour: no lock-out, and nothing minted.
	clock(1e15 - 3_600_000_000)
	store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second})
	store.ReadClock()
	l := limiterOn(t, store, policyOf("q", ratelimit.PerHour(3).WithBurst(1)))
	d := take(t, l, "a")
	require.False(t, d.Allowed)
	require.LessOrEqual(t, d.RetryAfter, 20*time.Minute)
	p := policyOf("w", ratelimit.PerHour(3))
	p.Algorithm = ratelimit.SlidingWindow
	for i, back := range []int64{0, 0, 0, 5 * 3_600_000_000, 5 * 3_600_000_000} {
		clock(1e15 - back)
		store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second})
		store.ReadClock()
		d := take(t, limiterOn(t, store, p), "a")
		require.Equal(t, i < 3, d.Allowed, "request %d", i)
		require.LessOrEqual(t, d.RetryAfter, 2*time.Hour)
	}
}

// TestR16_ScriptFlushUnderLoad: NOSCRIPT is nobody's error.
func TestR16_ScriptFlushUnderLoad(t *testing.T) {
	server := startRedis(t)
	store := newStore(t, server.client(t), redislimit.Config{Timeout: 10 * time.Second})
	const limit, goroutines, each = 5000, 16, 400
	l := limiterOn(t, store, policyOf("p", ratelimit.PerHour(1).WithBurst(limit)))
	stop := make(chan struct{})
	var flusher, load sync.WaitGroup
	flushes := 0
	flusher.Go(func() {
		c := server.client(t)
		for {
			select {
			case <-stop:
				return
			default:
				if err := c.ScriptFlush(context.Background()).Err(); err != nil {
					t.Error(err)
				}
				flushes++
			}
		}
	})
	for range goroutines {
		load.Go(func() {
			for range each {
				if d, err := l.TakeKeys(context.Background(), []string{"a"}); err != nil || d.Degraded {
					t.Errorf("%v %+v", err, store.Stats())
				}
			}
		})
	}
	load.Wait()
	close(stop)
	flusher.Wait()
	require.EqualValues(t, limit, l.Stats().Admitted)
	require.EqualValues(t, goroutines*each-limit, l.Stats().Limited)
	require.Greater(t, flushes, 10)
	require.Zero(t, store.Stats().Failures)
}

// TestR20_ForeignValue: a key that holds something else fails its own decisions alone.
func TestR20_ForeignValue(t *testing.T) {
	c := startRedis(t).client(t)
	store := newStore(t, c, redislimit.Config{Timeout: 5 * time.Second})
	l := limiterOn(t, store, policyOf("p", ratelimit.PerDay(1).WithBurst(2)))
	require.True(t, take(t, l, "a").Allowed)
	keys, err := c.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	for _, value := range []string{
		"", "x", "1 2", "1 2 3 4", "-1 2 3", "1 99999999999999999999 3", "1e9 1 1", "1 2 3\n", "nan 1 1",
	} {
		require.NoError(t, c.Set(t.Context(), keys[0], value, 0).Err())
		for range 5 {
			require.True(t, take(t, l, "a").Degraded, "%q", value)
			require.False(t, take(t, l, "b"+value).Degraded, "others are well")
		}
	}
	require.NoError(t, c.Del(t.Context(), keys[0]).Err())
	require.NoError(t, c.LPush(t.Context(), keys[0], "a list").Err())
	require.True(t, take(t, l, "a").Degraded)
	require.False(t, store.Stats().Open)
}

// TestR22_NoClientTextInKeys: neither a client's text nor its length reaches Redis, nor an event.
func TestR22_NoClientTextInKeys(t *testing.T) {
	c := startRedis(t).client(t)
	var logged strings.Builder
	l := newLimiter(t, ratelimit.Config{
		Store:    newStore(t, c, redislimit.Config{Timeout: 5 * time.Second}),
		Policies: []ratelimit.Policy{policyOf("p", ratelimit.PerDay(1))},
		Observe:  func(_ context.Context, e ratelimit.Event) { logged.WriteString(e.LogValue().String()) },
	})
	secrets := []string{
		"sk-secret-key", "a}{b", "x\r\nFLUSHALL\r\n", strings.Repeat("secret", 100_000), "*", "\x00", "{}",
		"secret\u2028",
	}
	for _, key := range secrets {
		require.True(t, take(t, l, key).Allowed)
		require.False(t, take(t, l, key).Allowed)
	}
	keys, err := c.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Len(t, keys, len(secrets), "no two share a count")
	for _, key := range keys {
		require.Regexp(t, `^trivet:ratelimit:p:g:\{[A-Za-z0-9_-]{22}\}$`, key)
	}
	require.NotContains(t, logged.String(), "secret")
}
