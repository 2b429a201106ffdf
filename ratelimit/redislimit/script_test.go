package redislimit_test

import (
	"context"
	"math"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

var ctx = context.Background()

// A bucket is GCRA in rational numbers: the debt in tokens at the microsecond at.
type bucket struct {
	debt *big.Rat
	at   int64
}

func ratOf(a, b int64) *big.Rat { return big.NewRat(a, b) }

// take asks for cost at now, as the script shall answer.
func (b *bucket) take(r ratelimit.Rate, now, cost int64) (
	ok bool, remaining int64, retry, reset time.Duration,
) {
	perMicro := ratOf(r.Limit, int64(r.Window/time.Microsecond))
	debt := new(big.Rat).Sub(b.debt, new(big.Rat).Mul(perMicro, ratOf(now-b.at, 1)))
	if debt.Sign() < 0 {
		debt.SetInt64(0)
	}
	after := new(big.Rat).Add(debt, ratOf(cost, 1))
	burst := ratOf(r.Burst, 1)
	if ok = cost == 0 || after.Cmp(burst) <= 0; ok {
		if cost > 0 {
			b.debt, b.at = after, now
		}
		debt = after
	} else if cost <= r.Burst {
		retry = ceilMicros(new(big.Rat).Sub(after, burst), perMicro)
	}
	left := new(big.Rat).Sub(burst, debt)
	return ok, new(big.Int).Quo(left.Num(), left.Denom()).Int64(), retry, ceilMicros(debt, perMicro)
}

func ceilMicros(tokens, perMicro *big.Rat) time.Duration {
	q := new(big.Rat).Quo(tokens, perMicro)
	n, rest := new(big.Int).QuoRem(q.Num(), q.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		n.Add(n, big.NewInt(1))
	}
	return time.Duration(n.Int64()) * time.Microsecond
}

// A window is the sliding window in integers.
type window struct{ k, prev, cur int64 }

func (w *window) take(r ratelimit.Rate, now, cost int64) (ok bool, remaining int64) {
	us := int64(r.Window / time.Microsecond)
	switch k := now / us; k - w.k {
	case 0:
	case 1:
		w.k, w.prev, w.cur = k, w.cur, 0
	default:
		w.k, w.prev, w.cur = k, 0, 0
	}
	used := new(big.Int).Mul(big.NewInt(w.prev), big.NewInt(us-now%us))
	used.Add(used, big.NewInt(us-1)).Quo(used, big.NewInt(us)).Add(used, big.NewInt(w.cur))
	if ok = cost == 0 || used.Int64()+cost <= r.Limit; ok {
		w.cur += cost
		used.Add(used, big.NewInt(cost))
	}
	return ok, max(r.Limit-used.Int64(), 0)
}

// A clock is the time that the script reads.
type clock struct {
	c   *redis.Client
	now int64
}

func (k *clock) advance(t require.TestingT, us int64) {
	k.now += us
	require.NoError(t, k.c.Set(ctx, "clock", k.now, 0).Err())
}

// asker returns a function that asks a limiter of its own each time, which knows of no denial, with
// costs of one's choice.
func asker(
	t require.TestingT, c *redis.Client, p ratelimit.Policy,
) func(key string, cost int64) ratelimit.Decision {
	return func(key string, cost int64) ratelimit.Decision {
		store, err := redislimit.New(c, redislimit.Config{Timeout: 10 * time.Second})
		require.NoError(t, err)
		store.ReadClock()
		p.Key = func(*http.Request) (string, bool) { return key, true }
		p.Cost = func(*http.Request) int64 { return cost }
		p.OnError = ratelimit.FailClosed
		l, err := ratelimit.New(ratelimit.Config{Store: store, Policies: []ratelimit.Policy{p}})
		require.NoError(t, err)
		d, err := l.Take(ctx, new(http.Request))
		require.NoError(t, err)
		require.NotEqual(t, ratelimit.Unavailable, d.Outcome)
		return d
	}
}

// TestR10_ScriptIsExact: the script counts as rational numbers do, at any rate that New accepts.
// Microseconds a token would admit 11 % too much at 3·10⁵ a second.
func TestR10_ScriptIsExact(t *testing.T) {
	k := &clock{c: startRedis(t).client(t), now: 1_800_000_000_000_000}
	key := 0
	rapid.Check(t, func(t *rapid.T) {
		window := rapid.SampledFrom(
			[]time.Duration{
				time.Millisecond, 7 * time.Millisecond, time.Second, 1_500_001 * time.Microsecond, time.Hour,
				24 * time.Hour, 365 * 24 * time.Hour,
			},
		).Draw(t, "window")
		limit := rapid.OneOf(
			rapid.Int64Range(1, 100), rapid.Int64Range(1, int64(window)), rapid.Int64Range(
				int64(window)/2, int64(window),
			),
			rapid.SampledFrom([]int64{1, 300_000, 999_983, 700_000_000, 999_999_937}),
		).Draw(t, "limit")
		r := ratelimit.Rate{
			Limit: min(limit, int64(window)), Window: window,
			Burst: rapid.SampledFrom([]int64{1, 2, 7, 100}).Draw(t, "burst"),
		}
		c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
		defer c.Close()
		probe, err := redislimit.New(c, redislimit.Config{})
		require.NoError(t, err)
		if _, err := ratelimit.New(ratelimit.Config{
			Store: probe, Policies: []ratelimit.Policy{policyOf("p", r)},
		}); err != nil {
			t.Skip(err.Error())
		}
		key++
		name := time.Duration(key).String()
		ask := asker(t, k.c, policyOf("p", r))
		model := bucket{debt: new(big.Rat), at: k.now}
		token := max(int64(float64(window/time.Microsecond)/float64(r.Limit)), 1)
		var retry time.Duration
		for range rapid.IntRange(1, 30).Draw(t, "requests") {
			step := rapid.OneOf(
				rapid.Int64Range(0, 3), rapid.Int64Range(0, min(3*token, 1<<44)),
			).Draw(t, "step")
			if retry > 0 && rapid.Bool().Draw(t, "on time") {
				step = int64(retry/time.Microsecond) - rapid.Int64Range(0, 1).Draw(t, "early")
			}
			k.advance(t, step)
			cost := rapid.Int64Range(0, r.Burst+1).Draw(t, "cost")
			d := ask(name, cost)
			ok, remaining, wait, reset := model.take(r, k.now, cost)
			require.Equal(t, ok, d.Allowed)
			retry = wait
			if cost > r.Burst {
				require.Zero(t, d.RetryAfter)
				continue // not worth a round trip
			}
			require.Equal(t, remaining, d.Remaining)
			require.Equal(t, wait, d.RetryAfter)
			require.Equal(t, reset, d.Reset)
		}
	})
}

// TestR28_ScriptWindowIsExact: and so for windows, as long as Limit × Window in microseconds is
// below 2^53.
func TestR28_ScriptWindowIsExact(t *testing.T) {
	k := &clock{c: startRedis(t).client(t), now: 1_800_000_000_000_000}
	key := 0
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.OneOf(
			rapid.Int64Range(1000, 10_000), rapid.Int64Range(1000, 86_400_000_000),
		).Draw(t, "window")
		r := ratelimit.Rate{
			Limit:  rapid.OneOf(rapid.Int64Range(1, 20), rapid.Int64Range(1, 100_000)).Draw(t, "limit"),
			Window: time.Duration(us) * time.Microsecond,
		}
		p := policyOf("w", r)
		p.Algorithm = ratelimit.SlidingWindow
		key++
		name := time.Duration(key).String()
		ask := asker(t, k.c, p)
		var model window
		var retry time.Duration
		for range rapid.IntRange(1, 30).Draw(t, "requests") {
			step := rapid.OneOf(rapid.Int64Range(0, us/3), rapid.Int64Range(0, 2*us)).Draw(t, "step")
			onTime := retry > 0 && rapid.Bool().Draw(t, "on time")
			early := int64(0)
			cost := rapid.OneOf(rapid.Int64Range(0, r.Limit+1), rapid.Just(r.Limit/2+1)).Draw(t, "cost")
			if onTime {
				early = rapid.Int64Range(0, 1).Draw(t, "early")
				step = int64(retry/time.Microsecond) - early
			}
			k.advance(t, step)
			d := ask(name, cost)
			ok, remaining := model.take(r, k.now, cost)
			require.Equal(t, ok, d.Allowed)
			retry = d.RetryAfter
			if cost > r.Limit {
				require.Zero(t, retry)
				continue // not worth a round trip
			}
			require.Equal(t, remaining, d.Remaining)
			if !ok {
				require.Positive(t, retry)
				later := model
				in, _ := later.take(r, k.now+int64(retry/time.Microsecond), cost)
				require.True(t, in, "in time")
				later = model
				in, _ = later.take(r, k.now+int64(retry/time.Microsecond)-1, cost)
				require.False(t, in, "a microsecond early")
			}
		}
	})
}

// TestRateChangesKeepTheDebtInTime: a change of plan grants no fresh burst, and does not lock out.
func TestRateChangesKeepTheDebtInTime(t *testing.T) {
	k := &clock{c: startRedis(t).client(t), now: 1_800_000_000_000_000}
	k.advance(t, 0)
	slow := asker(t, k.c, policyOf("p", ratelimit.PerMinute(10).WithBurst(10)))
	fast := asker(t, k.c, policyOf("p", ratelimit.PerMinute(1001).WithBurst(1001)))
	require.EqualValues(t, 5, slow("a", 5).Remaining)
	require.EqualValues(t, 500, fast("a", 0).Remaining, "half of the burst, rounded against the caller")
	require.EqualValues(t, 499, fast("a", 1).Remaining)
	require.EqualValues(t, 4, slow("a", 0).Remaining)
	require.InDelta(
		t, 30*time.Second+time.Minute/1001, slow("a", 0).Reset, float64(2*time.Microsecond), "the time stays",
	)
}

// TestR11_IdleForYears: and Redis as well.
func TestR11_IdleForYears(t *testing.T) {
	k := &clock{c: startRedis(t).client(t), now: 1_800_000_000_000_000}
	for _, r := range []ratelimit.Rate{
		ratelimit.PerSecond(1_000_000_000).WithBurst(3), ratelimit.PerSecond(1).WithBurst(3),
	} {
		k.advance(t, 1)
		ask := asker(t, k.c, policyOf("p", r))
		for range 4 {
			for range 3 {
				require.True(t, ask("a"+r.Window.String(), 1).Allowed)
			}
			k.advance(t, 10*365*24*3600*1e6)
		}
	}
	require.Less(t, float64(k.now), math.Pow(2, 53))
}

// FuzzReply: what is no answer of the script is an error, and nothing in an answer is negative or
// beyond the rate.
func FuzzReply(f *testing.F) {
	f.Add(int64(0), int64(1), int64(0), int64(0), int64(0), 5)
	f.Add(int64(0), int64(-1), int64(0), int64(0), int64(0), 5)
	f.Add(int64(0), int64(1000), int64(0), int64(0), int64(0), 5)
	f.Add(int64(1), int64(0), int64(-1), int64(math.MaxInt64), int64(0), 5)
	f.Add(int64(-1), int64(math.MaxInt64), int64(math.MinInt64), int64(-1), int64(1<<62), 4)
	f.Fuzz(func(t *testing.T, a, b, c, d, e int64, n int) {
		reply := []int64{a, b, c, d, e}
		if n != 5 {
			reply = reply[:min(max(n, 0), 4)]
		}
		for window, r := range map[ratelimit.Algorithm]ratelimit.Rate{
			ratelimit.GCRA:          ratelimit.PerSecond(7).WithBurst(100),
			ratelimit.SlidingWindow: ratelimit.PerSecond(100),
		} {
			denied, numbers, err := redislimit.Parse(reply, r, window)
			valid := n == 5 && (a == 0 || a == 1) && b >= 0 && b <= 100 &&
				c >= -1 && d >= 0 && e >= 0 && e <= 100
			require.Equal(t, valid, err == nil, "%d", reply)
			if err != nil {
				continue
			}
			require.Equal(t, a == 1, denied)
			for _, x := range numbers {
				require.GreaterOrEqual(t, x, int64(0))
			}
		}
	})
}
