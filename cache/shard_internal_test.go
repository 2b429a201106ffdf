package cache

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Shards share the bound, so each must have told the others what it holds before it gives up its
// lock.
func TestShardsKnowWhatTheOthersHold(t *testing.T) {
	const most = 2 * shardEntries
	for _, eviction := range []Eviction{TinyLFU, LRU} {
		m, err := NewMemory(MemoryConfig[int, int]{
			MaxEntries: most,
			Eviction:   eviction,
		})
		require.NoError(t, err)
		require.Len(t, m.shards, 2)
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(g), 1))
				for i := range 20_000 {
					switch k := random.IntN(3 * most); {
					case i%8 == 0:
						m.Delete(k)
					case i == 10_000 && g == 0:
						m.Clear()
					default:
						m.Set(k, k)
					}
				}
			})
		}
		wg.Wait()
		m.check(t)
		require.LessOrEqual(t, m.total.Load(), int64(most))

		m.Clear()
		m.check(t)
		require.Zero(t, m.total.Load())

		for k := range 2 * most {
			m.Set(-k-1, k)
		}
		m.check(t)
		require.Equal(t, int64(most), m.total.Load(), "all of the bound is used")
	}
}

func TestShardsTellWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 2 * shardEntries
		m, err := NewMemory(MemoryConfig[int, int]{
			MaxEntries: most,
			TTL:        func(int, int) time.Duration { return time.Second },
		})
		require.NoError(t, err)
		for k := range most {
			m.Set(k, k)
		}
		m.check(t)
		time.Sleep(10 * time.Second)
		for k := range 100 {
			m.Set(-1-k, k) // who writes removes what has expired
			m.check(t)
		}
		require.Equal(t, int64(100), m.total.Load())
	})
}

// check compares what each shard says of itself with what all of them reckon with.
func (m *Memory[K, V]) check(t *testing.T) {
	t.Helper()
	var weight int64
	for i := range m.shards {
		s := &m.shards[i]
		require.Zero(t, s.uncounted)
		require.Equal(t, int64(s.count), s.weight)
		weight += s.weight
	}
	require.Equal(t, weight, m.total.Load())
}
