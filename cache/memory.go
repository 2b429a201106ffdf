package cache

import (
	"context"
	"hash/maphash"
	"iter"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
)

// A Memory keeps values in memory, within a bound, for the code of one process: the results of
// database queries and service calls. Create one with [NewMemory]. It is safe for concurrent use.
//
// A Memory starts goroutines for loads only; [Memory.Close] ends those.
type Memory[K comparable, V any] struct {
	cfg         MemoryConfig[K, V] // read-only after NewMemory
	seed        maphash.Seed
	start       time.Time // Memory.now counts from here
	storage     storage
	timed       bool // the configuration may make entries expire
	plainSets   bool // a value set without properties can overwrite another in place
	shards      []shard[K, V]
	counters    []counter // a power of two
	shift       uint8     // of the hash, to the bits that choose a shard
	max         int64     // bound of the weight
	heaviest    int64     // weight above which an entry is refused
	errorWeight int64
	idleStep    int64          // a read that would prolong an entry's life by less does not
	random      func() float64 // in [0, 1)
	observing   atomic.Int64   // calls of Observe under way
	tags        tagIndex
	loads       loads

	_     [64]byte     // writers share what is below, readers need what is above
	total atomic.Int64 // weight, if there are several shards
	_     [64]byte
}

// shardEntries is how many entries a shard has at least, if there are several. Smaller ones cost
// hit ratio: up to five points at a thousand entries, nothing at ten thousand.
const shardEntries = 8192

// NewMemory returns an empty Memory. The error, if any, names every invalid field of cfg.
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
	m.plainSets = m.storage != asValue && cfg.Weigher == nil && cfg.Tags == nil && cfg.Observe == nil &&
		!m.timed
	m.idleStep = max(1, min(int64(time.Millisecond), int64(cfg.IdleTTL/16)))
	m.tags.softFor = int64(max(cfg.Stale, cfg.StaleIfError))
	m.loads.init()
	processors := ceilPowerOf2(runtime.GOMAXPROCS(0))
	total, shards := int64(cfg.MaxEntries), min(4*processors, floorPowerOf2(cfg.MaxEntries/shardEntries))
	if cfg.Weigher != nil {
		// There is one shard: how many entries there will be is not known, and one may be as heavy
		// as a shard's share.
		total, shards = cfg.MaxWeight, 1
		m.heaviest = max(1, cfg.MaxWeight/4)
		m.errorWeight = max(1, cfg.MaxWeight/10_000)
	}
	m.max = total
	m.shards = make([]shard[K, V], shards)
	m.shift = uint8(64 - bits.Len(uint(shards-1)))
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
		s.flights = make(map[K]*flight[K, V])
	}
	return m, nil
}

func ceilPowerOf2(n int) int  { return 1 << bits.Len(uint(max(n, 1)-1)) }
func floorPowerOf2(n int) int { return 1 << (bits.Len(uint(max(n, 1))) - 1) }

func (m *Memory[K, V]) hash(key K) uint64 { return maphash.Comparable(m.seed, key) }

func (m *Memory[K, V]) shard(hash uint64) *shard[K, V] {
	// If there is one shard, shift is 64, and a shift by 64 gives 0.
	return &m.shards[hash>>m.shift&uint64(len(m.shards)-1)]
}

// now is the monotonic time since the cache was made, at least 1. A clock that is set back or forth
// changes no entry's life.
func (m *Memory[K, V]) now() int64 { return int64(time.Since(m.start)) + 1 }

// Get returns the value of key, if there is a fresh one; otherwise the zero value and false. It
// waits for no lock, unless a table grows at that moment, and allocates nothing.
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

// misses returns how often a key was not found.
func (m *Memory[K, V]) misses() (n uint64) {
	for i := range m.counters {
		n += m.counters[i].misses.Load()
	}
	return n
}

// usable reports whether e, which is not plain, is a fresh value.
func (m *Memory[K, V]) usable(e *entry[K, V]) bool {
	now := m.now()
	if e.failed() || m.condition(e, now) != fresh {
		return false
	}
	m.touch(e.extended(), now)
	return true
}

// Delete removes key and reports whether [Memory.Get] would have found it. A load of key under way
// will not bring it back.
func (m *Memory[K, V]) Delete(key K) bool {
	hash := m.hash(key)
	s := m.shard(hash)
	var events []MemoryEvent[K, V]
	s.mu.Lock()
	s.detachLocked(key)
	e := s.table.Load().find(hash, key)
	found := e != nil && !e.failed() && m.condition(e, m.now()) == fresh
	if e != nil {
		s.removeLocked(e, deleted, &events)
	}
	s.mu.Unlock()
	m.notify(context.Background(), events)
	return found
}

// Clear removes everything, shard by shard: what others set meanwhile may stay. Loads under way
// will not bring anything back.
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
				s.removeLocked(e, deleted, &events)
			}
		}
		s.mu.Unlock()
		m.notify(context.Background(), events)
	}
}

// InvalidateTag makes all entries with the tag gone or stale, in the same short time however many
// they are. A load under way of a value with the tag will not bring back what was loaded before.
// Entries that are gone take up room until their keys are stored anew, or until they are evicted.
//
// InvalidateTag reports whether it did so: if how is neither [Soft] nor [Hard] it changes nothing
// and returns false.
func (m *Memory[K, V]) InvalidateTag(tag string, how Invalidation) bool {
	if how != Soft && how != Hard {
		return false
	}
	m.tags.invalidate(tag, how, m.now())
	return true
}

// All returns an iterator over the fresh entries, in no order. It takes no snapshot: an entry that
// is there all the while is yielded once, one that comes or goes may be or not. Iterating is not
// reading: it keeps nothing alive.
func (m *Memory[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		var found [256]*entry[K, V]
		for i := range m.shards {
			s := &m.shards[i]
			for from, n := 0, len(found); n == len(found); from += n {
				s.mu.Lock()
				n = copy(found[:], s.slots[min(from, len(s.slots)):])
				s.mu.Unlock()
				for _, e := range found[:n] {
					if e == nil || e.failed() || m.condition(e, m.now()) != fresh {
						continue
					}
					if !yield(e.key, e.load(m.storage)) {
						return
					}
				}
			}
		}
	}
}
