package cache

import (
	"sync"
	"sync/atomic"
)

// An Invalidation is what becomes of the entries that an invalidation is about. Its zero value is
// neither Soft nor Hard, and is refused: every caller says which.
type Invalidation int

const (
	// Soft entries are as if their TTL had just ended: [MemoryConfig.Stale] and
	// [MemoryConfig.StaleIfError] apply.
	Soft Invalidation = iota + 1
	// Hard entries are gone.
	Hard
)

func (i Invalidation) String() string {
	switch i {
	case Soft:
		return "soft"
	case Hard:
		return "hard"
	}
	return "unknown"
}

// A tag knows when it was last invalidated, in terms of tagIndex.clock. An entry is valid if its
// own reading of the clock is not older. That makes invalidation a single store, however many
// entries there are.
type tag struct {
	name string
	hard atomic.Uint64
	// Soft invalidations: the latest, and an earlier one whose entries may still be of use. What
	// was stored between the two may count as newer than it is, but not for ever: once the
	// earlier one's time is over, it becomes a hard one.
	soft, first     atomic.Uint64
	softAt, firstAt atomic.Int64 // Memory.now of these

	// tagIndex.mu guards the fields below.
	previous uint64 // the invalidation before the latest one
	refs     int    // entries that have the tag
}

// A tagIndex holds the tags of a Memory.
type tagIndex struct {
	softFor int64         // nanoseconds for which an entry is of use after a soft invalidation
	clock   atomic.Uint64 // counts invalidations
	loading atomic.Int64  // loads under way

	mu sync.Mutex // guards the fields below
	// A tag that no entry has stays while a load that began before its invalidation may still
	// bring a value with it.
	tags  map[string]*tag
	empty []*tag // such tags; may hold one twice, or one that has entries again
	floor uint64 // loads that read less on the clock cannot store tagged values
}

// maxEmptyTags bounds the memory that a flood of invalidations of unused tags can take. Beyond it,
// the loads under way lose the right to store tagged values.
const maxEmptyTags = 1024

// acquire returns the tags by name for an entry that is about to be stored. It reports false if an
// entry whose reading of the clock is seq may not be stored any more.
func (x *tagIndex) acquire(names []string, seq uint64) (tags []*tag, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if seq < x.floor {
		return nil, false
	}
	for _, name := range names {
		if t := x.tags[name]; t != nil && t.hard.Load() > seq {
			return nil, false
		}
	}
	tags = make([]*tag, len(names))
	for i, name := range names {
		t := x.tags[name]
		if t == nil {
			t = &tag{name: name}
			if x.tags == nil {
				x.tags = make(map[string]*tag)
			}
			x.tags[name] = t
		}
		t.refs++
		tags[i] = t
	}
	return tags, true
}

// invalidatedSince returns when the first invalidation of any of the tags was that is newer than
// seq; 0 if there was none. A tag remembers two invalidations. If it had more, or if it was
// forgotten, the answer is the earliest that can be.
func (x *tagIndex) invalidatedSince(names []string, seq uint64) (first uint64) {
	if len(names) == 0 || x.clock.Load() == seq {
		return 0
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if seq < x.floor {
		return seq + 1
	}
	for _, name := range names {
		t := x.tags[name]
		if t == nil {
			continue
		}
		at := max(t.hard.Load(), t.soft.Load())
		switch {
		case at <= seq:
			continue
		case t.previous > seq:
			return seq + 1
		case first == 0 || at < first:
			first = at
		}
	}
	return first
}

// release gives back the tags of an entry that was removed.
func (x *tagIndex) release(tags []*tag) {
	if len(tags) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, t := range tags {
		t.refs--
		switch {
		case t.refs > 0:
		case max(t.hard.Load(), t.soft.Load()) == 0:
			delete(x.tags, t.name)
		default:
			x.empty = append(x.empty, t)
		}
	}
	x.trimLocked()
}

func (x *tagIndex) invalidate(name string, how Invalidation, now int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	seq := x.clock.Add(1)
	t := x.tags[name]
	if t == nil {
		// A load increments loading before it reads the clock. So if there is none here, the next
		// one will read seq, and need not know of this invalidation.
		if x.loading.Load() == 0 {
			x.trimLocked()
			return
		}
		t = &tag{name: name}
		if x.tags == nil {
			x.tags = make(map[string]*tag)
		}
		x.tags[name] = t
		x.empty = append(x.empty, t)
	}
	t.previous = max(t.hard.Load(), t.soft.Load())
	if how == Soft {
		if first := t.first.Load(); first == 0 || now-t.firstAt.Load() >= x.softFor {
			if t.hard.Load() < first {
				t.hard.Store(first)
			}
			t.firstAt.Store(t.softAt.Load())
			t.first.Store(t.soft.Load())
		}
		t.softAt.Store(now)
		t.soft.Store(seq)
	} else {
		t.hard.Store(seq)
	}
	x.trimLocked()
}

// trimLocked drops the tags without entries when they are too many, or when no load needs them.
func (x *tagIndex) trimLocked() {
	if len(x.empty) == 0 || len(x.empty) <= maxEmptyTags && x.loading.Load() > 0 {
		return
	}
	for _, t := range x.empty {
		if t.refs == 0 && x.tags[t.name] == t {
			delete(x.tags, t.name)
			x.floor = max(x.floor, t.hard.Load(), t.soft.Load())
		}
	}
	x.empty = x.empty[:0]
}
