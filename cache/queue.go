package cache

// The default policy has lists of its own rather than golang-lru's (simplelru, on which LRU
// stands), for what BenchmarkMemoryQueues measures: 77 bytes of heap per entry instead of 160
// (int64 to int64, a million), 152 ns instead of 394 on average when one read in eight misses and
// replaces an entry, 12.8 instead of 14.8 when all hit.

// links is the storage that the queues of one shard share: slot numbers instead of pointers, in
// half the memory, and away from the entries that readers on other processors look at. Link 0 is
// never a slot.
type links []link

type link struct {
	prev, next uint32
	place      uint32 // the queue's id, and above it queue.moves when this came to the front; 0 if in none
	tag        uint32 // hash of the key
}

const (
	inNone = iota
	inWindow
	inProbation
	inProtected

	queueMask = 3
	oneMove   = queueMask + 1
)

// A queue is a doubly linked list of slots, most recently used first.
type queue struct {
	id          uint32
	front, back uint32 // 0 if empty
	len         int
	weight      int64
	moves       uint32 // to the front; counted in steps of oneMove
}

func (q *queue) pushFront(l links, slot uint32, weight int64) {
	q.moves += oneMove
	n := &l[slot]
	n.prev, n.next, n.place = 0, q.front, q.moves|q.id
	if q.front != 0 {
		l[q.front].prev = slot
	} else {
		q.back = slot
	}
	q.front = slot
	q.len++
	q.weight += weight
}

func (q *queue) remove(l links, slot uint32, weight int64) {
	n := l[slot]
	if n.prev != 0 {
		l[n.prev].next = n.next
	} else {
		q.front = n.next
	}
	if n.next != 0 {
		l[n.next].prev = n.prev
	} else {
		q.back = n.prev
	}
	l[slot].place = inNone
	q.len--
	q.weight -= weight
}

// moveToFront makes slot the most recently used. A slot stays where it is if fewer moves than an
// eighth of the queue's length have passed since it came to the front, for it is still near: most
// hits go to such slots, and three scattered writes are saved.
func (q *queue) moveToFront(l links, slot uint32) {
	if (q.moves-l[slot].place&^queueMask)/oneMove < uint32(q.len/8) || slot == q.front {
		return
	}
	q.remove(l, slot, 0)
	q.pushFront(l, slot, 0)
}
