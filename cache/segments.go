package cache

import (
	"math"
	"math/rand/v2"
)

// segments is W-TinyLFU with a window of a fixed share. Newcomers live in the window; one that
// falls out of it must have been used more often than what it displaces in the main part. That
// keeps entries on probation until they are used again, and protects them then. If the window is
// all there is, this is LRU. See Einziger, Eytan, Friedman, Manes: "Adaptive Software Cache
// Management" (2018).
type segments[S slotNumber] struct {
	max          int64 // of weight, as the two below
	windowMax    int64
	protectedMax int64

	links                        links[S]
	tags                         *[]uint32 // of the slots
	weights                      *[]int64  // of the slots; points to nil if each weighs 1
	window, probation, protected queue[S]
	sketch                       *sketch
	random                       func() uint32
}

const (
	protectedShare = 0.8 // of the main part
	manyVictims    = 64  // beyond which admit counts unused ones too
	fewMoves       = 4   // from queue to queue in one call, so that a new share costs no call much
)

func newSegments[S slotNumber](
	most int64, window float64, tags *[]uint32, weights *[]int64, sketch *sketch,
) segments[S] {
	p := segments[S]{
		links:     make(links[S], 1),
		tags:      tags,
		weights:   weights,
		window:    queue[S]{id: inWindow},
		probation: queue[S]{id: inProbation},
		protected: queue[S]{id: inProtected},
		sketch:    sketch,
		random:    rand.Uint32,
	}
	p.resize(most, window)
	return p
}

// resize sets the bound, and the window's share of it. The queues follow little by little.
func (p *segments[S]) resize(most int64, window float64) {
	p.max = most
	p.windowMax = min(most, int64(math.Ceil(float64(most)*window))) // a float64 may round up
	p.protectedMax = int64(float64(most-p.windowMax) * protectedShare)
}

func (p *segments[S]) weigh(slot S) int64 {
	if *p.weights == nil {
		return 1
	}
	return (*p.weights)[slot]
}

func (p *segments[S]) entries() int { return p.window.len + p.probation.len + p.protected.len }

func (p *segments[S]) weight() int64 {
	return p.window.weight + p.probation.weight + p.protected.weight
}

func (p *segments[S]) queueOf(slot S) *queue[S] {
	switch p.links[slot].place & queueMask {
	case inWindow:
		return &p.window
	case inProbation:
		return &p.probation
	default:
		return &p.protected
	}
}

// push takes in a slot that was not there, and has a link. If that makes the segments full, calls
// of victim follow.
func (p *segments[S]) push(slot S, weight int64, full bool) {
	p.window.pushFront(p.links, slot, weight)
	p.settle(full, weight)
}

// hit notes a use of a slot that is there.
func (p *segments[S]) hit(slot S) {
	from := p.queueOf(slot)
	switch {
	case from != &p.window && p.windowMax >= p.max:
		p.move(slot, from, &p.window)
	case from == &p.probation:
		p.move(slot, from, &p.protected)
		p.shrinkProtected()
	default:
		from.moveToFront(p.links, slot)
	}
}

// settle moves what exceeds the window to probation, without a contest. The newest entry stays: a
// caller that has just set a key finds it. If the segments are full, newcomers of this weight are
// left to victim; what exceeds the window beyond that is there because the window has shrunk.
func (p *segments[S]) settle(full bool, newcomers int64) {
	limit := p.windowMax
	if full {
		limit += newcomers
	}
	for n := 0; n < fewMoves && p.window.weight > limit && p.window.len > 1; n++ {
		p.move(p.window.back, &p.window, &p.probation)
	}
	p.shrinkProtected()
}

func (p *segments[S]) shrinkProtected() {
	for n := 0; n < fewMoves && p.protected.weight > p.protectedMax; n++ {
		p.move(p.protected.back, &p.protected, &p.probation)
	}
}

func (p *segments[S]) move(slot S, from, to *queue[S]) {
	weight := p.weigh(slot)
	from.remove(p.links, slot, weight)
	to.pushFront(p.links, slot, weight)
}

func (p *segments[S]) drop(slot S, weight int64) { p.queueOf(slot).remove(p.links, slot, weight) }

// victim takes out the slot that should leave first, and returns it; excess is what has to leave in
// all. It is never the slot keep; it is 0 if there is no other.
func (p *segments[S]) victim(excess int64, keep S) S {
	if candidate := p.last(&p.window, keep); candidate != 0 && p.window.weight > p.windowMax {
		if !p.admit(candidate, excess, keep) {
			p.window.remove(p.links, candidate, p.weigh(candidate))
			return candidate
		}
		p.move(candidate, &p.window, &p.probation)
	}
	for _, q := range []*queue[S]{&p.probation, &p.protected, &p.window} {
		if victim := p.last(q, keep); victim != 0 {
			q.remove(p.links, victim, p.weigh(victim))
			return victim
		}
	}
	return 0
}

// last returns the slot at the back of q, or the one before it if that is keep; 0 if there is none.
func (p *segments[S]) last(q *queue[S], keep S) S {
	if q.back == keep && keep != 0 {
		return p.links[keep].prev
	}
	return q.back
}

// admit decides whether candidate is worth more than all that would have to leave the main part for
// it: one large entry must not push out many small ones that together are used more.
func (p *segments[S]) admit(candidate S, excess int64, keep S) bool {
	uses := p.frequency(candidate)
	victims, seen := 0, 0
	for _, q := range []*queue[S]{&p.probation, &p.protected} {
		for slot := p.last(q, keep); slot != 0 && excess > 0; slot = p.links[slot].prev {
			excess -= p.weigh(slot)
			victims += p.frequency(slot)
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

func (p *segments[S]) frequency(slot S) int { return p.sketch.frequency((*p.tags)[slot]) }

// order calls yield for every slot, the one to keep longest first.
func (p *segments[S]) order(yield func(slot S)) {
	for _, q := range []*queue[S]{&p.protected, &p.probation, &p.window} {
		for slot := q.front; slot != 0; slot = p.links[slot].next {
			yield(slot)
		}
	}
}
