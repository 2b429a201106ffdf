package cache

import (
	"context"
	"errors"
	"slices"
)

// A bulkLoader gets the values of many keys from where they are kept.
type bulkLoader[K comparable, V any] func(ctx context.Context, keys []K) (map[K]V, error)

// LoadMany is [Memory.Load] for many keys. What is missing is loaded with one call of load, except
// for keys that others are loading already: LoadMany waits for those. The result lacks the keys
// that load left out of its own, which counts as [ErrNotFound] for them. If anything else failed,
// the result has what could be had, and the error says what went wrong. So load may return what it
// has got with its error: those values are stored, and the error is that of the other keys.
func (m *Memory[K, V]) LoadMany(
	ctx context.Context, keys []K, load func(ctx context.Context, keys []K) (map[K]V, error),
) (map[K]V, error) {
	found := make(map[K]V, len(keys))
	came := m.tags.clock.Load()
	var failed failures
	for len(keys) > 0 {
		b := batch[K, V]{
			m: m, ctx: ctx, load: load, came: came, found: found, pending: make(map[K]*flight[K, V]),
		}
		end := b.begin(keys, &failed)
		retry, err := b.await(&failed, end)
		if err != nil {
			return found, errors.Join(append(failed, err)...)
		}
		keys = append(b.retry, retry...)
	}
	return found, errors.Join(failed...)
}

// failures are the errors of loaders, each once: a call has the same for all its keys.
type failures []error

// take notes err if it comes from a loader, unless it says that there is nothing under a key. It
// reports whether err comes from a loader.
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
	load  bulkLoader[K, V]
	came  uint64 // reading of the tags' clock when the caller asked
	found map[K]V

	pending map[K]*flight[K, V] // that the caller waits for
	retry   []K                 // keys to look at in another round
	missing []*flight[K, V]     // to be loaded for this caller
	stale   []*flight[K, V]     // to be refreshed in the background
}

// begin answers keys or sees to it that they are loaded. It stops at an error of ctx or of the
// cache, and returns that.
func (b *batch[K, V]) begin(keys []K, failed *failures) (end error) {
	// Deferred, so that it runs even if hashing a key panics: others may wait for these flights.
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
	if _, ok := b.pending[key]; ok {
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
	newCall := func() (*call, error) { return b.call(b.missing, false) }
	f, mine, err := m.join(b.ctx, s, hash, key, newCall)
	if err != nil {
		return err
	}
	if f == nil {
		b.retry = append(b.retry, key)
		return nil
	}
	s.miss()
	b.pending[key] = f
	if mine {
		b.missing = append(b.missing, f)
	}
	return nil
}

// call returns the call that the flights so far share, or a new one.
func (b *batch[K, V]) call(flights []*flight[K, V], background bool) (*call, error) {
	if len(flights) > 0 {
		return flights[0].call, nil
	}
	return b.m.newCall(b.ctx, background)
}

// refresh is Memory.refresh for one key of the batch.
func (b *batch[K, V]) refresh(s *shard[K, V], e *entry[K, V], hash uint64, key K) {
	newCall := func() (*call, error) { return b.call(b.stale, true) }
	if f := b.m.newRefresh(s, e, hash, key, newCall); f != nil {
		b.stale = append(b.stale, f)
	}
}

// start runs the loader for the batch's own flights.
func (b *batch[K, V]) start() {
	for _, flights := range [][]*flight[K, V]{b.missing, b.stale} {
		if len(flights) > 0 {
			go b.m.runMany(flights, b.load)
		}
	}
}

// await waits for the pending keys. If end is not nil it does not wait, but takes what is there. It
// returns the keys to look at in another round, and an error if there is no use in that.
func (b *batch[K, V]) await(failed *failures, end error) (retry []K, err error) {
	err = end
	for key, f := range b.pending {
		if err != nil && !f.isDone() {
			callOf(b.ctx).stopWaiting(f.call)
			b.m.removeWaiter(f.call)
			continue
		}
		value, failure, lookAgain := b.m.await(b.ctx, f, b.came)
		switch {
		case lookAgain:
			retry = append(retry, key)
		case failure == nil:
			b.found[key] = value
		case !failed.take(failure): // ctx has ended, or the cache was closed
			err = failure
		}
	}
	for _, f := range b.missing {
		if f.isDone() {
			failed.take(f.beside)
		}
	}
	return retry, err
}

// runMany calls load for flights of one call.
func (m *Memory[K, V]) runMany(flights []*flight[K, V], load bulkLoader[K, V]) {
	c := flights[0].call
	defer m.endCall(c)
	keys := make([]K, len(flights))
	for i, f := range flights {
		keys[i] = f.key
	}
	loaded := make([]loadedValue[K, V], len(flights))
	failures := make([]error, len(flights))
	m.protect(c, func(ctx context.Context) error {
		values, err := load(ctx, keys)
		if err != nil {
			err = loadError(err) // the same for all keys
		}
		for i, f := range flights {
			value, ok := values[f.key]
			switch {
			case ok:
				loaded[i], failures[i] = m.tryPrepare(f, value)
				loaded[i].beside = err
			case err != nil:
				failures[i] = err
			default:
				failures[i] = loadError(ErrNotFound)
			}
		}
		return nil
	}, func(err error) {
		m.finishAll(flights, func(i int) (loadedValue[K, V], error) {
			if err != nil { // what is loaded may still be written to
				return loadedValue[K, V]{}, err
			}
			return loaded[i], failures[i]
		})
	})
}

// tryPrepare is prepare for one of several values. A panic of the user's functions fails that one.
func (m *Memory[K, V]) tryPrepare(f *flight[K, V], value V) (v loadedValue[K, V], err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicError("panic", p)
		}
	}()
	return m.prepare(f, value), nil
}

// finishAll finishes each flight with what the function returns for it, even if an observer ends
// the goroutine meanwhile.
func (m *Memory[K, V]) finishAll(flights []*flight[K, V], brought func(i int) (loadedValue[K, V], error)) {
	i := 0
	var rest func()
	rest = func() {
		if i == len(flights) {
			return
		}
		defer rest()
		for i < len(flights) {
			f := flights[i]
			v, err := brought(i)
			i++
			m.finish(f, v, err)
		}
	}
	rest()
}
