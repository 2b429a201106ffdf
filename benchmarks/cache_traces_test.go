package benchmarks_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A keyTrace is a sequence of keys, of the kind that cache studies use.
type keyTrace struct {
	name    string
	keys    []int64
	entries []int                 // capacities
	weight  func(key int64) int64 // of an entry; nil if each weighs 1. The capacities are weights then
}

// traces returns traces that are the same each time, since their seeds are fixed. They imitate the
// shapes of public traces, whose files are too large for this repository.
func traces() []keyTrace {
	return []keyTrace{
		{"zipf1.01", zipfTrace(700_000, 100_000), []int{500, 1000, 10_000, 50_000}, nil},
		{"zipf1.01-1M", zipfTrace(1_000_000, 1_000_000), []int{1000, 10_000, 50_000}, nil},
		{"zipf1.01+scans", scanTrace(700_000), []int{500, 1000, 10_000, 50_000}, nil},
		{"loop", loopTrace(700_000, 2000), []int{500, 1000, 1900}, nil},
		{"oltp-like", oltpTrace(900_000), []int{500, 1000, 2000, 10_000}, nil},
		{"search-like", searchTrace(1_000_000), []int{1000, 25_000, 50_000}, nil},
		{"glimpse-like", glimpseTrace(), []int{500, 1000, 2000}, nil},
		{"recent+loop+recent", mixedTrace(), []int{500, 1000, 2000}, nil},
		{"shifting-zipf", shiftingTrace(1_000_000), []int{1000, 10_000}, nil},
		{"sessions", sessionTrace(600_000), []int{500, 2000, 10_000}, nil},
		{"moving-set", movingTrace(600_000, 3000), []int{1000, 2500}, nil},
		{"zipf0.8", zipfianTrace(600_000, 100_000, 0.8, 21), []int{1000, 10_000}, nil},
		{"correlated", correlatedTrace(600_000), []int{1000, 10_000}, nil},
		{"one-hit-wonders", wonderTrace(600_000), []int{1000, 10_000}, nil},
		{"weighted-sessions", sessionTrace(600_000), []int{100_000, 1_000_000}, sizes},
		{"weighted-zipf", zipfKeys(600_000, 100_000, 22), []int{100_000, 1_000_000}, sizes},
		{"unequal-phases", phasesTrace(), []int{1000, 5000}, nil},
		{"feed", feedTrace(800_000), []int{1000, 10_000}, nil},
		{"zipf1.3", zipfianTrace(600_000, 100_000, 1.3, 28), []int{300, 3000}, nil},
		{"drifting-catalogue", catalogueTrace(800_000), []int{1000, 10_000}, nil},
		{"nightly-scans", nightlyTrace(800_000), []int{2000, 10_000}, nil},
		{"weighted-feed", feedTrace(800_000), []int{100_000, 500_000}, sizes},
		{"weighted-scans", scanTrace(700_000), []int{100_000, 1_000_000}, sizes},
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

// sizes is the weight of entries that are mostly small and now and then large, up to 1000: the mean
// is 145.
func sizes(key int64) int64 {
	share := float64(uint64(key)*0x9e3779b97f4a7c15>>11) / (1 << 53)
	return int64(math.Pow(1000, share))
}

// sessionTrace is what the users of a service do: each comes once, reads what is shared by all and
// some keys of its own, again and again for a while, and is gone.
func sessionTrace(n int) []int64 {
	random := rand.New(rand.NewPCG(20, 1))
	shared := rand.NewZipf(random, 1.2, 10, 5000)
	type session struct{ first, left int64 }
	active := make([]session, 150)
	next := int64(1 << 32)
	t := make([]int64, n)
	for i := range t {
		if random.IntN(10) == 0 {
			t[i] = int64(shared.Uint64())
			continue
		}
		s := &active[random.IntN(len(active))]
		if s.left == 0 {
			*s = session{next, 5 + int64(random.ExpFloat64()*40)}
			next += 8
		}
		s.left--
		t[i] = s.first + random.Int64N(8)
	}
	return t
}

// movingTrace reads a set of keys at random, the oldest of which is replaced by a new one after
// every tenth read.
func movingTrace(n, keys int) []int64 {
	random := rand.New(rand.NewPCG(23, 1))
	t := make([]int64, n)
	for i := range t {
		t[i] = int64(i/10) + random.Int64N(int64(keys))
	}
	return t
}

// zipfianTrace draws keys below max by a Zipf distribution of any exponent; zipfKeys can only be
// steeper than 1.
func zipfianTrace(n, max int, exponent float64, seed uint64) []int64 {
	random := rand.New(rand.NewPCG(seed, 1))
	sums := make([]float64, max)
	sum := 0.0
	for i := range sums {
		sum += math.Pow(float64(i+1), -exponent)
		sums[i] = sum
	}
	scattered := random.Perm(max)
	t := make([]int64, n)
	for i := range t {
		at, _ := slices.BinarySearch(sums, random.Float64()*sum)
		t[i] = int64(scattered[min(at, max-1)])
	}
	return t
}

// correlatedTrace reads each key that it draws two to five times within the next 200 reads, which
// says nothing about whether it will be drawn again.
func correlatedTrace(n int) []int64 {
	random := rand.New(rand.NewPCG(24, 1))
	drawn := zipfianTrace(n, 200_000, 0.9, 25)
	t := make([]int64, n)
	for i := range t {
		t[i] = -1
	}
	for at, i := 0, 0; at < n; i++ {
		t[at] = drawn[i]
		for range 1 + random.IntN(4) {
			if later := at + random.IntN(200); later < n && t[later] < 0 {
				t[later] = drawn[i]
			}
		}
		for at < n && t[at] >= 0 {
			at++
		}
	}
	return t
}

// wonderTrace has a key that comes only once at six of ten reads, and popular keys at the others.
func wonderTrace(n int) []int64 {
	random := rand.New(rand.NewPCG(26, 1))
	popular := zipfianTrace(n, 50_000, 0.95, 27)
	t := make([]int64, n)
	for i := range t {
		t[i] = popular[i]
		if random.IntN(10) < 6 {
			t[i] = int64(1<<40 + i)
		}
	}
	return t
}

// phasesTrace is recent keys, a loop, popular keys and sessions, for times of different length.
func phasesTrace() []int64 {
	sessions, popular, recent := sessionTrace(400_000), zipfKeys(300_000, 50_000, 29), oltpTrace(400_000)
	var t []int64
	for i, n := range []int{150_000, 30_000, 60_000, 200_000, 20_000, 100_000, 120_000, 40_000, 90_000} {
		switch i % 4 {
		case 0:
			t, recent = append(t, recent[:n]...), recent[n:]
		case 1:
			t = append(t, loopTrace(n, 4000)...)
		case 2:
			t, popular = append(t, popular[:n]...), popular[n:]
		default:
			t, sessions = append(t, sessions[:n]...), sessions[n:]
		}
	}
	return t
}

// feedTrace is what the readers of a feed do: each begins with the newest post and leaves after
// some of them, few after many. Some posts are linked to from elsewhere and read long after.
func feedTrace(n int) []int64 {
	random := rand.New(rand.NewPCG(30, 1))
	newest := int64(1 << 32)
	var t []int64
	for len(t) < n {
		if random.IntN(3) == 0 {
			newest++
		}
		depth := int64(1 + 5/math.Pow(random.Float64(), 0.7))
		for post := range min(depth, 400) {
			t = append(t, newest-post)
		}
		if random.IntN(4) == 0 {
			back := int64(math.Exp(random.Float64() * math.Log(50_000)))
			t = append(t, (newest-back)/7*7) // one post of seven is linked to
		}
	}
	return t[:n]
}

// catalogueTrace reads the articles of a shop, some far more than others. After every 40th read an
// article is replaced by a new one, which is as popular as a random one of the others.
func catalogueTrace(n int) []int64 {
	const articles = 30_000
	random := rand.New(rand.NewPCG(31, 1))
	ranks := zipfianTrace(n, articles, 0.9, 32)
	catalogue := make([]int64, articles)
	for i := range catalogue {
		catalogue[i] = int64(i)
	}
	t := make([]int64, n)
	for i := range t {
		if i%40 == 0 {
			catalogue[random.IntN(articles)] = int64(articles + i)
		}
		t[i] = catalogue[ranks[i]]
	}
	return t
}

// nightlyTrace has popular keys by day, and each night reads 20,000 keys in order, popular or not.
func nightlyTrace(n int) []int64 {
	popular := zipfianTrace(n, 100_000, 1, 33)
	var t []int64
	for day := 0; len(t) < n; day++ {
		t = append(t, popular[:80_000]...)
		popular = popular[80_000:]
		for key := range int64(20_000) {
			t = append(t, key+int64(day%5)*20_000)
		}
	}
	return t[:n]
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
