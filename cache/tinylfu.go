package cache

// tinyLFU is the default policy: W-TinyLFU, the window of which has the share that wins a duel.
type tinyLFU struct {
	segments[uint32]
	duel *duel
	full bool // there was no room when the latest entry was added
}

func newTinyLFU(max int64, weights *[]int64) *tinyLFU {
	s := newSketch(int(min(max, firstSketch)))
	return &tinyLFU{
		segments: newSegments[uint32](max, windowShares[0], &[]uint32{0}, weights, &s),
		duel:     newDuel(*weights != nil, &s),
	}
}

func (p *tinyLFU) add(slot, tag uint32, weight int64, full, used bool) {
	for int(slot) >= len(p.links) {
		p.links, *p.tags = append(p.links, link[uint32]{}), append(*p.tags, 0)
	}
	(*p.tags)[slot] = tag
	p.full = full
	if p.entries() >= p.sketch.keys {
		p.sketch.grow()
	}
	p.sketch.sample = 10 * max(minSketch, p.entries())
	if used {
		p.sketch.count(tag)
	}
	p.play(tag, weight)
	p.push(slot, weight, full)
}

func (p *tinyLFU) touch(slot, tag uint32) {
	if int(slot) >= len(p.links) || p.links[slot].place&queueMask == inNone {
		return
	}
	p.sketch.count(tag)
	if p.duel.samples(tag) && tag == (*p.tags)[slot] { // or else the note was late
		p.play(tag, p.weigh(slot))
	}
	p.hit(slot)
}

// play lets the duel see a use of an entry, and takes over the share that has won.
func (p *tinyLFU) play(tag uint32, weight int64) {
	if p.duel.use(tag, weight, p.entries(), p.full) {
		p.resize(p.max, p.share())
	}
}

func (p *tinyLFU) share() float64 { return windowShares[p.duel.current] }

func (p *tinyLFU) reweigh(slot uint32, from, to int64) {
	p.queueOf(slot).weight += to - from
	p.duel.reweigh((*p.tags)[slot], to)
	p.settle(p.weight() > p.max, to)
}

func (p *tinyLFU) remove(slot uint32, weight int64) {
	p.drop(slot, weight)
	p.duel.removed((*p.tags)[slot])
}

func (p *tinyLFU) evict(excess int64, keep uint32) uint32 {
	slot := p.victim(excess, keep)
	p.duel.evicted((*p.tags)[slot])
	return slot
}

func (p *tinyLFU) frequency(tag uint32) int { return p.sketch.frequency(tag) }

func (p *tinyLFU) recall(tag uint32, frequency int) {
	for range frequency {
		p.sketch.count(tag)
	}
}
