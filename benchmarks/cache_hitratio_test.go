package benchmarks_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/stretchr/testify/require"
)

// A keyTrace is a sequence of keys, of the kind that cache studies use.
type keyTrace struct {
	name    string
	keys    []int64
	entries []int // capacities
}

// traces returns traces that are the same each time, since their seeds are fixed. They imitate the
// shapes of public traces, whose files are too large for this repository.
func traces() []keyTrace {
	return []keyTrace{
		{"zipf1.01", zipfTrace(700_000, 100_000), []int{500, 1000, 10_000, 50_000}},
		{"zipf1.01-1M", zipfTrace(1_000_000, 1_000_000), []int{1000, 10_000, 50_000}},
		{"zipf1.01+scans", scanTrace(700_000), []int{500, 1000, 10_000, 50_000}},
		{"loop", loopTrace(700_000, 2000), []int{500, 1000, 1900}},
		{"oltp-like", oltpTrace(900_000), []int{500, 1000, 2000, 10_000}},
		{"search-like", searchTrace(1_000_000), []int{1000, 25_000, 50_000}},
		{"glimpse-like", glimpseTrace(), []int{500, 1000, 2000}},
		{"recent+loop+recent", mixedTrace(), []int{500, 1000, 2000}},
		{"shifting-zipf", shiftingTrace(1_000_000), []int{1000, 10_000}},
	}
}

func zipfTrace(n, keys int) []int64 { return zipfKeys(n, keys, 7) }

// scanTrace has popular keys, and between them runs of keys that come only once.
func scanTrace(n int) []int64 {
	popular := zipfKeys(n, 100_000, 8)
	once := int64(1 << 40)
	var t []int64
	for len(t) < n {
		at := len(t)
		t = append(t, popular[at:min(at+3000, n)]...)
		for range 1000 {
			once++
			t = append(t, once)
		}
	}
	return t[:n]
}

// loopTrace reads all keys in order, over and over.
func loopTrace(n, keys int) []int64 {
	t := make([]int64, n)
	for i := range t {
		t[i] = int64(i % keys)
	}
	return t
}

// oltpTrace is like the log of a database: each record is read several times soon after it was
// written, while an index is read all the time.
func oltpTrace(n int) []int64 {
	random := rand.New(rand.NewPCG(9, 1))
	index := rand.NewZipf(random, 1.1, 8, 20_000)
	newest := int64(1 << 32)
	t := make([]int64, n)
	for i := range t {
		switch p := random.IntN(100); {
		case p < 45:
			t[i] = int64(index.Uint64())
		case p < 60:
			newest++
			t[i] = newest
		default: // mostly among the last few hundred records
			t[i] = newest - int64(random.ExpFloat64()*400)
		}
	}
	return t
}

// searchTrace is like the blocks that a search engine reads: many keys, of which few are popular,
// and long sequential runs.
func searchTrace(n int) []int64 {
	random := rand.New(rand.NewPCG(10, 1))
	popular := rand.NewZipf(random, 1.05, 1000, 1_000_000)
	scattered := random.Perm(1_000_001)
	t := make([]int64, 0, n)
	for len(t) < n {
		if random.IntN(40) == 0 {
			at := int64(1<<32 + random.IntN(5_000_000))
			for i := range int64(50 + random.IntN(200)) {
				t = append(t, at+i)
			}
		}
		t = append(t, int64(scattered[popular.Uint64()]))
	}
	return t[:n]
}

// glimpseTrace is like a text search over the same files: short loops with a few hot pages.
func glimpseTrace() []int64 {
	random := rand.New(rand.NewPCG(11, 1))
	var t []int64
	for range 12 {
		for i := range int64(1900) {
			t = append(t, i)
			if i%3 == 0 {
				t = append(t, 10_000+random.Int64N(60))
			}
		}
	}
	return t
}

// mixedTrace suits a large window first, then no window, then a large one again.
func mixedTrace() []int64 {
	random := rand.New(rand.NewPCG(12, 1))
	recent := func(n int, from int64) (t []int64) {
		newest := from
		for range n {
			if random.IntN(3) == 0 {
				newest++
			}
			t = append(t, newest-int64(random.ExpFloat64()*300))
		}
		return t
	}
	t := recent(300_000, 1<<33)
	t = append(t, loopTrace(300_000, 1500)...)
	return append(t, recent(300_000, 1<<34)...)
}

// shiftingTrace changes the popular keys after every 100,000 reads.
func shiftingTrace(n int) []int64 {
	t := zipfKeys(n, 100_000, 13)
	for i := range t {
		t[i] += int64(i/100_000) * 30_000
	}
	return t
}

// publicTraces reads the files in the directory that TRIVET_TRACES names. A line is in the ARC
// format (first block, number of blocks, and two numbers that are not used) or has one number.
func publicTraces(tb testing.TB) (traces []keyTrace) {
	dir := os.Getenv("TRIVET_TRACES")
	if dir == "" {
		return nil
	}
	entries := map[string][]int{"p3": {25_000, 50_000}}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(tb, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(tb, err)
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		t := keyTrace{name: "public-" + name, entries: []int{500, 1000, 2000}}
		if e := entries[name]; e != nil {
			t.entries = e
		}
		for line := range strings.Lines(string(text)) {
			var first, n int64 = 0, 1
			if got, _ := fmt.Sscan(line, &first, &n); got == 0 {
				continue
			}
			for i := range n {
				t.keys = append(t.keys, first+i)
			}
		}
		traces = append(traces, t)
	}
	return traces
}

// BenchmarkDataCacheHitRatio plays each trace once an iteration, from one goroutine, with a new
// cache. It reports the median hit ratio of each contender in %, and by how many points Trivet is
// ahead of otter and golang-lru. Run it with -benchtime 9x, since chance decides what the policies
// learn.
//
// otter-sync empties its buffers at once, as otter's own simulator does, so it shows otter's
// policy. By default otter empties them in the background and meanwhile holds more than its bound.
// In loops that are a little larger than the cache it then hits more often than any cache of that
// size can.
func BenchmarkDataCacheHitRatio(b *testing.B) {
	for _, t := range append(traces(), publicTraces(b)...) {
		for _, entries := range t.entries {
			b.Run(fmt.Sprintf("trace=%s/entries=%d", t.name, entries), func(b *testing.B) {
				all := append(contenders[int64, int64](), contender[int64, int64]{"otter-sync", newSyncOtter})
				play := func(c contender[int64, int64]) float64 {
					return 100 * hitRatio(c.new(b, entries), t.keys, c.name == "ristretto")
				}
				ratios := map[string][]float64{}
				for b.Loop() {
					for _, c := range all {
						ratios[c.name] = append(ratios[c.name], play(c))
					}
				}
				b.ReportMetric(0, "ns/op")
				for _, c := range all {
					b.ReportMetric(medianOf(ratios[c.name]), c.name+"-hit%")
				}
				ours := medianOf(ratios["trivet"])
				b.ReportMetric(ours-medianOf(ratios["otter"]), "ahead-of-otter")
				b.ReportMetric(ours-medianOf(ratios["otter-sync"]), "ahead-of-otter-sync")
				b.ReportMetric(ours-medianOf(ratios["golang-lru"]), "ahead-of-golang-lru")
			})
		}
	}
}

// newSyncOtter returns an otter that empties its buffers at once.
func newSyncOtter(tb testing.TB, entries int) dataCache[int64, int64] {
	c, err := otter.New(&otter.Options[int64, int64]{
		MaximumSize: entries, Executor: func(fn func()) { fn() },
	})
	require.NoError(tb, err)
	return otterCache[int64, int64]{c}
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
