//go:build !race

package cache_test

import (
	"context"
	"math/rand/v2"
	"testing"

	golanglru "github.com/hashicorp/golang-lru/v2"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// Stats tell what the policy has learned: of keys that are read soon after they came, or never
// again, that recency counts; of a loop that it does not.
func TestStatsTellTheWindowShare(t *testing.T) {
	for _, entries := range []int{1000, 20_000} { // one shard, and several
		m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: entries})
		read := func(k int) {
			if _, ok := m.Get(k); !ok {
				m.Set(k, k)
			}
		}
		require.InDelta(t, 0.01, m.Stats().WindowShare, 1e-9)
		for i := range 12 * entries {
			read(i)
			read(i - entries/3)
		}
		require.Greater(t, m.Stats().WindowShare, 0.4)
		for i := range 40 * entries {
			read(i % (2 * entries))
		}
		require.Less(t, m.Stats().WindowShare, 0.2)
	}
	m := newMemory(t, cache.MemoryConfig[int, int]{Eviction: cache.LRU})
	require.EqualValues(t, 1, m.Stats().WindowShare)
}

// The margins over plain LRU that the admission is for.
func TestHitRatioAheadOfGolangLRU(t *testing.T) {
	const n = 200_000
	random := rand.New(rand.NewPCG(3, 1))
	zipf := rand.NewZipf(random, 1.01, 1, 1_000_000)
	once := 1 << 30
	traces := []struct {
		name   string
		size   int
		key    func(i int) int
		points float64 // ahead, at least
	}{
		{"Zipf", 1000, func(int) int { return int(zipf.Uint64()) }, 6},
		{"Zipf and scans", 1000, func(i int) int {
			if i%4000 < 1000 {
				once++
				return once
			}
			return int(zipf.Uint64())
		}, 5},
		{"a loop", 1000, func(i int) int { return i % 2000 }, 40},
		{"a loop that nearly fits, over shards", 20_000, func(i int) int { return i % 25_000 }, 50},
	}
	for _, tt := range traces {
		m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: tt.size})
		plain, err := golanglru.New[int, int](tt.size)
		require.NoError(t, err)
		ours, theirs := 0, 0
		for i := range n {
			k := tt.key(i)
			if _, ok := m.Get(k); ok {
				ours++
			} else {
				m.Set(k, k)
			}
			if _, ok := plain.Get(k); ok {
				theirs++
			} else {
				plain.Add(k, k)
			}
		}
		ahead := 100 * float64(ours-theirs) / float64(n)
		require.GreaterOrEqual(t, ahead, tt.points, "%s: %d against %d", tt.name, ours, theirs)
	}
}

// A cache that is filled in advance gives way to what is then asked for. One that was filled
// because of misses does not, for each of its entries has been used as often as a newcomer.
func TestAFillInAdvanceIsNoUse(t *testing.T) {
	const size, newcomers = 1000, 100
	load := func(context.Context, int) (int, error) { return 1, nil }
	for _, tt := range []struct {
		name  string
		fill  func(m *cache.Memory[int, int], k int)
		stays bool
	}{
		{"set", func(m *cache.Memory[int, int], k int) { m.Set(k, k) }, false},
		{"missed and set", func(m *cache.Memory[int, int], k int) { m.Get(k); m.Set(k, k) }, true},
		{"loaded", func(m *cache.Memory[int, int], k int) { _, _ = m.Load(t.Context(), k, load) }, true},
		{"missed now and then", func(m *cache.Memory[int, int], k int) {
			if k%3 == 2 {
				m.Get(k)
			}
			m.Set(k, k)
		}, false},
	} {
		m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: size})
		for k := range size {
			tt.fill(m, k)
		}
		for k := range newcomers {
			m.Get(-1 - k)
			m.Set(-1-k, k)
		}
		found := 0
		for k := range newcomers {
			if _, ok := m.Get(-1 - k); ok {
				found++
			}
		}
		if tt.stays {
			require.Less(t, found, newcomers/3, tt.name)
		} else {
			require.Greater(t, found, newcomers*2/3, tt.name)
		}
	}
}
