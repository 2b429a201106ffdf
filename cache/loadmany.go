package cache

import (
	"context"
	"errors"
	"slices"
)

// LoadMany is [Memory.Load] for many keys. What is missing is loaded with one call
// of load, except for keys that others are loading already: it waits for those.
// The result lacks the keys that load left out of its own, which counts as
// [ErrNotFound] for them. If anything else failed it has what could be had, and
// the error says what went wrong.
func (m *Memory[K, V]) LoadMany(ctx context.Context, keys []K, load func(ctx context.Context, keys []K) (map[K]V, error)) (map[K]V, error) {
	found := make(map[K]V, len(keys))
	var failed failures
	for len(keys) > 0 {
		b := batch[K, V]{m: m, ctx: ctx, load: load, found: found, waits: make(map[K]awaited[V])}
		end := b.begin(keys, &failed)
		again, err := b.await(&failed, end)
		if err != nil {
			return found, errors.Join(append(failed, err)...)
		}
		keys = append(b.again, again...)
	}
	return found, errors.Join(failed...)
}

// failures are the errors of loaders, each once: a call has the same for all its keys.
type failures []error

// take notes err, if it is a loader's and not that there is nothing under a key.
// It reports whether it is a loader's.
func (f *failures) take(err error) bool {
	if _, ok := err.(*LoadError); !ok {
		return false
	}
	if !errors.Is(err, ErrNotFound) && !slices.Contains(*f, err) {
		*f = append(*f, err)
	}
	return true
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

// begin answers keys or sees to it that they are loaded, up to an error of ctx or of the cache.
func (b *batch[K, V]) begin(keys []K, failed *failures) (end error) {
	// In any case, and be it that a key cannot be compared: others may have joined the flights.
	defer b.start()
	for _, key := range keys {
		if err := b.add(key); err != nil && !failed.take(err) {
			return err
		}
	}
	return nil
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
			b.refresh(s, e, hash, key)
		}
		if a.ok {
			if a.err == nil {
				b.found[key] = a.value
			}
			return a.err
		}
	}
	f, mine, seq, err := m.join(b.ctx, s, hash, key, func() (*call, error) { return b.call(b.mine, false) })
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
func (b *batch[K, V]) refresh(s *shard[K, V], e *entry[K, V], hash uint64, key K) {
	if f := b.m.depart(s, e, hash, key, func() (*call, error) { return b.call(b.stale, true) }); f != nil {
		b.stale = append(b.stale, departure[K, V]{s, hash, key, f})
	}
}

// start runs the loader for the batch's own flights.
func (b *batch[K, V]) start() {
	for _, flights := range [][]departure[K, V]{b.mine, b.stale} {
		if len(flights) > 0 {
			go b.m.runMany(flights, b.load)
		}
	}
}

// await waits for the flights, or not if end is not nil. It returns the keys to look
// at afresh, and an error if there is no use in that.
func (b *batch[K, V]) await(failed *failures, end error) (again []K, err error) {
	err = end
	for key, w := range b.waits {
		if err != nil && !w.flight.over() {
			b.m.leave(w.flight.call)
			continue
		}
		value, failure, afresh := b.m.await(b.ctx, w.flight, w.seq)
		switch {
		case afresh:
			again = append(again, key)
		case failure == nil:
			b.found[key] = value
		case !failed.take(failure): // ctx has ended, or the cache was closed
			err = failure
		}
	}
	return again, err
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
			var l landing[K, V]
			missing := err
			if err == nil { // or else landings may still be written to
				if l = landings[i]; l.entry == nil {
					missing = loadError(ErrNotFound)
				}
			}
			m.land(d.shard, d.hash, d.key, d.flight, l, missing)
		}
	})
}
