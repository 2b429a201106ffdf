package cache

// The default policy has lists of its own rather than golang-lru's (simplelru, on which LRU
// stands), for what BenchmarkMemoryQueues measures: 77 bytes of heap per entry instead of 160
// (int64 to int64, a million), 152 ns instead of 394 on average when one read in eight misses and
// replaces an entry, 12.8 instead of 14.8 when all hit.

// links is the storage that several queues share: slot numbers instead of pointers, in half the
// memory, and away from the entries that readers on other processors look at. Link 0 is never a
// slot.
type links[S slotNumber] []link[S]

// A slotNumber is uint32 for the entries of a shard, and uint16 for the few keys of a duel.
type slotNumber interface{ uint16 | uint32 }

type link[S slotNumber] struct {
	prev, next S
	place      S // the queue's id, and above it queue.moves when this came to the front; 0 if in none
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
type queue[S slotNumber] struct {
	id          S
	front, back S // 0 if empty
	len         int
	weight      int64
	moves       S // to the front; counted in steps of oneMove
}

func (q *queue[S]) pushFront(l links[S], slot S, weight int64) {
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

func (q *queue[S]) remove(l links[S], slot S, weight int64) {
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
func (q *queue[S]) moveToFront(l links[S], slot S) {
	if (q.moves-l[slot].place&^queueMask)/oneMove < S(q.len/8) || slot == q.front {
		return
	}
	q.remove(l, slot, 0)
	q.pushFront(l, slot, 0)
}
