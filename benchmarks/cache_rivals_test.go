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
