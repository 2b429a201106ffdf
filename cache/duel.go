package cache

// A duel finds the share of the cache that the window should have: recency-heavy traffic wants a
// large window, frequency-heavy traffic a small one. The uses of a sample of the keys are played in
// tiny caches, the rivals, of which each has another share. The share in force is replaced by one
// that would have had so many more hits since it was last behind that the change pays.
//
// Processors choose between two policies of their caches in this way (set dueling: Qureshi and
// others, "Adaptive Insertion Policies for High Performance Caching", 2007), and software caches
// find their size (Waldspurger and others, "Cache Modeling and Optimization using Miniature
// Simulations", 2017).
type duel struct {
	rivals  [len(windowShares)]segments[uint16]
	keys    []sampledKey // the slots of the rivals; slot 0 is never used
	tags    []uint32     // of the slots
	weights []int64      // of the slots; nil if each weighs 1
	heads   [256]uint16  // of the keys' chains, by their tags
	free    uint16       // head of the chain of slots to use again
	known   int          // keys that have a slot
	mask    uint32       // a key is in the sample if its tag and this have no bit in common
	sweep   int          // slots up to this one may have keys that the sample has lost

	// The rivals have as much room as the cache gives to keys of the sample. A fixed part of the
	// cache's bound would not do: where a loop is a little larger than the cache, a few keys more
	// or less in the sample decide between all hits and none.
	count      int     // entries of the cache that are in the sample
	weight     int64   // of these
	room       int64   // of a rival: the mean of weight in the last epoch
	sum, epoch float64 // of weight, and the uses, in this epoch

	current int                    // index of the share in force
	ahead   [len(windowShares)]int // hits of a rival beyond the current one's since it was last behind
	price   int                    // what ahead must exceed for a change, in quarters of count
	calm    int                    // uses since the last change, or since the price was set for calm
}

// A sampledKey is a key that rivals or the cache have.
type sampledKey struct {
	next uint16 // in the chain
	in   uint8  // a bit for each rival, and inCache
}

// windowShares are the shares to choose from. The last is LRU.
var windowShares = [...]float64{0.01, 0.1, 0.5, 1}

const (
	inCache = 1 << len(windowShares)

	maxSample  = 256   // entries of the cache; 64 cost hits in all caches, 128 in large ones, 512 gain none
	maxSampled = 0.375 // share of the entries that are in the sample
	minSample  = 16    // entries, or the mask has one bit fewer
	moreSlots  = 64    // by which the slots grow
	manyKeys   = 1024  // of the rivals: light ones, after heavy ones
	epochUses  = 4     // per entry of the sample
	firstPrice = 1     // of a new cache with weights; without, 3 of 9 runs of a loop lose a point by it
	leastPrice = 2     // a change can cost as many misses as the cache has entries
	maxPrice   = 8     // after changes in quick succession
	calmUses   = 64    // per entry of the sample, until the price is half of it, or leastPrice
	leastAhead = 8     // hits, however small the sample is
)

func newDuel(weighted bool, sketch *sketch) *duel {
	d := &duel{keys: make([]sampledKey, 1), tags: make([]uint32, 1), price: leastPrice}
	if weighted {
		d.weights, d.price = make([]int64, 1), firstPrice
	}
	for i, share := range windowShares {
		d.rivals[i] = newSegments[uint16](0, share, &d.tags, &d.weights, sketch)
	}
	return d
}

func (d *duel) samples(tag uint32) bool { return tag&d.mask == 0 }

// use plays a use of an entry of the cache, and reports whether another share is in force now.
func (d *duel) use(tag uint32, weight int64, entries int, full bool) (changed bool) {
	if d.sweep == 0 && entries < minSample*(int(d.mask)+1) {
		d.mask >>= 1 // entries that come into the sample by this count from their next use
	}
	if !d.samples(tag) {
		return false
	}
	slot := d.enter(tag, weight)
	weight = d.weigh(slot) // another entry can have the same tag: what the rivals add, they must subtract
	d.measure(full)
	hits := d.keys[slot].in
	for i := range d.rivals {
		r := &d.rivals[i]
		if r.max != d.room {
			r.resize(d.room, windowShares[i])
		}
		if hits&(1<<i) != 0 {
			r.hit(slot)
		} else {
			d.keys[slot].in |= 1 << i
			r.push(slot, weight, r.weight()+weight > r.max)
		}
		for freed := int64(0); r.weight() > r.max && freed < fewMoves*weight; {
			victim := r.victim(r.weight()-r.max, 0) // the newest, too: nobody waits for it in a rival
			freed += d.weigh(victim)
			d.leave(victim, 1<<i)
		}
	}
	changed = d.judge(hits)
	d.resample(entries)
	return changed
}

// enter returns the slot of a key that is in the cache.
func (d *duel) enter(tag uint32, weight int64) uint16 {
	slot := d.find(tag)
	if slot == 0 {
		slot = d.insert(tag)
	}
	if d.keys[slot].in&inCache == 0 {
		d.setWeight(slot, weight) // a rival may have it from before
		d.keys[slot].in |= inCache
		d.count++
		d.weight += weight
	}
	return slot
}

// measure finds how much room the rivals have.
func (d *duel) measure(full bool) {
	d.sum += float64(d.weight)
	d.epoch++
	if d.epoch >= epochUses*float64(max(d.count, leastAhead)) {
		d.room = int64(d.sum / d.epoch)
		d.sum, d.epoch = 0, 0
	}
	if !full {
		d.room = max(d.room, d.weight)
	}
}

// judge compares the rivals; hits has a bit for each that had a hit.
func (d *duel) judge(hits uint8) (changed bool) {
	best := d.current
	for i := range d.ahead {
		d.ahead[i] = max(0, d.ahead[i]+int(hits>>i&1)-int(hits>>d.current&1))
		if d.ahead[i] > d.ahead[best] {
			best = i
		}
	}
	if d.calm++; d.calm > calmUses*max(d.count, minSample) {
		d.calm = 0
		d.price = max(leastPrice, d.price/2)
	}
	if d.ahead[best] <= max(leastAhead, d.price*d.count/4) {
		return false
	}
	d.current = best
	d.ahead = [len(windowShares)]int{}
	d.calm = 0
	d.price = min(maxPrice, 2*d.price)
	return true
}

// resample halves a sample that is too large, a few keys in each call.
func (d *duel) resample(entries int) {
	most := max(4*minSample, min(maxSample, int(maxSampled*float64(entries))))
	if d.sweep == 0 && (d.count > most || d.known > manyKeys) {
		d.mask = d.mask<<1 | 1
		d.sweep = len(d.keys) - 1
	}
	for n := 0; n < fewMoves && d.sweep > 0; n++ {
		if slot := uint16(d.sweep); d.keys[slot].in != 0 && !d.samples(d.tags[slot]) {
			if d.keys[slot].in&inCache != 0 {
				d.room = max(0, d.room-d.weigh(slot))
			}
			d.forget(slot)
		}
		if d.sweep--; d.sweep == 0 {
			d.sum, d.epoch = 0, 0
		}
	}
}

// evicted notes that a full cache has given up a key. Rivals that would have kept it do so.
func (d *duel) evicted(tag uint32) {
	if !d.samples(tag) {
		return
	}
	if slot := d.find(tag); slot != 0 && d.keys[slot].in&inCache != 0 {
		d.count--
		d.weight -= d.weigh(slot)
		d.leave(slot, inCache)
	}
}

// removed notes that a key has left the cache for another reason.
func (d *duel) removed(tag uint32) {
	if !d.samples(tag) {
		return
	}
	if slot := d.find(tag); slot != 0 {
		d.forget(slot)
	}
}

// reweigh notes that the weight of an entry has changed.
func (d *duel) reweigh(tag uint32, weight int64) {
	if !d.samples(tag) {
		return
	}
	if slot := d.find(tag); slot != 0 {
		d.setWeight(slot, weight)
	}
}

func (d *duel) setWeight(slot uint16, weight int64) {
	if d.weights == nil {
		return
	}
	more := weight - d.weights[slot]
	d.weights[slot] = weight
	in := d.keys[slot].in
	if in&inCache != 0 {
		d.weight += more
	}
	for i := range d.rivals {
		if in&(1<<i) != 0 {
			d.rivals[i].queueOf(slot).weight += more
		}
	}
}

func (d *duel) weigh(slot uint16) int64 { return d.rivals[0].weigh(slot) }

// forget takes a key from all that have it.
func (d *duel) forget(slot uint16) {
	in, weight := d.keys[slot].in, d.weigh(slot)
	if in&inCache != 0 {
		d.weight -= weight
		if d.count--; d.count == 0 {
			d.ahead = [len(windowShares)]int{} // or few hits would do for a change
		}
	}
	for i := range d.rivals {
		if in&(1<<i) != 0 {
			d.rivals[i].drop(slot, weight)
		}
	}
	d.leave(slot, in)
}

// head returns the head of the chain of a key.
func (d *duel) head(tag uint32) *uint16 { return &d.heads[tag*0x9e3779b1>>24] }

// find returns the slot of a key, or 0.
func (d *duel) find(tag uint32) uint16 {
	slot := *d.head(tag)
	for slot != 0 && d.tags[slot] != tag {
		slot = d.keys[slot].next
	}
	return slot
}

// insert gives a key a slot.
func (d *duel) insert(tag uint32) uint16 {
	slot := d.free
	if slot != 0 {
		d.free = d.keys[slot].next
	} else {
		slot = uint16(len(d.keys))
		d.keys, d.tags = grown(d.keys), grown(d.tags)
		if d.weights != nil {
			d.weights = grown(d.weights)
		}
		for i := range d.rivals {
			d.rivals[i].links = grown(d.rivals[i].links)
		}
	}
	head := d.head(tag)
	d.keys[slot] = sampledKey{next: *head}
	*head = slot
	d.tags[slot] = tag
	d.known++
	return slot
}

// grown returns s with one element more. In a small cache, a capacity that has doubled would be
// most of what the duel needs.
func grown[T any](s []T) []T {
	if len(s) == cap(s) {
		s = append(make([]T, 0, len(s)+moreSlots), s...)
	}
	return s[:len(s)+1]
}

// leave notes who no longer has a key. If nobody has it, its slot is free.
func (d *duel) leave(slot uint16, who uint8) {
	key := &d.keys[slot]
	if key.in &^= who; key.in != 0 {
		return
	}
	p := d.head(d.tags[slot])
	for *p != slot {
		p = &d.keys[*p].next
	}
	*p = key.next
	key.next, d.free = d.free, slot
	d.known--
}
