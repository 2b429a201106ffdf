package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultMaxKeys = 100_000
	slotsPerSet    = 7
	mostKeys       = min(math.MaxInt32, math.MaxInt/setBytes*3) // whose table has a size that an int can hold
)

// MemoryStoreConfig configures a [MemoryStore]. The zero MemoryStoreConfig is valid.
type MemoryStoreConfig struct {
	// MaxKeys is how many keys of each policy may be in debt at once with less than 1 % of them
	// displaced. Each takes 38 bytes, allocated at once. Zero means 100,000. Negative is invalid.
	MaxKeys int
}

// A MemoryStore keeps counts in this process, in a table of fixed size for each policy. A key
// whose debt is paid takes no room. When a key finds its part of the table full of
// debtors, it takes over the place and the debt of the one that owes least: nobody
// gets rid of his debt by making up keys, and a flood of them makes newcomers wait until
// the least of those debts is paid far enough for their own rate.
// Create one with [NewMemoryStore]. It starts no goroutines.
type MemoryStore struct {
	sets int       // per table
	base time.Time // of ticks; its monotonic reading keeps steps of the wall clock out

	mu     sync.Mutex // guards the fields below
	tables map[string]*table
	made   int // tables so far
}

// MemoryStoreStats is a snapshot of a [MemoryStore].
type MemoryStoreStats struct {
	Slots     int    `json:"slots"`     // places for keys, all policies together
	Bytes     int    `json:"bytes"`     // memory they take
	Displaced uint64 `json:"displaced"` // keys that lost their place while in debt; newcomers took the debt over
}

// NewMemoryStore returns an empty MemoryStore. The error, if any, names every invalid field of cfg.
func NewMemoryStore(cfg MemoryStoreConfig) (*MemoryStore, error) {
	if cfg.MaxKeys < 0 {
		return nil, fmt.Errorf("ratelimit: MemoryStoreConfig.MaxKeys: %d is negative", cfg.MaxKeys)
	}
	if cfg.MaxKeys > mostKeys {
		return nil, fmt.Errorf("ratelimit: MemoryStoreConfig.MaxKeys: %d is more than %d", cfg.MaxKeys, mostKeys)
	}
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = defaultMaxKeys
	}
	return &MemoryStore{
		// 3⅓ keys on average in a set of 7: the Poisson tail beyond is 0.9 % of the keys.
		sets:   cfg.MaxKeys/10*3 + (cfg.MaxKeys%10*3+9)/10,
		base:   time.Now(),
		tables: make(map[string]*table),
	}, nil
}

// Stats returns a snapshot.
func (m *MemoryStore) Stats() MemoryStoreStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s MemoryStoreStats
	for _, t := range m.tables {
		s.Slots += len(t.sets) * slotsPerSet
		s.Bytes += len(t.sets) * setBytes
		s.Displaced += t.displaced.Load()
	}
	return s
}

// Prepare makes a table for each policy that has none yet.
func (m *MemoryStore) Prepare(policies []Policy) error {
	if m == nil || m.tables == nil {
		return errors.New("the MemoryStore was not made by NewMemoryStore")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, p := range policies {
		var length time.Duration // of the window; zero for GCRA
		if p.Window == SlidingWindow {
			length = p.Rate.Window
		}
		t := m.tables[p.Name]
		if t == nil {
			m.tables[p.Name] = newTable(m.made, m.sets, length)
			m.made++
		} else if t.length != length {
			errs = append(errs, fmt.Errorf("the store counts policy %q in another way for another limiter", p.Name))
		}
	}
	return errors.Join(errs...)
}

// Retain forgets the policies that are not named, whose memory is free when no [Limiter] made before uses them any more. A Limiter
// made later with a policy of the same name counts anew. It is for programs whose policies change while they run.
func (m *MemoryStore) Retain(policies ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := make(map[string]*table, len(policies))
	for _, name := range policies {
		if t := m.tables[name]; t != nil {
			kept[name] = t
		}
	}
	m.tables = kept
}

func (m *MemoryStore) table(name string) *table {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tables[name]
}

// now returns the tick.
func (m *MemoryStore) now() int64 { return toTicks(time.Since(m.base)) }

// Take implements [Store]. A [Limiter] on a MemoryStore does not call it, but the same code directly.
func (m *MemoryStore) Take(_ context.Context, claims []Claim) error {
	if len(claims) > maxPolicies {
		return fmt.Errorf("ratelimit: %d claims are more than %d", len(claims), maxPolicies)
	}
	work := make([]charge, len(claims))
	for i := range claims {
		if err := m.prepare(&work[i], &claims[i]); err != nil {
			return err
		}
		for _, other := range work[:i] {
			if other.table == work[i].table { // it would be locked twice
				return fmt.Errorf("ratelimit: policy %q has two claims", claims[i].Policy.Name)
			}
		}
	}
	takeAll(m.now(), work, claims)
	return nil
}

// Charge implements [Store].
func (m *MemoryStore) Charge(_ context.Context, claims []Claim) error {
	for i := range claims {
		var w charge
		if err := m.prepare(&w, &claims[i]); err != nil {
			return err
		}
		w.table.charge(m.now(), &w)
	}
	return nil
}

func (m *MemoryStore) prepare(w *charge, c *Claim) error {
	t := m.table(c.Policy.Name)
	if t == nil {
		return fmt.Errorf("ratelimit: policy %q was not prepared", c.Policy.Name)
	}
	if c.Cost < 0 {
		return fmt.Errorf("ratelimit: policy %q: cost %d is negative", c.Policy.Name, c.Cost)
	}
	if c.policy == nil { // of somebody else than a Limiter
		rate, err := c.Rate.withDefaults(c.Policy.Window)
		if err != nil {
			return fmt.Errorf("ratelimit: policy %q: Rate.%w", c.Policy.Name, err)
		}
		c.setRate(rate)
	}
	w.fill(t, c)
	return nil
}

// setBytes is the size of a set: two cache lines, which processors fetch together.
const setBytes = 128

// A set holds the cells of the keys that hash to it.
type set struct {
	mu    sync.Mutex // guards the fields below
	tags  [slotsPerSet]uint64
	words [slotsPerSet]int64 // zero: nothing in use
	_     [8]byte            // up to setBytes
}

// A table holds one policy's cells.
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

// A charge is a claim on its way through a table.
type charge struct {
	table *table
	tag   uint64
	grid  *grid // of GCRA
	limit int64 // of a sliding window
	cost  int64

	// Set under the set's lock.
	set  *set
	slot int
	debt int64 // of the key that loses the slot; zero if none does
	old  int64 // the cell as found
	word int64 // the cell as it shall be
}

func (w *charge) fill(t *table, c *Claim) {
	w.table = t
	w.tag = maphash.String(t.seed, c.Key)
	w.cost = c.Cost
	w.limit = c.Rate.Limit
	w.grid = c.grid
}

// lock locks the set of w's key and finds the key's cell in it, or the one that it shall take over.
func (t *table) lock(now int64, w *charge) {
	hi, _ := bits.Mul64(w.tag, uint64(len(t.sets)))
	s := &t.sets[hi]
	w.set = s
	s.mu.Lock()
	for i := range s.tags {
		if s.tags[i] == w.tag {
			w.slot = i
			w.debt = 0
			w.old = s.words[i]
			return
		}
	}
	// Space-Saving: the place of who owes least, with the debt.
	w.slot, w.debt = 0, math.MaxInt64
	for i, word := range s.words {
		if debt := t.owed(now, word); debt < w.debt {
			w.slot, w.debt = i, debt
		}
	}
	w.old = 0
	if w.debt > 0 {
		w.old = s.words[w.slot] // in full: else one key of a fast rate would wipe out debts of slow ones
	}
}

// owed returns how much of word is still in use, in units that only compare.
func (t *table) owed(now, word int64) int64 {
	if t.length == 0 {
		return max(word-now, 0)
	}
	s := newSlide(0, t.length, now)
	prev, cur := s.counts(word)
	return s.weight(prev) + cur
}

// put writes w's word. The set is locked.
func (w *charge) put() {
	w.set.tags[w.slot] = w.tag
	w.set.words[w.slot] = w.word
	if w.debt > 0 {
		w.table.displaced.Add(1)
	}
}

// answer says what becomes of cost in w's cell.
func (w *charge) answer(now, cost int64) answer {
	if w.table.length == 0 {
		return w.grid.take(w.old, now, cost)
	}
	s := newSlide(w.limit, w.table.length, now)
	return s.take(w.old, cost)
}

// takeOne is takeAll for one claim.
func takeOne(now int64, w *charge, c *Claim) {
	w.table.lock(now, w)
	a := w.answer(now, w.cost)
	if a.ok && w.cost > 0 {
		w.word = a.word
		w.put()
	}
	w.set.mu.Unlock()
	c.set(a)
}

// takeAll answers every claim and charges all or none. It locks all sets together, in the
// order of their tables, so that two limiters cannot wait for each other.
func takeAll(now int64, work []charge, claims []Claim) {
	if len(work) == 1 {
		takeOne(now, &work[0], &claims[0])
		return
	}
	var order [maxPolicies]int
	for i := range work {
		j := i
		for ; j > 0 && work[order[j-1]].table.order > work[i].table.order; j-- {
			order[j] = order[j-1]
		}
		order[j] = i
	}
	ok := true
	for _, i := range order[:len(work)] {
		w := &work[i]
		w.table.lock(now, w)
		a := w.answer(now, w.cost)
		w.word = a.word
		claims[i].set(a)
		ok = ok && a.ok
	}
	for i := range work {
		w := &work[i]
		if w.cost > 0 {
			if ok {
				w.put()
			} else if !claims[i].Denied {
				claims[i].set(w.answer(now, 0)) // it would have fit, but is not charged
			}
		}
		w.set.mu.Unlock()
	}
}

func (c *Claim) set(a answer) {
	c.Denied = !a.ok
	c.Remaining = a.remaining
	c.RetryAfter = a.retry
	c.Reset = a.reset
}

// charge adds w's cost to its key, whether it fits or not.
func (t *table) charge(now int64, w *charge) {
	t.lock(now, w)
	if w.cost > 0 {
		w.word = w.answer(now, w.cost).word
		w.put()
	}
	w.set.mu.Unlock()
}

// leave raises what w's key has in use until at most remaining are left; negative means
// what is left now, less w's cost.
func (t *table) leave(now int64, w *charge, remaining int64) {
	t.lock(now, w)
	if remaining < 0 {
		remaining = max(w.answer(now, 0).remaining-w.cost, 0)
	}
	if t.length == 0 {
		w.word = max(w.old, w.grid.atMost(now, remaining))
	} else {
		s := newSlide(w.limit, t.length, now)
		w.word = s.atMost(w.old, remaining)
	}
	w.put()
	w.set.mu.Unlock()
}
