package cache

import (
	"math"
	"math/rand/v2"
)

// tinyLFU is the adaptive W-TinyLFU policy. Newcomers live in a window; one that falls out of it
// must have been used more often than what it displaces in the main part. That keeps entries on
// probation until they are used again, and protects them then. See Einziger, Eytan, Friedman,
// Manes: "Adaptive Software Cache Management" (2018).
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
	protectedShare = 0.8  // of the main part
	manyVictims    = 1024 // beyond which admit counts unused ones too
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

// shrinkWindow moves what exceeds the window to probation, without a contest. The newest entry
// stays: a caller that has just set a key finds it.
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

// last returns the slot at the back of q, or the one before it if that is keep; 0 if there is none.
func (p *tinyLFU) last(q *queue, keep uint32) uint32 {
	if q.back == keep && keep != 0 {
		return p.links[keep].prev
	}
	return q.back
}

// admit decides whether candidate is worth more than all that would have to leave the main part for
// it: one large entry must not push out many small ones that together are used more.
func (p *tinyLFU) admit(candidate uint32, excess int64, keep uint32) bool {
	uses := p.sketch.frequency(p.links[candidate].tag)
	victims, seen := 0, 0
	for _, q := range []*queue{&p.probation, &p.protected} {
		for slot := p.last(q, keep); slot != 0 && excess > 0; slot = p.links[slot].prev {
			excess -= p.weigh(slot)
			victims += p.sketch.frequency(p.links[slot].tag)
			if seen++; seen > manyVictims {
				victims++ // a bound on the work: otherwise a large entry could count a million unused ones
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
	// A tie. An attacker who makes keys collide in the sketch with a hot one could keep others out
	// for ever; so a warm candidate gets in now and then.
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
