package breaker

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
)

// A table keeps a state for each of at most max keys. Look-ups take no lock. They would not with
// sync.Map either, but its keys are interfaces: a look-up by string would allocate.
type table[S any] struct {
	seed  maphash.Seed
	max   int
	every int64           // least time between two sweeps
	fresh func(string) *S // makes the state of a new key
	idle  func(*S) bool   // called at each sweep: may the key be forgotten now?

	buckets   atomic.Pointer[[]atomic.Pointer[entry[S]]]
	full      atomic.Bool  // n-pinned is at max
	nextSweep atomic.Int64 // none before

	mu     sync.Mutex // serialises writers, and guards the fields below
	n      int
	pinned int // of n, those that pin has added on top of max
}

// An entry is never changed: who removes one from a chain copies what stands before it.
type entry[S any] struct {
	key   string
	hash  uint64
	state *S
	next  *entry[S]
}

func newTable[S any](maxKeys int, every int64, fresh func(string) *S, idle func(*S) bool) *table[S] {
	t := &table[S]{seed: maphash.MakeSeed(), max: maxKeys, every: every, fresh: fresh, idle: idle}
	first := make([]atomic.Pointer[entry[S]], 16)
	t.buckets.Store(&first)
	return t
}

// find returns key's state, or nil.
func (t *table[S]) find(key string) *S {
	hash := maphash.String(t.seed, key)
	buckets := *t.buckets.Load()
	for e := buckets[hash&uint64(len(buckets)-1)].Load(); e != nil; e = e.next {
		if e.hash == hash && e.key == key {
			return e.state
		}
	}
	return nil
}

// add returns key's state, which it makes if there is none and there is room; otherwise nil. While
// there is no room it takes a lock once per sweep only.
func (t *table[S]) add(key string, now func() int64) *S {
	if t.full.Load() && now() < t.nextSweep.Load() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.find(key); s != nil {
		return s
	}
	if t.full.Load() {
		at := now()
		if at < t.nextSweep.Load() {
			return nil
		}
		t.sweepLocked(at)
	}
	if t.full.Load() {
		return nil
	}
	return t.putLocked(key)
}

// pin returns key's state, which it makes even if there is no room.
func (t *table[S]) pin(key string) *S {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.find(key); s != nil {
		return s
	}
	if t.full.Load() {
		t.pinned++
	}
	return t.putLocked(key)
}

// sweepLocked removes the idle keys. However few they are, the next sweep is a while away: where
// keys become idle one by one, each newcomer would sweep all of them.
func (t *table[S]) sweepLocked(now int64) {
	buckets := *t.buckets.Load()
	for i := range buckets {
		for e := buckets[i].Load(); e != nil; e = e.next {
			if t.idle(e.state) {
				t.removeLocked(e)
			}
		}
	}
	t.nextSweep.Store(now + t.every)
}

// remove removes key, and returns its state or nil.
func (t *table[S]) remove(key string) *S {
	t.mu.Lock()
	defer t.mu.Unlock()
	hash := maphash.String(t.seed, key)
	for e := t.bucketLocked(hash).Load(); e != nil; e = e.next {
		if e.hash == hash && e.key == key {
			t.removeLocked(e)
			return e.state
		}
	}
	return nil
}

// all calls f with every key and its state.
func (t *table[S]) all(f func(key string, s *S)) {
	t.mu.Lock() // else a key that makes room for another could be seen beside it
	defer t.mu.Unlock()
	buckets := *t.buckets.Load()
	for i := range buckets {
		for e := buckets[i].Load(); e != nil; e = e.next {
			f(e.key, e.state)
		}
	}
}

func (t *table[S]) bucketLocked(hash uint64) *atomic.Pointer[entry[S]] {
	buckets := *t.buckets.Load()
	return &buckets[hash&uint64(len(buckets)-1)]
}

func (t *table[S]) putLocked(key string) *S {
	if buckets := *t.buckets.Load(); t.n >= len(buckets) {
		wider := make([]atomic.Pointer[entry[S]], 2*len(buckets))
		for i := range buckets {
			for e := buckets[i].Load(); e != nil; e = e.next {
				head := &wider[e.hash&uint64(len(wider)-1)]
				head.Store(&entry[S]{e.key, e.hash, e.state, head.Load()})
			}
		}
		t.buckets.Store(&wider)
	}
	key = strings.Clone(key) // it may be a piece of something large, such as a request's whole URL
	hash := maphash.String(t.seed, key)
	head := t.bucketLocked(hash)
	s := t.fresh(key)
	head.Store(&entry[S]{key, hash, s, head.Load()})
	t.n++
	t.countedLocked()
	return s
}

func (t *table[S]) removeLocked(gone *entry[S]) {
	head := t.bucketLocked(gone.hash)
	var keep []*entry[S]
	for e := head.Load(); e != nil; e = e.next {
		if e.state == gone.state {
			rest := e.next
			for i := len(keep) - 1; i >= 0; i-- {
				rest = &entry[S]{keep[i].key, keep[i].hash, keep[i].state, rest}
			}
			head.Store(rest)
			t.n--
			t.pinned = max(0, min(t.pinned, t.n-t.max))
			t.countedLocked()
			return
		}
		keep = append(keep, e)
	}
}

// countedLocked tells add whether there is room.
func (t *table[S]) countedLocked() { t.full.Store(t.n-t.pinned >= t.max) }

func (t *table[S]) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}
