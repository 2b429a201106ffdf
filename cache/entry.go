package cache

import (
	"math"
	"sync/atomic"
	"time"
	"unsafe"
)

// An entry is one stored value. Readers meet it without a lock, so whatever
// they look at is either immutable or atomic. Most entries need no more than this,
// and small ones fill half a cache line; the others are the first field of a fullEntry.
type entry[K comparable, V any] struct {
	next   atomic.Pointer[entry[K, V]] // in the bucket's chain
	number uint32                      // see slot; the top bit says whether this is in a fullEntry
	tag    uint32                      // upper half of the key's hash
	key    K
	value  V // see storage
}

const inFullEntry = 1 << 31

// A fullEntry can expire or be invalidated.
type fullEntry[K comparable, V any] struct {
	entry[K, V]
	expires atomic.Int64  // Memory.now from which this is no plain hit; 0 means never
	took    time.Duration // to load it; 0 if it was set
	more    *details      // may be nil
}

// details are what few entries have.
type details struct {
	tags    []*tag
	seq     uint64       // reading of tagIndex.clock that the value is as old as
	softAt  atomic.Int64 // when a soft invalidation was first noticed; 0 if not
	until   int64        // end of the TTL, if expires may be sooner for idleness; 0 is never
	err     error        // the entry is a kept error and has no value
	retryAt atomic.Int64 // a load failed: return the stale value without another try until then
}

// newEntry returns an entry that will be fresh from now until a time, for ever if
// that is 0. It is full if it has to be, or if more is not nil.
func (m *Memory[K, V]) newEntry(hash uint64, key K, value V, now, until int64, more *details) *entry[K, V] {
	if until == 0 && more == nil && m.cfg.IdleTTL == 0 {
		return &entry[K, V]{key: key, value: value, tag: uint32(hash >> 32)}
	}
	f := &fullEntry[K, V]{entry: entry[K, V]{key: key, value: value, tag: uint32(hash >> 32), number: inFullEntry}, more: more}
	expires := until
	if m.cfg.IdleTTL > 0 {
		expires = after(now, m.cfg.IdleTTL)
		if until != 0 {
			expires = min(expires, until)
			f.details().until = until
		}
	}
	if m.cfg.ErrorTTL != nil && max(m.cfg.Stale, m.cfg.StaleIfError) > 0 {
		f.details() // has retryAt
	}
	f.expires.Store(expires)
	return &f.entry
}

// details returns f.more, which it makes if need be; f is not shared yet.
func (f *fullEntry[K, V]) details() *details {
	if f.more == nil {
		f.more = new(details)
	}
	return f.more
}

// slot is what lists, sketch and timers know e by.
func (e *entry[K, V]) slot() uint32 { return e.number &^ inFullEntry }

// plain reports whether e never expires and has no tags.
func (e *entry[K, V]) plain() bool { return e.number < inFullEntry }

// full returns the fullEntry that e is the first field of; nil if e is plain.
func (e *entry[K, V]) full() *fullEntry[K, V] {
	if e.plain() {
		return nil
	}
	return (*fullEntry[K, V])(unsafe.Pointer(e))
}

// failed reports whether e is a kept error.
func (e *entry[K, V]) failed() bool {
	f := e.full()
	return f != nil && f.more != nil && f.more.err != nil
}

// tags returns the tags of e.
func (e *entry[K, V]) tags() []*tag {
	if f := e.full(); f != nil && f.more != nil {
		return f.more.tags
	}
	return nil
}

// A condition is what an entry is good for.
type condition int

const (
	gone     condition = iota // nothing
	fallback                  // if loading a new one fails
	stale                     // while a new one is loaded
	fresh
)

// condition returns what e is good for at now.
func (m *Memory[K, V]) condition(e *entry[K, V], now int64) condition {
	f := e.full()
	if f == nil {
		return fresh
	}
	until, idle := m.times(f)
	if idle != 0 && now >= idle {
		return gone
	}
	if f.more != nil && len(f.more.tags) > 0 {
		soft, hard := f.more.invalidated()
		if hard {
			return gone
		}
		if soft != 0 && (until == 0 || soft < until) {
			until = soft
		}
	}
	switch {
	case until == 0 || now < until:
		return fresh
	case e.failed():
		return gone
	case now-until < int64(m.cfg.Stale):
		return stale
	case now-until < int64(m.cfg.StaleIfError):
		return fallback
	}
	return gone
}

// whyReplaced returns the reason for which e, in whose place another is stored, leaves:
// it may have been of no use already.
func (m *Memory[K, V]) whyReplaced(e *entry[K, V]) cause {
	f := e.full()
	switch {
	case f == nil || m.condition(e, m.now()) != gone:
		return replaced
	case f.more != nil:
		if _, hard := f.more.invalidated(); hard {
			return invalidated
		}
	}
	return expired
}

// times returns the end of f's TTL, and when f leaves for idleness if that is sooner. 0 is never.
func (m *Memory[K, V]) times(f *fullEntry[K, V]) (until, idle int64) {
	expires := f.expires.Load()
	if m.cfg.IdleTTL == 0 || f.failed() {
		return expires, 0
	}
	if f.more != nil {
		until = f.more.until
	}
	if expires != until {
		idle = expires
	}
	return until, idle
}

// invalidated reports whether a tag was invalidated, and since when softly.
func (d *details) invalidated() (softAt int64, hard bool) {
	for _, t := range d.tags {
		if t.hard.Load() > d.seq {
			return 0, true
		}
		if t.soft.Load() > d.seq {
			at := t.softAt.Load()
			if t.first.Load() > d.seq {
				at = t.firstAt.Load()
			}
			if softAt == 0 || at < softAt {
				softAt = at
			}
		}
	}
	// The first that was noticed counts, or else repeated ones would prolong the stale time.
	if softAt != 0 && !d.softAt.CompareAndSwap(0, softAt) {
		softAt = d.softAt.Load()
	}
	return softAt, false
}

// until returns when a value that is set or loaded at now stops being fresh, 0 for
// never. A ttl of 0 is the configuration's, a negative one is none.
func (m *Memory[K, V]) until(key K, value V, ttl time.Duration, now int64) int64 {
	if ttl == 0 && m.cfg.TTL != nil {
		ttl = m.cfg.TTL(key, value)
	}
	if ttl <= 0 {
		return 0
	}
	if m.cfg.Jitter > 0 {
		ttl -= time.Duration(float64(ttl) * m.cfg.Jitter * m.random())
	}
	return after(now, max(1, ttl))
}

// after returns now + d, or the end of time.
func after(now int64, d time.Duration) int64 {
	if int64(d) > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + int64(d)
}

// touch prolongs the life of f, which was read at now.
func (m *Memory[K, V]) touch(f *fullEntry[K, V], now int64) {
	if m.cfg.IdleTTL == 0 || f.failed() {
		return
	}
	expires := after(now, m.cfg.IdleTTL)
	if f.more != nil && f.more.until != 0 {
		expires = min(expires, f.more.until)
	}
	// Not at every read: a hot entry would go from processor to processor.
	if old := f.expires.Load(); expires-old >= m.idleStep {
		f.expires.CompareAndSwap(old, expires)
	}
}

// leaves returns when e is of no more use, or 0 for never. Invalidation of its
// tags is not considered.
func (m *Memory[K, V]) leaves(e *entry[K, V]) int64 {
	f := e.full()
	if f == nil {
		return 0
	}
	until, idle := m.times(f)
	if until != 0 && !f.failed() {
		until = after(until, max(m.cfg.Stale, m.cfg.StaleIfError))
	}
	if idle != 0 && (until == 0 || idle < until) {
		return idle
	}
	return until
}
