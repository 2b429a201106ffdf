package rediscache

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/trivet-go/trivet/cache"
)

// softPurgeFor is for how long the first of several soft purges of the same is remembered: what was
// stored before it is gone then.
const softPurgeFor = 24 * time.Hour

var errOvertaken = errors.New("the server has begun to count purges anew meanwhile")

// A ledger is what this process knows of purges: all up to its clock. It learns them in the order
// in which they happened, with each reply of the server.
//
// Purges are counted in epochs. The server begins a new one when it does not know the last, since
// it was emptied, or gave way to a replica that had missed some of it. What was stored before is
// gone then: nobody can tell any more what of it was purged.
type ledger struct {
	mu         sync.RWMutex // guards the fields below
	generation int          // the number of epochs that were seen
	epoch      uint64       // zero: the server was never heard
	floor      uint64       // entries with lower marks are gone
	clock      uint64
	labels     map[string]*tombstone
	prefixes   map[string]*tombstone
	lengths    []int // of prefixes, each once
	told       func(cache.FarPurge)

	// What the server's clock said, in microseconds, and when that was heard at the latest.
	server   uint64
	serverAt time.Time
}

// A tombstone tells when a label or a prefix was purged last.
type tombstone struct {
	hard, soft, first uint64
	softAt, firstAt   time.Time
}

// A view is what a call tells the server of the ledger.
type view struct {
	generation   int
	epoch, clock uint64
}

// A page is what the server knows of purges that the ledger of a view does not.
type page struct {
	epoch, floor uint64
	now          uint64 // of the server, in microseconds
	more         bool   // than purges has
	purges       []purged
}

type purged struct {
	purge      cache.Purge
	clock      uint64
	everything bool // that is older
}

func (l *ledger) init() {
	l.labels, l.prefixes = make(map[string]*tombstone), make(map[string]*tombstone)
}

func (l *ledger) view() view {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return view{generation: l.generation, epoch: l.epoch, clock: l.clock}
}

// learn takes in the reply to a call that was made with v.
func (l *ledger) learn(v view, p *page) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	at := func(clock uint64) time.Time { // by this process' clock
		return now.Add(-time.Duration(max(0, int64(p.now)-int64(clock))) * time.Microsecond)
	}
	switch {
	case p.epoch != l.epoch:
		if v.generation != l.generation {
			return errOvertaken
		}
		l.generation++
		l.epoch, l.floor, l.clock = p.epoch, p.floor, p.floor
		l.init()
		l.lengths = nil
		l.tell(cache.FarPurge{Purge: cache.Purge{How: cache.Hard}, Mark: cache.Mark(p.floor), At: now})
	case p.floor > l.clock: // the server has forgotten some that are not known here
		l.clock = p.floor
		l.tell(cache.FarPurge{Purge: cache.Purge{How: cache.Hard}, Mark: cache.Mark(p.floor), At: now})
	}
	l.server, l.serverAt = p.now, now
	l.floor = max(l.floor, p.floor)
	for i := range p.purges {
		g := &p.purges[i]
		if g.clock <= l.clock {
			continue // learned from the reply to another call
		}
		if g.everything {
			l.floor = g.clock
		} else {
			l.bury(g, at)
		}
		l.clock = g.clock
		l.tell(cache.FarPurge{Purge: g.purge, Mark: cache.Mark(g.clock), At: at(g.clock)})
	}
	l.sweep()
	return nil
}

func (l *ledger) tell(p cache.FarPurge) {
	if l.told != nil {
		l.told(p)
	}
}

// bury counts a purge.
func (l *ledger) bury(g *purged, at func(uint64) time.Time) {
	graves, name := l.labels, g.purge.Label
	if name == "" {
		graves, name = l.prefixes, g.purge.Prefix
	}
	t := graves[name]
	if t == nil {
		t = new(tombstone)
		graves[name] = t
		if g.purge.Label == "" && !slices.Contains(l.lengths, len(name)) {
			l.lengths = append(l.lengths, len(name))
		}
	}
	if g.purge.How == cache.Hard {
		t.hard = g.clock
		return
	}
	// As the server does: the first of several is kept, since repeated ones would prolong the time
	// for which something stale is used.
	if t.first == 0 || g.clock-t.first >= uint64(softPurgeFor/time.Microsecond) {
		t.hard = max(t.hard, t.first)
		t.first, t.firstAt = t.soft, t.softAt
	}
	t.soft, t.softAt = g.clock, at(g.clock)
}

// sweep forgets what the server has forgotten.
func (l *ledger) sweep() {
	if len(l.labels)+len(l.prefixes) <= 2*maxTombstones {
		return
	}
	for _, graves := range [...]map[string]*tombstone{l.labels, l.prefixes} {
		for name, t := range graves {
			if max(t.hard, t.soft) <= l.floor {
				delete(graves, name)
			}
		}
	}
	l.lengths = nil
	for name := range l.prefixes {
		if !slices.Contains(l.lengths, len(name)) {
			l.lengths = append(l.lengths, len(name))
		}
	}
}

// of tells whether e was purged, and since when softly.
func (l *ledger) of(e *cache.Entry) (how cache.Invalidation, since time.Time) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	mark := uint64(e.Mark)
	if mark < l.floor {
		return cache.Hard, time.Time{}
	}
	since = e.StaleSince
	hard := false
	look := func(t *tombstone) {
		switch {
		case t == nil || t.hard <= mark && t.soft <= mark:
			return
		case t.hard > mark:
			hard = true
			return
		}
		at := t.softAt
		if t.first > mark {
			at = t.firstAt
		}
		if since.IsZero() || at.Before(since) {
			since = at
		}
	}
	for _, name := range e.Labels {
		look(l.labels[name])
	}
	for _, n := range l.lengths {
		if n <= len(e.URL) {
			look(l.prefixes[e.URL[:n]])
		}
	}
	switch {
	case hard:
		return cache.Hard, time.Time{}
	case !since.IsZero():
		return cache.Soft, since
	}
	return 0, time.Time{}
}

// serverTime returns what the server's clock said at a time, or a little less; zero if it was never
// heard.
func (l *ledger) serverTime(at time.Time) int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.server == 0 {
		return 0
	}
	return max(0, int64(l.server)-l.serverAt.Sub(at).Microseconds())
}

// now returns the ledger's clock, and its epoch.
func (l *ledger) now() (mark cache.Mark, epoch uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return cache.Mark(l.clock), l.epoch
}
