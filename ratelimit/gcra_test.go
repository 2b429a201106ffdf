package ratelimit_test

import (
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/ratelimit"
)

// drawRate draws a rate from one a year to one a nanosecond, primes and all.
func drawRate(t *rapid.T) ratelimit.Rate {
	window := rapid.SampledFrom([]time.Duration{
		time.Millisecond, 7 * time.Millisecond, time.Second, 1500 * time.Millisecond,
		time.Minute, time.Hour, 24 * time.Hour,
		time.Second + 1, 365 * 24 * time.Hour,
	}).Draw(t, "window")
	most := min(int64(window), 4_000_000_000)
	limit := rapid.OneOf(
		rapid.Int64Range(1, 100),
		rapid.Int64Range(1, most),
		rapid.SampledFrom([]int64{1, 7, 300_000, 999_983, 700_000_000, 999_999_937, 1_000_000_000}),
	).Draw(t, "limit")
	return ratelimit.Rate{
		Limit: min(limit, most), Window: window, Burst: rapid.Int64Range(1, 50).Draw(t, "burst"),
	}
}

// drawStep draws a time to the next request, around the time that a token takes.
func drawStep(t *rapid.T, r ratelimit.Rate) time.Duration {
	token := min(float64(r.Window)/float64(r.Limit), float64(7*24*time.Hour)) // traces end within ten years
	return time.Duration(rapid.Float64Range(0, 3).Draw(t, "step") * token)
}

// TestR09_AgreesWithOracle: x/time/rate admits the same on random traces. It rounds the time that a
// token lacks down to whole nanoseconds, so it admits what comes up to one too early; both are then
// made to admit, and what is left must stay the same within one token.
func TestR09_AgreesWithOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRate(t)
		cell, err := ratelimit.NewCell(r, ratelimit.GCRA)
		if err != nil {
			t.Skip(err.Error()) // a burst that takes years
		}
		base := time.Unix(0, 0)
		perSecond := float64(r.Limit) / r.Window.Seconds()
		oracle := rate.NewLimiter(rate.Limit(perSecond), int(r.Burst))
		slack := perSecond*1e-9 + 1e-5 // tokens of one nanosecond, and what floating point loses
		now := time.Duration(rapid.Int64Range(0, int64(1000*24*time.Hour)).Draw(t, "start"))
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			cost := rapid.Int64Range(1, r.Burst).Draw(t, "cost")
			at := base.Add(now)
			before := oracle.TokensAt(at)
			ours, _, _, _ := cell.Take(now, cost)
			theirs := oracle.AllowN(at, int(cost))
			if ours != theirs {
				require.InDelta(
					t, float64(cost), before, slack, "%v: we say %v, x/time/rate %v", r, ours, theirs,
				)
				if ours {
					oracle.ReserveN(at, int(cost))
				} else {
					cell.Charge(now, cost)
				}
			}
			_, remaining, _, _ := cell.Take(now, 0)
			left := oracle.TokensAt(at)
			require.LessOrEqual(t, float64(remaining), max(left, 0)+slack)
			require.GreaterOrEqual(t, float64(remaining)+1, left-slack)
			now += drawStep(t, r)
		}
	})
}

// TestR09_LateTimestampsMintNothing: goroutines read the clock before they get the lock, so times
// come out of order.
func TestR09_LateTimestampsMintNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRate(t)
		cell, err := ratelimit.NewCell(r, ratelimit.GCRA)
		if err != nil {
			t.Skip(err.Error())
		}
		start := time.Hour
		latest, admitted := start, int64(0)
		now := start
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			late := time.Duration(rapid.Int64Range(0, int64(now-start)+1).Draw(t, "late"))
			at := max(now-late, start)
			latest = max(latest, at)
			if ok, _, _, _ := cell.Take(at, 1); ok {
				admitted++
			}
			now += drawStep(t, r)
		}
		requireWithin(t, r, admitted, latest-start)
	})
}

// requireWithin fails if more than Burst + Limit × span/Window were admitted in span. The clock
// counts in sixteenths of a nanosecond, so one of them may be gained.
func requireWithin(
	t interface{ Fatalf(string, ...any) }, r ratelimit.Rate, admitted int64, span time.Duration,
) {
	earned := new(big.Rat).SetFrac(
		new(big.Int).Mul(big.NewInt(r.Limit), big.NewInt(int64(span)*8+1)), big.NewInt(int64(r.Window)*8),
	)
	most := earned.Add(earned, new(big.Rat).SetInt64(r.Burst))
	if new(big.Rat).SetInt64(admitted).Cmp(most) > 0 {
		f, _ := most.Float64()
		t.Fatalf("%+v: admitted %d in %v, at most %v", r, admitted, span, f)
	}
}

// TestR10_ExactAtExtremeRates: rounded nanoseconds a token would admit 43 % too much at 7·10⁸ a
// second, and microseconds 11 % at 3·10⁵.
func TestR10_ExactAtExtremeRates(t *testing.T) {
	for _, limit := range []int64{300_000, 700_000_000, 999_999_937, 1_000_000_000, 333_333_333, 1_000_003} {
		r := ratelimit.PerSecond(limit).WithBurst(10)
		cell, err := ratelimit.NewCell(r, ratelimit.GCRA)
		require.NoError(t, err)
		start := 3000 * 24 * time.Hour // of uptime
		const steps = 200_000
		step := max(time.Second/time.Duration(limit)/2, 1)
		var admitted int64
		for i := range steps {
			for range 3 {
				if ok, _, _, _ := cell.Take(start+time.Duration(i)*step, 1); ok {
					admitted++
				}
			}
		}
		span := (steps - 1) * step
		requireWithin(t, r, admitted, span)
		least := float64(limit)*span.Seconds() + 10 - 2
		require.GreaterOrEqual(t, float64(admitted), least, "limit %d: nothing is lost either", limit)
	}
}

func TestR10_RatesAreExactOrRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		rate ratelimit.Rate
		want string // of the error
	}{
		"zero":      {ratelimit.Rate{}, "Limit: 0 is less than 1"},
		"no window": {ratelimit.Rate{Limit: 1}, "Window: 0s is not between"},
		"negative window": {
			ratelimit.Rate{Limit: 1, Window: -time.Second}, "Window: -1s is not between",
		},
		"negative limit":         {ratelimit.PerSecond(-1), "Limit: -1 is less than 1"},
		"most negative":          {ratelimit.PerSecond(math.MinInt64), "is less than 1"},
		"negative burst":         {ratelimit.PerSecond(1).WithBurst(-1), "Burst: -1 is negative"},
		"one a nanosecond":       {ratelimit.PerSecond(1_000_000_000), ""},
		"more than a nanosecond": {ratelimit.PerSecond(1_000_000_001), "is more than 1000000000 a second"},
		"MaxInt64":               {ratelimit.PerDay(math.MaxInt64), "is more than 1000000000 a second"},
		"MaxInt64 burst":         {ratelimit.PerSecond(1).WithBurst(math.MaxInt64), "to earn"},
		"MaxInt64 burst, fast":   {ratelimit.PerSecond(1_000_000_000).WithBurst(math.MaxInt64), "to earn"},
		"a billion a day":        {ratelimit.PerDay(1_000_000_000), ""},
		"one a year":             {ratelimit.Rate{Limit: 1, Window: 365 * 24 * time.Hour}, ""},
		"one in ten years":       {ratelimit.Rate{Limit: 1, Window: 3650 * 24 * time.Hour}, "Window"},
		"five years to earn": {
			ratelimit.Rate{Limit: 1, Window: 365 * 24 * time.Hour, Burst: 5}, "takes longer than",
		},
		"as long as the limit is": {ratelimit.Rate{Limit: 1, Window: 366 * 24 * time.Hour, Burst: 4}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ratelimit.New(ratelimit.Config{Policies: []ratelimit.Policy{policyOf("p", tt.rate)}})
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "ratelimit: Config.Policies[0].Rate.")
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestR10_CostsNeverMint(t *testing.T) {
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		r := ratelimit.PerMinute(5)
		if algorithm == ratelimit.GCRA {
			r.Burst = 5
		}
		cell, err := ratelimit.NewCell(r, algorithm)
		require.NoError(t, err)
		ok, remaining, retry, _ := cell.Take(0, 6)
		require.False(t, ok)
		require.EqualValues(t, 5, remaining)
		require.Zero(t, retry, "more than the burst never fits")
		ok, _, _, _ = cell.Take(0, math.MaxInt64)
		require.False(t, ok)
		ok, remaining, _, _ = cell.Take(0, 5)
		require.True(t, ok)
		require.Zero(t, remaining)
		ok, remaining, _, _ = cell.Take(0, 0)
		require.True(t, ok, "what costs nothing always passes")
		require.Zero(t, remaining)
		ok, _, retry, _ = cell.Take(0, 1)
		require.False(t, ok)
		require.Positive(t, retry)
		ok, _, _, _ = cell.Take(retry-time.Nanosecond, 1)
		require.False(t, ok, "a nanosecond early")
		ok, _, _, _ = cell.Take(retry, 1)
		require.True(t, ok, "in time")
	}
}

func TestR11_IdleForYears(t *testing.T) {
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		cell, err := ratelimit.NewCell(ratelimit.Rate{Limit: 10, Window: time.Second}, algorithm)
		require.NoError(t, err)
		if algorithm == ratelimit.GCRA {
			require.NoError(t, cell.SetRate(ratelimit.PerSecond(1_000_000_000).WithBurst(10)))
		}
		now := time.Duration(0)
		for range 5 {
			for i := range 11 {
				ok, _, _, _ := cell.Take(now, 1)
				require.Equal(t, i < 10, ok, "at %v", now)
			}
			now += 2*365*24*time.Hour + 12345*time.Second
		}
	}
}

func TestR25_DebtSaturates(t *testing.T) {
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		for _, r := range []ratelimit.Rate{
			ratelimit.PerSecond(10), {Limit: 1, Window: 365 * 24 * time.Hour},
			ratelimit.PerSecond(10_000_000),
		} {
			cell, err := ratelimit.NewCell(r, algorithm)
			require.NoError(t, err)
			now := 10 * 365 * 24 * time.Hour
			for range 100 {
				cell.Charge(now, math.MaxInt64)
				ok, remaining, retry, reset := cell.Take(now, 1)
				require.False(t, ok)
				require.Zero(t, remaining)
				require.Positive(t, retry)
				require.Positive(t, reset)
				require.LessOrEqual(t, retry, 6*366*24*time.Hour)
			}
			// In steps of which none saturates by itself.
			for range 100 {
				cell.Charge(now, 1<<24-2)
				cell.Charge(now, 3)
				ok, _, retry, _ := cell.Take(now, 1)
				require.False(t, ok)
				require.LessOrEqual(t, retry, 6*366*24*time.Hour)
			}
		}
		r := ratelimit.PerSecond(10)
		cell, err := ratelimit.NewCell(r, algorithm)
		require.NoError(t, err)
		for range 5 {
			cell.Charge(0, 10*3*366*24*3600) // three years of debt each
			ok, _, retry, reset := cell.Take(0, 1)
			require.False(t, ok)
			require.LessOrEqual(t, retry, reset)
			require.LessOrEqual(t, reset, 5*366*24*time.Hour)
		}
	}
}

// TestRateChangesKeepTheDebtInTime: a change of plan grants no fresh burst, and does not lock out.
func TestRateChangesKeepTheDebtInTime(t *testing.T) {
	slow, fast := ratelimit.PerMinute(10).WithBurst(10), ratelimit.PerMinute(1000).WithBurst(1000)
	cell, err := ratelimit.NewCell(slow, ratelimit.GCRA)
	require.NoError(t, err)
	for range 5 {
		cell.Take(0, 1)
	}
	require.NoError(t, cell.SetRate(fast))
	_, remaining, _, _ := cell.Take(0, 0)
	require.EqualValues(t, 500, remaining)
	require.NoError(t, cell.SetRate(slow))
	_, remaining, _, _ = cell.Take(0, 0)
	require.EqualValues(t, 5, remaining)
}

// TestAlternatingRatesMintNothing: a cell is time, and each rate has a grid of its own; what falls
// between two of its steps is rounded against the caller.
func TestAlternatingRatesMintNothing(t *testing.T) {
	rates := []ratelimit.Rate{
		ratelimit.PerSecond(999_999_937).WithBurst(1000), ratelimit.PerSecond(700_000_001).WithBurst(1000),
	}
	cell, err := ratelimit.NewCell(rates[0], ratelimit.GCRA)
	require.NoError(t, err)
	admitted := int64(0)
	for i := range 100_000 {
		require.NoError(t, cell.SetRate(rates[i%2]))
		if ok, _, _, _ := cell.Take(time.Hour, 1); ok {
			admitted++
		}
	}
	// Of both by turns until the faster one's burst of 1000 ns is used up, then of the slower one.
	fast, slow := 1e9/999_999_937, 1e9/700_000_001
	most := 2*1000*fast/(fast+slow) + 1000*(slow-fast)/slow
	require.LessOrEqual(t, float64(admitted), most+2)
	require.Greater(t, float64(admitted), 0.95*most)
}
