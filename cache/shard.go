package cache

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// A shard is a cache of its own: a table, a policy and a bound. Readers find entries in the table
// without the lock and leave a note of what they read in a stripe; whoever holds the lock next
// hands the notes to the policy.
type shard[K comparable, V any] struct {
	m        *Memory[K, V]
	table    atomic.Pointer[table[K, V]]
	growing  atomic.Bool   // entries are being moved from table to its successor
	stripes  []stripe      // a power of two
	counters []counter     // of all shards
	sparse   atomic.Uint64 // a reader leaves a note if this and the count of hits share no bit

	_ [64]byte // readers use what is above, writers what is below

	mu        sync.Mutex // guards the fields below
	policy    policy
	slots     []*entry[K, V] // slot 0 is never used
	weights   []int64        // of the slots; nil if each weighs 1
	free      []uint32       // slots to use again
	timers    *timers        // nil until an entry is stored that can expire
	count     int
	weight    int64
	max       int64 // of weight
	uncounted int64 // weight that Memory.total does not have yet; negative if it is to lose some
	flights   map[K]*flight[K, V]
	unasked   bool           // entries are set that nobody asked for: see askedLocked
	missed    uint64         // by all shards, when this one was last empty
	unneeded  int            // notes since an entry was added
	removed   [causes]uint64 // overwrites in place are in counters
	refused   uint64

	_ [64]byte // the next shard's readers
}

// A counter counts the reads of some goroutines, on a cache line of its own.
type counter struct {
	hits   atomic.Uint64
	misses atomic.Uint64
	swaps  atomic.Uint64 // values overwritten in place
	_      [104]byte     // two lines: processors fetch them in pairs
}

// A stripe takes the notes of some readers. A note that nobody hands on in time is overwritten: the
// policy can do without some.
type stripe struct {
	noted atomic.Uint64              // place of the next note
	read  uint64                     // of noted; guarded by the shard's lock
	notes [stripeNotes]atomic.Uint64 // slots, and above them their tags
	_     [128 - (16+8*stripeNotes)%128]byte
}

const (
	stripeNotes = 32
	sparseNotes = 64 // while nothing is added, one hit in this many leaves a note
	shardSlack  = 16 // a shard may exceed its share by a sixteenth; hashing spreads full ones by a hundredth
	askedSteps  = 64 // entries between two looks at the misses, while there is room
	maxSlots    = 1<<31 - 2
)

// self returns a number for the calling goroutine, from where its stack is: a goroutine mostly
// keeps its number, and those that run at the same time mostly have different ones. The address
// is only hashed, never followed.
func self() uint32 {
	var here byte
	return uint32(uintptr(unsafe.Pointer(&here))>>11) * 0x9e3779b1 >> 16
}

// find returns the entry of key, or nil.
func (s *shard[K, V]) find(hash uint64, key K) *entry[K, V] {
	t := s.table.Load()
	if e := t.find(hash, key); e != nil {
		return e
	}
	// If entries were moved meanwhile, the search may have been led past key.
	if s.growing.Load() || s.table.Load() != t {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.table.Load().find(hash, key)
	}
	return nil
}

// hit counts a read of e and notes it for the policy.
func (s *shard[K, V]) hit(e *entry[K, V]) {
	self := self()
	if s.counter(self).hits.Add(1)&s.sparse.Load() == 0 {
		s.note(self, e)
	}
}

func (s *shard[K, V]) counter(self uint32) *counter {
	return &s.counters[uint(self)&uint(len(s.counters)-1)]
}

// note leaves a note that e was used. Whoever fills the last place of a stripe hands its notes
// on, if the lock is free.
func (s *shard[K, V]) note(self uint32, e *entry[K, V]) {
	st := &s.stripes[uint(self)&uint(len(s.stripes)-1)]
	n := st.noted.Add(1)
	st.notes[n%stripeNotes].Store(uint64(e.tag)<<32 | uint64(e.slot()))
	if n%stripeNotes == 0 && s.mu.TryLock() {
		s.drainLocked()
		s.mu.Unlock()
	}
}

func (s *shard[K, V]) miss() { s.counter(self()).misses.Add(1) }

// drainLocked hands the notes of the readers to the policy.
func (s *shard[K, V]) drainLocked() {
	for i := range s.stripes {
		st := &s.stripes[i]
		n := st.noted.Load()
		// A note may not have been written yet, or be of a slot that was since given to another
		// key. The policy can bear either.
		for at := max(st.read, max(n, stripeNotes)-stripeNotes) + 1; at <= n; at++ {
			note := st.notes[at%stripeNotes].Load()
			s.policy.touch(uint32(note), uint32(note>>32))
		}
		s.unneeded += int(n - st.read)
		st.read = n
	}
	// Notes matter when the next entry leaves. While nothing is added, a sample will do.
	if s.unneeded > 4*s.count {
		s.sparse.Store(sparseNotes - 1)
	}
}

// storeLocked puts e in place of old, or adds it if old is nil, and evicts what exceeds the bound
// then. It reports false if e weighs too much for the cache, and refuses it.
func (s *shard[K, V]) storeLocked(
	old, e *entry[K, V], weight int64, now int64, events *[]MemoryEvent[K, V],
) bool {
	if weight > s.m.heaviest {
		s.refuseLocked(old, e, events)
		return false
	}
	if old != nil {
		slot := old.slot()
		e.number |= slot
		s.slots[slot] = e
		s.table.Load().replace(old, e)
		s.policy.touch(slot, e.tag)
		if s.weights != nil && s.weights[slot] != weight {
			from := s.weights[slot]
			s.weights[slot] = weight
			s.gainLocked(weight - from)
			s.policy.reweigh(slot, from, weight)
		}
		s.recordRemovalLocked(old, s.m.whyReplaced(old), events)
	} else {
		s.addLocked(e, weight)
	}
	s.scheduleLocked(e, now)
	for more := true; more; more = s.countLocked() {
		for excess := s.excess(); excess > 0; excess = s.excess() {
			victim := s.slots[s.policy.evict(excess, e.slot())]
			s.dropLocked(victim, evicted, events)
		}
	}
	return true
}

// refuseLocked accounts for e, which is not stored. If old is not nil it is removed all the same,
// for it was to be replaced.
func (s *shard[K, V]) refuseLocked(old, e *entry[K, V], events *[]MemoryEvent[K, V]) {
	s.refused++
	s.m.tags.release(e.tags())
	if s.m.cfg.Observe != nil {
		value := e.load(s.m.storage)
		*events = append(*events, MemoryEvent[K, V]{Kind: MemoryRefused, Key: e.key, Value: value})
	}
	if old != nil {
		s.removeLocked(old, s.m.whyReplaced(old), events)
	}
}

func (s *shard[K, V]) addLocked(e *entry[K, V], weight int64) {
	var slot uint32
	if n := len(s.free); n > 0 {
		slot, s.free = s.free[n-1], s.free[:n-1]
	} else {
		slot = uint32(len(s.slots))
		s.slots = append(s.slots, nil)
		if s.weights != nil {
			s.weights = append(s.weights, 0)
		}
	}
	e.number |= slot
	s.slots[slot] = e
	if s.weights != nil {
		s.weights[slot] = weight
	}
	s.gainLocked(weight)
	s.count++
	if s.unneeded = 0; s.sparse.Load() != 0 {
		s.sparse.Store(0)
	}
	t := s.table.Load()
	if s.count > len(t.buckets) {
		s.growing.Store(true)
		t = t.grown()
		s.table.Store(t)
		s.growing.Store(false)
	}
	t.insert(e)
	s.drainLocked()
	full := s.excess() > 0
	s.policy.add(slot, e.tag, weight, full, s.askedLocked(full))
}

// askedLocked reports whether what is added is there because somebody asked for it, as far as the
// counts of misses and entries tell. In a cache that is filled in advance that is no use yet: if it
// counted as one, no key that is asked for once could displace another that never is.
func (s *shard[K, V]) askedLocked(full bool) bool {
	if full {
		s.unasked = false
	} else if s.count%askedSteps == 1 {
		missed := s.m.misses()
		if s.count == 1 {
			s.missed = missed - min(missed, 1) // the last miss may be why this one is here
		}
		s.unasked = 2*(missed-s.missed) < uint64(s.count*len(s.m.shards))
	}
	return !s.unasked
}

func (s *shard[K, V]) gainLocked(weight int64) {
	s.weight += weight
	if len(s.m.shards) > 1 {
		s.uncounted += weight
	}
}

// countLocked adds to Memory.total what the shard has gained or lost since it last did, and reports
// whether that was anything but zero. Where a newcomer takes the place of what it evicts it is
// zero: then processors that store in different shards do not take Memory.total from each other.
func (s *shard[K, V]) countLocked() bool {
	if s.uncounted == 0 {
		return false
	}
	s.m.total.Add(s.uncounted)
	s.uncounted = 0
	return true
}

// excess returns how much has to leave. The cache as a whole must not be above its bound. A shard
// may be above its share of that, but not by much: otherwise one shard would take the room of the
// others.
func (s *shard[K, V]) excess() int64 {
	if len(s.m.shards) == 1 {
		return s.weight - s.max
	}
	excess := s.weight - s.max - s.max/shardSlack
	if s.count > 1 {
		excess = max(excess, s.m.total.Load()+s.uncounted-s.m.max)
	}
	return excess
}

// removeLocked removes e for another reason than a full cache.
func (s *shard[K, V]) removeLocked(e *entry[K, V], why cause, events *[]MemoryEvent[K, V]) {
	s.policy.remove(e.slot(), s.slotWeight(e.slot()))
	s.dropLocked(e, why, events)
	s.countLocked()
}

// dropLocked removes e, which the policy has forgotten already.
func (s *shard[K, V]) dropLocked(e *entry[K, V], why cause, events *[]MemoryEvent[K, V]) {
	s.table.Load().replace(e, nil)
	s.gainLocked(-s.slotWeight(e.slot()))
	s.count--
	s.slots[e.slot()] = nil
	s.free = append(s.free, e.slot())
	if s.timers != nil {
		s.timers.cancel(e.slot())
	}
	s.recordRemovalLocked(e, why, events)
}

// recordRemovalLocked accounts for an entry that readers no longer find.
func (s *shard[K, V]) recordRemovalLocked(e *entry[K, V], why cause, events *[]MemoryEvent[K, V]) {
	s.removed[why]++
	s.m.tags.release(e.tags())
	if s.m.cfg.Observe != nil && !e.failed() {
		*events = append(*events, MemoryEvent[K, V]{
			Kind: MemoryRemoved, Key: e.key, Value: e.load(s.m.storage), Reason: why.reason()})
	}
}

// scheduleLocked sets the timer of e, or stops it if e never expires.
func (s *shard[K, V]) scheduleLocked(e *entry[K, V], now int64) {
	at := s.m.removeAt(e)
	if s.timers == nil {
		if at == 0 {
			return
		}
		s.timers = newTimers(now)
	}
	s.timers.cancel(e.slot())
	if at != 0 {
		s.timers.schedule(e.slot(), at)
	}
}

// expireLocked removes what has expired by now.
func (s *shard[K, V]) expireLocked(now int64, events *[]MemoryEvent[K, V]) {
	if s.timers == nil {
		return
	}
	s.timers.advance(now, func(slot uint32) (later int64) {
		e := s.slots[slot]
		if at := s.m.removeAt(e); at > now {
			return at // it was read since the timer was set
		}
		s.removeLocked(e, expired, events)
		return 0
	})
}

// expiredLocked returns how many entries have expired by now and are still here, and what they
// weigh.
func (s *shard[K, V]) expiredLocked(now int64) (entries int, weight int64) {
	if s.timers == nil {
		return 0, 0
	}
	s.timers.due(now, func(slot uint32) {
		if s.m.removeAt(s.slots[slot]) <= now {
			entries++
			weight += s.slotWeight(slot)
		}
	})
	return entries, weight
}

func (s *shard[K, V]) slotWeight(slot uint32) int64 {
	if s.weights == nil {
		return 1
	}
	return s.weights[slot]
}
