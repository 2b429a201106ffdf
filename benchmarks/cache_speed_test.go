package benchmarks_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	speedEntries = 100_000
	speedKeys    = 1 << 20 // drawn in advance, so that the loop does not draw
	speedBlock   = 400_000 // operations of one contender before it is the next one's turn
)

// zipfKeys draws n keys below max. The hot keys are scattered among the others.
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

// BenchmarkDataCacheSpeed reads and writes full caches on all processors. The contenders run in
// turn, in blocks. It reports the median time of an operation of each, and the median, the least
// and the greatest ratio of a block of Trivet to the one of otter in the same turn. Where there are
// ten times as many keys as entries, a key that is not found is set. Run it with -benchtime 20x or
// more.
func BenchmarkDataCacheSpeed(b *testing.B) {
	for _, times := range []int{1, 10} {
		keys := zipfKeys(speedKeys, times*speedEntries, 1)
		for _, writes := range []int{0, 10, 25} {
			b.Run(fmt.Sprintf("value=int64/keys=%dx/writes=%d", times, writes), func(b *testing.B) {
				compareSpeed(b, contenders[int64, int64](), keys, 1, writes, times > 1)
			})
			b.Run(fmt.Sprintf("value=string/keys=%dx/writes=%d", times, writes), func(b *testing.B) {
				compareSpeed(b, contenders[int64, string](), keys, "value", writes, times > 1)
			})
		}
	}
}

// A racer is a contender with its cache and its measurements.
type racer[V any] struct {
	name  string
	cache dataCache[int64, V]
	ns    []float64 // per operation, one figure for each block
	bytes uint64    // allocated
}

func compareSpeed[V any](
	b *testing.B, contenders []contender[int64, V], keys []int64, value V, writes int, fill bool,
) {
	var racers []*racer[V]
	for _, c := range contenders {
		r := &racer[V]{name: c.name, cache: c.new(b, speedEntries)}
		for k := range int64(speedEntries) {
			r.cache.Set(k, value)
		}
		for _, k := range keys {
			if _, ok := r.cache.Get(k); !ok {
				r.cache.Set(k, value)
			}
		}
		time.Sleep(10 * time.Millisecond) // some empty their buffers in the background
		r.block(keys, value, writes, fill, 0)
		r.ns, r.bytes = nil, 0
		racers = append(racers, r)
	}
	dropped := droppedSets.Load()
	rounds := 0
	for b.Loop() {
		for i := range racers {
			racers[(rounds+i)%len(racers)].block(keys, value, writes, fill, uint64(rounds+1))
		}
		rounds++
	}
	b.ReportMetric(0, "ns/op")
	byName := map[string]*racer[V]{}
	for _, r := range racers {
		byName[r.name] = r
		b.ReportMetric(medianOf(r.ns), r.name+"-ns")
	}
	var ratios []float64
	for i, ns := range byName["trivet"].ns {
		ratios = append(ratios, ns/byName["otter"].ns[i])
	}
	b.ReportMetric(medianOf(ratios), "ratio")
	b.ReportMetric(slices.Min(ratios), "ratio-min")
	b.ReportMetric(slices.Max(ratios), "ratio-max")
	b.ReportMetric(float64(byName["trivet"].bytes)/float64(rounds*speedBlock), "trivet-B/op")
	b.ReportMetric(float64(byName["otter"].bytes)/float64(rounds*speedBlock), "otter-B/op")
	b.ReportMetric(100*float64(droppedSets.Load()-dropped)/float64(rounds*speedBlock), "ristretto-dropped-%")
}

// block does speedBlock operations, divided among all processors.
func (r *racer[V]) block(keys []int64, value V, writes int, fill bool, seed uint64) {
	runtime.GC() // so that no contender pays for the garbage of another
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	processors := runtime.GOMAXPROCS(0)
	random := rand.New(rand.NewPCG(seed, 2))
	var wg sync.WaitGroup
	start := time.Now()
	for range processors {
		at := random.IntN(len(keys))
		wg.Go(func() {
			for i := at; i < at+speedBlock/processors; i++ {
				key := keys[i%speedKeys]
				if writes > 0 && i*7919%100 < writes {
					r.cache.Set(key, value)
				} else if _, ok := r.cache.Get(key); !ok && fill {
					r.cache.Set(key, value)
				}
			}
		})
	}
	wg.Wait()
	r.ns = append(r.ns, float64(time.Since(start))/speedBlock)
	runtime.ReadMemStats(&after)
	r.bytes += after.TotalAlloc - before.TotalAlloc
}
