//go:build !race

// Tests of one goroutine that fill large caches. Concurrent use is tested with the race detector in
// memory_concurrent_test.go.

package cache_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestExactlyTheBoundFits(t *testing.T) {
	for _, entries := range []int{1, 2, 10, 1000, 20_000, 100_000} {
		m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: entries})
		for i := range entries {
			m.Set(i, i)
		}
		require.Equal(t, entries, m.Stats().Entries)
		for i := range entries {
			_, ok := m.Get(i)
			require.True(t, ok)
		}
		for i := range entries {
			m.Set(-i-1, i)
			_, ok := m.Get(-i - 1)
			require.True(t, ok, "what was just set is there")
		}
		require.Equal(t, entries, m.Stats().Entries)
	}
}

func TestC52_KeyFloodStaysInBoundAndSparesHotKeys(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[int, []byte]{
		Weigher:   func(_ int, v []byte) int64 { return int64(len(v)) },
		MaxWeight: 1 << 20,
	})
	for range 5 {
		for k := range 200 {
			if _, ok := m.Get(k); !ok {
				m.Set(k, make([]byte, 1024))
			}
		}
	}
	misses := 0
	for i := range 200_000 {
		m.Set(1000+i, make([]byte, 1024))
		if k := i / 10 % 200; i%10 == 0 { // one read in ten is of a hot key
			if _, ok := m.Get(k); !ok {
				misses++
				m.Set(k, make([]byte, 1024))
			}
		}
		if i%10_000 == 0 {
			require.LessOrEqual(t, m.Stats().Weight, int64(1<<20))
		}
	}
	require.Less(t, misses, 400, "of 20,000 reads of hot keys")
}

func TestExpiredEntriesLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 50_000})
		random := rand.New(rand.NewPCG(1, 1))
		var longest time.Duration
		for k := range 20_000 {
			ttl := time.Duration(random.ExpFloat64() * float64(time.Hour))
			if k%10 == 0 {
				ttl *= 5000 // most of a year
			}
			longest = max(longest, ttl)
			m.SetItem(k, cache.MemoryItem[int]{Value: k, TTL: ttl + 1})
		}
		for passed := time.Duration(0); passed < longest; {
			step := max(time.Second, passed/3)
			time.Sleep(step)
			passed += step
			fresh := 0
			for range m.All() {
				fresh++
			}
			require.Equal(t, fresh, m.Stats().Entries, "what has expired does not count")
		}
		time.Sleep(time.Hour)
		require.Zero(t, m.Stats().Entries)
	})
}

func TestC52_AFloodOfKeysStaysWithinTheBound(t *testing.T) {
	const bound = 4 << 20
	for name, size := range map[string]int{"small": 10, "large": 20_000} {
		t.Run(name, func(t *testing.T) {
			store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{MaxBytes: bound})
			require.NoError(t, err)
			c := newCache(t, cache.Config{Store: store})
			body := strings.Repeat("x", size)
			h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Etag", `"`+r.URL.Path+`"`)
				w.Header().Set("Surrogate-Key", "k"+r.URL.Path)
				_, _ = io.WriteString(w, body)
			}))
			var before, after runtime.MemStats
			get(h, "/warm")
			runtime.GC()
			runtime.ReadMemStats(&before)
			n := 20_000
			if size > 1000 {
				n = 2000
			}
			for i := range n {
				get(h, fmt.Sprintf("/%d", i))
				get(h, fmt.Sprintf("/%d", i)) // a hit makes texts that are kept
			}
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&after)
			require.LessOrEqual(t, store.Stats().Weight, int64(bound))
			require.Greater(t, store.Stats().Weight, int64(bound)/2)
			grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
			t.Logf("heap %d KiB of %d, %d entries", grown>>10, bound>>10, store.Stats().Entries)
			require.Less(t, grown, int64(bound)*11/10)
			runtime.KeepAlive(h)
		})
	}
}
