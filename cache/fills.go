package cache

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A fillTable finds the fills under way that others may read.
type fillTable struct {
	shards [32]fillShard
}

type fillShard struct {
	mu    sync.Mutex // guards the field below
	fills map[Key][]*fill
	ended atomic.Uint64 // counts the fills that have left the map
	_     [104]byte
}

func (t *fillTable) init() {
	for i := range t.shards {
		t.shards[i].fills = make(map[Key][]*fill)
	}
}

func (t *fillTable) shard(key Key) *fillShard { return &t.shards[key[1]%uint8(len(t.shards))] }

// received is when the header came.
func (f *fill) received() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.resp.received
}

// join returns a reader of a fill that x may follow. If there is none, it registers f as one that
// others may follow, unless there are MaxVariants already. It reports false and does neither if a
// fill has ended since x looked into the store, where what it fetched may be now.
func (t *fillTable) join(x *exchange, f *fill, follow bool) (rd *reader, ok bool) {
	s := t.shard(x.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.fills[x.key] {
		if !other.fits(x) {
			continue
		}
		if !follow {
			return nil, false
		}
		if rd, ok := other.read(); ok {
			return rd, true
		}
		if x.looks == 0 && other.over() {
			return nil, false // what it fetched is older than x, or x has overlooked it
		}
	}
	if s.ended.Load() != x.ended {
		return nil, false
	}
	if len(s.fills[x.key]) >= x.c.cfg.MaxVariants {
		return nil, true // those who come next would have to look through too many
	}
	f.probe = &Entry{Mark: f.mark}
	f.probe.URL, f.probe.Labels = f.x.labels(nil)
	f.joinable = true
	s.fills[x.key] = append(s.fills[x.key], f)
	return nil, true
}

func (t *fillTable) remove(f *fill) {
	if !f.joinable {
		return
	}
	s := t.shard(f.x.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(s.fills[f.x.key]), func(g *fill) bool { return g == f })
	if len(list) == 0 {
		delete(s.fills, f.x.key)
	} else {
		s.fills[f.x.key] = list
	}
	s.ended.Add(1)
}

// fits reports whether x may wait for f: it asks for the same, and nothing was purged since f
// began.
func (f *fill) fits(x *exchange) bool {
	if string(f.x.echo) != string(x.echo) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	probe := f.entry
	if f.updated != nil {
		probe = f.updated
	}
	if probe != nil {
		if !f.done && time.Since(f.moved) > f.c.cfg.Wait {
			return false // C27: it may hang for good, and everybody would hang with it
		}
		how, _ := f.c.store.Purged(probe)
		return how == 0 && probe.matches(x.r.Header, &x.forms) && probe.accepted(x.r.Header)
	}
	if f.decided {
		return false
	}
	if how, _ := f.c.store.Purged(f.probe); how != 0 {
		return false
	}
	// What the response depends on is known only if one of them has seen another.
	return f.agreesLocked(x, f.varies) && f.agreesLocked(x, x.varies)
}

// agreesLocked reports whether the request of f and x have the same values of those fields.
func (f *fill) agreesLocked(x *exchange, varies []Selecting) bool {
	for i := range varies {
		name := varies[i].Name
		own, other := f.x.r.Header[name], x.r.Header[name]
		if len(own) == 0 || len(other) == 0 {
			if len(own) != len(other) {
				return false
			}
		} else if f.forms.of(name, own) != x.forms.of(name, other) {
			return false
		}
	}
	return true
}
