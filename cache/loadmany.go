package cache

import (
	"context"
	"errors"
)

// LoadMany is [Memory.Load] for many keys. What is missing is loaded with one call
// of load, except for keys that others are loading already: it waits for those.
// The result lacks the keys that load left out of its own, which counts as
// [ErrNotFound] for them. If anything else failed it has what could be had, and
// the error says what went wrong.
func (m *Memory[K, V]) LoadMany(ctx context.Context, keys []K, load func(ctx context.Context, keys []K) (map[K]V, error)) (map[K]V, error) {
	found := make(map[K]V, len(keys))
	var errs []error
	for len(keys) > 0 {
		b := batch[K, V]{m: m, ctx: ctx, load: load, found: found, waits: make(map[K]awaited[V])}
		for _, key := range keys {
			if err := b.add(key); err != nil {
				b.leave()
				return found, errors.Join(append(errs, err)...)
			}
		}
		b.start()
		if keys = b.again; len(b.waits) == 0 {
			continue
		}
		again, err := b.await(&errs)
		if err != nil {
			return found, errors.Join(append(errs, err)...)
		}
		keys = append(keys, again...)
	}
	return found, errors.Join(errs...)
}

// A batch is one round of LoadMany.
type batch[K comparable, V any] struct {
	m     *Memory[K, V]
	ctx   context.Context
	load  func(context.Context, []K) (map[K]V, error)
	found map[K]V

	waits map[K]awaited[V]
	again []K               // look afresh
	mine  []departure[K, V] // to be loaded for this caller
	stale []departure[K, V] // to be refreshed in the background
}

// awaited is a flight that a caller waits for, and the reading of the tags' clock when it came.
type awaited[V any] struct {
	flight *flight[V]
	seq    uint64
}

// A departure is a flight that a call has to serve.
type departure[K comparable, V any] struct {
	shard  *shard[K, V]
	hash   uint64
	key    K
	flight *flight[V]
}

// add answers key, or joins or makes its flight.
func (b *batch[K, V]) add(key K) error {
	if _, ok := b.found[key]; ok {
		return nil
	}
	if _, ok := b.waits[key]; ok {
		return nil
	}
	m := b.m
	hash := m.hash(key)
	s := m.shard(hash)
	if e := s.find(hash, key); e != nil {
		if e.plain() {
			s.hit(e)
			b.found[key] = e.load(m.storage)
			return nil
		}
		a := m.answer(s, e)
		if a.refresh {
			b.refresh(s, hash, key)
		}
		if a.ok {
			if a.err == nil {
				b.found[key] = a.value
			} else if !errors.Is(a.err, ErrNotFound) {
				return a.err
			}
			return nil
		}
	}
	f, mine, seq, err := m.join(s, hash, key, func() (*call, error) { return b.call(b.mine, false) })
	if err != nil {
		return err
	}
	if f == nil {
		b.again = append(b.again, key)
		return nil
	}
	s.miss()
	b.waits[key] = awaited[V]{f, seq}
	if mine {
		b.mine = append(b.mine, departure[K, V]{s, hash, key, f})
	}
	return nil
}

// call returns the call that the flights so far share, or a new one.
func (b *batch[K, V]) call(flights []departure[K, V], background bool) (*call, error) {
	if len(flights) > 0 {
		return flights[0].flight.call, nil
	}
	return b.m.newCall(b.ctx, background)
}

// refresh is Memory.refresh for one key of the batch.
func (b *batch[K, V]) refresh(s *shard[K, V], hash uint64, key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[key] != nil {
		return
	}
	c, err := b.call(b.stale, true)
	if err != nil {
		return // closed, or too much is done in the background
	}
	f := &flight[V]{call: c, done: make(chan struct{})}
	s.flights[key] = f
	b.stale = append(b.stale, departure[K, V]{s, hash, key, f})
}

// start runs the loader for the batch's own flights.
func (b *batch[K, V]) start() {
	for _, flights := range [][]departure[K, V]{b.mine, b.stale} {
		if len(flights) > 0 {
			go b.m.runMany(flights, b.load)
		}
	}
}

// leave gives up all waiting. Flights of the batch's own set off all the same:
// others may have joined them.
func (b *batch[K, V]) leave() {
	b.start()
	for _, w := range b.waits {
		b.m.leave(w.flight.call)
	}
}

// await waits for the flights. It returns the keys to look at afresh, and an
// error if there is no use in that.
func (b *batch[K, V]) await(errs *[]error) (again []K, err error) {
	seen := make(map[error]bool)
	for key, w := range b.waits {
		if err != nil {
			b.m.leave(w.flight.call)
			continue
		}
		value, failure, afresh := b.m.await(b.ctx, w.flight, w.seq)
		switch {
		case afresh:
			again = append(again, key)
		case failure == nil:
			b.found[key] = value
		case isLoadError(failure):
			// One call has the same error for all its keys.
			if !errors.Is(failure, ErrNotFound) && !seen[failure] {
				seen[failure] = true
				*errs = append(*errs, failure)
			}
		default: // ctx has ended, or the cache was closed
			err = failure
		}
	}
	return again, err
}

func isLoadError(err error) bool {
	_, ok := err.(*LoadError)
	return ok
}

// runMany calls load for flights of one call.
func (m *Memory[K, V]) runMany(flights []departure[K, V], load func(context.Context, []K) (map[K]V, error)) {
	c := flights[0].flight.call
	defer m.over(c)
	keys := make([]K, len(flights))
	for i, d := range flights {
		keys[i] = d.key
	}
	landings := make([]landing[K, V], len(flights))
	m.protect(c, func(ctx context.Context) error {
		values, err := load(ctx, keys)
		if err != nil {
			return err
		}
		for i, d := range flights {
			if value, ok := values[d.key]; ok {
				landings[i] = m.prepare(d.key, d.hash, value, c)
			}
		}
		return nil
	}, func(err error) {
		for i, d := range flights {
			missing := err
			if err == nil && landings[i].entry == nil {
				missing = loadError(ErrNotFound)
			}
			m.land(d.shard, d.hash, d.key, d.flight, landings[i], missing)
		}
	})
}
