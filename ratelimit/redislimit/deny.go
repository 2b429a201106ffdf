package redislimit

import (
	"sync"
	"time"
)

const (
	denySlots = 8192
	denyLocks = 64
	maxDeny   = 10 * time.Second // between questions, so that an operator's DEL takes effect
)

// A denyCache remembers which keys are denied until when. It has one place for each key's
// hash, so a flood of keys makes it forget, never grow.
type denyCache struct {
	locks [denyLocks]sync.Mutex // guard the slots of the same index modulo denyLocks
	slots [denySlots]denial
}

// Times are since the store's base.
type denial struct {
	tag   uint64
	ask   int64 // when to ask again
	until int64 // when the cost would fit, which may be long after ask
	reset int64 // when nothing would be in use
	cost  int64 // at least which is denied
}

// get returns what is known about a cost that is denied to tag; false if it is not known to be.
func (d *denyCache) get(tag uint64, cost, now int64) (wait, reset time.Duration, ok bool) {
	s, mu := d.at(tag)
	mu.Lock()
	defer mu.Unlock()
	if s.tag != tag || cost < s.cost || now >= s.ask {
		return 0, 0, false
	}
	return time.Duration(s.until - now), time.Duration(s.reset - now), true
}

func (d *denyCache) put(tag uint64, cost, now int64, wait, reset time.Duration) {
	s, mu := d.at(tag)
	mu.Lock()
	defer mu.Unlock()
	*s = denial{
		tag: tag, cost: cost,
		ask: now + int64(min(wait, maxDeny)), until: now + int64(wait), reset: now + int64(max(reset, wait)),
	}
}

func (d *denyCache) at(tag uint64) (*denial, *sync.Mutex) {
	return &d.slots[tag%denySlots], &d.locks[tag%denyLocks]
}
