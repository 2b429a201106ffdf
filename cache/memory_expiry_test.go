package cache_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestC69_ClockStepsDoNotMatter(t *testing.T) {
	// All times are offsets on the monotonic clock: an entry's life is its TTL. The
	// bubble's clock cannot step, so this pins what would break: that nothing is
	// compared with wall time, by restoring across one.
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		m.SetItem("k", cache.MemoryItem[int]{Value: 1, TTL: time.Hour})
		time.Sleep(time.Hour - 1)
		_, ok := m.Get("k")
		require.True(t, ok)
		time.Sleep(time.Nanosecond)
		_, ok = m.Get("k")
		require.False(t, ok)
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			TTL:     func(k string, _ int) time.Duration { return time.Duration(len(k)) * time.Minute },
			IdleTTL: 90 * time.Second,
		})
		m.Set("aa", 1) // two minutes, or 90 seconds if idle

		m.SetItem("b", cache.MemoryItem[int]{Value: 2, TTL: cache.Forever})    // as long as it is read
		m.SetItem("c", cache.MemoryItem[int]{Value: 3, TTL: 1e9})              // a second
		m.SetItem("idle", cache.MemoryItem[int]{Value: 4, TTL: cache.Forever}) // 90 seconds
		for i := range 20 {
			time.Sleep(10 * time.Second)
			passed := time.Duration(i+1) * 10 * time.Second
			_, ok := m.Get("aa")
			require.Equal(t, passed < 2*time.Minute, ok, passed)
			_, ok = m.Get("b")
			require.True(t, ok)
			_, ok = m.Get("c")
			require.False(t, ok)
		}
		_, ok := m.Get("idle")
		require.False(t, ok)
		require.Equal(t, 1, m.Stats().Entries, "what has expired leaves without being asked for")
		m.Set("b", 2) // whatever is written
		require.Equal(t, uint64(3), m.Stats().Removals["expired"])
		require.Equal(t, 1, m.Stats().Entries)
	})
}

func TestJitterShortensTTLs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[int, int]{
			TTL:    func(int, int) time.Duration { return 100 * time.Second },
			Jitter: 0.5,
		})
		for k := range 1000 {
			m.Set(k, k)
		}
		fresh := func() (n int) {
			for range m.All() {
				n++
			}
			return n
		}
		time.Sleep(50 * time.Second)
		require.Equal(t, 1000, fresh())
		time.Sleep(25 * time.Second)
		require.InDelta(t, 500, fresh(), 100)
		time.Sleep(25 * time.Second)
		require.Zero(t, fresh())
	})
}

// Idleness that is over before the TTL takes the entry's room, too, and not a moment before.
func TestIdleEntriesTakeNoRoomUntilTheEndOfTheirTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			IdleTTL: time.Minute, TTL: func(string, int) time.Duration { return time.Hour },
		})
		m.Set("k", 1)
		time.Sleep(time.Minute - 1)
		require.Equal(t, 1, m.Stats().Entries)
		time.Sleep(time.Nanosecond)
		require.Zero(t, m.Stats().Entries)
		time.Sleep(5 * time.Second)
		m.Set("other", 2)
		require.EqualValues(t, 1, m.Stats().Removals[cache.MemoryExpired])
	})
}
