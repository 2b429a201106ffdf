package cache

import (
	"math"
	"sync/atomic"
	"time"
	"unsafe"
)

// An entry is one stored value. Readers meet it without a lock, so whatever they look at is either
// immutable or atomic. Most entries need no more than this, and small ones fill half a cache line;
// the others are the first field of an extendedEntry.
type entry[K comparable, V any] struct {
	next   atomic.Pointer[entry[K, V]] // in the bucket's chain
	number uint32                      // the slot; the top bit says whether this is in an extendedEntry
	tag    uint32                      // upper half of the key's hash
	key    K
	value  V // see storage
}

const inExtendedEntry = 1 << 31

// An extendedEntry can expire or be invalidated. Its entry is found by a conversion with package
// unsafe, which takes neither a pointer nor a second object: BenchmarkMemoryEntry measures 61 bytes
// for a plain entry besides its key and value, and 107 for one with a TTL.
type extendedEntry[K comparable, V any] struct {
	entry[K, V]
	expires atomic.Int64  // Memory.now from which this is no plain hit; 0 means never
	took    time.Duration // to load it; 0 if it was set
	details *details      // may be nil
}

// details are what few entries have.
type details struct {
	tags    []*tag
	seq     uint64       // reading of tagIndex.clock that the value is as old as
	softAt  atomic.Int64 // when a soft invalidation was first noticed; 0 if none was
	until   int64        // end of the TTL, if expires may be sooner for idleness; 0 means never
	err     error        // the entry is a kept error and has no value
	retryAt atomic.Int64 // a load failed: return the stale value without another try until then
}

// newEntry returns an entry that is fresh from now until then, or for ever if until is 0. It is an
// extended one if it has to be, or if d is not nil.
func (m *Memory[K, V]) newEntry(hash uint64, key K, value V, now, until int64, d *details) *entry[K, V] {
	tag := uint32(hash >> 32)
	if until == 0 && d == nil && m.cfg.IdleTTL == 0 {
		return &entry[K, V]{key: key, value: value, tag: tag}
	}
	x := &extendedEntry[K, V]{
		entry:   entry[K, V]{key: key, value: value, tag: tag, number: inExtendedEntry},
		details: d,
	}
	expires := until
	if m.cfg.IdleTTL > 0 {
		expires = after(now, m.cfg.IdleTTL)
		if until != 0 {
			expires = min(expires, until)
			x.ensureDetails().until = until
		}
	}
	if m.cfg.ErrorTTL != nil && max(m.cfg.Stale, m.cfg.StaleIfError) > 0 {
		x.ensureDetails() // has retryAt
	}
	x.expires.Store(expires)
	return &x.entry
}

// ensureDetails returns x.details, which it makes if there are none. x is not shared yet.
func (x *extendedEntry[K, V]) ensureDetails() *details {
	if x.details == nil {
		x.details = new(details)
	}
	return x.details
}

// slot is what lists and timers know e by.
func (e *entry[K, V]) slot() uint32 { return e.number &^ inExtendedEntry }

// plain reports whether e never expires and has no tags.
func (e *entry[K, V]) plain() bool { return e.number < inExtendedEntry }

// extended returns the extendedEntry that e is the first field of; nil if e is plain.
func (e *entry[K, V]) extended() *extendedEntry[K, V] {
	if e.plain() {
		return nil
	}
	return (*extendedEntry[K, V])(unsafe.Pointer(e))
}

// failed reports whether e is a kept error.
func (e *entry[K, V]) failed() bool {
	x := e.extended()
	return x != nil && x.details != nil && x.details.err != nil
}

// failedLately reports whether a load failed so short a while ago that none is tried now.
func (x *extendedEntry[K, V]) failedLately(now int64) bool {
	return x.details != nil && x.details.retryAt.Load() > now
}

func (e *entry[K, V]) tags() []*tag {
	if x := e.extended(); x != nil && x.details != nil {
		return x.details.tags
	}
	return nil
}

// A condition tells when the value of an entry may be returned.
type condition int

const (
	gone     condition = iota // never
	fallback                  // if loading a new one fails
	stale                     // while a new one is loaded
	fresh                     // always
)

func (m *Memory[K, V]) condition(e *entry[K, V], now int64) condition {
	x := e.extended()
	if x == nil {
		return fresh
	}
	until, idle := m.times(x)
	if idle != 0 && now >= idle {
		return gone
	}
	if x.details != nil && len(x.details.tags) > 0 {
		soft, hard := x.details.invalidated()
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

// whyReplaced returns why e leaves when another is stored in its place: its time may have been over
// before, or it was invalidated.
func (m *Memory[K, V]) whyReplaced(e *entry[K, V]) cause {
	x := e.extended()
	switch {
	case x == nil || m.condition(e, m.now()) != gone:
		return replaced
	case x.details != nil:
		if _, hard := x.details.invalidated(); hard {
			return invalidated
		}
	}
	return expired
}

// times returns the end of x's TTL, and when x expires for idleness if that is sooner. 0 means
// never.
func (m *Memory[K, V]) times(x *extendedEntry[K, V]) (until, idle int64) {
	expires := x.expires.Load()
	if m.cfg.IdleTTL == 0 || x.failed() {
		return expires, 0
	}
	if x.details != nil {
		until = x.details.until
	}
	if expires != until {
		idle = expires
	}
	return until, idle
}

// invalidated reports whether a tag was invalidated hard, and otherwise since when softly; 0 if
// not.
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
	// The first that was noticed counts: otherwise repeated ones would prolong the stale time.
	if softAt != 0 && !d.softAt.CompareAndSwap(0, softAt) {
		softAt = d.softAt.Load()
	}
	return softAt, false
}

// after returns now + d, or the latest time that there is.
func after(now int64, d time.Duration) int64 {
	if int64(d) > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + int64(d)
}

// touch puts off the time at which x, which was read at now, expires for idleness.
func (m *Memory[K, V]) touch(x *extendedEntry[K, V], now int64) {
	if m.cfg.IdleTTL == 0 || x.failed() {
		return
	}
	expires := after(now, m.cfg.IdleTTL)
	if x.details != nil && x.details.until != 0 {
		expires = min(expires, x.details.until)
	}
	// Not at every read: the cache line of a hot entry would go from processor to processor.
	if old := x.expires.Load(); expires-old >= m.idleStep {
		x.expires.CompareAndSwap(old, expires)
	}
}

// removeAt returns when e is of no more use to anybody, not even to StaleIfError; 0 means never. It
// does not consider invalidations.
func (m *Memory[K, V]) removeAt(e *entry[K, V]) int64 {
	x := e.extended()
	if x == nil {
		return 0
	}
	until, idle := m.times(x)
	if until != 0 && !x.failed() {
		until = after(until, max(m.cfg.Stale, m.cfg.StaleIfError))
	}
	if idle != 0 && (until == 0 || idle < until) {
		return idle
	}
	return until
}
