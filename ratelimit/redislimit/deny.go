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

// A denyCache remembers which keys are denied until when. It has one place for each key's hash, so
// a flood of keys makes it forget, never grow.
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
	cost  int64 // the least that is denied
}

// get returns when r's cost would fit if it is known to be denied; false if it is not.
func (d *denyCache) get(r *request, now int64) (wait, reset time.Duration, ok bool) {
	tag := r.denialTag()
	s, mu := d.at(tag)
	mu.Lock()
	defer mu.Unlock()
	if s.tag != tag || r.cost < s.cost || now >= s.ask {
		return 0, 0, false
	}
	// What costs more fits later, by the time that the difference takes to earn.
	return time.Duration(s.until-now) + r.rate.earned(r.cost-s.cost), time.Duration(s.reset - now), true
}

func (d *denyCache) put(r *request, now int64, wait, reset time.Duration) {
	tag := r.denialTag()
	s, mu := d.at(tag)
	mu.Lock()
	defer mu.Unlock()
	*s = denial{
		tag: tag, cost: r.cost,
		ask: now + int64(min(wait, maxDeny)), until: now + int64(wait), reset: now + int64(max(reset, wait)),
	}
}

// denialTag returns the tag that r's denial has in a denyCache. In a sliding window the denial of
// one cost does not tell when another fits, so each cost has a tag of its own.
func (r *request) denialTag() uint64 {
	if r.rate.kind == "w" {
		return r.tag ^ uint64(r.cost)*0x9e3779b97f4a7c15
	}
	return r.tag
}

func (d *denyCache) at(tag uint64) (*denial, *sync.Mutex) {
	return &d.slots[tag%denySlots], &d.locks[tag%denyLocks]
}
