package cache

import (
	"context"
	"time"
)

// A flight is the load of one key. It is in its shard's flights until it has finished, or until key
// was set or removed: then it no longer stores anything.
type flight[K comparable, V any] struct {
	shard    *shard[K, V]
	hash     uint64
	key      K
	call     *call         // may serve other flights too
	finished bool          // guarded by the shard's lock
	done     chan struct{} // closed when the fields below are set
	// They are read-only after.
	value       V
	err         error
	beside      error  // what a bulk loader returned with its values; nil if nothing
	invalidated uint64 // when a tag of value first was, if after the loader was called; 0 if not
}

func newFlight[K comparable, V any](s *shard[K, V], hash uint64, key K, c *call) *flight[K, V] {
	return &flight[K, V]{shard: s, hash: hash, key: key, call: c, done: make(chan struct{})}
}

// isDone reports whether what f brought can be read.
func (f *flight[K, V]) isDone() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// newRefresh returns a flight that refreshes e, for the call that newCall returns. It returns nil
// if there is a flight of the key already, or no call, or if e has been replaced or removed: a
// plain entry in its place may be overwritten without the lock, so there must be no flight of its
// key.
func (m *Memory[K, V]) newRefresh(
	s *shard[K, V], e *entry[K, V], hash uint64, key K, newCall func() (*call, error),
) *flight[K, V] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[key] != nil || s.table.Load().find(hash, key) != e {
		return nil
	}
	c, err := newCall()
	if err != nil {
		return nil // closed, or MaxBackground is reached
	}
	f := newFlight(s, hash, key, c)
	s.flights[key] = f
	return f
}

// join makes its caller a waiter of the flight of key. If there is none it starts one, for the call
// that newCall returns; then mine is true, and the caller has to run the loader. It returns no
// flight if there is no need to wait.
func (m *Memory[K, V]) join(
	ctx context.Context, s *shard[K, V], hash uint64, key K, newCall func() (*call, error),
) (f *flight[K, V], mine bool, err error) {
	if ctx.Err() != nil {
		return nil, false, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.table.Load().find(hash, key); e != nil && m.condition(e, m.now()) == fresh {
		return nil, false, nil
	}
	f = s.flights[key]
	waiter := callOf(ctx)
	if f != nil {
		switch {
		case waiter.within(f.call):
			return nil, false, loadError(errRecursive)
		case !waiter.waitFor(f.call):
			return nil, false, loadError(errDeadlock)
		case m.loads.addWaiter(f.call):
			return f, false, nil
		}
		waiter.stopWaiting(f.call) // it has been given up
	}
	c, err := newCall()
	if err != nil {
		return nil, false, err
	}
	m.loads.addWaiter(c)
	waiter.waitFor(c)
	f = newFlight(s, hash, key, c)
	if findable(key) {
		s.flights[key] = f
	}
	return f, true, nil
}

// run calls load for f, which has its call to itself.
func (m *Memory[K, V]) run(f *flight[K, V], load loader[K, V]) {
	defer m.endCall(f.call)
	var v loadedValue[K, V]
	m.protect(f.call, func(ctx context.Context) error {
		value, err := load(ctx, f.key)
		if err == nil {
			v = m.prepare(f, value)
		}
		return err
	}, func(err error) {
		if err != nil { // v may still be written to
			m.finish(f, loadedValue[K, V]{}, err)
			return
		}
		m.finish(f, v, nil)
	})
}

// A loadedValue is what a loader returned, ready to be stored.
type loadedValue[K comparable, V any] struct {
	entry  *entry[K, V]
	weight int64
	tags   []string
	over   bool // its time is: it is not stored
	beside error
}

// prepare calls the user's functions on a value that was loaded for f.
func (m *Memory[K, V]) prepare(f *flight[K, V], value V) (v loadedValue[K, V]) {
	v.weight = m.weight(f.key, value)
	var d *details
	if m.cfg.Tags != nil {
		if v.tags = m.cfg.Tags(f.key, value); len(v.tags) > 0 {
			d = &details{seq: f.call.seq}
		}
	}
	now := m.now()
	until, ok := m.until(f.key, MemoryItem[V]{Value: value}, now)
	v.over = !ok
	v.entry = m.newEntry(f.hash, f.key, value, now, until, d)
	if x := v.entry.extended(); x != nil {
		x.took = time.Duration(now - f.call.started)
	}
	return v
}

// finish stores what f has brought, if it still may, and wakes its waiters.
func (m *Memory[K, V]) finish(f *flight[K, V], v loadedValue[K, V], err error) {
	var keep time.Duration
	// Deferred, so that the waiters wake even if ErrorTTL ends the goroutine.
	defer func() { m.land(f, v, err, keep) }()
	// That a load was ended by Close, or because nobody waited for it, says nothing about the key.
	if err != nil && m.cfg.ErrorTTL != nil && f.call.ctx.Err() == nil {
		keep = m.errorTTL(f.key, err)
	}
}

// land is finish, once it is known for how long an error is kept.
func (m *Memory[K, V]) land(f *flight[K, V], v loadedValue[K, V], err error, keep time.Duration) {
	s, now := f.shard, m.now()
	var events []MemoryEvent[K, V]
	s.mu.Lock()
	if f.finished { // when its time was over
		s.mu.Unlock()
		return
	}
	f.finished = true
	current := s.flights[f.key] == f
	if current {
		delete(s.flights, f.key)
	}
	s.expireLocked(now, &events)
	old := s.table.Load().find(f.hash, f.key)
	switch {
	case err == nil:
		f.value, f.beside = v.entry.load(m.storage), v.beside
		if current {
			m.storeLoadedLocked(f, old, v, now, &events)
		}
	case old != nil && !old.failed() && m.condition(old, now) != gone:
		f.value = old.load(m.storage)
		m.loads.fallbacks.Add(1)
		if x := old.extended(); keep > 0 && x != nil && x.details != nil {
			x.details.retryAt.Store(after(now, keep))
		}
	default:
		f.err = err
		if keep > 0 && current {
			var none V
			e := m.newEntry(f.hash, f.key, none, now, 0, &details{err: err})
			e.extended().expires.Store(after(now, keep))
			s.storeLocked(old, e, m.errorWeight, now, &events)
		}
	}
	if len(v.tags) > 0 {
		f.invalidated = m.tags.invalidatedSince(v.tags, f.call.seq)
	}
	s.mu.Unlock()
	m.loads.done.Add(1)
	if err != nil {
		m.loads.failed.Add(1)
	}
	defer close(f.done) // not before: a caller's log line would be written without the event
	if m.cfg.Observe != nil {
		m.loads.mu.Lock()
		background := f.call.background
		m.loads.mu.Unlock()
		took := time.Duration(now - f.call.started)
		m.notifyOfLoad(f, append(events, MemoryEvent[K, V]{
			Kind: MemoryLoaded, Key: f.key, Duration: took, Background: background, Err: err}))
	}
}

// storeLoadedLocked stores v, unless its time is over or one of its tags was invalidated while it
// was loaded.
func (m *Memory[K, V]) storeLoadedLocked(
	f *flight[K, V], old *entry[K, V], v loadedValue[K, V], now int64, events *[]MemoryEvent[K, V],
) {
	if v.over {
		f.shard.refuseLocked(old, v.entry, events)
		return
	}
	if len(v.tags) > 0 {
		tags, ok := m.tags.acquire(v.tags, f.call.seq)
		if !ok {
			return
		}
		v.entry.extended().details.tags = tags
	}
	f.shard.storeLocked(old, v.entry, v.weight, now, events)
}

// errorTTL calls the user's function. If that panics, the waiters still get the loader's error.
func (m *Memory[K, V]) errorTTL(key K, err error) (keep time.Duration) {
	defer func() {
		if recover() != nil {
			keep = 0
		}
	}()
	return m.cfg.ErrorTTL(key, err)
}

// detachLocked sees to it that a load of key under way stores nothing, and that later callers do
// not wait for it.
func (s *shard[K, V]) detachLocked(key K) {
	if len(s.flights) > 0 {
		delete(s.flights, key)
	}
}
