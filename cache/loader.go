package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrClosed reports a load after [Memory.Close], or one that it ended.
	ErrClosed = errors.New("cache: closed")

	// ErrNotFound is for loaders to return when there is nothing under a key;
	// [MemoryConfig.ErrorTTL] can then tell it from other errors. A bulk loader
	// reports it by leaving the key out.
	ErrNotFound = errors.New("cache: not found")

	// ErrLoad reports that a loader failed. A [*LoadError] says how.
	ErrLoad = errors.New("cache: load failed")

	errAbandoned = errors.New("load abandoned by all its callers")
	errGoexit    = errors.New("loader ended its goroutine")
	errTimeout   = fmt.Errorf("loader did not return within LoadTimeout: %w", context.DeadlineExceeded)
	errRecursive = errors.New("loader waits for the load that it is part of")
)

// A LoadError is what all callers of [Memory.Load] get when the loader fails: the same one,
// so it must not be changed.
type LoadError struct {
	Err   error  // the loader's, or a panic's
	Panic any    // what the loader panicked with; nil if it did not
	Stack []byte // of that panic, as text; nil if there was none
}

func (e *LoadError) Error() string { return "cache: load: " + e.Err.Error() }
func (e *LoadError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrLoad) true.
func (e *LoadError) Is(target error) bool { return target == ErrLoad }

// loadError wraps err once, even if loaders load from caches.
func loadError(err error) error {
	if _, ok := err.(*LoadError); ok {
		return err
	}
	return &LoadError{Err: err}
}

func panicError(value any) error {
	err, ok := value.(error)
	if !ok {
		err = fmt.Errorf("%v", value)
	}
	return &LoadError{Err: fmt.Errorf("panic: %w", err), Panic: value, Stack: debug.Stack()}
}

// loads is what a Memory knows of its loader calls.
type loads struct {
	ctx  context.Context // ends with Close
	stop context.CancelFunc

	stale, fallbacks, done, failed atomic.Uint64

	mu         sync.Mutex // guards the fields below and those of every call
	closed     bool
	background int // calls that no caller waits for
	running    sync.WaitGroup
}

func (l *loads) init() { l.ctx, l.stop = context.WithCancel(context.Background()) }

// A call is one call of a loader, for one key or for many.
type call struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	outer   *call  // the call whose loader waits for this one; may be nil
	seq     uint64 // reading of tagIndex.clock: what is loaded is not older
	started int64

	// loads.mu guards the fields below.
	waiters    int
	background bool // counted in loads.background
	ended      bool
}

// A flight is the load of one key. It is in its shard's flights until it has
// landed, or until key was set or removed: then it no longer stores anything.
type flight[V any] struct {
	call   *call
	landed bool          // guarded by the shard's lock
	done   chan struct{} // closed when the fields below are set
	// They are read-only after.
	value       V
	err         error
	invalidated uint64 // when a tag of value last was, if after the call began
}

// over reports whether f has landed.
func (f *flight[V]) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// newCall returns a call for the sake of one waiter, or for none if it is in the background.
func (m *Memory[K, V]) newCall(ctx context.Context, background bool) (*call, error) {
	l := &m.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if background && l.background >= m.cfg.MaxBackground {
		return nil, errAbandoned
	}
	c := &call{background: background}
	if !background {
		c.outer = callOf(ctx)
	}
	// The load outlives the caller that happens to be first, but keeps its
	// values: the trace of a request, say. A nil ctx panics here, where nothing is counted yet.
	c.ctx, c.cancel = context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), callKey{}, c))
	if background {
		l.background++
	}
	l.running.Add(1)
	m.tags.loading.Add(1) // before the clock is read: see tagIndex.invalidate
	c.seq = m.tags.clock.Load()
	c.started = m.now()
	return c, nil
}

type callKey struct{}

// callOf returns the call that ctx was made for, or nil.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// within reports whether c is part of the call other: waiting for that would be for ever.
func (c *call) within(other *call) bool {
	for ; c != nil; c = c.outer {
		if c == other {
			return true
		}
	}
	return false
}

// over ends a call.
func (m *Memory[K, V]) over(c *call) {
	m.tags.loading.Add(-1)
	c.cancel(nil)
	m.loads.mu.Lock()
	c.ended = true
	if c.background {
		m.loads.background--
	}
	m.loads.mu.Unlock()
	m.loads.running.Done()
}

// board makes its caller a waiter of c, unless c has been given up.
func (l *loads) board(c *call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.waiters++
	return true
}

// leave is called by a waiter that gives up.
func (m *Memory[K, V]) leave(c *call) {
	m.loads.mu.Lock()
	defer m.loads.mu.Unlock()
	if c.waiters--; c.waiters > 0 || c.background || c.ended {
		return
	}
	if m.loads.background >= m.cfg.MaxBackground {
		c.cancel(errAbandoned)
		return
	}
	c.background = true
	m.loads.background++
}

// Close ends all loads: their contexts are cancelled, their callers get
// [ErrClosed]. It returns when all loaders have returned or ctx ends, then
// with its cause. What is stored stays readable; Load no longer calls loaders. It must not
// be called by a loader. Without loads under way it does nothing that must be done: a
// Memory that is no longer used needs no Close.
func (m *Memory[K, V]) Close(ctx context.Context) error {
	m.loads.mu.Lock()
	m.loads.closed = true
	m.loads.mu.Unlock()
	m.loads.stop()
	ended := make(chan struct{})
	go func() {
		m.loads.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Load returns the value of key. If there is none, it calls load, once however
// many callers ask, and stores what that returns. Each caller waits until its
// own ctx ends at most, and then returns its cause; the load goes on, in a
// goroutine of its own, with the values of the first caller's ctx but not its
// end. A value that is stale or about to expire is returned at once, and
// refreshed in the background. An error is a [*LoadError], unless it is the
// cause of ctx or [ErrClosed].
//
// A loader may load other keys, with the ctx that it was given; if it loads its
// own again it gets an error. A key that is not equal to itself (NaN) is loaded
// for each caller and not stored.
func (m *Memory[K, V]) Load(ctx context.Context, key K, load func(ctx context.Context, key K) (V, error)) (V, error) {
	hash := m.hash(key)
	s := m.shard(hash)
	for {
		e := s.find(hash, key)
		if e != nil && e.plain() {
			s.hit(e)
			return e.load(m.storage), nil
		}
		if e != nil {
			a := m.answer(s, e)
			if a.refresh {
				m.refresh(ctx, s, e, hash, key, load)
			}
			if a.ok {
				return a.value, a.err
			}
		}
		value, err, again := m.wait(ctx, s, hash, key, load)
		if !again {
			return value, err
		}
	}
}

// An answer is what a caller of Load gets without waiting.
type answer[V any] struct {
	value   V
	err     error
	ok      bool
	refresh bool // in the background
}

// answer returns what e, which is not plain, is good for, and counts that.
func (m *Memory[K, V]) answer(s *shard[K, V], e *entry[K, V]) (a answer[V]) {
	now := m.now()
	f := e.full()
	switch m.condition(e, now) {
	case fresh:
		s.hit(e)
		if f.failed() {
			return answer[V]{err: f.more.err, ok: true}
		}
		m.touch(f, now)
		return answer[V]{value: e.load(m.storage), ok: true, refresh: m.early(f, now)}
	case stale:
		m.loads.stale.Add(1)
		return answer[V]{value: e.load(m.storage), ok: true, refresh: !f.waits(now)}
	case fallback:
		if f.waits(now) {
			m.loads.stale.Add(1)
			return answer[V]{value: e.load(m.storage), ok: true}
		}
	}
	return a
}

// waits reports whether a load failed a short while ago.
func (f *fullEntry[K, V]) waits(now int64) bool { return f.more != nil && f.more.retryAt.Load() > now }

// early decides whether to refresh f before its time: see Vattani, Chierichetti,
// Lowenstein, "Optimal Probabilistic Cache Stampede Prevention" (2015).
func (m *Memory[K, V]) early(f *fullEntry[K, V], now int64) bool {
	until, _ := m.times(f)
	if until == 0 || f.took == 0 || m.cfg.EarlyRefresh <= 0 || f.waits(now) {
		return false
	}
	typical, left := m.cfg.EarlyRefresh*float64(f.took), float64(until-now)
	if left > 37*typical {
		return false // the logarithm below is not that large
	}
	return -math.Log(1-m.random())*typical >= left
}

// refresh loads key in the background, for the sake of e, unless that is being done or too much is.
func (m *Memory[K, V]) refresh(ctx context.Context, s *shard[K, V], e *entry[K, V], hash uint64, key K, load func(context.Context, K) (V, error)) {
	if f := m.depart(s, e, hash, key, func() (*call, error) { return m.newCall(ctx, true) }); f != nil {
		go m.run(s, hash, key, f, load)
	}
}

// depart makes a flight that refreshes e, with what newCall returns, unless there is one or e
// has been replaced or removed: a plain entry in its place may be overwritten
// without the lock, so there must be no flight of its key.
func (m *Memory[K, V]) depart(s *shard[K, V], e *entry[K, V], hash uint64, key K, newCall func() (*call, error)) *flight[V] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[key] != nil || s.table.Load().find(hash, key) != e {
		return nil
	}
	c, err := newCall()
	if err != nil {
		return nil // closed, or too much is done in the background
	}
	f := &flight[V]{call: c, done: make(chan struct{})}
	s.flights[key] = f
	return f
}

// wait joins the flight of key, or starts one. It returns again if the caller
// must look afresh: the key was stored meanwhile, or what it would get was
// invalidated before it asked.
func (m *Memory[K, V]) wait(ctx context.Context, s *shard[K, V], hash uint64, key K, load func(context.Context, K) (V, error)) (value V, err error, again bool) {
	f, mine, seq, err := m.join(ctx, s, hash, key, func() (*call, error) { return m.newCall(ctx, false) })
	if err != nil {
		return value, err, false
	}
	if f == nil {
		return value, nil, true
	}
	s.miss()
	if mine {
		go m.run(s, hash, key, f, load)
	}
	return m.await(ctx, f, seq)
}

// join makes its caller a waiter of the flight of key, which it starts with what
// newCall returns if there is none. It returns no flight if there is no need
// to wait. Of a caller's own flight it has to run the loader. seq is the reading
// of the tags' clock when the caller came.
func (m *Memory[K, V]) join(ctx context.Context, s *shard[K, V], hash uint64, key K, newCall func() (*call, error)) (f *flight[V], mine bool, seq uint64, err error) {
	if ctx.Err() != nil {
		return nil, false, 0, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.table.Load().find(hash, key); e != nil && m.condition(e, m.now()) == fresh {
		return nil, false, 0, nil
	}
	seq = m.tags.clock.Load()
	f = s.flights[key]
	if f != nil && callOf(ctx).within(f.call) {
		return nil, false, 0, loadError(errRecursive)
	}
	if f != nil && m.loads.board(f.call) {
		return f, false, seq, nil
	}
	c, err := newCall()
	if err != nil {
		return nil, false, 0, err
	}
	m.loads.board(c)
	f = &flight[V]{call: c, done: make(chan struct{})}
	if findable(key) {
		s.flights[key] = f
	}
	return f, true, seq, nil
}

// await waits for f on behalf of a caller that came at seq.
func (m *Memory[K, V]) await(ctx context.Context, f *flight[V], seq uint64) (value V, err error, again bool) {
	if !f.over() { // first: what is there is not lost to a ctx that ends just now
		select {
		case <-f.done:
		case <-ctx.Done():
			m.leave(f.call)
			return value, context.Cause(ctx), false
		case <-m.loads.ctx.Done():
			m.leave(f.call)
			return value, ErrClosed, false
		}
	}
	if f.err != nil && context.Cause(f.call.ctx) == ErrClosed {
		return value, ErrClosed, false // whatever the loader made of that
	}
	if f.invalidated != 0 && seq >= f.invalidated {
		return value, nil, true
	}
	return f.value, f.err, false
}

// run calls load for f.
func (m *Memory[K, V]) run(s *shard[K, V], hash uint64, key K, f *flight[V], load func(context.Context, K) (V, error)) {
	defer m.over(f.call)
	var l landing[K, V]
	m.protect(f.call, func(ctx context.Context) error {
		value, err := load(ctx, key)
		if err == nil {
			l = m.prepare(key, hash, value, f.call)
		}
		return err
	}, func(err error) {
		if err != nil { // l may still be written to
			m.land(s, hash, key, f, landing[K, V]{}, err)
			return
		}
		m.land(s, hash, key, f, l, nil)
	})
}

// protect calls fn with the context of c, and then done with fn's error or with
// what else ended it. If fn goes on beyond the end of its time, done is called
// then already, and once more when fn has returned.
func (m *Memory[K, V]) protect(c *call, fn func(context.Context) error, done func(error)) {
	ctx := c.ctx
	if m.cfg.LoadTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.cfg.LoadTimeout)
		defer cancel()
		settled := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(settled)
			if c.ctx.Err() == nil {
				done(loadError(errTimeout))
			}
		})
		defer func() {
			if !stop() {
				<-settled
			}
		}()
	}
	defer context.AfterFunc(m.loads.ctx, func() { c.cancel(ErrClosed) })()
	err := errGoexit
	defer func() {
		if p := recover(); p != nil {
			err = panicError(p)
		}
		if err != nil {
			err = loadError(err)
		}
		done(err)
	}()
	err = fn(ctx)
}

// A landing is a loaded value, ready to be stored.
type landing[K comparable, V any] struct {
	entry  *entry[K, V]
	weight int64
	names  []string // of tags
}

// prepare calls the user's functions on a loaded value.
func (m *Memory[K, V]) prepare(key K, hash uint64, value V, c *call) (l landing[K, V]) {
	l.weight = m.weight(key, value)
	var more *details
	if m.cfg.Tags != nil {
		if l.names = m.cfg.Tags(key, value); len(l.names) > 0 {
			more = &details{seq: c.seq}
		}
	}
	now := m.now()
	l.entry = m.newEntry(hash, key, value, now, m.until(key, value, 0, now), more)
	if f := l.entry.full(); f != nil {
		f.took = time.Duration(now - c.started)
	}
	return l
}

// land stores what f has brought, if it still may, and wakes its waiters.
func (m *Memory[K, V]) land(s *shard[K, V], hash uint64, key K, f *flight[V], l landing[K, V], err error) {
	now := m.now()
	var keep time.Duration
	// That a load was ended by Close, or because nobody waited for it, says nothing about the key.
	if err != nil && m.cfg.ErrorTTL != nil && f.call.ctx.Err() == nil {
		keep = m.errorTTL(key, err)
	}
	var events []MemoryEvent[K, V]
	s.mu.Lock()
	if f.landed { // when its time was over
		s.mu.Unlock()
		return
	}
	f.landed = true
	current := s.flights[key] == f
	if current {
		delete(s.flights, key)
	}
	s.expireLocked(now, &events)
	old := s.table.Load().find(hash, key)
	switch {
	case err == nil:
		f.value = l.entry.load(m.storage)
		if current {
			m.storeLoadedLocked(s, old, f, l, now, &events)
		}
	case old != nil && !old.failed() && m.condition(old, now) != gone:
		f.value = old.load(m.storage)
		m.loads.fallbacks.Add(1)
		if f := old.full(); keep > 0 && f != nil && f.more != nil {
			f.more.retryAt.Store(after(now, keep))
		}
	default:
		f.err = err
		if keep > 0 && current {
			var none V
			e := m.newEntry(hash, key, none, now, 0, &details{err: err})
			e.full().expires.Store(after(now, keep))
			s.storeLocked(old, e, m.errorWeight, now, &events)
		}
	}
	if len(l.names) > 0 {
		f.invalidated = m.tags.invalidatedSince(l.names, f.call.seq)
	}
	s.mu.Unlock()
	m.loads.done.Add(1)
	if err != nil {
		m.loads.failed.Add(1)
	}
	if m.cfg.Observe != nil {
		m.loads.mu.Lock()
		background := f.call.background
		m.loads.mu.Unlock()
		m.notify(f.call.ctx, append(events, MemoryEvent[K, V]{
			Kind: MemoryLoaded, Key: key, Duration: time.Duration(now - f.call.started), Background: background, Err: err}))
	}
	close(f.done) // not before: a caller's log line would be written without the event
}

func (m *Memory[K, V]) storeLoadedLocked(s *shard[K, V], old *entry[K, V], f *flight[V], l landing[K, V], now int64, events *[]MemoryEvent[K, V]) {
	if len(l.names) > 0 {
		tags, ok := m.tags.acquire(l.names, f.call.seq)
		if !ok {
			return // invalidated while it was loaded
		}
		l.entry.full().more.tags = tags
	}
	s.storeLocked(old, l.entry, l.weight, now, events)
}

// errorTTL calls the user's function, which must not bring the waiters to grief.
func (m *Memory[K, V]) errorTTL(key K, err error) (keep time.Duration) {
	defer func() {
		if recover() != nil {
			keep = 0
		}
	}()
	return m.cfg.ErrorTTL(key, err)
}

// detachLocked sees to it that a load of key under way stores nothing, and that
// later callers do not wait for it.
func (s *shard[K, V]) detachLocked(key K) {
	if len(s.flights) > 0 {
		delete(s.flights, key)
	}
}
