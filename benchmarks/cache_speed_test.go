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

// zipfKeys draws n keys below max, the most frequent ones scattered over the range.
func zipfKeys(n, max int, seed uint64) []int64 {
	z := rand.NewZipf(rand.New(rand.NewPCG(seed, 1)), 1.01, 1, uint64(max-1))
	keys := make([]int64, n)
	for i := range keys {
		keys[i] = int64(z.Uint64())
	}
	return keys
}

// BenchmarkDataCache reads and writes a full cache on all processors.
func BenchmarkDataCache(b *testing.B) {
	keys := zipfKeys(speedKeys, speedEntries, 1)
	for _, writes := range []int{0, 10, 25} {
		for _, c := range contenders[int64, int64]() {
			b.Run(fmt.Sprintf("writes=%d/cache=%s", writes, c.name), func(b *testing.B) {
				cache := c.new(b, speedEntries)
				for k := range int64(speedEntries) {
					cache.Set(k, k)
				}
				for _, k := range keys {
					cache.Get(k)
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
							cache.Set(key, key)
						} else {
							cache.Get(key)
						}
					}
				})
			})
		}
	}
}
