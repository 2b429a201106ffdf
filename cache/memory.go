package cache

import (
	"context"
	"hash/maphash"
	"iter"
	"log/slog"
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
)

// A Memory keeps values in memory, within a bound, for the code of one process:
// the results of database queries and service calls. Create one with
// [NewMemory]. It is safe for concurrent use.
//
// A Memory starts goroutines for loads only; [Memory.Close] ends those.
type Memory[K comparable, V any] struct {
	cfg         MemoryConfig[K, V] // read-only after NewMemory
	seed        maphash.Seed
	start       time.Time // now counts from here
	storage     storage
	timed       bool // the configuration may make entries expire
	plainSets   bool // a value set without properties can overwrite another in place
	shards      []shard[K, V]
	counters    []counter    // a power of two
	shift       uint8        // of the hash, to the bits that choose a shard
	max         int64        // bound of the weight
	total       atomic.Int64 // weight, if there are several shards
	heaviest    int64        // weight of an entry that is not refused
	errorWeight int64
	idleStep    int64          // least prolongation of an entry's life that is worth a write
	random      func() float64 // in [0, 1)
	tags        tagIndex
	loads       loads
}

// An Item is a value with properties of its own, for [Memory.SetItem].
type Item[V any] struct {
	Value V

	// TTL is for how long the value is fresh. Zero means what
	// [MemoryConfig.TTL] says. Negative means for ever.
	TTL time.Duration

	// Tags are names for [Memory.InvalidateTag]. If nil, the value has those
	// that [MemoryConfig.Tags] gives it; if empty and not nil, none. They are not kept.
	Tags []string
}

// A Reason tells why an entry left a [Memory].
type Reason int

const (
	Evicted     Reason = iota // the cache was full
	Expired                   // its time was over
	Replaced                  // it was overwritten
	Deleted                   // Delete or Clear
	Invalidated               // its tag was, and it was met later

	reasons = iota
)

func (r Reason) String() string {
	switch r {
	case Evicted:
		return "evicted"
	case Expired:
		return "expired"
	case Replaced:
		return "replaced"
	case Deleted:
		return "deleted"
	case Invalidated:
		return "invalidated"
	}
	return "unknown"
}

// A MemoryEventKind tells which kind of event a [MemoryEvent] is.
type MemoryEventKind int

const (
	// Loaded: a loader has returned. Err is what went wrong, if anything did.
	Loaded MemoryEventKind = iota
	// Removed: Key with Value is no longer in the cache, for Reason.
	Removed
	// Refused: Key with Value was not stored, for it was too heavy or Key is not equal
	// to itself (NaN).
	Refused
)

func (k MemoryEventKind) String() string {
	switch k {
	case Loaded:
		return "load"
	case Removed:
		return "removal"
	case Refused:
		return "refusal"
	}
	return "unknown"
}

// A MemoryEvent is something that happened in a [Memory].
type MemoryEvent[K comparable, V any] struct {
	Kind       MemoryEventKind
	Key        K
	Value      V
	Reason     Reason        // of a removal
	Duration   time.Duration // of a load
	Background bool          // a load that no caller waited for: a refresh, or one that all have left
	Err        error         // of a load
}

// LogValue implements [slog.LogValuer]. It does not show values.
func (e MemoryEvent[K, V]) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("event", e.Kind.String())}
	detail := []any{slog.Any("key", e.Key)}
	switch e.Kind {
	case Loaded:
		attrs = append(attrs, slog.Bool("failed", e.Err != nil), slog.Bool("background", e.Background),
			slog.Duration("duration", e.Duration))
		if e.Err != nil {
			detail = append(detail, slog.Any("error", e.Err))
		}
	case Removed:
		attrs = append(attrs, slog.String("reason", e.Reason.String()))
	}
	return slog.GroupValue(append(attrs, slog.Group("detail", detail...))...)
}

// MemoryStats is a snapshot of the counters and gauges of a [Memory].
type MemoryStats struct {
	Hits       uint64            // a fresh value or a kept error was there
	StaleHits  uint64            // a stale value was returned without waiting
	Misses     uint64            // neither
	Fallbacks  uint64            // loads that failed and were answered with a stale value
	HitRatio   float64           // (Hits + StaleHits) / all; 0 if nothing was read
	Loads      uint64            // loader calls that have returned; of keys, for LoadMany
	LoadErrors uint64            // of these, failed
	Loading    int               // calls of loaders, and of Restore, under way
	Removals   map[string]uint64 // by Reason
	Refusals   uint64            // values not stored, for they were too heavy or their keys NaN
	Entries    int               // including invalidated ones not met since
	Weight     int64             // of these; without a Weigher the same number
}

// shardEntries is how many entries a shard has at least. Smaller ones cost hit
// ratio: up to five points at a thousand entries, nothing at ten thousand.
const shardEntries = 8192

// NewMemory returns an empty Memory. The error, if any, names every invalid
// field of cfg.
func NewMemory[K comparable, V any](cfg MemoryConfig[K, V]) (*Memory[K, V], error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Memory[K, V]{
		cfg:         cfg,
		seed:        maphash.MakeSeed(),
		start:       time.Now(),
		heaviest:    1,
		errorWeight: 1,
		random:      rand.Float64,
	}
	m.storage = storageFor[V]()
	m.timed = cfg.TTL != nil || cfg.IdleTTL > 0
	// An observer hears of each value that leaves exactly once; overwriting in place while
	// another removes the entry could not promise that.
	m.plainSets = m.storage != asValue && cfg.Weigher == nil && cfg.Tags == nil && cfg.Observe == nil && !m.timed
	m.idleStep = max(1, min(int64(time.Millisecond), int64(cfg.IdleTTL/16)))
	m.tags.softFor = int64(max(cfg.Stale, cfg.StaleIfError))
	m.loads.init()
	// Weights are not shared out: how many entries there will be is not known, and one
	// may be as heavy as a shard's share.
	total, shards := int64(cfg.MaxEntries), min(4*ceilPowerOf2(runtime.GOMAXPROCS(0)), floorPowerOf2(cfg.MaxEntries/shardEntries))
	if cfg.Weigher != nil {
		total, shards = cfg.MaxWeight, 1
		m.heaviest = max(1, cfg.MaxWeight/4)
		m.errorWeight = max(1, cfg.MaxWeight/10_000)
	}
	m.max = total
	m.shards = make([]shard[K, V], shards)
	m.shift = uint8(64 - bits.Len(uint(shards-1)))
	processors := ceilPowerOf2(runtime.GOMAXPROCS(0))
	m.counters = make([]counter, min(256, 16*processors))
	stripes := min(16, max(1, 4*processors/shards))
	for i := range m.shards {
		s := &m.shards[i]
		s.m = m
		s.max = total / int64(shards)
		if int64(i) < total%int64(shards) {
			s.max++
		}
		s.table.Store(newTable[K, V](minBuckets))
		s.counters = m.counters
		s.stripes = make([]stripe, stripes)
		s.slots = make([]*entry[K, V], 1)
		if cfg.Weigher != nil {
			s.weights = make([]int64, 1)
		}
		if cfg.Eviction == LRU {
			s.policy = newLRU()
		} else {
			s.policy = newTinyLFU(s.max, &s.weights)
		}
		s.flights = make(map[K]*flight[V])
	}
	return m, nil
}

func ceilPowerOf2(n int) int  { return 1 << bits.Len(uint(max(n, 1)-1)) }
func floorPowerOf2(n int) int { return 1 << (bits.Len(uint(max(n, 1))) - 1) }

func (m *Memory[K, V]) hash(key K) uint64 { return maphash.Comparable(m.seed, key) }

func (m *Memory[K, V]) shard(hash uint64) *shard[K, V] {
	// Shifting by 64, for one shard, gives 0.
	return &m.shards[hash>>m.shift&uint64(len(m.shards)-1)]
}

// now is the monotonic time since the cache was made, at least 1: a clock that is
// set back or forth makes nothing fresh for ever.
func (m *Memory[K, V]) now() int64 { return int64(time.Since(m.start)) + 1 }

// Get returns the value of key, if there is a fresh one; otherwise the zero value and
// false. It waits for no lock, unless tables grow at that moment, and allocates nothing.
func (m *Memory[K, V]) Get(key K) (value V, ok bool) {
	hash := m.hash(key)
	s := m.shard(hash)
	if e := s.find(hash, key); e != nil && (e.plain() || m.usable(e)) {
		s.hit(e)
		return e.load(m.storage), true
	}
	s.miss()
	return value, false
}

// usable reports whether e, which is not plain, is a fresh value.
func (m *Memory[K, V]) usable(e *entry[K, V]) bool {
	now := m.now()
	if e.failed() || m.condition(e, now) != fresh {
		return false
	}
	m.touch(e.full(), now)
	return true
}

// Set stores value under key, with the TTL and the tags that the configuration
// gives it. A load of key under way will not overwrite it. Set reports whether
// value was stored: it was unless it is too heavy, or key is not equal to itself
// (NaN). What key had is gone either way. A value read from a database is better stored
// by [Memory.Load]: Set may bring back what was invalidated since it was read.
func (m *Memory[K, V]) Set(key K, value V) bool {
	return m.SetItem(key, Item[V]{Value: value})
}

// SetItem is [Memory.Set] with properties of the item's own.
func (m *Memory[K, V]) SetItem(key K, item Item[V]) bool {
	hash := m.hash(key)
	s := m.shard(hash)
	old := s.find(hash, key) // now, so that it is in the processor's cache when we have the lock
	if old != nil && m.plainSets && item.TTL <= 0 && item.Tags == nil && old.plain() {
		m.overwrite(s, old, item.Value)
		return true
	}
	if !findable(key) {
		return m.refuse(s, key, item.Value)
	}
	weight := m.weight(key, item.Value)
	var more *details
	names := item.Tags
	if names == nil && m.cfg.Tags != nil {
		names = m.cfg.Tags(key, item.Value)
	}
	var now int64
	if item.TTL > 0 || m.timed {
		now = m.now()
	}
	until := m.until(key, item.Value, item.TTL, now)
	if len(names) > 0 { // the user's functions have all returned: what is acquired now will be stored
		more = &details{seq: m.tags.clock.Load()}
		more.tags, _ = m.tags.acquire(names, math.MaxUint64) // no tag was invalidated after the end of time
	}
	e := m.newEntry(hash, key, item.Value, now, until, more)

	var events []MemoryEvent[K, V]
	s.mu.Lock()
	s.detachLocked(key)
	if now == 0 && s.timers != nil {
		now = m.now()
	}
	s.expireLocked(now, &events)
	ok := s.storeLocked(s.table.Load().find(hash, key), e, weight, now, &events)
	s.mu.Unlock()
	m.notify(context.Background(), events)
	return ok
}

// overwrite gives e, which is plain, another value, without the lock. If e is removed
// meanwhile, this came before that. No load of its key can be under way: there
// is none of what is plain.
func (m *Memory[K, V]) overwrite(s *shard[K, V], e *entry[K, V], value V) {
	e.store(m.storage, value)
	self := self()
	if s.counter(self).swaps.Add(1)&s.sparse.Load() == 0 {
		s.note(self, e)
	}
}

// findable reports whether key is equal to itself. One with a floating-point NaN is
// not: nobody could find it in a table, nor take it out again.
func findable[K comparable](key K) bool {
	same := key
	return key == same
}

// refuse accounts for an entry whose key is not findable.
func (m *Memory[K, V]) refuse(s *shard[K, V], key K, value V) bool {
	s.mu.Lock()
	s.refused++
	s.mu.Unlock()
	if m.cfg.Observe != nil {
		m.cfg.Observe(context.Background(), MemoryEvent[K, V]{Kind: Refused, Key: key, Value: value})
	}
	return false
}

// weight of an entry, at least 1.
func (m *Memory[K, V]) weight(key K, value V) int64 {
	if m.cfg.Weigher == nil {
		return 1
	}
	return max(1, m.cfg.Weigher(key, value))
}

// Delete removes key and reports whether [Memory.Get] would have found it. A load
// of key under way will not bring it back.
func (m *Memory[K, V]) Delete(key K) bool {
	hash := m.hash(key)
	s := m.shard(hash)
	var events []MemoryEvent[K, V]
	s.mu.Lock()
	s.detachLocked(key)
	e := s.table.Load().find(hash, key)
	found := e != nil && !e.failed() && m.condition(e, m.now()) == fresh
	if e != nil {
		s.removeLocked(e, Deleted, &events)
	}
	s.mu.Unlock()
	m.notify(context.Background(), events)
	return found
}

// Clear removes everything, shard by shard: what others set meanwhile may stay. Loads under way will not bring anything back.
func (m *Memory[K, V]) Clear() {
	for i := range m.shards {
		s := &m.shards[i]
		var events []MemoryEvent[K, V]
		s.mu.Lock()
		for key := range s.flights {
			s.detachLocked(key)
		}
		for _, e := range s.slots {
			if e != nil {
				s.removeLocked(e, Deleted, &events)
			}
		}
		s.mu.Unlock()
		m.notify(context.Background(), events)
	}
}

// InvalidateTag makes all that has the tag gone or stale, in the same short time
// however much that is. A load under way of a value with the tag will not bring
// back what was loaded before. Entries that are gone still count, and are
// evicted, until they are met.
func (m *Memory[K, V]) InvalidateTag(tag string, how Invalidation) {
	m.tags.invalidate(tag, how, m.now())
}

// All returns an iterator over the fresh entries, in no order. It takes no
// snapshot: an entry that is there all the while is yielded once, one that comes
// or goes may be or not. Iterating is not reading: it keeps nothing alive.
func (m *Memory[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		var found [256]*entry[K, V]
		for i := range m.shards {
			s := &m.shards[i]
			for from, more := 0, true; more; from += len(found) {
				s.mu.Lock()
				n := 0
				if more = from < len(s.slots); more {
					n = copy(found[:], s.slots[from:])
				}
				s.mu.Unlock()
				for _, e := range found[:n] {
					if e != nil && !e.failed() && m.condition(e, m.now()) == fresh && !yield(e.key, e.load(m.storage)) {
						return
					}
				}
			}
		}
	}
}

// Stats returns a snapshot. It also removes what has expired, so that a cache
// which nobody writes to shrinks whenever its figures are read.
func (m *Memory[K, V]) Stats() MemoryStats {
	st := MemoryStats{
		StaleHits:  m.loads.stale.Load(),
		Fallbacks:  m.loads.fallbacks.Load(),
		Loads:      m.loads.done.Load(),
		LoadErrors: m.loads.failed.Load(),
		Loading:    int(m.tags.loading.Load()),
		Removals:   make(map[string]uint64, reasons),
	}
	for i := range m.counters {
		st.Hits += m.counters[i].hits.Load()
		st.Misses += m.counters[i].misses.Load()
		st.Removals[Replaced.String()] += m.counters[i].swaps.Load()
	}
	for i := range m.shards {
		s := &m.shards[i]
		var events []MemoryEvent[K, V]
		s.mu.Lock()
		s.expireLocked(m.now(), &events)
		s.mu.Unlock()
		m.notify(context.Background(), events)
	}
	// All at once, so that the sum is one that was.
	for i := range m.shards {
		m.shards[i].mu.Lock()
	}
	for i := range m.shards {
		s := &m.shards[i]
		for why, n := range s.removed {
			st.Removals[Reason(why).String()] += n
		}
		st.Refusals += s.refused
		st.Entries += s.count
		st.Weight += s.weight
		s.mu.Unlock()
	}
	if hits, all := st.Hits+st.StaleHits, st.Hits+st.StaleHits+st.Misses; all > 0 {
		st.HitRatio = float64(hits) / float64(all)
	}
	return st
}
