package cache

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/stretchr/testify/require"
)

// listTinyLFU is tinyLFU on golang-lru's lists instead of our own, for entries that weigh 1, and
// without the duel. It is here to be measured: see queue.go.
type listTinyLFU struct {
	max, windowMax, protectedMax int
	window, probation, protected *simplelru.LRU[uint32, uint32] // slots and their tags
	sketch                       sketch
}

func newListTinyLFU(t testing.TB, max int) *listTinyLFU {
	p := &listTinyLFU{max: max, windowMax: (max + 99) / 100, sketch: newSketch(firstSketch)}
	p.protectedMax = int(float64(max-p.windowMax) * protectedShare)
	for _, list := range []**simplelru.LRU[uint32, uint32]{&p.window, &p.probation, &p.protected} {
		l, err := simplelru.NewLRU[uint32, uint32](2*max, nil) // a size that it never reaches
		require.NoError(t, err)
		*list = l
	}
	return p
}

func (p *listTinyLFU) entries() int { return p.window.Len() + p.probation.Len() + p.protected.Len() }

func (p *listTinyLFU) add(slot, tag uint32, _ int64, full, _ bool) {
	if n := p.entries(); n >= p.sketch.keys {
		p.sketch.grow()
	}
	p.sketch.sample = 10 * max(minSketch, p.entries())
	p.sketch.count(tag)
	p.window.Add(slot, tag)
	for !full && p.window.Len() > p.windowMax {
		moveOldest(p.window, p.probation)
	}
}

func moveOldest(from, to *simplelru.LRU[uint32, uint32]) {
	slot, tag, _ := from.RemoveOldest()
	to.Add(slot, tag)
}

func (p *listTinyLFU) touch(slot, tag uint32) {
	p.sketch.count(tag)
	if _, ok := p.protected.Get(slot); ok {
		return
	}
	if _, ok := p.window.Get(slot); ok {
		return
	}
	if p.probation.Remove(slot) {
		p.protected.Add(slot, tag)
		for p.protected.Len() > p.protectedMax {
			moveOldest(p.protected, p.probation)
		}
	}
}

func (p *listTinyLFU) remove(slot uint32, _ int64) {
	_ = p.window.Remove(slot) || p.probation.Remove(slot) || p.protected.Remove(slot)
}

func (p *listTinyLFU) evict(_ int64, _ uint32) uint32 {
	if p.window.Len() > p.windowMax && p.window.Len() > 1 {
		slot, tag, _ := p.window.GetOldest()
		_, victim, ok := p.probation.GetOldest()
		if !ok || p.sketch.frequency(tag) <= p.sketch.frequency(victim) {
			p.window.Remove(slot)
			return slot
		}
		moveOldest(p.window, p.probation)
	}
	for _, list := range []*simplelru.LRU[uint32, uint32]{p.probation, p.protected, p.window} {
		if slot, _, ok := list.RemoveOldest(); ok {
			return slot
		}
	}
	return 0
}

func (p *listTinyLFU) reweigh(uint32, int64, int64) {}
func (p *listTinyLFU) order(func(uint32))           {}
func (p *listTinyLFU) share() float64               { return 0.01 }
func (p *listTinyLFU) frequency(uint32) int         { return 0 }
func (p *listTinyLFU) recall(uint32, int)           {}

// BenchmarkMemoryQueues measures what the default policy costs on our own lists and on
// golang-lru's: the heap per entry, and reads and replacements on all processors.
func BenchmarkMemoryQueues(b *testing.B) {
	memory := func(b *testing.B, queues string, entries int) *Memory[int64, int64] {
		m, err := NewMemory(MemoryConfig[int64, int64]{MaxEntries: entries})
		require.NoError(b, err)
		if queues == "simplelru" {
			for i := range m.shards {
				m.shards[i].policy = newListTinyLFU(b, int(m.shards[i].max))
			}
		}
		for k := range int64(entries) {
			m.Set(k, k)
		}
		return m
	}
	for _, queues := range []string{"own", "simplelru"} {
		b.Run("measure=heap/entries=1000000/queues="+queues, func(b *testing.B) {
			const entries = 1_000_000
			for b.Loop() {
				before := liveHeap()
				m := memory(b, queues, entries)
				b.ReportMetric(float64(liveHeap()-before)/entries, "B/entry")
				runtime.KeepAlive(m)
			}
		})
	}
	for _, keys := range []int{1, 10} {
		random := rand.New(rand.NewPCG(1, 1))
		zipf := rand.NewZipf(random, 1.01, 1, uint64(keys*100_000-1))
		drawn := make([]int64, 1<<20)
		for i := range drawn {
			drawn[i] = int64(zipf.Uint64())
		}
		for _, queues := range []string{"own", "simplelru"} {
			name := fmt.Sprintf("measure=time/entries=100000/keys=%dx/queues=%s", keys, queues)
			b.Run(name, func(b *testing.B) {
				m := memory(b, queues, 100_000)
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					i := rand.IntN(len(drawn))
					for pb.Next() {
						i++
						k := drawn[i%len(drawn)]
						if _, ok := m.Get(k); !ok {
							m.Set(k, k)
						}
					}
				})
			})
		}
	}
}

// BenchmarkMemoryEntry measures what an entry costs in a full cache besides its key and value, of
// 16 bytes, and what is left of it in one that was emptied: the figures in the package comment.
func BenchmarkMemoryEntry(b *testing.B) {
	const entries = 1_000_000
	hour := func(int, int) time.Duration { return time.Hour }
	tags := func(int, int) []string { return []string{"a", "b"} }
	for _, e := range []struct {
		kind string
		cfg  MemoryConfig[int, int]
	}{
		{"plain", MemoryConfig[int, int]{}},
		{"TTL", MemoryConfig[int, int]{TTL: hour}},
		{"TTL+tags", MemoryConfig[int, int]{TTL: hour, Tags: tags}},
		{"LRU", MemoryConfig[int, int]{Eviction: LRU}},
		{"LRU+TTL", MemoryConfig[int, int]{Eviction: LRU, TTL: hour}},
	} {
		b.Run("entry="+e.kind, func(b *testing.B) {
			e.cfg.MaxEntries = entries
			for b.Loop() {
				before := liveHeap()
				m, err := NewMemory(e.cfg)
				require.NoError(b, err)
				for i := range entries {
					m.Set(i, i)
				}
				b.ReportMetric(float64(liveHeap()-before)/entries-16, "B/entry")
				m.Clear()
				b.ReportMetric(float64(liveHeap()-before)/entries, "emptied-B/entry")
				runtime.KeepAlive(m)
			}
		})
	}
}

// BenchmarkMemoryOverwrite measures what it is worth to overwrite a value where it is: see
// value.go. The struct is as large as the number, but takes a new entry each time.
func BenchmarkMemoryOverwrite(b *testing.B) {
	type number struct{ n int64 }
	b.Run("value=int64", func(b *testing.B) { overwrite(b, func(n int64) int64 { return n }) })
	b.Run("value=struct", func(b *testing.B) { overwrite(b, func(n int64) number { return number{n} }) })
}

func overwrite[V any](b *testing.B, value func(n int64) V) {
	const keys = 100_000
	m, err := NewMemory(MemoryConfig[int64, V]{MaxEntries: keys})
	require.NoError(b, err)
	for k := range int64(keys) {
		m.Set(k, value(k))
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for k := rand.Int64N(keys); pb.Next(); k++ {
			m.Set(k%keys, value(k))
		}
	})
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
