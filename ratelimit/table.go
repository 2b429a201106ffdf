package ratelimit

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	slotsPerSet = 7
	setBytes    = 128 // two cache lines, which processors fetch together
)

// A set holds the words of the keys that hash to it.
type set struct {
	mu    sync.Mutex // guards the fields below
	tags  [slotsPerSet]uint64
	words [slotsPerSet]int64 // zero: nothing in use
	_     [8]byte            // up to setBytes
}

// A table holds one policy's counts: for each key a word, which grid or slide reads.
type table struct {
	order     int           // in which tables are locked
	length    time.Duration // of a sliding window; zero means GCRA
	seed      maphash.Seed  // so that nobody can compute keys which share a set or a tag
	sets      []set
	displaced atomic.Uint64
}

func newTable(order, sets int, length time.Duration) *table {
	return &table{order: order, length: length, seed: maphash.MakeSeed(), sets: make([]set, sets)}
}

// A cell is the place of a claim's key in a table.
type cell struct {
	table *table
	tag   uint64 // of the key

	// Meaningful while the set is locked.
	set       *set
	old       int64 // the word as found
	word      int64 // the word as it shall be
	slot      uint8
	displaces bool // a key in debt loses the slot
}

// locate makes t the table of c.
func (c *Claim) locate(t *table) {
	c.cell.table = t
	c.cell.tag = maphash.String(t.seed, c.Key)
}

// lock locks the set of c's key and finds the key's word in it, or the one that it shall take over.
// It reports whether the key has one.
func (c *Claim) lock(now int64) (found bool) {
	at := &c.cell
	t := at.table
	hi, _ := bits.Mul64(at.tag, uint64(len(t.sets)))
	s := &t.sets[hi]
	at.set = s
	s.mu.Lock()
	for i := range s.tags {
		if s.tags[i] == at.tag {
			at.slot = uint8(i)
			at.displaces = false
			at.old = s.words[i]
			return true
		}
	}
	// Space-Saving: the place of the key that owes least, with its debt.
	least := int64(math.MaxInt64)
	for i, word := range s.words {
		if debt := t.owed(now, word); debt < least {
			at.slot, least = uint8(i), debt
		}
	}
	at.old = 0
	if at.displaces = least > 0; at.displaces {
		at.old = s.words[at.slot] // whole: a key of a fast rate must not erase a slow one's debt
	}
	return false
}

// owed returns how much of word is still in use, in units that are good for comparing only.
func (t *table) owed(now, word int64) int64 {
	if t.length == 0 {
		return max(word-now, 0)
	}
	s := newSlide(0, t.length, now)
	prev, cur := s.counts(word)
	return s.weight(prev) + cur
}

// put writes c's word. The set is locked.
func (c *Claim) put() {
	at := &c.cell
	at.set.tags[at.slot] = at.tag
	at.set.words[at.slot] = at.word
	if at.displaces {
		at.table.displaced.Add(1)
	}
}

// ask returns the answer to cost. The set is locked.
func (c *Claim) ask(now, cost int64) answer {
	if c.cell.table.length == 0 {
		return c.grid.answer(c.cell.old, now, cost)
	}
	s := newSlide(c.Rate.Limit, c.cell.table.length, now)
	return s.answer(c.cell.old, cost)
}

// decideAll answers every claim and charges all or none. It locks all sets together, in the order
// of their tables, so that two limiters cannot wait for each other.
func decideAll(m *MemoryStore, claims []Claim) {
	now := m.now()
	if len(claims) == 1 {
		claims[0].decide(m, now)
		return
	}
	var order [maxPolicies]int
	for i := range claims {
		j := i
		for ; j > 0 && claims[order[j-1]].cell.table.order > claims[i].cell.table.order; j-- {
			order[j] = order[j-1]
		}
		order[j] = i
	}
	ok := true
	for _, i := range order[:len(claims)] {
		claims[i].lock(now)
		ok = claims[i].try(now) && ok
	}
	if !ok {
		now, ok = m.now(), true // see decide
		for i := range claims {
			ok = claims[i].try(now) && ok
		}
	}
	for i := range claims {
		c := &claims[i]
		if c.Cost > 0 {
			if ok {
				c.put()
				c.note(now)
			} else if !c.Denied {
				c.set(c.ask(now, 0)) // it would have fit, but is not charged
			}
		}
		c.cell.set.mu.Unlock()
	}
}

// try writes the answer into c and its cell, and reports whether the cost fits. The set is locked.
func (c *Claim) try(now int64) (ok bool) {
	a := c.ask(now, c.Cost)
	c.cell.word = a.word
	c.set(a)
	return a.ok
}

// decide is decideAll for one claim. Whoever had the lock before may have read the clock after now,
// so that what it has charged looks as if it left no room. Whoever is refused is refused by a clock
// that was read with the lock held.
func (c *Claim) decide(m *MemoryStore, now int64) {
	c.lock(now)
	a := c.ask(now, c.Cost)
	if !a.ok {
		now = m.now()
		a = c.ask(now, c.Cost)
	}
	if a.ok && c.Cost > 0 {
		c.cell.word = a.word
		c.put()
		c.note(now)
	}
	c.cell.set.mu.Unlock()
	c.set(a)
}

// add adds c's cost to its key, whether it fits or not.
func (c *Claim) add(now int64) {
	c.lock(now)
	if c.Cost > 0 {
		c.cell.word = c.ask(now, c.Cost).word
		c.put()
	}
	c.cell.set.mu.Unlock()
}

// lower raises what c's key has in use until at most remaining are left. Negative means what is
// left now, less c's cost.
func (c *Claim) lower(now, remaining int64) {
	c.lock(now)
	if remaining < 0 {
		remaining = max(c.ask(now, 0).remaining-c.Cost, 0)
	}
	at := &c.cell
	if at.table.length == 0 {
		at.word = max(at.old, c.grid.atMost(now, remaining))
	} else {
		s := newSlide(c.Rate.Limit, at.table.length, now)
		at.word = s.atMost(at.old, remaining)
	}
	c.put()
	at.set.mu.Unlock()
}
