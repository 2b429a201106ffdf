package redislimit

import (
	"sync"
	"time"
)

const (
	denySlots = 8192
	denyLocks = 64
	maxDeny   = 10 * time.Second
)

// A denyCache remembers which keys are denied until when. It has one place for each key's
// hash, so a flood of keys makes it forget, never grow.
type denyCache struct {
	locks [denyLocks]sync.Mutex // guard the slots of the same index modulo denyLocks
	slots [denySlots]denial
}

type denial struct {
	tag   uint64
	until int64 // since the store's base
	cost  int64 // at least which is denied
}

// wait returns how long a cost is denied to tag yet; zero if it is not known to be.
func (d *denyCache) wait(tag uint64, cost, now int64) time.Duration {
	s, mu := d.at(tag)
	mu.Lock()
	defer mu.Unlock()
	if s.tag != tag || cost < s.cost || now >= s.until {
		return 0
	}
	return time.Duration(s.until - now)
}

func (d *denyCache) put(tag uint64, cost, now int64, wait time.Duration) {
	s, mu := d.at(tag)
	mu.Lock()
	defer mu.Unlock()
	*s = denial{tag: tag, until: now + int64(min(wait, maxDeny)), cost: cost}
}

func (d *denyCache) at(tag uint64) (*denial, *sync.Mutex) {
	return &d.slots[tag%denySlots], &d.locks[tag%denyLocks]
}
