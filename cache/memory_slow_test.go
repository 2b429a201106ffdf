package cache_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A caller of a slow load gets the stale value after StaleAfter, not a moment before, and whoever
// comes later gets it at once; the load goes on, and what it brings is kept.
func TestASlowLoadIsAnsweredWithTheStaleValueAfterStaleAfter(t *testing.T) {
	for _, many := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(t, cache.MemoryConfig[string, int]{
				TTL: minute, StaleIfError: time.Hour, StaleAfter: 100 * time.Millisecond,
			})
			m.Set("k", -1)
			time.Sleep(2 * time.Minute)
			s := source{takes: 100*time.Millisecond - 1} // just in time
			require.Equal(t, 1, loadOne(m, s.load, many))
			require.Zero(t, m.Stats().Slow)

			time.Sleep(2 * time.Minute)
			s.takes = time.Second
			start := time.Now()
			require.Equal(t, 1, loadOne(m, s.load, many))
			require.Equal(t, 100*time.Millisecond, time.Since(start))
			require.Equal(t, 1, loadOne(m, s.load, !many))
			require.Equal(t, 100*time.Millisecond, time.Since(start), "it is known to be slow")
			require.EqualValues(t, 2, m.Stats().Slow)
			require.Equal(t, 1, m.Stats().Loading)
			time.Sleep(time.Second)
			v, ok := m.Get("k")
			require.True(t, ok)
			require.Equal(t, 2, v)
			require.EqualValues(t, 2, s.calls.Load())
			require.Zero(t, m.Stats().Fallbacks)
			require.Zero(t, m.Stats().Loading)
		})
	}
}

// What must not be returned is not returned for slowness either.
func TestASlowLoadIsWaitedForIfNothingMayStandInForIt(t *testing.T) {
	for name, before := range map[string]func(m *cache.Memory[string, int]){
		"nothing": func(*cache.Memory[string, int]) {},
		"beyond StaleIfError": func(m *cache.Memory[string, int]) {
			m.Set("k", -1)
			time.Sleep(2 * time.Hour)
		},
		"invalidated": func(m *cache.Memory[string, int]) {
			m.Set("k", -1)
			m.InvalidateTag("t", cache.Hard)
		},
		"invalidated meanwhile": func(m *cache.Memory[string, int]) {
			m.Set("k", -1)
			time.Sleep(2 * time.Minute)
			time.AfterFunc(50*time.Millisecond, func() { m.InvalidateTag("t", cache.Hard) })
		},
		"deleted meanwhile": func(m *cache.Memory[string, int]) {
			m.Set("k", -1)
			time.Sleep(2 * time.Minute)
			time.AfterFunc(50*time.Millisecond, func() { m.Delete("k") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, cache.MemoryConfig[string, int]{
					TTL: minute, StaleIfError: time.Hour, StaleAfter: 100 * time.Millisecond, Tags: tagged,
				})
				before(m)
				s := source{takes: time.Second}
				start := time.Now()
				require.Equal(t, 1, loadOne(m, s.load, false))
				require.Equal(t, time.Second, time.Since(start))
				require.Zero(t, m.Stats().Slow)
			})
		})
	}
}

// Of many that set a key at once one succeeds, and all get its value. What is stale, over, kept as
// an error or being loaded is absent.
func TestSetIfAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			Stale: time.Hour, ErrorTTL: func(string, error) time.Duration { return time.Hour }, Tags: tagged,
		})
		item := func(v int) cache.MemoryItem[int] { return cache.MemoryItem[int]{Value: v, TTL: time.Minute} }
		var stored, wrong atomic.Int64
		var wg sync.WaitGroup
		first := make(chan int, 100)
		for i := range 100 {
			wg.Go(func() {
				v, ok := m.SetIfAbsent("k", item(1+i))
				first <- v
				if ok {
					stored.Add(1)
					if v != 1+i {
						wrong.Add(1)
					}
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, stored.Load())
		require.Zero(t, wrong.Load())
		want, _ := m.Get("k")
		for range 100 {
			require.Equal(t, want, <-first)
		}
		require.EqualValues(t, 0, m.Stats().Misses)

		time.Sleep(time.Minute - 1)
		v, ok := m.SetIfAbsent("k", item(200))
		require.False(t, ok)
		require.Equal(t, want, v)
		time.Sleep(time.Nanosecond)
		v, ok = m.SetIfAbsent("k", item(200))
		require.True(t, ok, "it is stale")
		require.Equal(t, 200, v)
		m.InvalidateTag("t", cache.Hard)
		_, ok = m.SetIfAbsent("k", item(201))
		require.True(t, ok)
		_, err := m.Load(t.Context(), "error", func(context.Context, string) (int, error) {
			return 0, cache.ErrNotFound
		})
		require.Error(t, err)
		_, ok = m.SetIfAbsent("error", item(1))
		require.True(t, ok)

		v, ok = m.SetIfAbsent("over", cache.MemoryItem[int]{Value: 5, TTL: -1})
		require.False(t, ok)
		require.Equal(t, 5, v)

		got, err := m.Load(t.Context(), "loading", func(context.Context, string) (int, error) {
			v, ok := m.SetIfAbsent("loading", item(7))
			require.True(t, ok)
			require.Equal(t, 7, v)
			return 8, nil
		})
		require.NoError(t, err)
		require.Equal(t, 8, got)
		v, _ = m.Get("loading")
		require.Equal(t, 7, v, "the load is the older of the two")

		plain := newMemory(t, cache.MemoryConfig[string, int]{})
		plain.Set("k", 1)
		v, ok = plain.SetIfAbsent("k", cache.MemoryItem[int]{Value: 2})
		require.False(t, ok)
		require.Equal(t, 1, v)
	})
}

func TestTimeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			Stale: time.Hour, ErrorTTL: func(string, error) time.Duration { return time.Hour },
		})
		m.Set("ever", 1)
		m.SetItem("ever, tagged", cache.MemoryItem[int]{Tags: []string{"t"}})
		m.SetItem("minute", cache.MemoryItem[int]{TTL: time.Minute})
		m.SetItem("deadline", cache.MemoryItem[int]{TTL: time.Hour, Expires: time.Now().Add(2 * time.Minute)})
		_, err := m.Load(t.Context(), "error", func(context.Context, string) (int, error) {
			return 0, cache.ErrNotFound
		})
		require.Error(t, err)
		time.Sleep(time.Minute - 1)
		for k, want := range map[string]time.Duration{
			"ever": cache.Forever, "ever, tagged": cache.Forever, "minute": 1, "deadline": time.Minute + 1,
		} {
			left, ok := m.TimeLeft(k)
			require.True(t, ok)
			require.Equal(t, want, left, k)
		}
		time.Sleep(time.Nanosecond)
		m.InvalidateTag("t", cache.Soft)
		for _, k := range []string{"minute", "ever, tagged", "error", "none"} {
			left, ok := m.TimeLeft(k)
			require.False(t, ok, k)
			require.Zero(t, left)
		}
		require.Zero(t, m.Stats().Hits)

		idle := newMemory(t, cache.MemoryConfig[string, int]{
			IdleTTL: time.Minute, TTL: func(string, int) time.Duration { return 90 * time.Second },
		})
		idle.Set("k", 1)
		for _, want := range []time.Duration{60, 50, 50, 50, 50, 40} { // seconds, before it is read
			left, ok := idle.TimeLeft("k")
			require.True(t, ok)
			require.Equal(t, want*time.Second, left)
			_, ok = idle.Get("k")
			require.True(t, ok)
			time.Sleep(10 * time.Second)
		}
		left, ok := idle.TimeLeft("k")
		require.True(t, ok)
		require.Equal(t, 30*time.Second, left, "the end of its TTL")
	})
}

// A caller that was answered with the stale value no longer waits: the load goes on in the
// background, and is canceled if there is no room for that.
func TestASlowLoadWhoseCallersWereAnsweredIsInTheBackground(t *testing.T) {
	for most, goesOn := range map[int]bool{1: true, -1: false} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(t, cache.MemoryConfig[string, int]{
				TTL: minute, StaleIfError: time.Hour, StaleAfter: time.Second, MaxBackground: most,
			})
			m.Set("k", -1)
			time.Sleep(2 * time.Minute)
			s := source{takes: 10 * time.Second}
			require.Equal(t, -1, loadOne(m, s.load, false))
			require.EqualValues(t, 1, m.Stats().Slow)
			synctest.Wait()
			require.Equal(t, goesOn, m.Stats().Loading == 1)
			time.Sleep(10 * time.Second)
			_, ok := m.Get("k")
			require.Equal(t, goesOn, ok)
		})
	}
}
