package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
)

// Of a cache that is too small one can only say what it must not do.
func TestBoundsHoldAndNoWriteIsLost(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.Int64Range(1, 300).Draw(rt, "limit")
		weight := func(k, _ int) int64 { return int64(k%7) * 3 }
		removed := map[int]int{}
		cfg := cache.MemoryConfig[int, int]{
			Eviction: rapid.SampledFrom([]cache.Eviction{cache.TinyLFU, cache.LRU}).Draw(rt, "eviction"),
			Observe: func(_ context.Context, e cache.MemoryEvent[int, int]) {
				if e.Kind == cache.MemoryRemoved {
					removed[e.Key] = e.Value
				}
			},
		}
		weighted := rapid.Bool().Draw(rt, "weighted")
		if weighted {
			// A different weight on each overwrite.
			weight = func(k, v int) int64 { return int64((k+v)%7) * 3 }
			cfg.Weigher, cfg.MaxWeight = weight, limit
		} else {
			cfg.MaxEntries = int(limit)
		}
		m := newMemory(t, cfg)
		last := map[int]int{}
		key := rapid.IntRange(0, 400)
		for i := range rapid.IntRange(1, 600).Draw(rt, "operations") {
			k := key.Draw(rt, "key")
			if i%3 == 0 {
				if v, ok := m.Get(k); ok {
					require.Equal(rt, last[k], v)
				}
				continue
			}
			kept := m.Set(k, i)
			heavy := weighted && max(1, weight(k, i)) > max(1, limit/4)
			require.Equal(rt, !heavy, kept)
			v, ok := m.Get(k)
			require.Equal(rt, kept, ok, "what was set is there")
			if kept {
				require.Equal(rt, i, v)
				last[k] = i
			}
			st := m.Stats()
			require.LessOrEqual(rt, st.Weight, limit)
			var sum int64
			n := 0
			for k, v := range m.All() {
				require.Equal(rt, last[k], v)
				n++
				if weighted {
					sum += max(1, weight(k, v))
				} else {
					sum++
				}
			}
			require.Equal(rt, sum, st.Weight)
			require.Equal(rt, n, st.Entries)
		}
		for k, v := range removed {
			require.LessOrEqual(rt, v, last[k]+600)
		}
	})
}

// Everything at once; the race detector looks on.
func TestConcurrentUse(t *testing.T) {
	for _, cfg := range []cache.MemoryConfig[int, int]{
		{MaxEntries: 32_000},
		{MaxEntries: 100, Eviction: cache.LRU, TTL: func(k, _ int) time.Duration {
			return time.Duration(k%5) * time.Millisecond
		}},
		{MaxWeight: 1000, Weigher: func(k, _ int) int64 { return int64(k % 10) }, Stale: time.Millisecond,
			Tags: func(k, _ int) []string { return []string{fmt.Sprint(k % 7)} }},
	} {
		m := newMemory(t, cfg)
		limit := max(int64(cfg.MaxEntries), cfg.MaxWeight)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(g), 1))
				for i := range 4000 {
					k := random.IntN(50_000)
					if i%4 > 0 {
						k %= 100
					}
					switch random.IntN(20) {
					case 0:
						m.Delete(k)
					case 1:
						m.SetItem(k, cache.MemoryItem[int]{
							Value: k,
							TTL:   time.Millisecond,
							Tags:  []string{"x"},
						})
					case 2:
						m.InvalidateTag(fmt.Sprint(k%7), cache.Soft+cache.Invalidation(k%2))
					case 3:
						if i%500 == 0 {
							m.Clear()
						}
						if i%100 == 0 {
							for k, v := range m.All() {
								if k != v {
									panic("a value of another key")
								}
							}
						}
						if st := m.Stats(); st.Weight > limit {
							panic(fmt.Sprint("above the bound: ", st))
						}
					case 4, 5, 6:
						v, err := m.Load(context.Background(), k,
							func(_ context.Context, k int) (int, error) {
								return k, nil
							})
						if err != nil || v != k {
							panic(fmt.Sprint(v, err))
						}
					case 7:
						got, err := m.LoadMany(context.Background(), []int{k, k + 1},
							func(_ context.Context, keys []int) (map[int]int, error) {
								found := map[int]int{}
								for _, k := range keys {
									found[k] = k
								}
								return found, nil
							})
						if err != nil || got[k] != k || got[k+1] != k+1 {
							panic(fmt.Sprint(got, err))
						}
					case 8, 9, 10:
						m.Set(k, k)
					default:
						if v, ok := m.Get(k); ok && v != k {
							panic("a value of another key")
						}
					}
				}
			})
		}
		wg.Wait()
	}
}

// Growing tables lead readers astray; they must find their way.
func TestReadersFindEverythingWhileTablesGrow(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 200_000})
	for k := range 100 {
		m.Set(k, k)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for k := 0; ; k = (k + 1) % 100 {
				select {
				case <-done:
					return
				default:
				}
				if v, ok := m.Get(k); !ok || v != k {
					panic(fmt.Sprint("lost ", k))
				}
			}
		})
	}
	entries := 150_000
	if raceEnabled {
		entries /= 5
	}
	for k := range entries {
		m.Set(1000+k, k)
	}
	close(done)
	wg.Wait()
}
