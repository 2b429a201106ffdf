package cache

import (
	"context"
	"math"
	"time"
)

// Forever is the TTL of a value that stays fresh until it is removed.
const Forever time.Duration = math.MaxInt64

// A MemoryItem is a value with properties of its own, for [Memory.SetItem]. It may be used by
// several goroutines while none changes it.
type MemoryItem[V any] struct {
	Value V

	// TTL is for how long the value is fresh: [Forever], for ever. Zero means what
	// [MemoryConfig.TTL] says. A value with a negative one is over already, and is not stored.
	TTL time.Duration

	// Expires ends the value's TTL if that is not over before, for values with a deadline of their
	// own. Zero means no deadline. A value whose deadline has passed is not stored.
	Expires time.Time

	// Tags are names for [Memory.InvalidateTag]. If nil, the value has those that
	// [MemoryConfig.Tags] gives it; if empty and not nil, none. The slice is not kept.
	Tags []string
}

// Set stores value under key, with the TTL and the tags that the configuration gives it. A load of
// key under way will not overwrite it. Set reports whether value was stored: it is refused if it is
// too heavy, if its TTL is over already, or if key is not equal to itself (NaN). What key had is
// gone either way.
//
// A value read from a database is better stored by [Memory.Load]: Set may bring back what was
// invalidated since it was read.
func (m *Memory[K, V]) Set(key K, value V) bool {
	return m.SetItem(key, MemoryItem[V]{Value: value})
}

// SetItem is [Memory.Set] with properties of the item's own.
func (m *Memory[K, V]) SetItem(key K, item MemoryItem[V]) bool {
	hash := m.hash(key)
	s := m.shard(hash)
	old := s.find(hash, key) // now, so that it is in the processor's cache when we have the lock
	if old != nil && m.plainSets && item.plain() && old.plain() {
		m.overwrite(s, old, item.Value)
		return true
	}
	_, ok := m.put(s, hash, key, item, false)
	return ok
}

// SetIfAbsent returns the value of key and false, if there is a fresh one; otherwise it is SetItem,
// and returns the item's value and whether that was stored. Of several callers at a time one stores
// its value, and all get that. It does not count as reading.
func (m *Memory[K, V]) SetIfAbsent(key K, item MemoryItem[V]) (value V, stored bool) {
	hash := m.hash(key)
	s := m.shard(hash)
	there := s.find(hash, key)
	if there == nil || !m.readable(there) {
		if there, stored = m.put(s, hash, key, item, true); there == nil {
			return item.Value, stored
		}
	}
	return there.load(m.storage), false
}

// put stores item under key and reports whether it did. If ifAbsent is true it leaves a fresh value
// as it is, and returns its entry.
func (m *Memory[K, V]) put(
	s *shard[K, V], hash uint64, key K, item MemoryItem[V], ifAbsent bool,
) (there *entry[K, V], ok bool) {
	if !findable(key) {
		return nil, m.refuse(s, key, item.Value)
	}
	if m.cfg.Observe != nil && m.nested() {
		return nil, m.refuseNested(s, key)
	}
	e, weight, now, ok := m.entryOf(hash, key, item)

	var events []MemoryEvent[K, V]
	s.mu.Lock()
	if ifAbsent {
		if there = s.table.Load().find(hash, key); there != nil && m.readable(there) {
			m.tags.release(e.tags())
			s.mu.Unlock()
			return there, false
		}
	}
	s.detachLocked(key)
	if now == 0 && s.timers != nil {
		now = m.now()
	}
	s.expireLocked(now, &events)
	if old := s.table.Load().find(hash, key); ok {
		ok = s.storeLocked(old, e, weight, now, &events)
	} else {
		s.refuseLocked(old, e, &events)
	}
	s.mu.Unlock()
	m.notify(context.Background(), events)
	return nil, ok
}

// readable reports whether Get would find e.
func (m *Memory[K, V]) readable(e *entry[K, V]) bool {
	return e.plain() || !e.failed() && m.condition(e, m.now()) == fresh
}

// TimeLeft returns for how long the value of key stays fresh if nobody reads it or removes it:
// [Forever], for ever. It reports false if [Memory.Get] would find none. It does not count as
// reading.
func (m *Memory[K, V]) TimeLeft(key K) (left time.Duration, ok bool) {
	hash := m.hash(key)
	e := m.shard(hash).find(hash, key)
	if e == nil {
		return 0, false
	}
	x := e.extended()
	if x == nil {
		return Forever, true
	}
	now := m.now()
	if e.failed() || m.condition(e, now) != fresh {
		return 0, false
	}
	left = Forever
	until, idle := m.times(x)
	for _, end := range []int64{until, idle} {
		if end != 0 {
			left = min(left, time.Duration(end-now))
		}
	}
	return left, true
}

// plain reports whether the item has no properties of its own that end its life.
func (i MemoryItem[V]) plain() bool {
	return (i.TTL == 0 || i.TTL == Forever) && i.Expires.IsZero() && i.Tags == nil
}

// entryOf returns an entry for item and its weight, as of now, which is 0 if nothing depends on it.
// It reports false if the item's time is over.
func (m *Memory[K, V]) entryOf(
	hash uint64, key K, item MemoryItem[V],
) (e *entry[K, V], weight, now int64, ok bool) {
	weight = m.weight(key, item.Value)
	names := item.Tags
	if names == nil && m.cfg.Tags != nil {
		names = m.cfg.Tags(key, item.Value)
	}
	if m.timed || item.TTL != 0 || !item.Expires.IsZero() {
		now = m.now()
	}
	until, ok := m.until(key, item, now)
	var d *details
	if ok && len(names) > 0 { // the user's functions have all returned: what is acquired now is given back
		d = &details{seq: m.tags.clock.Load()}
		d.tags, _ = m.tags.acquire(names, math.MaxUint64) // never refused: no clock reads more
	}
	return m.newEntry(hash, key, item.Value, now, until, d), weight, now, ok
}

// until returns when an item that is stored at now stops being fresh; 0 means never. It reports
// false if its time is over. No number that can come of arithmetic means for ever: a TTL may be
// computed from a deadline that has passed.
func (m *Memory[K, V]) until(key K, item MemoryItem[V], now int64) (until int64, ok bool) {
	ttl := item.TTL
	if ttl == 0 {
		ttl = Forever
		if m.cfg.TTL != nil {
			ttl = m.cfg.TTL(key, item.Value)
		}
	}
	if !item.Expires.IsZero() {
		ttl = min(ttl, time.Until(item.Expires))
	}
	switch {
	case ttl <= 0:
		return 0, false
	case ttl == Forever:
		return 0, true
	case m.cfg.Jitter > 0:
		ttl -= time.Duration(float64(ttl) * m.cfg.Jitter * m.random())
	}
	return after(now, max(1, ttl)), true
}

// overwrite gives e, which is plain, another value, without the lock. If e is removed meanwhile,
// the overwrite counts as the earlier of the two. No load of its key can be under way: a plain
// entry never expires, so nothing loads it.
func (m *Memory[K, V]) overwrite(s *shard[K, V], e *entry[K, V], value V) {
	e.store(m.storage, value)
	self := self()
	if s.counter(self).swaps.Add(1)&s.sparse.Load() == 0 {
		s.note(self, e)
	}
}

// findable reports whether key is equal to itself. A key with a floating-point NaN is not: nobody
// could find it in a table, nor take it out again.
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
		m.cfg.Observe(context.Background(), MemoryEvent[K, V]{Kind: MemoryRefused, Key: key, Value: value})
	}
	return false
}

// refuseNested refuses to store what an observer wants stored that is nested too deep. It is not
// told of that, only of what key had: there is an end of that.
func (m *Memory[K, V]) refuseNested(s *shard[K, V], key K) bool {
	m.Delete(key)
	s.mu.Lock()
	s.refused++
	s.mu.Unlock()
	return false
}

// weight returns the weight of an entry, at least 1. A negative one is too heavy for every cache.
func (m *Memory[K, V]) weight(key K, value V) int64 {
	if m.cfg.Weigher == nil {
		return 1
	}
	weight := m.cfg.Weigher(key, value)
	if weight < 0 {
		return math.MaxInt64
	}
	return max(1, weight)
}
