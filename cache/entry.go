package cache

import (
	"math"
	"sync/atomic"
	"time"
)

// details are what only some entries have.
type details struct {
	tags    []*tag
	seq     uint64        // reading of tagIndex.clock that the value is as old as
	softAt  atomic.Int64  // when a soft invalidation was first noticed; 0 if not
	until   int64         // end of the TTL, if entry.expires may be sooner for idleness; 0 is never
	took    time.Duration // of the load
	err     error         // the entry is a kept error and has no value
	retryAt atomic.Int64  // a load failed: return the stale value without another try until then
}

// details returns e.more, which it makes if need be; e is not shared yet.
func (e *entry[K, V]) details() *details {
	if e.more == nil {
		e.more = new(details)
	}
	return e.more
}

// plain reports whether e is a value that never expires and has no tags.
func (e *entry[K, V]) plain() bool { return e.more == nil && e.expires.Load() == 0 }

// failed reports whether e is a kept error.
func (e *entry[K, V]) failed() bool { return e.more != nil && e.more.err != nil }

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
	expires := e.expires.Load()
	until := expires
	if m.cfg.IdleTTL > 0 && expires != 0 {
		until = 0
		if e.more != nil {
			until = e.more.until
		}
		if now >= expires && expires != until {
			return gone
		}
	}
	if e.more != nil && len(e.more.tags) > 0 {
		soft, hard := e.more.invalidated()
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

// invalidated reports whether a tag was invalidated, and since when softly.
func (d *details) invalidated() (softAt int64, hard bool) {
	for _, t := range d.tags {
		if t.hard.Load() > d.seq {
			return 0, true
		}
		if t.soft.Load() > d.seq {
			// The tag knows its latest invalidation only. The first one that
			// was noticed counts, or else repeated ones would prolong the stale time.
			at := t.softAt.Load()
			if d.softAt.CompareAndSwap(0, at) {
				softAt = at
			} else {
				softAt = d.softAt.Load()
			}
		}
	}
	return softAt, false
}

// timed reports whether the configuration alone may make an entry expire.
func (m *Memory[K, V]) timed() bool { return m.cfg.TTL != nil || m.cfg.IdleTTL > 0 }

// setTTL gives e, which is not shared yet, its times. A ttl of 0 is the
// configuration's, a negative one is none.
func (m *Memory[K, V]) setTTL(e *entry[K, V], ttl time.Duration, now int64) {
	if ttl == 0 && m.cfg.TTL != nil {
		ttl = m.cfg.TTL(e.key, e.value)
	}
	var until int64
	if ttl > 0 {
		if m.cfg.Jitter > 0 {
			ttl -= time.Duration(float64(ttl) * m.cfg.Jitter * m.random())
		}
		until = after(now, max(1, ttl))
	}
	e.expires.Store(until)
	if until != 0 && m.cfg.ErrorTTL != nil && max(m.cfg.Stale, m.cfg.StaleIfError) > 0 {
		e.details() // has retryAt
	}
	if m.cfg.IdleTTL > 0 {
		idle := after(now, m.cfg.IdleTTL)
		if until != 0 {
			e.details().until = until
			idle = min(idle, until)
		}
		e.expires.Store(idle)
	}
}

// after returns now + d, or the end of time.
func after(now int64, d time.Duration) int64 {
	if int64(d) > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + int64(d)
}

// touchIdle prolongs the life of e, which was read at now. It returns true.
func (m *Memory[K, V]) touchIdle(e *entry[K, V], now int64) bool {
	if m.cfg.IdleTTL == 0 {
		return true
	}
	expires := after(now, m.cfg.IdleTTL)
	if e.more != nil && e.more.until != 0 {
		expires = min(expires, e.more.until)
	}
	// Not at every read: a hot entry would go from processor to processor.
	if old := e.expires.Load(); expires-old >= int64(time.Millisecond) {
		e.expires.CompareAndSwap(old, expires)
	}
	return true
}

// leaves returns when e is of no more use, or 0 for never. Invalidation of its
// tags is not considered.
func (m *Memory[K, V]) leaves(e *entry[K, V]) int64 {
	expires := e.expires.Load()
	if expires == 0 || e.failed() {
		return expires
	}
	if m.cfg.IdleTTL > 0 && (e.more == nil || e.more.until != expires) {
		return expires
	}
	return after(expires, max(m.cfg.Stale, m.cfg.StaleIfError))
}
