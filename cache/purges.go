package cache

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

const (
	purgeStripes = 64
	recentPurges = 4096 // a power of two
	loggedPurges = 1024 // a power of two
	softPurgeFor = 24 * time.Hour
)

// purges is what a MemoryStore remembers of purges. Each bumps the clock. An entry is valid if
// nothing that concerns it happened after its Mark; once it was found valid, one comparison with
// the clock says that it still is.
//
// A purge takes the same time however much it hits, and the memory for them is bounded: there is a
// label for each that stored entries have, a fixed table for fills in flight, and at most
// maxPrefixes prefixes of each kind.
type purges struct {
	seed  maphash.Seed
	clock atomic.Uint64 // the number of purges, plus 1

	mu       sync.Mutex // serializes purges
	prefixes atomic.Pointer[prefixes]

	stripes [purgeStripes]purgeStripe

	// recent tells fills in flight, whose labels no stored entry may have, of purges. Labels share
	// its places; log has the labels of the latest purges, each at its number. A fill that lasts
	// for more purges than it holds may be thought purged that was not, and is not stored then.
	recent [recentPurges]atomic.Uint64
	log    [loggedPurges]atomic.Uint64
}

type purgeStripe struct {
	mu     sync.Mutex // guards the fields below
	labels map[uint64]*label
}

// A label knows when it was last purged. The first of two soft purges is kept too, since what was
// stored before it is stale for longer.
type label struct {
	hash            uint64
	refs            int // entries that hold it; guarded by the stripe's lock
	hard            atomic.Uint64
	soft, first     atomic.Uint64
	softAt, firstAt atomic.Int64 // Unix nanoseconds
}

func (p *purges) init() {
	p.seed = maphash.MakeSeed()
	p.clock.Store(1)
	p.prefixes.Store(new(prefixes))
	for i := range p.stripes {
		p.stripes[i].labels = make(map[uint64]*label)
	}
}

// add purges what is told, as of now.
func (p *purges) add(what Purge, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seq := p.clock.Load() + 1
	if what.Label == "" {
		p.log[seq%loggedPurges].Store(0)
		p.prefixes.Store(p.prefixes.Load().with(what.Prefix, what.How, seq, now))
	} else {
		p.addLabel(what, seq, now)
	}
	// Whoever sees the new time must see what happened then.
	p.clock.Store(seq)
}

func (p *purges) addLabel(what Purge, seq uint64, now time.Time) {
	hash := maphash.String(p.seed, what.Label)
	p.log[seq%loggedPurges].Store(hash) // before the other: who sees that looks here
	p.recent[hash%recentPurges].Store(seq)
	stripe := &p.stripes[hash%purgeStripes]
	stripe.mu.Lock()
	defer stripe.mu.Unlock()
	l := stripe.labels[hash]
	if l == nil {
		return
	}
	if what.How == Hard {
		l.hard.Store(seq)
		return
	}
	if first := l.first.Load(); first == 0 || now.UnixNano()-l.firstAt.Load() >= int64(softPurgeFor) {
		l.hard.Store(max(l.hard.Load(), first))
		l.firstAt.Store(l.softAt.Load())
		l.first.Store(l.soft.Load())
	}
	l.softAt.Store(now.UnixNano())
	l.soft.Store(seq)
}

// hold gives e its labels before it is stored. It reports false if e was purged since its Mark.
func (p *purges) hold(e *Entry) bool {
	held := make([]*label, 0, len(e.Labels))
	for _, name := range e.Labels {
		hash := maphash.String(p.seed, name)
		stripe := &p.stripes[hash%purgeStripes]
		stripe.mu.Lock()
		l := stripe.labels[hash]
		if l == nil {
			l = &label{hash: hash}
			stripe.labels[hash] = l
		}
		l.refs++
		stripe.mu.Unlock()
		held = append(held, l)
	}
	e.held = held
	// A purge that came before a label was there is among the recent ones, one that came after is
	// in the label.
	if how, _ := p.of(e); how == Hard || p.recently(e) {
		p.release(e)
		return false
	}
	return true
}

// recently reports whether a label of e may have been purged since its Mark.
func (p *purges) recently(e *Entry) bool {
	for _, l := range e.held {
		if p.since(l.hash, uint64(e.Mark)) {
			return true
		}
	}
	return false
}

// since reports whether the label with that hash may have been purged after mark.
func (p *purges) since(hash, mark uint64) bool {
	if p.recent[hash%recentPurges].Load() <= mark {
		return false
	}
	// The purge after the last one may be under way, and have missed a label that is there now.
	last := p.clock.Load() + 1
	if last-mark >= loggedPurges {
		return true
	}
	for seq := mark + 1; seq <= last; seq++ {
		if p.log[seq%loggedPurges].Load() == hash {
			return true
		}
	}
	// What was read may have been overwritten meanwhile.
	return p.clock.Load()+1-mark >= loggedPurges
}

// release gives back the labels of an entry that is no longer stored. Nobody may call it twice for
// the same entry.
func (p *purges) release(e *Entry) {
	for _, l := range e.held {
		stripe := &p.stripes[l.hash%purgeStripes]
		stripe.mu.Lock()
		if l.refs--; l.refs == 0 && stripe.labels[l.hash] == l {
			delete(stripe.labels, l.hash)
		}
		stripe.mu.Unlock()
	}
}

// of tells whether e was purged since its Mark, and, if softly, since when.
func (p *purges) of(e *Entry) (how Invalidation, since time.Time) {
	now := p.clock.Load()
	if e.checked.Load() == now {
		return e.softly()
	}
	if now == uint64(e.Mark) {
		e.checked.Store(now)
		return e.softly()
	}
	var softAt int64
	soft := func(at int64) {
		if softAt == 0 || at < softAt {
			softAt = at
		}
	}
	mark := uint64(e.Mark)
	if e.held != nil {
		for _, l := range e.held {
			if l.hard.Load() > mark {
				return Hard, time.Time{}
			}
			if l.soft.Load() > mark {
				if l.first.Load() > mark {
					soft(l.firstAt.Load())
				} else {
					soft(l.softAt.Load())
				}
			}
		}
	} else if p.inFlight(e) {
		return Hard, time.Time{}
	}
	if p.prefixes.Load().match(e.URL, mark, soft) {
		return Hard, time.Time{}
	}
	if softAt != 0 {
		// The first that was noticed counts: otherwise repeated purges would prolong the stale
		// time.
		e.softAt.CompareAndSwap(0, softAt)
	}
	e.checked.Store(now)
	return e.softly()
}

// inFlight reports whether e, which is not stored, may have been purged, softly or hard.
func (p *purges) inFlight(e *Entry) bool {
	for _, name := range e.Labels {
		if p.since(maphash.String(p.seed, name), uint64(e.Mark)) {
			return true
		}
	}
	return false
}

// softly tells since when e is stale for a soft purge that was noticed.
func (e *Entry) softly() (how Invalidation, since time.Time) {
	if at := e.softAt.Load(); at != 0 {
		return Soft, time.Unix(0, at)
	}
	if !e.StaleSince.IsZero() {
		return Soft, e.StaleSince
	}
	return 0, time.Time{}
}
