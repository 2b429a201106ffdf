package benchmarks_test

import (
	"sync/atomic"
	"testing"

	"github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/maypok86/otter/v2"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A dataCache has the methods that the benchmarks need of each cache.
type dataCache[K comparable, V any] interface {
	Get(key K) (V, bool)
	Set(key K, value V)
}

type trivetCache[K comparable, V any] struct{ *cache.Memory[K, V] }

func (c trivetCache[K, V]) Set(key K, value V) { c.Memory.Set(key, value) }

type lruCache[K comparable, V any] struct{ *lru.Cache[K, V] }

func (c lruCache[K, V]) Set(key K, value V) { c.Add(key, value) }

type otterCache[K comparable, V any] struct{ *otter.Cache[K, V] }

func (c otterCache[K, V]) Get(key K) (V, bool) { return c.GetIfPresent(key) }
func (c otterCache[K, V]) Set(key K, value V)  { c.Cache.Set(key, value) }

type theineCache[K comparable, V any] struct{ *theine.Cache[K, V] }

func (c theineCache[K, V]) Set(key K, value V) { c.Cache.Set(key, value, 1) }

type ristrettoCache[K cacheKey, V any] struct{ *ristretto.Cache[K, V] }

func (c ristrettoCache[K, V]) Set(key K, value V) {
	if !c.Cache.Set(key, value, 1) {
		droppedSets.Add(1)
	}
}

// droppedSets counts the writes that ristretto drops when it is busy. The other caches drop none.
var droppedSets atomic.Int64

// A cacheKey is a type that all of the caches accept as a key.
type cacheKey interface{ int64 | string }

// A contender makes caches of one library that hold a number of entries.
type contender[K comparable, V any] struct {
	name string
	new  func(tb testing.TB, entries int) dataCache[K, V]
}

func contenders[K cacheKey, V any]() []contender[K, V] {
	trivet := func(eviction cache.Eviction) func(testing.TB, int) dataCache[K, V] {
		return func(tb testing.TB, entries int) dataCache[K, V] {
			c, err := cache.NewMemory(cache.MemoryConfig[K, V]{MaxEntries: entries, Eviction: eviction})
			require.NoError(tb, err)
			return trivetCache[K, V]{c}
		}
	}
	return []contender[K, V]{
		{"trivet", trivet(cache.TinyLFU)},
		{"trivet-lru", trivet(cache.LRU)},
		{"otter", func(tb testing.TB, entries int) dataCache[K, V] {
			c, err := otter.New(&otter.Options[K, V]{MaximumSize: entries})
			require.NoError(tb, err)
			return otterCache[K, V]{c}
		}},
		{"golang-lru", func(tb testing.TB, entries int) dataCache[K, V] {
			c, err := lru.New[K, V](entries)
			require.NoError(tb, err)
			return lruCache[K, V]{c}
		}},
		{"theine", func(tb testing.TB, entries int) dataCache[K, V] {
			c, err := theine.NewBuilder[K, V](int64(entries)).Build()
			require.NoError(tb, err)
			tb.Cleanup(c.Close)
			return theineCache[K, V]{c}
		}},
		{"ristretto", func(tb testing.TB, entries int) dataCache[K, V] {
			c, err := ristretto.NewCache(&ristretto.Config[K, V]{
				NumCounters: int64(10 * entries), MaxCost: int64(entries),
				BufferItems: 64, IgnoreInternalCost: true,
			})
			require.NoError(tb, err)
			tb.Cleanup(c.Close)
			return ristrettoCache[K, V]{c}
		}},
	}
}

// policies are the contenders whose hit ratios are compared, for entries of these weights. If
// weight is nil, each weighs 1.
func policies(weight func(key int64) int64) []contender[int64, int64] {
	weigh := func(key, _ int64) int64 { return weight(key) }
	trivet := func(eviction cache.Eviction) func(testing.TB, int) dataCache[int64, int64] {
		return func(tb testing.TB, bound int) dataCache[int64, int64] {
			cfg := cache.MemoryConfig[int64, int64]{MaxEntries: bound, Eviction: eviction}
			if weight != nil {
				cfg.MaxEntries, cfg.MaxWeight, cfg.Weigher = 0, int64(bound), weigh
			}
			c, err := cache.NewMemory(cfg)
			require.NoError(tb, err)
			return trivetCache[int64, int64]{c}
		}
	}
	otters := func(executor func(func())) func(testing.TB, int) dataCache[int64, int64] {
		return func(tb testing.TB, bound int) dataCache[int64, int64] {
			o := &otter.Options[int64, int64]{MaximumSize: bound, Executor: executor}
			if weight != nil {
				o.MaximumSize, o.MaximumWeight = 0, uint64(bound)
				o.Weigher = func(key, _ int64) uint32 { return uint32(weight(key)) }
			}
			c, err := otter.New(o)
			require.NoError(tb, err)
			return otterCache[int64, int64]{c}
		}
	}
	cost := func(int64) int64 { return 1 }
	if weight != nil {
		cost = weight
	}
	return []contender[int64, int64]{
		{"trivet", trivet(cache.TinyLFU)},
		{"trivet-lru", trivet(cache.LRU)},
		{"otter", otters(nil)},
		{"otter-sync", otters(func(fn func()) { fn() })},
		{"golang-lru", func(tb testing.TB, bound int) dataCache[int64, int64] {
			return newWeightedLRU(tb, int64(bound), cost)
		}},
		{"theine", func(tb testing.TB, bound int) dataCache[int64, int64] {
			c, err := theine.NewBuilder[int64, int64](int64(bound)).Build()
			require.NoError(tb, err)
			tb.Cleanup(c.Close)
			return syncTheine{c, cost}
		}},
		{"ristretto", func(tb testing.TB, bound int) dataCache[int64, int64] {
			c, err := ristretto.NewCache(&ristretto.Config[int64, int64]{
				NumCounters: int64(10 * bound), MaxCost: int64(bound),
				BufferItems: 64, IgnoreInternalCost: true,
			})
			require.NoError(tb, err)
			tb.Cleanup(c.Close)
			return costRistretto{c, cost}
		}},
	}
}

// A syncTheine waits after each write until theine has evicted what exceeds the bound.
type syncTheine struct {
	*theine.Cache[int64, int64]
	cost func(key int64) int64
}

func (c syncTheine) Set(key, value int64) {
	c.Cache.Set(key, value, c.cost(key))
	c.Wait()
}

type costRistretto struct {
	*ristretto.Cache[int64, int64]
	cost func(key int64) int64
}

func (c costRistretto) Set(key, value int64) {
	if !c.Cache.Set(key, value, c.cost(key)) {
		droppedSets.Add(1)
	}
}

// A weightedLRU is golang-lru with a bound on the sum of the weights. What is heavier than a
// quarter of the bound is not stored, as in Trivet.
type weightedLRU struct {
	*lru.Cache[int64, int64]
	cost       func(key int64) int64
	sum, bound int64
}

func newWeightedLRU(tb testing.TB, bound int64, cost func(key int64) int64) *weightedLRU {
	c := &weightedLRU{cost: cost, bound: bound}
	var err error
	c.Cache, err = lru.NewWithEvict(int(bound), func(key, _ int64) { c.sum -= cost(key) })
	require.NoError(tb, err)
	return c
}

func (c *weightedLRU) Set(key, value int64) {
	if c.cost(key) > max(1, c.bound/4) {
		return
	}
	c.Add(key, value)
	c.sum += c.cost(key)
	for c.sum > c.bound {
		c.RemoveOldest()
	}
}
