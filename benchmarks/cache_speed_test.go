package benchmarks

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

const (
	speedEntries = 100_000
	speedKeys    = 1 << 20 // drawn ahead, so that drawing costs nothing in the loop
)

// zipfKeys draws n keys below max. Which keys are hot does not depend on their order.
func zipfKeys(n, max int, seed uint64) []int64 {
	random := rand.New(rand.NewPCG(seed, 1))
	z := rand.NewZipf(random, 1.01, 1, uint64(max-1))
	scattered := random.Perm(max)
	keys := make([]int64, n)
	for i := range keys {
		keys[i] = int64(scattered[z.Uint64()])
	}
	return keys
}

// BenchmarkDataCache reads and writes a full cache on all processors. Among ten
// times as many keys as there are entries, what is missing is set.
func BenchmarkDataCache(b *testing.B) {
	for _, times := range []int{1, 10} {
		keys := zipfKeys(speedKeys, times*speedEntries, 1)
		for _, writes := range []int{0, 10, 25} {
			for _, c := range contenders[int64, int64]() {
				b.Run(fmt.Sprintf("value=int64/keys=%dx/writes=%d/cache=%s", times, writes, c.name), func(b *testing.B) {
					benchmarkDataCache(b, c.new(b, speedEntries), keys, 1, writes, times > 1)
				})
			}
			for _, c := range contenders[int64, string]() {
				b.Run(fmt.Sprintf("value=string/keys=%dx/writes=%d/cache=%s", times, writes, c.name), func(b *testing.B) {
					benchmarkDataCache(b, c.new(b, speedEntries), keys, "value", writes, times > 1)
				})
			}
		}
	}
}

func benchmarkDataCache[V any](b *testing.B, cache dataCache[int64, V], keys []int64, value V, writes int, fill bool) {
	for k := range int64(speedEntries) {
		cache.Set(k, value)
	}
	for _, k := range keys {
		if _, ok := cache.Get(k); !ok {
			cache.Set(k, value)
		}
	}
	var goroutines atomic.Uint64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		random := rand.New(rand.NewPCG(goroutines.Add(1), 2))
		i := random.IntN(len(keys))
		for pb.Next() {
			i++
			key := keys[i%len(keys)]
			if writes > 0 && i*7919%100 < writes {
				cache.Set(key, value)
			} else if _, ok := cache.Get(key); !ok && fill {
				cache.Set(key, value)
			}
		}
	})
}
