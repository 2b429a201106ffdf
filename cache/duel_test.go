//go:build !race

package cache

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A policyCache is a policy with the little that a shard is for it. Its chance is always the same.
type policyCache struct {
	*tinyLFU
	weights []int64
	slots   map[uint32]uint32 // by tag
	free    []uint32
	hits    int
	most    int64 // of weight, at the end of a use
}

// newPolicyCache returns a policyCache with this share. It keeps that unless it learns.
func newPolicyCache(bound int64, weighted bool, share int, learns bool) *policyCache {
	c := &policyCache{slots: map[uint32]uint32{}}
	if weighted {
		c.weights = make([]int64, 1)
	}
	c.tinyLFU = newTinyLFU(bound, &c.weights)
	random := rand.New(rand.NewPCG(1, 2))
	c.random = random.Uint32
	for i := range c.duel.rivals {
		c.duel.rivals[i].random = random.Uint32
	}
	c.duel.current = share
	c.resize(bound, windowShares[share])
	if !learns {
		c.duel.price = 1 << 24 // nobody can pay it
	}
	return c
}

func tagOf(key int) uint32 {
	h := uint64(key+1) * 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return uint32(h ^ h>>31)
}

// use reads a key, and sets it if it is not there.
func (c *policyCache) use(key int, weight int64) {
	tag := tagOf(key)
	if slot, ok := c.slots[tag]; ok {
		c.hits++
		c.touch(slot, tag)
		return
	}
	var slot uint32
	if n := len(c.free); n > 0 {
		slot, c.free = c.free[n-1], c.free[:n-1]
	} else if slot = uint32(len(c.slots) + 1); c.weights != nil {
		c.weights = append(c.weights, 0)
	}
	if c.weights != nil {
		c.weights[slot] = weight
	}
	c.slots[tag] = slot
	c.add(slot, tag, weight, c.weight()+weight > c.max, true)
	for c.weight() > c.max {
		victim := c.evict(c.weight()-c.max, slot)
		delete(c.slots, (*c.tags)[victim])
		c.free = append(c.free, victim)
	}
	c.most = max(c.most, c.weight())
}

// Sequences of keys, which differ in the share that suits them.
var (
	recent = func() func(int) int { // each key is read some times soon after it came
		random := rand.New(rand.NewPCG(3, 1))
		return func(i int) int { return 1<<30 + i/4 - int(250*random.ExpFloat64()) }
	}
	loop      = func() func(int) int { return func(i int) int { return i % 1500 } }
	favorites = func() func(int) int { // few keys are read most
		zipf := rand.NewZipf(rand.New(rand.NewPCG(4, 1)), 1.05, 1, 100_000)
		return func(int) int { return int(zipf.Uint64()) }
	}
	shifting = func() func(int) int { // other keys after each 10,000 reads
		zipf := rand.NewZipf(rand.New(rand.NewPCG(5, 1)), 1.05, 1, 20_000)
		return func(i int) int { return int(zipf.Uint64()) + i/10_000*7000 }
	}
	mixed = func() func(int) int { // recent keys among favorites
		recent, favorites := recent(), favorites()
		return func(i int) int {
			if i%2 == 0 {
				return favorites(i)
			}
			return recent(i)
		}
	}
)

// Whatever the traffic is, the cache has about as many hits as with the share that suits it best.
func TestTheDuelIsNotBehindAnyShare(t *testing.T) {
	for _, s := range []struct {
		name   string
		keys   func() func(int) int
		points float64 // behind the best, at most
	}{
		{"recent", recent, 1},
		{"loop", loop, 2},
		{"favorites", favorites, 1},
		{"shifting", shifting, 1},
		{"mixed", mixed, 1},
	} {
		for _, weighted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/weighted=%v", s.name, weighted), func(t *testing.T) {
				const uses = 80_000
				play := func(c *policyCache) float64 {
					keys := s.keys()
					for i := range uses {
						key := keys(i)
						weight := int64(1)
						if weighted {
							weight += int64(tagOf(key)) % 39 // 20 on average
						}
						c.use(key, weight)
					}
					return 100 * float64(c.hits) / uses
				}
				bound := int64(1000)
				if weighted {
					bound *= 20
				}
				best, all := 0.0, ""
				for share := range windowShares {
					ratio := play(newPolicyCache(bound, weighted, share, false))
					best = max(best, ratio)
					all += fmt.Sprintf(" %v:%.1f", windowShares[share], ratio)
				}
				c := newPolicyCache(bound, weighted, 0, true)
				ours := play(c)
				require.LessOrEqual(t, best-ours, s.points, "%.1f against%s", ours, all)
				require.LessOrEqual(t, c.most, bound)
			})
		}
	}
}

// The traffic changes, and the share with it.
func TestTheShareFollowsTheTraffic(t *testing.T) {
	c := newPolicyCache(1000, false, 0, true)
	recent, loop := recent(), loop()
	const phase = 50_000
	for i := range 4 * phase {
		recently := i/phase%2 == 0
		if recently {
			c.use(recent(i), 1)
		} else {
			c.use(loop(i), 1)
		}
		if i%phase > phase/2 {
			require.Equal(t, recently, c.share() >= 0.5, "after %d uses the share is %v", i, c.share())
		}
	}
	c = newPolicyCache(1000, false, 0, true)
	for i, favorites := 0, favorites(); i < 4*phase; i++ {
		c.use(favorites(i), 1)
		require.LessOrEqual(t, c.share(), 0.1, "favorites do not want a large window")
	}
}

// Chance does not change the share: a rival must be ahead by as many hits as half of the entries of
// the sample, and again by more if the share has just changed.
func TestAChangeOfTheShareHasItsPrice(t *testing.T) {
	d := newDuel(false, new(sketch))
	d.count = 100
	const current, rival = 1 << 0, 1 << 2
	after := func(hits ...uint8) int {
		for n := 1; ; n++ {
			if d.judge(hits[n%len(hits)]) {
				return n
			}
			require.Less(t, n, 1000)
		}
	}
	require.Equal(t, 51, after(rival))
	require.Equal(t, 2, d.current)
	d.calm = calmUses*d.count - 101
	require.Equal(t, 101, after(current), "a second change has twice the price")
	require.Equal(t, 0, d.current)
	require.Equal(t, 201, after(rival), "the change has begun a new count of calm uses")
	require.Equal(t, 201, after(current), "and four times is the most")
	for range 3 * (calmUses*d.count + 1) {
		require.False(t, d.judge(current|rival), "both had the hit")
	}
	require.Equal(t, 51, after(rival), "the price has fallen meanwhile")

	d = newDuel(true, new(sketch))
	d.count = 100
	require.Equal(t, 26, after(rival), "the first change of a cache with weights")
	require.Equal(t, 51, after(current))

	d = newDuel(false, new(sketch))
	d.count = 100
	for range 10 {
		for range 50 {
			require.False(t, d.judge(rival))
		}
		for range 50 {
			require.False(t, d.judge(current), "what a rival was behind makes up for what it was ahead")
		}
		require.Zero(t, d.ahead[2])
		for range 50 {
			require.False(t, d.judge(current), "but is not held against it")
		}
	}
	for range 50 {
		d.judge(rival)
	}
	require.True(t, d.judge(rival))
	d.count = 0
	require.Equal(t, leastAhead+1, after(current), "with a sample of nothing it takes some hits all the same")
}

// In an empty cache nobody is ahead. If what a rival was ahead by remained, the first uses would
// change the share.
func TestAnEmptiedCacheKeepsItsShare(t *testing.T) {
	for name, keys := range map[string]func(int) int{"mixed": mixed(), "loop": loop()} {
		for uses := 20_000; uses <= 40_000; uses += 2000 {
			c := newPolicyCache(1000, false, 0, true)
			for i := range uses {
				c.use(keys(i), 1)
			}
			share := c.share()
			for tag, slot := range c.slots {
				c.remove(slot, 1)
				delete(c.slots, tag)
				c.free = append(c.free, slot)
			}
			for i := range 20 {
				c.use(keys(uses+i), 1)
			}
			require.Equal(t, share, c.share(), "%s, after %d uses", name, uses)
		}
	}
}

// Hashes of 32 bits collide. What a rival adds for one of two entries with the same hash it must
// subtract when it gives up the other: its weight would be wrong for good, and could not fall below
// its bound.
func TestTheDuelBearsEntriesOfTheSameHash(t *testing.T) {
	d := newDuel(true, new(newSketch(firstSketch)))
	random := rand.New(rand.NewPCG(9, 1))
	for i := range 20_000 {
		tag := tagOf(random.IntN(400))
		d.use(tag, 1+random.Int64N(20), 300, i > 1000)
		if i%2 == 0 {
			d.evicted(tagOf(random.IntN(400)))
		}
		for r := range d.rivals {
			var sum int64
			d.rivals[r].order(func(slot uint16) { sum += d.weigh(slot) })
			require.Equal(t, sum, d.rivals[r].weight(), "of rival %d after %d uses", r, i)
		}
	}
}

// However much there is to do, one use does little of it: a new share is reached and a sample is
// halved in many.
func TestAUseMovesLittle(t *testing.T) {
	c := newPolicyCache(3000, false, 0, true)
	random := rand.New(rand.NewPCG(6, 1))
	places := func(l any) (places []uint32) {
		switch l := l.(type) {
		case links[uint16]:
			for _, n := range l {
				places = append(places, uint32(n.place))
			}
		case links[uint32]:
			for _, n := range l {
				places = append(places, n.place)
			}
		}
		return places
	}
	moved := func(before, after []uint32) (n int) {
		for slot, place := range after {
			if slot >= len(before) || place != before[slot] {
				n++
			}
		}
		return n
	}
	halved := 0
	var windows []int
	for i := range 30_000 {
		if i%6000 == 5999 { // a share changes, for the cache and for a rival's room
			share := len(windowShares) - 1 - i/6000%2*(len(windowShares)-1)
			c.duel.current = share
			c.resize(c.max, windowShares[share])
			c.duel.room /= 2
		}
		watched := i < 6000 && i%3 == 0 || i%6000 > 5990 || i%6000 < 300 && i%10 == 0
		if !watched {
			c.use(random.IntN(5000), 1)
			continue
		}
		mask, known := c.duel.mask, c.duel.known
		before := places(c.links)
		var rivals [len(windowShares)][]uint32
		for j := range rivals {
			rivals[j] = places(c.duel.rivals[j].links)
		}
		c.use(random.IntN(5000), 1)
		require.LessOrEqual(t, moved(before, places(c.links)), 2*fewMoves+3)
		for j := range rivals {
			require.LessOrEqual(t, moved(rivals[j], places(c.duel.rivals[j].links)), 4*fewMoves+3)
		}
		if c.duel.mask > mask {
			halved++
		}
		require.GreaterOrEqual(t, c.duel.known, known-fewMoves-len(windowShares)*fewMoves)
		windows = append(windows, c.window.len)
	}
	require.GreaterOrEqual(t, halved, 1)
	require.Greater(t, slices.Max(windows), 2500)
	c.duel.current = 0
	c.resize(c.max, windowShares[0])
	for i := range 6000 {
		c.use(i, 1)
	}
	require.InDelta(t, 30, c.window.len, 1, "it has its share in the end")
}

// With light entries after heavy ones the sample is many, and with heavy ones after light ones few.
func TestTheSampleIsNeitherManyNorFew(t *testing.T) {
	c := newPolicyCache(50_000, true, 0, true)
	random := rand.New(rand.NewPCG(7, 1))
	most := 0
	for phase, weight := range []int64{200, 1, 500, 1, 20} {
		entries := int(c.max / weight)
		for range 3*entries + 10_000 {
			c.use(phase<<24+random.IntN(2*entries), weight)
			most = max(most, c.duel.known)
		}
		require.GreaterOrEqual(t, c.duel.count, minSample/2, "%d of weight %d", entries, weight)
		require.LessOrEqual(t, c.duel.count, maxSample)
		for i := range c.duel.rivals {
			require.LessOrEqual(t, c.duel.rivals[i].weight(), c.duel.room+c.max/4)
		}
	}
	require.LessOrEqual(t, most, manyKeys+manyKeys/fewMoves+1)
}

// What the duel needs is little beside what the entries need.
func TestTheDuelTakesLittleRoom(t *testing.T) {
	for _, tt := range []struct {
		entries  int
		perEntry float64
	}{{500, 20}, {1000, 16}, {10_000, 2}} {
		c := newPolicyCache(int64(tt.entries), false, 0, true)
		random := rand.New(rand.NewPCG(8, 1))
		zipf := rand.NewZipf(random, 1.01, 1, uint64(20*tt.entries))
		for range 20 * tt.entries {
			c.use(int(zipf.Uint64()), 1)
		}
		d := c.duel
		bytes := unsafe.Sizeof(*d) + uintptr(cap(d.keys))*unsafe.Sizeof(d.keys[0]) +
			uintptr(cap(d.tags))*unsafe.Sizeof(d.tags[0]) + uintptr(cap(d.weights))*8
		for i := range d.rivals {
			bytes += uintptr(cap(d.rivals[i].links)) * unsafe.Sizeof(d.rivals[i].links[0])
		}
		require.LessOrEqual(t, float64(bytes)/float64(tt.entries), tt.perEntry, "%d entries", tt.entries)
	}
}

func TestWhatIsRemovedLeavesTheRivalsAndWhatIsEvictedStays(t *testing.T) {
	c := newPolicyCache(10, false, 0, true)
	for key := range 10 {
		c.use(key, 1)
	}
	slot := c.slots[tagOf(3)]
	require.NotZero(t, c.duel.find(tagOf(3)))
	c.remove(slot, 1)
	require.Zero(t, c.duel.find(tagOf(3)))
	victim := c.evict(1, 0)
	known := c.duel.find((*c.tags)[victim])
	require.NotZero(t, known)
	require.Zero(t, c.duel.keys[known].in&inCache)
	require.NotZero(t, c.duel.keys[known].in)
}

func TestTheDuelKeepsItsBooks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		weighted := rapid.Bool().Draw(rt, "weighted")
		entries := rapid.IntRange(1, 400).Draw(rt, "entries")
		heaviest := int64(1)
		if weighted {
			heaviest = rapid.Int64Range(1, 50).Draw(rt, "heaviest")
		}
		keys := rapid.IntRange(1, 3*entries).Draw(rt, "keys")
		bound := int64(entries) * (heaviest + 1) / 2
		c := newPolicyCache(bound, weighted, 0, true)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		in := map[uint32]int64{}
		for i := range 2500 {
			key := random.IntN(keys)
			tag := tagOf(key)
			slot, there := c.slots[tag]
			switch op := random.IntN(20); {
			case op == 0 && there:
				c.remove(slot, c.weigh(slot))
				delete(c.slots, tag)
				c.free = append(c.free, slot)
			case op == 1 && there && weighted:
				from := c.weights[slot]
				c.weights[slot] = min(1+random.Int64N(heaviest), from+c.max-c.tinyLFU.weight())
				c.reweigh(slot, from, c.weights[slot])
			case op == 2:
				c.touch(uint32(random.IntN(len(c.links)+1)), tag) // a late note
			case op == 3:
				c.duel.current = random.IntN(len(windowShares))
				c.resize(c.max, c.share())
			default:
				c.use(key, min(bound, 1+random.Int64N(heaviest)))
			}
			require.LessOrEqual(rt, c.tinyLFU.weight(), bound)
			if i%100 == 99 {
				clear(in)
				for _, slot := range c.slots {
					in[slot] = c.weigh(slot)
				}
				require.Equal(rt, len(c.slots), c.entries())
				c.check(rt, in)
				c.duel.check(rt, c.tinyLFU)
			}
		}
	})
}

func TestASketchGrowsAndForgetsNothing(t *testing.T) {
	s := newSketch(minSketch)
	for i := range uint32(50) {
		for range i % 10 {
			s.count(i * 0x9e3779b1)
		}
	}
	small := s
	s.grow()
	require.Equal(t, 2*small.keys, s.keys)
	require.Len(t, s.blocks, 2*len(small.blocks))
	for i := range uint32(1000) {
		require.Equal(t, small.frequency(i*0x9e3779b1), s.frequency(i*0x9e3779b1))
	}
	s.count(7)
	require.Equal(t, small.uses+1, s.uses)
	require.Zero(t, small.frequency(7), "the two share nothing")

	// What was popular when the cache was small is so when it has grown.
	c := newPolicyCache(100_000, false, 0, true)
	for range 5 {
		c.use(1, 1)
	}
	for i := range 5000 {
		c.use(2+i, 1)
	}
	require.Greater(t, c.sketch.keys, firstSketch)
	require.GreaterOrEqual(t, c.frequency(tagOf(1)), 5)
}

// While the sample is halved, the room of the rivals is halved with it.
func TestTheRoomFollowsTheSample(t *testing.T) {
	c := newPolicyCache(5000, false, 0, true)
	halved := 0
	for i := range 5000 {
		mask := c.duel.mask
		c.use(i, 1)
		if c.duel.mask == mask {
			continue
		}
		for i++; c.duel.sweep > 0; i++ {
			c.use(i%5000, 1)
		}
		halved++
		require.InDelta(t, c.duel.count, c.duel.room, 0.2*float64(c.duel.count))
	}
	require.Greater(t, halved, 3)
}

// Of entries that weigh differently, a rival has as much as fits, and not a heavy one more: a loop
// of them has as many hits in a rival as in the cache.
func TestARivalIsAsFullAsTheCache(t *testing.T) {
	c := newPolicyCache(500*20, true, 0, true)
	c.duel.price = 1 << 24
	rival := 0
	for i := range 60_000 {
		key := i % 1500
		if slot := c.duel.find(tagOf(key)); slot != 0 && c.duel.keys[slot].in&1 != 0 {
			rival++
		}
		c.use(key, 1+int64(uint32(key)*2654435761>>8)%39)
		require.LessOrEqual(t, c.duel.rivals[0].weight(), c.duel.room+c.duel.room/4+40)
	}
	require.InEpsilon(t, c.hits, rival*(int(c.duel.mask)+1), 0.3)
}

// For a heavy newcomer, a rival gives up many light ones at once, as the cache does.
func TestARivalMakesRoomForAHeavyNewcomer(t *testing.T) {
	c := newPolicyCache(1000, true, 0, true)
	for i := range 3000 {
		c.use(i%1500, 1)
	}
	heavy := 0
	for key := 10_000; heavy < 5; key++ {
		if !c.duel.samples(tagOf(key)) {
			continue
		}
		heavy++
		c.use(key, 100)
		for i := range c.duel.rivals {
			require.LessOrEqual(t, c.duel.rivals[i].weight(), c.duel.rivals[i].max)
		}
	}
}

// What an overwrite has made too heavy for the protected part does not wait for the next newcomer.
func TestAnOverwriteSettlesTheQueues(t *testing.T) {
	weights := []int64{0, 5, 5}
	p := newTinyLFU(100, &weights)
	for slot := range uint32(2) {
		p.add(slot+1, slot+1, 5, false, true)
	}
	p.add(3, 3, 1, false, true) // has the others leave the window
	weights = append(weights, 1)
	p.touch(1, 1)
	p.touch(2, 2)
	require.EqualValues(t, 10, p.protected.weight)
	weights[2] = 78
	p.reweigh(2, 5, 78)
	require.LessOrEqual(t, p.protected.weight, p.protectedMax)
}
