package benchmarks_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// BenchmarkDataCacheMemory measures the heap that a full cache occupies for each entry, with keys
// and values. The values of the second kind have 1 KiB.
func BenchmarkDataCacheMemory(b *testing.B) {
	for _, c := range contenders[int64, int64]() {
		b.Run("entry=int64-int64/entries=1000000/cache="+c.name, func(b *testing.B) {
			for b.Loop() {
				measureMemory(b, c, 1_000_000, func(i int) (int64, int64) { return int64(i), int64(i) })
			}
		})
	}
	for _, c := range contenders[string, string]() {
		b.Run("entry=string-1KiB/entries=100000/cache="+c.name, func(b *testing.B) {
			for b.Loop() {
				measureMemory(b, c, 100_000, func(i int) (string, string) {
					return fmt.Sprintf("key-%012d", i), strings.Repeat("x", 1024)
				})
			}
		})
	}
}

func measureMemory[K cacheKey, V any](b *testing.B, c contender[K, V], entries int, entry func(int) (K, V)) {
	before := heap()
	cache := c.new(b, entries)
	for i := range entries {
		cache.Set(entry(i))
	}
	kept := 0 // some caches drop entries, or store them in the background
	for i := range entries {
		k, _ := entry(i)
		if _, ok := cache.Get(k); ok {
			kept++
		}
	}
	b.ReportMetric(float64(heap()-before)/float64(kept), "B/entry")
	b.ReportMetric(float64(kept)/float64(entries), "kept")
	runtime.KeepAlive(cache)
}

// heap returns the bytes of live objects.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
