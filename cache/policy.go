package cache

import (
	"math"
	"math/rand/v2"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A policy decides which entry leaves when a shard is full. It knows entries by
// slot and hash only. The shard's lock guards it.
type policy interface {
	// add takes in a slot that was not there. The tag is the hash of its key. If the
	// shard is full, calls of evict follow.
	add(slot, tag uint32, weight int64, full bool)
	// touch notes that the slot was read or overwritten. It may be told late, when the slot
	// is not there any more.
	touch(slot, tag uint32)
	// reweigh notes that an overwrite changed the weight.
	reweigh(slot uint32, from, to int64)
	// remove forgets a slot.
	remove(slot uint32, weight int64)
	// evict forgets the slot that should leave first, and returns it; excess is
	// what has to leave in all. It is never the slot keep, which has just been stored.
	evict(excess int64, keep uint32) uint32
	// order calls yield for every slot, the one to keep longest first.
	order(yield func(slot uint32))
	// frequency and recall carry the count of uses over a restart.
	frequency(tag uint32) int
	recall(tag uint32, frequency int)
}

// lru is the plain policy: golang-lru's list, made larger than it can get, so
// that the shard alone decides when to evict.
type lru struct {
	list *simplelru.LRU[uint32, struct{}]
}

func newLRU() *lru {
	list, err := simplelru.NewLRU[uint32, struct{}](math.MaxInt, nil)
	if err != nil {
		panic(err) // the size is positive
	}
	return &lru{list: list}
}

func (p *lru) add(slot, _ uint32, _ int64, _ bool) { p.list.Add(slot, struct{}{}) }
func (p *lru) touch(slot, _ uint32)                { p.list.Get(slot) }
func (p *lru) reweigh(uint32, int64, int64)        {}
func (p *lru) remove(slot uint32, _ int64)         { p.list.Remove(slot) }
func (p *lru) frequency(uint32) int                { return 0 }
func (p *lru) recall(uint32, int)                  {}

// evict needs not look at keep: that is the newest.
func (p *lru) evict(int64, uint32) uint32 { slot, _, _ := p.list.RemoveOldest(); return slot }

func (p *lru) order(yield func(slot uint32)) {
	oldestFirst := p.list.Keys()
	for i := len(oldestFirst) - 1; i >= 0; i-- {
		yield(oldestFirst[i])
	}
}

// tinyLFU is the adaptive W-TinyLFU policy: newcomers live in a window; those
// that fall out of it must have been used more often than what they displace
// in the main part, which keeps entries on probation until they are used again
// and protects them then. See Einziger, Eytan, Friedman, Manes: "Adaptive
// Software Cache Management" (2018).
type tinyLFU struct {
	max          int64
	windowMax    int64 // of weight; the climber moves it
	protectedMax int64

	links                        links
	weights                      *[]int64 // of the slots; points to nil if each weighs 1
	window, probation, protected queue
	sketch                       sketch
	climber                      climber
	random                       func() uint32
}

const (
	windowShare    = 0.01
	protectedShare = 0.8 // of the main part
	manyVictims    = 1024
)

func newTinyLFU(max int64, weights *[]int64) *tinyLFU {
	p := &tinyLFU{
		max:       max,
		windowMax: int64(math.Ceil(float64(max) * windowShare)),
		weights:   weights,
		window:    queue{id: inWindow},
		probation: queue{id: inProbation},
		protected: queue{id: inProtected},
		sketch:    newSketch(minSketch),
		climber:   newClimber(rand.Float64),
		random:    rand.Uint32,
		links:     make(links, 1),
	}
	p.protectedMax = int64(float64(max-p.windowMax) * protectedShare)
	return p
}

func (p *tinyLFU) weigh(slot uint32) int64 {
	if *p.weights == nil {
		return 1
	}
	return (*p.weights)[slot]
}

func (p *tinyLFU) entries() int  { return p.window.len + p.probation.len + p.protected.len }
func (p *tinyLFU) weight() int64 { return p.window.weight + p.probation.weight + p.protected.weight }

func (p *tinyLFU) queueOf(slot uint32) *queue {
	switch p.links[slot].place & queueMask {
	case inWindow:
		return &p.window
	case inProbation:
		return &p.probation
	default:
		return &p.protected
	}
}

func (p *tinyLFU) add(slot, tag uint32, weight int64, full bool) {
	for int(slot) >= len(p.links) {
		p.links = append(p.links, link{})
	}
	p.links[slot].tag = tag
	if n := p.entries(); n >= p.sketch.keys {
		p.sketch = newSketch(2 * n) // starts from nothing, but only while the cache fills
	}
	p.sketch.sample = 10 * max(minSketch, p.entries())
	p.sketch.count(tag)
	p.climber.misses++
	p.window.pushFront(p.links, slot, weight)
	if full {
		p.adapt()
	} else {
		p.shrinkWindow()
	}
}

func (p *tinyLFU) touch(slot, tag uint32) {
	if int(slot) >= len(p.links) {
		return
	}
	place := p.links[slot].place & queueMask
	if place == inNone {
		return
	}
	p.sketch.count(tag)
	p.climber.hits++
	switch place {
	case inWindow:
		p.window.moveToFront(p.links, slot)
	case inProtected:
		p.protected.moveToFront(p.links, slot)
	default:
		weight := p.weigh(slot)
		p.probation.remove(p.links, slot, weight)
		p.protected.pushFront(p.links, slot, weight)
		p.shrinkProtected()
	}
}

func (p *tinyLFU) reweigh(slot uint32, from, to int64) {
	p.queueOf(slot).weight += to - from
	if p.weight() <= p.max {
		p.shrinkWindow()
	}
	p.shrinkProtected()
}

func (p *tinyLFU) remove(slot uint32, weight int64) {
	p.queueOf(slot).remove(p.links, slot, weight)
}

// shrinkWindow moves what the window has too much to probation, uncontested. The
// newest entry stays: whoever has just set a key finds it.
func (p *tinyLFU) shrinkWindow() {
	for p.window.weight > p.windowMax && p.window.len > 1 {
		p.move(p.window.back, &p.window, &p.probation)
	}
}

func (p *tinyLFU) shrinkProtected() {
	for p.protected.weight > p.protectedMax {
		p.move(p.protected.back, &p.protected, &p.probation)
	}
}

func (p *tinyLFU) move(slot uint32, from, to *queue) {
	weight := p.weigh(slot)
	from.remove(p.links, slot, weight)
	to.pushFront(p.links, slot, weight)
}

func (p *tinyLFU) evict(excess int64, keep uint32) uint32 {
	if p.window.weight > p.windowMax && p.window.len > 1 {
		candidate := p.last(&p.window, keep)
		if !p.admit(candidate, excess, keep) {
			p.remove(candidate, p.weigh(candidate))
			return candidate
		}
		p.move(candidate, &p.window, &p.probation)
	}
	for _, q := range []*queue{&p.probation, &p.protected, &p.window} {
		if victim := p.last(q, keep); victim != 0 {
			p.remove(victim, p.weigh(victim))
			return victim
		}
	}
	return 0
}

// last returns the slot at the back of q, or the one before if that is keep; 0 if there is none.
func (p *tinyLFU) last(q *queue, keep uint32) uint32 {
	if q.back == keep && keep != 0 {
		return p.links[keep].prev
	}
	return q.back
}

// admit decides whether candidate is worth more than all that would have to
// leave the main part for it: one large entry must not push out many small
// ones that together are used more.
func (p *tinyLFU) admit(candidate uint32, excess int64, keep uint32) bool {
	uses := p.sketch.frequency(p.links[candidate].tag)
	victims, seen := 0, 0
	for _, q := range []*queue{&p.probation, &p.protected} {
		for slot := p.last(q, keep); slot != 0 && excess > 0; slot = p.links[slot].prev {
			excess -= p.weigh(slot)
			victims += p.sketch.frequency(p.links[slot].tag)
			if seen++; seen > manyVictims {
				victims++ // or else large entries, one after the other, could have us count small unused ones for ever
			}
			if victims > uses {
				return false
			}
		}
	}
	if excess > 0 {
		return false // even an empty main part has no room for it
	}
	if uses > victims {
		return true
	}
	// A tie. Who makes keys collide in the sketch with a hot one could keep
	// others out for ever: a warm candidate gets in now and then.
	return uses > 5 && p.random()&127 == 0
}

// adapt lets the climber move the border between window and main part.
func (p *tinyLFU) adapt() {
	amount := int64(p.climber.climb(p.entries()) * float64(p.max))
	if amount != 0 {
		p.climber.pinned = amount < 0 && p.windowMax <= 1
	}
	switch {
	case amount > 0:
		amount = min(amount, p.protectedMax)
		p.windowMax += amount
		p.protectedMax -= amount
		p.shrinkProtected()
		for p.probation.len > 0 {
			weight := p.weigh(p.probation.back)
			if p.window.weight+weight > p.windowMax {
				break
			}
			p.move(p.probation.back, &p.probation, &p.window)
		}
	case amount < 0:
		amount = min(-amount, max(0, p.windowMax-1))
		p.windowMax -= amount
		p.protectedMax += amount
		p.shrinkWindow()
	}
}

func (p *tinyLFU) order(yield func(slot uint32)) {
	for _, q := range []*queue{&p.protected, &p.probation, &p.window} {
		for slot := q.front; slot != 0; slot = p.links[slot].next {
			yield(slot)
		}
	}
}

func (p *tinyLFU) frequency(tag uint32) int { return p.sketch.frequency(tag) }

func (p *tinyLFU) recall(tag uint32, frequency int) {
	for range frequency {
		p.sketch.count(tag)
	}
}
