package cache

// timers is a hierarchical timing wheel over the slots of a shard: each change costs the same
// however many entries there are. Only writes advance it, so an entry may stay in memory beyond
// its time, where no reader sees it.
type timers struct {
	now   int64
	nodes []timer // by slot
	heads [levels * buckets]uint32
}

type timer struct {
	prev, next uint32 // slots; 0 is none
	bucket     uint32 // index of heads, plus 1; 0 if not scheduled
}

const (
	levels     = 4
	bucketBits = 6
	buckets    = 1 << bucketBits
	tickBits   = 30 // a tick of the lowest level is 2^30 ns, about a second; of the highest, three days
)

func newTimers(now int64) *timers { return &timers{now: now} }

// schedule sets the timer of slot, which must not be set.
func (w *timers) schedule(slot uint32, at int64) {
	for int(slot) >= len(w.nodes) {
		w.nodes = append(w.nodes, timer{})
	}
	var level, tick int64
	for level = range levels {
		shift := tickBits + bucketBits*level
		current := w.now >> shift
		tick = at >> shift
		if level == 0 {
			tick++ // not before its time
		}
		tick = max(tick, current+1)
		if tick-current < buckets {
			break
		}
		tick = current + buckets - 1 // beyond this level; on the highest level advance schedules it anew
	}
	b := uint32(level<<bucketBits | tick&(buckets-1))
	head := w.heads[b]
	w.nodes[slot] = timer{next: head, bucket: b + 1}
	if head != 0 {
		w.nodes[head].prev = slot
	}
	w.heads[b] = slot
}

// cancel stops the timer of slot, if it is set.
func (w *timers) cancel(slot uint32) {
	if int(slot) >= len(w.nodes) || w.nodes[slot].bucket == 0 {
		return
	}
	t := w.nodes[slot]
	if t.prev != 0 {
		w.nodes[t.prev].next = t.next
	} else {
		w.heads[t.bucket-1] = t.next
	}
	if t.next != 0 {
		w.nodes[t.next].prev = t.prev
	}
	w.nodes[slot] = timer{}
}

// advance calls due for every slot whose time may have come. The timer is stopped then; due returns
// when the slot should be looked at again, or 0. It must not stop other timers.
func (w *timers) advance(now int64, due func(slot uint32) (later int64)) {
	then := w.now
	if now>>tickBits <= then>>tickBits {
		return
	}
	w.now = now
	passed(then, now, func(bucket int64) {
		// Take the list first: a timer that is set anew may come into the same bucket.
		slot := w.heads[bucket]
		w.heads[bucket] = 0
		for slot != 0 {
			next := w.nodes[slot].next
			w.nodes[slot] = timer{}
			if later := due(slot); later != 0 {
				w.schedule(slot, later)
			}
			slot = next
		}
	})
}

// due calls yield for every slot whose time may have come, once, and changes nothing. Unlike
// advance it does not leave out those of the tick that is not over.
func (w *timers) due(now int64, yield func(slot uint32)) {
	look := func(bucket int64) {
		for slot := w.heads[bucket]; slot != 0; slot = w.nodes[slot].next {
			yield(slot)
		}
	}
	passed(w.now, now, look)
	// A timer of the lowest level stands in the bucket of the tick after its time. That bucket was
	// passed already if a whole turn was.
	if tick := now >> tickBits; tick-w.now>>tickBits < buckets {
		look((tick + 1) & (buckets - 1))
	}
}

// passed calls yield for every bucket whose tick is over at now and was not at then, once.
func passed(then, now int64, yield func(bucket int64)) {
	if now>>tickBits <= then>>tickBits {
		return
	}
	for level := range int64(levels) {
		shift := tickBits + bucketBits*level
		last := now >> shift
		for tick := max(then>>shift, last-buckets) + 1; tick <= last; tick++ {
			yield(level<<bucketBits | tick&(buckets-1))
		}
	}
}
