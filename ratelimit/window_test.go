package ratelimit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/ratelimit"
)

// TestR28_SlidingWindowBound: at most Limit in windows that start at multiples of their length, at
// most twice that in any other span of it.
func TestR28_SlidingWindowBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := ratelimit.Rate{Limit: rapid.Int64Range(1, 60).Draw(t, "limit"), Window: time.Second}
		cell, err := ratelimit.NewCell(r, ratelimit.SlidingWindow)
		require.NoError(t, err)
		now := time.Duration(rapid.Int64Range(0, int64(100*time.Second)).Draw(t, "start"))
		latest := time.Duration(0) // that the cell has seen
		var admitted []time.Duration
		perWindow := map[int64]int64{}
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			at := now
			if rapid.Bool().Draw(t, "late") { // the clock was read before the lock was had
				at = max(at-time.Duration(rapid.Int64Range(0, int64(300*time.Millisecond)).Draw(t, "by")), 0)
			}
			latest = max(latest, at)
			if ok, remaining, _, _ := cell.Take(at, 1); ok {
				// What was late counts as admitted when the window had begun that the cell was in.
				in := max(at, latest/time.Second*time.Second)
				admitted = append(admitted, in)
				perWindow[int64(in/time.Second)]++
				require.LessOrEqual(t, remaining, r.Limit-1)
			}
			step := rapid.SampledFrom(
				[]time.Duration{0, 0, 0, time.Millisecond, 40 * time.Millisecond, 900 * time.Millisecond},
			).Draw(t, "step")
			now += step
		}
		for k, n := range perWindow {
			require.LessOrEqual(t, n, r.Limit, "window %d", k)
		}
		for i, from := range admitted {
			n := int64(0)
			for _, at := range admitted[i:] {
				if at-from < time.Second {
					n++
				}
			}
			require.LessOrEqual(t, n, 2*r.Limit)
		}
	})
}

func TestSlidingWindowRetryIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := ratelimit.Rate{
			Limit: rapid.Int64Range(1, 1000).Draw(t, "limit"),
			Window: time.Duration(
				rapid.Int64Range(int64(time.Millisecond), int64(time.Hour)).Draw(t, "window"),
			),
		}
		cell, err := ratelimit.NewCell(r, ratelimit.SlidingWindow)
		require.NoError(t, err)
		now := time.Duration(0)
		for range 20 {
			cost := rapid.Int64Range(1, r.Limit).Draw(t, "cost")
			now += time.Duration(rapid.Int64Range(0, int64(r.Window)).Draw(t, "step"))
			ok, _, retry, _ := cell.Take(now, cost)
			if ok {
				continue
			}
			require.Positive(t, retry)
			early := *cell
			ok, _, _, _ = early.Take(now+retry-1, cost)
			require.False(t, ok, "a nanosecond early")
			now += retry
			ok, _, _, _ = cell.Take(now, cost)
			require.True(t, ok, "in time")
		}
	})
}

func TestSlidingWindowSmoothsTheEdge(t *testing.T) {
	cell, err := ratelimit.NewCell(ratelimit.PerSecond(100), ratelimit.SlidingWindow)
	require.NoError(t, err)
	count := func(now time.Duration) (n int) {
		for range 200 {
			if ok, _, _, _ := cell.Take(now, 1); ok {
				n++
			}
		}
		return n
	}
	require.Equal(t, 100, count(999*time.Millisecond))
	require.Equal(t, 0, count(1000*time.Millisecond), "a fixed window would grant 100 more")
	require.Equal(t, 50, count(1500*time.Millisecond))
	require.Equal(t, 100, count(3500*time.Millisecond))
}
