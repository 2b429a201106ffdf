package cache_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
)

// A TTL that was computed from a deadline is kept for what is left of it: for nothing, if the
// deadline has passed, to the nanosecond.
func TestC71_AValueWhoseTimeIsOverIsNotStored(t *testing.T) {
	type refusals []string
	for _, left := range []time.Duration{math.MinInt64, -time.Hour, -1, 0, 1, time.Second} {
		for _, way := range []string{
			"TTL", "TTL, Load", "TTL, LoadMany", "MemoryItem.TTL", "MemoryItem.Expires", "Expires and Jitter",
			"Expires and a longer TTL",
		} {
			if left == 0 && way == "MemoryItem.TTL" {
				continue // the configuration's
			}
			t.Run(fmt.Sprint(way, " ", left), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var refused refusals
					var removed int
					cfg := cache.MemoryConfig[string, int]{
						Observe: func(_ context.Context, e cache.MemoryEvent[string, int]) {
							switch e.Kind {
							case cache.MemoryRefused:
								refused = append(refused, fmt.Sprint(e.Key, e.Value))
							case cache.MemoryRemoved:
								removed++
							}
						},
					}
					switch way {
					case "TTL", "TTL, Load", "TTL, LoadMany":
						cfg.TTL = func(string, int) time.Duration { return left }
					case "Expires and Jitter":
						cfg.Jitter = 0.5
					case "Expires and a longer TTL":
						cfg.TTL = func(string, int) time.Duration { return time.Hour }
					}
					m := newMemory(t, cfg)
					loads := 0
					load := func(context.Context, string) (int, error) { loads++; return 2, nil }
					if way == "TTL, Load" || way == "TTL, LoadMany" {
						for n := 1; n <= 3; n++ {
							require.Equal(t, 2, loadOne(m, load, way == "TTL, LoadMany"))
							if left > 0 {
								require.Equal(t, 1, loads)
								break
							}
							require.Equal(t, n, loads, "nothing is kept, and no error")
							require.Len(t, refused, n)
						}
						_, ok := m.Get("k")
						require.Equal(t, left > 0, ok)
						return
					}
					m.SetItem("k", cache.MemoryItem[int]{Value: 1, TTL: cache.Forever})
					item := cache.MemoryItem[int]{Value: 2, Tags: []string{"t"}}
					switch way {
					case "MemoryItem.TTL":
						item.TTL = left
					case "MemoryItem.Expires", "Expires and Jitter", "Expires and a longer TTL":
						item.Expires = time.Now().Add(max(left, -time.Hour))
					}
					stored := m.SetItem("k", item)
					require.Equal(t, left > 0, stored)
					v, ok := m.Get("k")
					require.Equal(t, left > 0, ok, "what it had is gone")
					require.Equal(t, 1, removed)
					if left <= 0 {
						require.Equal(t, refusals{"k2"}, refused)
						require.EqualValues(t, 1, m.Stats().Refusals)
						require.Zero(t, m.Stats().Entries)
						return
					}
					require.Empty(t, refused)
					require.Equal(t, 2, v)
					if way == "Expires and Jitter" {
						time.Sleep(left - 1) // sooner by half at most
					} else {
						time.Sleep(left - 1)
						_, ok = m.Get("k")
						require.True(t, ok)
						time.Sleep(time.Nanosecond)
					}
					if left > 1 {
						_, ok = m.Get("k")
						require.False(t, ok)
					}
				})
			})
		}
	}
}

// For ever has a name, and no deadline is the zero time.
func TestC71_ForeverIsSaidByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forever := func(string, int) time.Duration { return cache.Forever }
		cfgs := []cache.MemoryConfig[string, int]{
			{}, {TTL: forever}, {TTL: minute}, {TTL: forever, Jitter: 0.99}, {TTL: minute, Jitter: 0.99},
		}
		var caches []*cache.Memory[string, int]
		for _, cfg := range cfgs {
			m := newMemory(t, cfg)
			require.True(t, m.SetItem("said", cache.MemoryItem[int]{Value: 1, TTL: cache.Forever}))
			require.True(t, m.Set("as configured", 2))
			caches = append(caches, m)
		}
		time.Sleep(200 * 365 * 24 * time.Hour)
		for i, m := range caches {
			_, ok := m.Get("said")
			require.True(t, ok)
			_, ok = m.Get("as configured")
			require.Equal(t, cfgs[i].TTL == nil || cfgs[i].TTL("", 0) == cache.Forever, ok)
		}
	})
}

// Of TTL and deadline the sooner one counts.
func TestC71_TTLAndDeadlineOfAnItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inBubble := struct{ testing.TB }{t}
		durations := rapid.Int64Range(-5, 5)
		rapid.Check(inBubble, func(rt *rapid.T) {
			configured := time.Duration(durations.Draw(rt, "configured"))
			m := newMemory(t, cache.MemoryConfig[string, int]{
				TTL: func(string, int) time.Duration { return configured },
			})
			item := cache.MemoryItem[int]{Value: 1, TTL: time.Duration(durations.Draw(rt, "ttl"))}
			left := item.TTL
			if left == 0 {
				left = configured
			}
			if rapid.Bool().Draw(rt, "deadline") {
				until := time.Duration(durations.Draw(rt, "until"))
				item.Expires = time.Now().Add(until)
				left = min(left, until)
			}
			require.Equal(rt, left > 0, m.SetItem("k", item))
			for range 7 {
				_, ok := m.Get("k")
				require.Equal(rt, left > 0, ok)
				time.Sleep(time.Nanosecond)
				left--
			}
		})
	})
}

// A stale value is not kept beside a new one that is over, and a load that lost its key stores and
// removes nothing.
func TestC71_ALoadedValueThatIsOverReplacesWhatWasThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{StaleIfError: time.Hour,
			TTL: func(_ string, v int) time.Duration { return time.Duration(2-v) * time.Minute }})
		m.Set("k", 1)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 2, loadOne(m, func(context.Context, string) (int, error) { return 2, nil }, false))
		_, err := m.Load(t.Context(), "k", func(context.Context, string) (int, error) {
			return 0, cache.ErrNotFound
		})
		require.ErrorIs(t, err, cache.ErrNotFound, "the first is not used for that")
		require.Equal(t, 2, loadOne(m, func(context.Context, string) (int, error) {
			m.Set("k", 1)
			return 2, nil
		}, false))
		v, ok := m.Get("k")
		require.True(t, ok)
		require.Equal(t, 1, v)
		require.EqualValues(t, 1, m.Stats().Refusals)
	})
}

// A weight that overflowed is not a small one.
func TestC71_ANegativeWeightIsRefused(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[string, int64]{
		Weigher:   func(_ string, v int64) int64 { return int64(int32(v)) },
		MaxWeight: math.MaxInt32,
	})
	require.True(t, m.Set("nothing", 0))
	require.EqualValues(t, 1, m.Stats().Weight)
	require.False(t, m.Set("more than 2^31 bytes", 1<<31))
	require.EqualValues(t, 1, m.Stats().Refusals)
	require.EqualValues(t, 1, m.Stats().Weight)
}
