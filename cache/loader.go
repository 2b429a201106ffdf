package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

var (
	// ErrClosed reports a load after [Memory.Close], or one that Close ended.
	ErrClosed = errors.New("cache: closed")

	// ErrNotFound is for loaders to return when there is nothing under a key;
	// [MemoryConfig.ErrorTTL] can then tell it from other errors. A bulk loader reports it by
	// leaving the key out.
	ErrNotFound = errors.New("cache: not found")

	// ErrLoad reports that a loader failed. A [*LoadError] says how.
	ErrLoad = errors.New("cache: load failed")

	errAbandoned      = errors.New("load abandoned by all its callers")
	errGoexit         = errors.New("loader ended its goroutine")
	errNested         = errors.New("observers that load are nested too deep")
	errDeadlock       = errors.New("loaders wait for each other's keys")
	errTimeout        = fmt.Errorf("loader did not return within LoadTimeout: %w", context.DeadlineExceeded)
	errObserverGoexit = errors.New("Observe ended its goroutine")
	errRecursive      = errors.New("loader waits for the load that it is part of")
)

// A LoadError describes the failure of a loader, or of a function of the configuration that is
// called for what it loaded. It matches [ErrLoad]. All callers of [Memory.Load] that
// waited for the load get the same one, so it must not be changed.
type LoadError struct {
	Err   error  // the loader's, or a panic's
	Panic any    // what the function panicked with; nil if it did not
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

// A loader gets the value of a key from where it is kept.
type loader[K comparable, V any] func(ctx context.Context, key K) (V, error)

// Load returns the value of key. If there is none, it calls load, once however many callers ask,
// and stores what that returns. A value that is stale or about to expire is returned at once, and
// refreshed in the background.
//
// Each caller waits until its own ctx ends at most, and then returns the cause of that. The load
// goes on without it, in a goroutine of its own, with the values of the first caller's ctx but not
// its end. An error is a [*LoadError], unless it is the cause of ctx or [ErrClosed].
//
// A loader may load other keys with the ctx that it was given. If it loads its own key again, or
// one whose loader waits for its own, it gets an error at once. A key that is not equal to itself
// (NaN) is loaded for each caller and not stored.
func (m *Memory[K, V]) Load(
	ctx context.Context, key K, load func(ctx context.Context, key K) (V, error),
) (V, error) {
	hash := m.hash(key)
	s := m.shard(hash)
	var came uint64
	for waits := 0; ; waits++ {
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
		if waits == 0 { // not sooner: hits need not know
			came = m.tags.clock.Load()
		}
		value, err, lookAgain := m.wait(ctx, s, hash, key, came, load)
		if !lookAgain {
			return value, err
		}
	}
}

// An answer is what a caller of Load gets without waiting.
type answer[V any] struct {
	value   V
	err     error
	ok      bool // there is an answer
	refresh bool // the value should be loaded anew in the background
}

// answer returns what a caller can be given of e, which is not plain, and counts that.
func (m *Memory[K, V]) answer(s *shard[K, V], e *entry[K, V]) (a answer[V]) {
	now := m.now()
	x := e.extended()
	switch m.condition(e, now) {
	case fresh:
		s.hit(e)
		if x.failed() {
			return answer[V]{err: x.details.err, ok: true}
		}
		m.touch(x, now)
		return answer[V]{value: e.load(m.storage), ok: true, refresh: m.early(x, now)}
	case stale:
		m.loads.stale.Add(1)
		return answer[V]{value: e.load(m.storage), ok: true, refresh: !x.failedLately(now)}
	case fallback:
		if x.failedLately(now) {
			m.loads.stale.Add(1)
			return answer[V]{value: e.load(m.storage), ok: true}
		}
	}
	return a
}

// early decides whether to refresh x before its time: see Vattani, Chierichetti, Lowenstein,
// "Optimal Probabilistic Cache Stampede Prevention" (2015).
func (m *Memory[K, V]) early(x *extendedEntry[K, V], now int64) bool {
	until, _ := m.times(x)
	if until == 0 || x.took == 0 || m.cfg.EarlyRefresh <= 0 || x.failedLately(now) {
		return false
	}
	typical, left := m.cfg.EarlyRefresh*float64(x.took), float64(until-now)
	if left > 37*typical {
		return false // -log of the smallest float64 that 1-random can be is less than 37
	}
	return -math.Log(1-m.random())*typical >= left
}

// refresh loads key in the background for the sake of e, unless a load of it is running already or
// MaxBackground is reached.
func (m *Memory[K, V]) refresh(
	ctx context.Context, s *shard[K, V], e *entry[K, V], hash uint64, key K, load loader[K, V],
) {
	f := m.newRefresh(s, e, hash, key, func() (*call, error) { return m.newCall(ctx, true) })
	if f != nil {
		go m.run(f, load)
	}
}

// wait joins the flight of key, or starts one, and waits for it. It returns lookAgain if the caller
// must look for the key once more: the key was stored meanwhile, or what the flight brought was
// invalidated before the tags' clock read came, when the caller asked.
func (m *Memory[K, V]) wait(
	ctx context.Context, s *shard[K, V], hash uint64, key K, came uint64, load loader[K, V],
) (value V, err error, lookAgain bool) {
	f, mine, err := m.join(ctx, s, hash, key, func() (*call, error) { return m.newCall(ctx, false) })
	if err != nil {
		return value, err, false
	}
	if f == nil {
		return value, nil, true
	}
	s.miss()
	if mine {
		go m.run(f, load)
	}
	return m.await(ctx, f, came)
}

// await waits for f on behalf of a caller that asked when the tags' clock read came. That reading
// stays the same when the caller looks again, so it does not do so without end: each time it waits
// for a later flight, and one that began after it came will do.
func (m *Memory[K, V]) await(
	ctx context.Context, f *flight[K, V], came uint64,
) (value V, err error, lookAgain bool) {
	defer callOf(ctx).stopWaiting(f.call)
	slow, stop := m.slowness(f)
	defer stop()
	for !f.isDone() { // first: what is there is not lost to a ctx that ends just now
		select {
		case <-f.done:
		case <-slow:
			slow = nil
			if value, ok := m.instead(f); ok {
				m.removeWaiter(f.call)
				return value, nil, false
			}
		case <-ctx.Done():
			m.removeWaiter(f.call)
			return value, context.Cause(ctx), false
		case <-m.loads.ctx.Done():
			m.removeWaiter(f.call)
			return value, ErrClosed, false
		}
	}
	if f.err != nil && context.Cause(f.call.ctx) == ErrClosed {
		return value, ErrClosed, false // whatever the loader made of that
	}
	if f.invalidated != 0 && came >= f.invalidated {
		return value, nil, true
	}
	return f.value, f.err, false
}

// slowness returns a channel that is sent to when f has gone on for StaleAfter.
func (m *Memory[K, V]) slowness(f *flight[K, V]) (slow <-chan time.Time, stop func() bool) {
	if m.cfg.StaleAfter == 0 {
		return nil, func() bool { return false }
	}
	t := time.NewTimer(m.cfg.StaleAfter - time.Duration(m.now()-f.call.started))
	return t.C, t.Stop
}

// instead returns what is there while f is slow, if that may be returned should f fail.
func (m *Memory[K, V]) instead(f *flight[K, V]) (value V, ok bool) {
	e := f.shard.find(f.hash, f.key)
	if e == nil || e.failed() || m.condition(e, m.now()) == gone {
		return value, false
	}
	m.loads.slow.Add(1)
	return e.load(m.storage), true
}
