package benchmarks_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkDataCacheHitRatio plays each trace once an iteration, from one goroutine, with a new
// cache. It reports the median hit ratio of each contender in %, and by how many points Trivet is
// ahead of otter and golang-lru. The last line has, for each contender, by how many points it is
// behind the best one: the mean of all rows, and the worst of them. Run it with -benchtime 3x,
// since chance decides what the policies learn.
//
// otter-sync empties its buffers at once, as otter's own simulator does, so it shows otter's
// policy. By default otter empties them in the background and meanwhile holds more than its bound.
// In loops that are a little larger than the cache it then hits more often than any cache of that
// size can, so it is never the best one of a row. theine does the same: it would hold 681 entries
// where 500 are allowed. Here it has to empty its buffer after each write.
func BenchmarkDataCacheHitRatio(b *testing.B) {
	var names []string
	behind := map[string][]float64{} // the best contender of each row, in points
	for _, t := range append(traces(), publicTraces(b)...) {
		for _, entries := range t.entries {
			b.Run(fmt.Sprintf("trace=%s/entries=%d", t.name, entries), func(b *testing.B) {
				ratios := map[string][]float64{}
				names = names[:0]
				all := policies(t.weight)
				for b.Loop() {
					for _, c := range all {
						ratio := 100 * hitRatio(c.new(b, entries), t.keys, c.name == "ristretto")
						ratios[c.name] = append(ratios[c.name], ratio)
					}
				}
				b.ReportMetric(0, "ns/op")
				best := 0.0
				for _, c := range all {
					names = append(names, c.name)
					b.ReportMetric(medianOf(ratios[c.name]), c.name+"-hit%")
					if c.name != "otter" {
						best = max(best, medianOf(ratios[c.name]))
					}
				}
				for _, c := range all {
					behind[c.name] = append(behind[c.name], best-medianOf(ratios[c.name]))
				}
				ours := medianOf(ratios["trivet"])
				b.ReportMetric(ours-medianOf(ratios["otter"]), "ahead-of-otter")
				b.ReportMetric(ours-medianOf(ratios["otter-sync"]), "ahead-of-otter-sync")
				b.ReportMetric(ours-medianOf(ratios["golang-lru"]), "ahead-of-golang-lru")
			})
		}
	}
	b.Run("behind-the-best-of-each-row", func(b *testing.B) {
		for b.Loop() {
		}
		b.ReportMetric(0, "ns/op")
		for _, name := range names {
			sum := 0.0
			for _, points := range behind[name] {
				sum += points
			}
			b.ReportMetric(sum/float64(len(behind[name])), name+"-mean")
			b.ReportMetric(slices.Max(behind[name]), name+"-worst")
		}
	})
}

func hitRatio(cache dataCache[int64, int64], keys []int64, settles bool) float64 {
	hits := 0
	for i, k := range keys {
		if _, ok := cache.Get(k); ok {
			hits++
		} else {
			cache.Set(k, k)
		}
		if settles && i%1000 == 999 {
			time.Sleep(20 * time.Microsecond) // it stores in the background and drops what comes too fast
		}
	}
	return float64(hits) / float64(len(keys))
}
