package redislimit_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/internal/program"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

func TestMain(m *testing.M) {
	logging.Disable() // of go-redis: tests take servers away
	if cfg := os.Getenv(workerEnv); cfg != "" {
		work(cfg)
		return
	}
	goleak.VerifyTestMain(m)
}

// soak reports whether the tests shall take their full time.
func soak() bool { return os.Getenv("TRIVET_SOAK") == "1" }

// A server is a redis-server of this test.
type server struct {
	*program.Process
	t testing.TB
}

// startRedis starts a redis-server on a free port, without persistence unless args say otherwise.
func startRedis(t testing.TB, args ...string) *server {
	t.Helper()
	return &server{program.Redis(t, args...), t}
}

// calls returns how many scripts the server has been asked to run.
func (s *server) calls() (n int) {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer c.Close()
	info, err := c.Info(context.Background(), "commandstats").Result()
	require.NoError(s.t, err)
	for _, m := range scriptCalls.FindAllStringSubmatch(info, -1) {
		calls, err := strconv.Atoi(m[1])
		require.NoError(s.t, err)
		n += calls
	}
	return n
}

var scriptCalls = regexp.MustCompile(`cmdstat_eval(?:sha)?:calls=(\d+)`)

func (s *server) client(t testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func constant(*http.Request) (string, bool) { return "all", true }

func policyOf(name string, rate ratelimit.Rate) ratelimit.Policy {
	return ratelimit.Policy{Name: name, Rate: rate, Key: constant, Missing: ratelimit.MissingReject}
}

func newStore(t testing.TB, c redis.UniversalClient, cfg redislimit.Config) *redislimit.Store {
	t.Helper()
	s, err := redislimit.New(c, cfg)
	require.NoError(t, err)
	return s
}

// limiterOn returns a limiter of policies on store.
func limiterOn(t testing.TB, store ratelimit.Store, policies ...ratelimit.Policy) *ratelimit.Limiter {
	t.Helper()
	return newLimiter(t, ratelimit.Config{Store: store, Policies: policies})
}

func newLimiter(t testing.TB, cfg ratelimit.Config) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(cfg)
	require.NoError(t, err)
	return l
}

func take(t testing.TB, l *ratelimit.Limiter, keys ...string) ratelimit.Decision {
	t.Helper()
	d, err := l.TakeKeys(context.Background(), keys)
	require.NoError(t, err)
	return d
}

func TestDecisionsAreOneRoundTrip(t *testing.T) {
	server := startRedis(t)
	store := newStore(t, server.client(t), redislimit.Config{Timeout: 5 * time.Second})
	window := policyOf("window", ratelimit.PerHour(4))
	window.Algorithm = ratelimit.SlidingWindow
	l := newLimiter(t, ratelimit.Config{Store: store, Policies: []ratelimit.Policy{
		policyOf("bucket", ratelimit.PerHour(10).WithBurst(10)), window,
	}})
	take(t, l, "warm", "up") // the script is loaded by a second call
	before := server.calls()
	for i := range 4 {
		d := take(t, l, "a", "b")
		require.True(t, d.Allowed)
		require.EqualValues(t, 3-i, d.Remaining)
		require.False(t, d.Degraded, "%+v", store.Stats())
	}
	require.Equal(t, 4, server.calls()-before)
	for range 1000 {
		d := take(t, l, "a", "b")
		require.Equal(t, []string{"window"}, d.Violated())
		require.Positive(t, d.RetryAfter)
	}
	require.Equal(t, 5, server.calls()-before, "a repeated denial is no round trip")
	require.EqualValues(t, 999, store.Stats().Denied)
	require.Zero(t, l.Stats().Failures, fmt.Sprint(store.Stats()))
}

// TestKnownDenialsSayTheTruth: what is answered from memory is what Redis would answer.
func TestKnownDenialsSayTheTruth(t *testing.T) {
	store := newStore(t, startRedis(t).client(t), redislimit.Config{Timeout: 5 * time.Second})
	p := policyOf("day", ratelimit.PerDay(1))
	p.Cost = func(r *http.Request) int64 { return r.ContentLength }
	p.Rate.Burst = 2
	l := limiterOn(t, store, p)
	ask := func(cost int64) ratelimit.Decision {
		d, err := l.Take(t.Context(), &http.Request{ContentLength: cost})
		require.NoError(t, err)
		return d
	}
	require.True(t, ask(2).Allowed)
	for range 3 {
		d := ask(1)
		require.InDelta(
			t, 24*time.Hour, d.RetryAfter, float64(time.Minute), "not the time for which it is remembered",
		)
		require.InDelta(t, 48*time.Hour, d.Reset, float64(time.Minute))
		require.EqualValues(t, 0, d.Remaining)
	}
	require.EqualValues(t, 2, store.Stats().Denied)
	for range 2 {
		d := ask(3)
		require.False(t, d.Allowed)
		require.Zero(t, d.RetryAfter, "never")
	}
	require.True(t, ask(0).Allowed, "what costs nothing is not denied with the rest")
}

// TestKnownDenialsOfOtherCosts: what a small cost's denial tells about a greater one comes no
// earlier than the truth.
func TestKnownDenialsOfOtherCosts(t *testing.T) {
	const day = int64(24 * time.Hour / time.Microsecond)
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		k := &clock{c: startRedis(t).client(t), now: 20_000 * day}
		p := policyOf("p", ratelimit.PerDay(10))
		if p.Algorithm = algorithm; algorithm == ratelimit.GCRA {
			p.Rate.Burst = 10
		}
		p.Cost = func(r *http.Request) int64 { return r.ContentLength }
		ask := func(l *ratelimit.Limiter, cost int64) ratelimit.Decision {
			d, err := l.Take(t.Context(), &http.Request{ContentLength: cost})
			require.NoError(t, err)
			require.False(t, d.Degraded)
			return d
		}
		newOne := func() *ratelimit.Limiter {
			store := newStore(t, k.c, redislimit.Config{Timeout: 5 * time.Second})
			store.ReadClock()
			return limiterOn(t, store, p)
		}
		one := newOne()
		k.advance(t, 0)
		require.True(t, ask(one, 6).Allowed)
		// so that some wait for what weighs of this day, and some for the next
		if algorithm == ratelimit.SlidingWindow {
			k.advance(t, day)
		}
		require.True(t, ask(one, 4).Allowed)
		require.False(t, ask(one, 1).Allowed)
		for _, cost := range []int64{10, 7, 6, 1} {
			here, there := ask(one, cost), ask(newOne(), cost)
			require.False(t, here.Allowed)
			require.False(t, there.Allowed)
			require.InDelta(t, there.RetryAfter, here.RetryAfter, float64(10*time.Second), "cost %d", cost)
		}
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	_, err := redislimit.New(nil, redislimit.Config{
		Prefix: "{", HashTag: "}", Timeout: -1, Leases: map[string]redislimit.LeaseConfig{
			"a": {Fraction: 0.6, Max: -1, TTL: -1}, "b": {Fraction: -1},
		},
	})
	for _, want := range []string{
		"redislimit: client: is nil", "redislimit: Config.Prefix: ", "redislimit: Config.HashTag: ",
		"redislimit: Config.Timeout: -1ns is negative",
		`redislimit: Config.Leases["a"].Fraction: 0.6 is not`, `redislimit: Config.Leases["a"].Max: -1 is`,
		`redislimit: Config.Leases["a"].TTL: -1ns is`, `redislimit: Config.Leases["b"].Fraction: -1 is not`,
	} {
		require.ErrorContains(t, err, want)
	}
	for _, client := range []redis.UniversalClient{
		(*redis.Client)(nil), (*redis.ClusterClient)(nil), (*redis.Ring)(nil),
	} {
		_, err = redislimit.New(client, redislimit.Config{})
		require.EqualError(t, err, "redislimit: client: is nil")
	}
}

// TestRatesAreExactOrRefused: what a double cannot count is an error from ratelimit.New.
func TestRatesAreExactOrRefused(t *testing.T) {
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer c.Close()
	for _, tt := range []struct {
		rate ratelimit.Rate
		want string
	}{
		{ratelimit.PerSecond(1_000_000_000), ""},
		{ratelimit.Rate{Limit: 1, Window: 366 * 24 * time.Hour}, ""},
		{
			ratelimit.Rate{Limit: 1, Window: time.Second + 1},
			"policy \"p\".Rate.Window: 1.000000001s is not in whole microseconds",
		},
		{
			ratelimit.Rate{Limit: 999_983, Window: 365 * 24 * time.Hour},
			"policy \"p\".Rate.Burst: times Window",
		},
		{ratelimit.Rate{Limit: 999_983, Window: 365 * 24 * time.Hour, Burst: 100}, ""},
		{
			ratelimit.Rate{Limit: 1<<52 + 1, Window: 365 * 24 * time.Hour, Burst: 100},
			"policy \"p\".Rate.Limit: ",
		},
	} {
		_, err := ratelimit.New(
			ratelimit.Config{
				Store:    newStore(t, c, redislimit.Config{}),
				Policies: []ratelimit.Policy{policyOf("p", tt.rate)},
			},
		)
		if tt.want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, tt.want)
		}
	}
	_, err := ratelimit.New(ratelimit.Config{
		Store: newStore(t, c, redislimit.Config{Leases: map[string]redislimit.LeaseConfig{"a": {}}}),
		Policies: []ratelimit.Policy{
			policyOf("a", ratelimit.PerSecond(1)), policyOf("b", ratelimit.PerSecond(1)),
		},
	})
	require.ErrorContains(t, err, `Leases["a"]: a leased policy must be its limiter's only one`)

	// A plan that turns out to be uncountable fails the store, not the server.
	p := policyOf("p", ratelimit.PerSecond(1))
	p.RateFor = func(*http.Request) ratelimit.Rate {
		return ratelimit.Rate{
			Limit: 1, Window: time.Second + 1,
		}
	}
	store := newStore(t, c, redislimit.Config{})
	d, err := limiterOn(t, store, p).Take(t.Context(), new(http.Request))
	require.NoError(t, err)
	require.True(t, d.Degraded)
	require.Zero(t, store.Stats().Calls)
}

// TestRateChangesWhereUnitsDiffer: in Redis as in memory, a change of plan grants no fresh burst
// and does not lock out, and a denial of one plan is none of another.
func TestRateChangesWhereUnitsDiffer(t *testing.T) {
	// that is 1.43 and 1.82 days
	slow, fast := ratelimit.PerDay(7).WithBurst(10), ratelimit.PerDay(1100).WithBurst(2000)
	p := policyOf("p", slow)
	var plan ratelimit.Rate
	p.RateFor = func(*http.Request) ratelimit.Rate { return plan }
	l := limiterOn(t, newStore(t, startRedis(t).client(t), redislimit.Config{Timeout: 5 * time.Second}), p)
	left := func(r ratelimit.Rate) int64 {
		plan = r
		d, err := l.Take(t.Context(), new(http.Request))
		require.NoError(t, err)
		require.True(t, d.Allowed)
		return d.Remaining
	}
	for i := range int64(5) {
		require.Equal(t, 9-i, left(slow))
	}
	require.EqualValues(t, 1213, left(fast), "2000 - 1100×5/7, less the one that was asked for")
	for i := range int64(4) {
		require.Equal(t, 3-i, left(slow), "what the fast plan took is some of the next token")
	}
	plan = slow
	for range 2 {
		d, err := l.Take(t.Context(), new(http.Request))
		require.NoError(t, err)
		require.False(t, d.Allowed)
	}
	require.InDelta(t, 2000-1100*9./7-2, left(fast), 1)
}

// TestCharge: into debt, saturating, in Redis and in the local count.
func TestCharge(t *testing.T) {
	server := startRedis(t)
	l := newLimiter(t, ratelimit.Config{
		Store: newStore(t, quick(t, server.Addr), redislimit.Config{Timeout: 5 * time.Second}),
		Policies: []ratelimit.Policy{
			policyOf("requests", ratelimit.PerHour(100).WithBurst(100)),
			policyOf("tokens", ratelimit.PerHour(1000).WithBurst(1000)),
		},
	})
	d := take(t, l, "a", "a")
	require.NoError(t, d.Charge(t.Context(), 1500, "tokens"))
	d = take(t, l, "a", "a")
	require.Equal(t, []string{"tokens"}, d.Violated())
	require.InDelta(
		t, 30*time.Minute, d.RetryAfter, float64(2*time.Minute), "501 units over, at 1000 an hour",
	)
	require.EqualValues(t, 99, d.Claims()[0].Remaining)
	d = take(t, l, "b", "b")
	for range 3 {
		require.NoError(t, d.Charge(t.Context(), 1<<62))
	}
	d = take(t, l, "b", "b")
	require.Len(t, d.Violated(), 2)
	require.Positive(t, d.RetryAfter)
	require.LessOrEqual(t, d.RetryAfter, 6*366*24*time.Hour)

	d = take(t, l, "c", "c")
	server.Kill()
	require.Error(t, d.Charge(t.Context(), 5000, "tokens"), "the caller may try again")
	d = take(t, l, "c", "c")
	require.True(t, d.Degraded)
	require.Equal(t, []string{"tokens"}, d.Violated(), "the debt is known here")
}

var errGone = errors.New("gone")

// TestCallersWhoLeave: many callers with little time find the breaker open when Redis hangs, and do
// not open it when they leave at once.
func TestCallersWhoLeave(t *testing.T) {
	server := startRedis(t)
	store := newStore(t, server.client(t), redislimit.Config{Timeout: 200 * time.Millisecond})
	l := limiterOn(t, store, policyOf("p", ratelimit.PerHour(1000)))
	take(t, l, "a")
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errGone)
	for range 20 {
		d, err := l.TakeKeys(gone, []string{"a"})
		require.NoError(t, err)
		require.True(t, d.Degraded)
	}
	require.False(t, store.Stats().Open)
	server.Pause()
	defer server.Resume()
	for range 3 {
		short, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		_, err := l.TakeKeys(short, []string{"a"})
		cancel()
		require.NoError(t, err)
	}
	require.True(t, store.Stats().Open)
}
