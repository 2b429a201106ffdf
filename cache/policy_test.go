package cache

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	golanglru "github.com/hashicorp/golang-lru/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// check fails unless the policy's queues and their sums agree with each other.
func (p *tinyLFU) check(t require.TestingT, want map[uint32]int64) {
	p.checkQueues(t, want)
	var ordered []uint32
	p.order(func(slot uint32) { ordered = append(ordered, slot) })
	require.Len(t, ordered, len(want))
}

func (p *segments[S]) checkQueues(t require.TestingT, want map[S]int64) {
	seen := map[S]int64{}
	for _, q := range []*queue[S]{&p.window, &p.probation, &p.protected} {
		var weight int64
		var prev S
		n := 0
		for slot := q.front; slot != 0; slot = p.links[slot].next {
			if p.links[slot].prev != prev || p.links[slot].place&queueMask != q.id {
				require.Fail(t, "broken link", "%d in queue %d: %+v", slot, q.id, p.links[slot])
			}
			prev = slot
			seen[slot] = p.weigh(slot)
			weight += p.weigh(slot)
			n++
		}
		require.Equal(t, prev, q.back)
		require.Equal(t, n, q.len)
		require.Equal(t, weight, q.weight)
	}
	require.Equal(t, want, seen)
	require.True(t, p.windowMax >= 1 || p.max == 0)
	require.GreaterOrEqual(t, p.protectedMax, int64(0))
	require.LessOrEqual(t, p.windowMax+p.protectedMax, p.max)
}

// check fails unless the duel's books agree with each other and with the cache p.
func (d *duel) check(t require.TestingT, p *tinyLFU) {
	known, count := 0, 0
	var weight int64
	held := [len(windowShares)]map[uint16]int64{}
	for i := range held {
		held[i] = map[uint16]int64{}
	}
	for slot := 1; slot < len(d.keys); slot++ {
		in := d.keys[slot].in
		if in == 0 {
			continue
		}
		known++
		if d.find(d.tags[slot]) != uint16(slot) || !d.samples(d.tags[slot]) && slot > d.sweep {
			require.Fail(t, "lost from its chain or by the sample", "slot %d, %v", slot, d.keys[slot])
		}
		if in&inCache != 0 {
			count++
			weight += d.weigh(uint16(slot))
		}
		for i := range held {
			if in&(1<<i) != 0 {
				held[i][uint16(slot)] = d.weigh(uint16(slot))
			}
		}
	}
	require.Equal(t, count, d.count)
	require.Equal(t, weight, d.weight)
	require.Equal(t, known, d.known)
	free := 0
	for slot := d.free; slot != 0; slot = d.keys[slot].next {
		free++
	}
	require.Equal(t, len(d.keys)-1, known+free)
	for i := range d.rivals {
		d.rivals[i].checkQueues(t, held[i])
	}

	// What the duel takes for entries of the cache are such.
	inThere := map[uint32]int64{}
	p.order(func(slot uint32) { inThere[(*p.tags)[slot]] = p.weigh(slot) })
	for slot, key := range d.keys {
		if key.in&inCache != 0 && d.samples(d.tags[slot]) {
			if weight := inThere[d.tags[slot]]; weight != d.weigh(uint16(slot)) { // 0: it is not there
				require.Fail(t, "not an entry", "weighs %d, not %d", weight, d.weigh(uint16(slot)))
			}
		}
	}
}

func TestTinyLFUKeepsItsBooks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.Int64Range(1, 200).Draw(rt, "max")
		weights := make([]int64, 64)
		p := newTinyLFU(limit, &weights)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		p.random = random.Uint32
		in := map[uint32]int64{}
		var total int64
		evict := func(keep uint32) {
			for total > limit {
				victim := p.evict(total-limit, keep)
				require.NotEqual(rt, keep, victim, "what was just stored stays")
				require.Contains(rt, in, victim)
				total -= in[victim]
				delete(in, victim)
			}
		}
		for i := range 150 {
			slot := uint32(1 + random.IntN(63))
			weight := 1 + random.Int64N(max(1, limit/4))
			_, there := in[slot]
			protected, slots := p.protected.weight, p.protected.len
			switch op := random.IntN(10); {
			case op < 5 && !there:
				weights[slot], in[slot] = weight, weight
				total += weight
				p.add(slot, slot*7919, weight, total > limit, true)
				evict(slot)
			case op == 5 && there:
				p.remove(slot, weights[slot])
				total -= in[slot]
				delete(in, slot)
			case op >= 6 && op <= 8 && there:
				from := weights[slot]
				p.touch(slot, slot*7919)
				weights[slot], in[slot] = weight, weight
				total += weight - from
				p.reweigh(slot, from, weight)
				evict(slot)
			default:
				p.touch(slot, slot*7919) // there or not: notes come late
			}
			p.check(rt, in)
			if p.protected.weight > max(protected, p.protectedMax) {
				require.LessOrEqual(rt, p.protected.len, slots+1-fewMoves, "as many left it as may at once")
			}
			if i%10 == 0 {
				p.duel.check(rt, p)
			}
		}
		for range 16 { // of four moves each: enough for all slots
			p.settle(false, 0)
			p.check(rt, in)
		}
		require.LessOrEqual(rt, p.protected.weight, p.protectedMax)
		require.True(rt, p.window.weight <= p.windowMax || p.window.len == 1)
	})
}

func TestWhatWasJustOverwrittenStaysThoughItIsLast(t *testing.T) {
	weights := []int64{0, 3, 3}
	p := newTinyLFU(10, &weights)
	p.windowMax, p.protectedMax = 8, 1
	p.add(1, 1, 3, false, true)
	p.add(2, 2, 3, false, true)
	p.move(2, &p.window, &p.probation)
	weights[2] = 8
	p.reweigh(2, 3, 8)
	require.Equal(t, uint32(1), p.evict(1, 2))
}

func TestAdmissionBoundsItsWork(t *testing.T) {
	const small = 20_000
	weights := make([]int64, small+10)
	p := newTinyLFU(4*small, &weights)
	for slot := uint32(1); slot <= small; slot++ {
		weights[slot] = 1
		p.add(slot, slot*7919, 1, false, true)
	}
	*p.sketch = newSketch(small) // nobody has been used
	p.links, *p.tags = append(p.links, link[uint32]{}), append(*p.tags, 5)
	for range maxFrequency {
		p.sketch.count(5)
	}
	require.True(t, p.admit(uint32(len(p.links)-1), manyVictims, 0), "worth more than so many unused ones")
	require.False(t, p.admit(uint32(len(p.links)-1), small/2, 0), "and enough is enough")
}

func TestAWarmCandidateGetsInNowAndThen(t *testing.T) {
	var none []int64
	p := newTinyLFU(100, &none)
	for slot := uint32(1); slot <= 50; slot++ {
		p.add(slot, slot, 1, false, true)
	}
	p.links, *p.tags = append(p.links, link[uint32]{}), append(*p.tags, 999)
	candidate := uint32(len(p.links) - 1)
	victim := p.probation.back
	count := func(tag uint32, n int) {
		for p.sketch.frequency(tag) < n {
			p.sketch.count(tag)
		}
	}
	count(999, 5)
	count((*p.tags)[victim], p.sketch.frequency(999))
	p.random = func() uint32 { return 128 }
	require.False(t, p.admit(candidate, 1, 0), "cold")
	require.False(t, p.admit(candidate, 40, 0), "worth less than many")
	for p.sketch.frequency(999) < 10 {
		p.sketch.count(999)
	}
	count((*p.tags)[victim], p.sketch.frequency(999))
	for p.sketch.frequency(999) < p.sketch.frequency((*p.tags)[victim]) {
		p.sketch.count(999)
	}
	require.Equal(t, p.sketch.frequency(999), p.sketch.frequency((*p.tags)[victim]))
	require.True(t, p.admit(candidate, 1, 0), "warm, and in luck")
	require.False(t, p.admit(candidate, 2, 0), "two together are worth more")
	p.random = func() uint32 { return 1 }
	require.False(t, p.admit(candidate, 1, 0), "warm")
}

func TestSketchNeverUnderestimatesAndForgets(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newSketch(rapid.IntRange(1, 2000).Draw(rt, "keys"))
		s.sample = math.MaxInt
		counts := map[uint32]int{}
		for _, tag := range rapid.SliceOfN(rapid.Uint32Range(0, 300), 0, 1000).Draw(rt, "tags") {
			s.count(tag * 0x9e3779b1)
			counts[tag]++
		}
		for tag, n := range counts {
			require.GreaterOrEqual(rt, s.frequency(tag*0x9e3779b1), min(n, maxFrequency))
		}
		before := map[uint32]int{}
		for tag := range counts {
			before[tag] = s.frequency(tag * 0x9e3779b1)
		}
		s.halve()
		for tag := range counts {
			require.Equal(rt, before[tag]/2, s.frequency(tag*0x9e3779b1))
		}
	})
	s := newSketch(1000)
	for i := range uint32(100_000) {
		s.count(i * 0x9e3779b1)
	}
	require.Less(t, s.uses, s.sample)
	wrong := 0
	s = newSketch(1024)
	for i := range uint32(1024) {
		s.count(i * 0x9e3779b1)
	}
	for i := uint32(2000); i < 3000; i++ {
		wrong += s.frequency(i * 0x9e3779b1)
	}
	require.Less(t, wrong, 50, "of a thousand that never came")
}

func TestTimersCallNeitherEarlyNorMuchLate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := rapid.Int64Range(1, 1<<40).Draw(rt, "now")
		w := newTimers(now)
		due := map[uint32]int64{}
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		var longest int64 = 1 << 57
		for range 200 {
			switch slot := uint32(1 + random.IntN(30)); random.IntN(4) {
			case 0, 1:
				w.cancel(slot)
				due[slot] = now + 1 + random.Int64N(1<<(20+random.IntN(37)))
				w.schedule(slot, due[slot])
			case 2:
				w.cancel(slot)
				delete(due, slot)
			case 3:
				now += random.Int64N(1 << (20 + random.IntN(37)))
				announced, called := []uint32{}, []uint32{}
				w.due(now, func(slot uint32) { announced = append(announced, slot) })
				for slot, at := range due {
					if at <= now {
						require.Contains(rt, announced, slot, "to the nanosecond")
					}
				}
				w.advance(now, func(slot uint32) int64 {
					called = append(called, slot)
					require.Contains(rt, due, slot)
					if due[slot] > now {
						return due[slot]
					}
					delete(due, slot)
					return 0
				})
				slices.Sort(announced)
				require.Len(rt, slices.Compact(slices.Clone(announced)), len(announced), "each once")
				for _, slot := range called {
					require.Contains(rt, announced, slot)
				}
				for _, at := range due {
					require.Greater(rt, at, now-3<<tickBits)
				}
			}
		}
		w.advance(now+longest, func(slot uint32) int64 { delete(due, slot); return 0 })
		for range 3 { // what lay beyond the highest level
			now += longest
			w.advance(now, func(slot uint32) int64 { delete(due, slot); return 0 })
		}
		require.Empty(rt, due)
	})
}

// LRU evicts exactly what golang-lru would.
func TestLRUEvictsWhatWasNotUsedForLongest(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 30).Draw(rt, "size")
		m, err := NewMemory(MemoryConfig[int, int]{MaxEntries: size, Eviction: LRU})
		require.NoError(rt, err)
		m.shards[0].stripes = m.shards[0].stripes[:1] // reads of several stripes have no order
		want, err := golanglru.New[int, int](size)
		require.NoError(rt, err)
		for _, op := range rapid.SliceOfN(rapid.IntRange(-40, 40), 0, 400).Draw(rt, "operations") {
			if op < 0 {
				m.Set(-op, op)
				want.Add(-op, op)
			} else {
				got, ok := m.Get(op)
				v, there := want.Get(op)
				require.Equal(rt, there, ok)
				require.Equal(rt, v, got)
			}
		}
		var keys []int
		s := &m.shards[0]
		s.mu.Lock()
		s.drainLocked()
		s.policy.order(func(slot uint32) { keys = append(keys, s.slots[slot].key) })
		s.mu.Unlock()
		slices.Reverse(keys)
		require.Equal(rt, len(keys), want.Len())
		if len(keys) > 0 {
			require.Equal(rt, want.Keys(), keys)
		}
	})
}

// A reader that was led astray while the table grew looks again when that is done.
func TestAReaderLedAstrayLooksAgain(t *testing.T) {
	m, err := NewMemory(MemoryConfig[int, int]{})
	require.NoError(t, err)
	m.Set(1, 1)
	s := &m.shards[0]
	for range 200 {
		whole := s.table.Load()
		s.mu.Lock()
		s.growing.Store(true)
		s.table.Store(newTable[int, int](minBuckets)) // what it sees of the old table
		found := make(chan bool)
		go func() {
			_, ok := m.Get(1)
			found <- ok
		}()
		for range 50 {
			runtime.Gosched()
		}
		s.table.Store(whole)
		s.growing.Store(false)
		s.mu.Unlock()
		require.True(t, <-found)
	}
}

// XFetch: a load that takes ten seconds is repeated about as long before the end, at random.
func TestEarlyRefreshBeginsAboutOneLoadAhead(t *testing.T) {
	for _, eagerness := range []float64{0, 2, -1} { // 0 is 1
		var ahead []float64
		for seed := range uint64(40) {
			synctest.Test(t, func(t *testing.T) {
				m, err := NewMemory(MemoryConfig[string, int]{
					TTL:          func(string, int) time.Duration { return 1000 * time.Second },
					EarlyRefresh: eagerness,
				})
				require.NoError(t, err)
				m.random = rand.New(rand.NewPCG(seed, 7)).Float64
				began := make(chan time.Time, 2)
				load := func(context.Context, string) (int, error) {
					began <- time.Now()
					time.Sleep(10 * time.Second)
					return 1, nil
				}
				_, err = m.Load(t.Context(), "k", load)
				require.NoError(t, err)
				<-began
				end := time.Now().Add(1000 * time.Second)
				for len(began) == 0 && time.Now().Before(end) {
					time.Sleep(10 * time.Second) // few readers
					if time.Now().Before(end) {
						_, err := m.Load(t.Context(), "k", load)
						require.NoError(t, err)
						synctest.Wait()
					}
				}
				if len(began) > 0 {
					ahead = append(ahead, end.Sub(<-began).Seconds())
				}
				time.Sleep(11 * time.Second)
				require.NoError(t, m.Close(t.Context()))
			})
		}
		if eagerness < 0 {
			require.Empty(t, ahead)
			continue
		}
		typical := 10 * max(1, eagerness)
		require.Greater(t, len(ahead), 15, "of 40")
		var sum float64
		for _, a := range ahead {
			require.Less(t, a, 8*typical)
			sum += a
		}
		mean := sum / float64(len(ahead))
		require.InDelta(t, 1.5*typical, mean, 0.8*typical)
	}
}

// A set value was not loaded, so nobody knows how long that takes: it is not refreshed early.
func TestEarlyRefreshIsForWhatWasLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMemory(MemoryConfig[string, int]{TTL: func(string, int) time.Duration {
			return time.Minute
		}})
		require.NoError(t, err)
		m.random = func() float64 { return 1 - 1e-16 }
		m.Set("k", 1)
		time.Sleep(time.Minute - 1)
		v, err := m.Load(t.Context(), "k", nil)
		require.NoError(t, err)
		require.Equal(t, 1, v)
	})
}
