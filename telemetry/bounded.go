package telemetry

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// A bounded holds values of type V, each made for a question of type Q. It never removes one: the
// SDK forgets no series either. Once it is full, further questions share values. Reading takes no
// lock; each addition copies the map, and there are few.
type bounded[Q any, K comparable, V any] struct {
	limit    int // values at most
	ordinary int // values at most before questions have to share
	key      func(Q) K
	answers  func(*V, Q) bool // whether the value is for the question, given the same key
	build    func(Q) (K, *V)  // makes a value, and a key without the question's memory
	shared   func(Q) Q        // the question to ask if there is no room for this one
	lost     *atomic.Uint64   // counts those

	current atomic.Pointer[map[K][]*V]
	full    atomic.Bool // no room for ordinary ones

	mu sync.Mutex // serialises writers of current, and guards the field below
	n  int        // values
}

// get returns the value for q or, if there is no room for it, the one for shared(q). It returns nil
// if there is no room for that either.
func (b *bounded[Q, K, V]) get(q Q) *V {
	if v := b.find(q); v != nil {
		return v
	}
	if !b.full.Load() {
		if v := b.add(q, b.ordinary); v != nil {
			return v
		}
		b.full.Store(true)
	}
	b.lost.Add(1)
	q = b.shared(q)
	if v := b.find(q); v != nil {
		return v
	}
	return b.add(q, b.limit)
}

func (b *bounded[Q, K, V]) find(q Q) *V {
	if all := b.current.Load(); all != nil {
		for _, v := range (*all)[b.key(q)] {
			if b.answers(v, q) {
				return v
			}
		}
	}
	return nil
}

// add returns the value for q, made if there are fewer than limit, and otherwise nil.
func (b *bounded[Q, K, V]) add(q Q, limit int) *V {
	return b.addIf(q, func(n int) bool { return n < limit })
}

// addIf returns the value for q, made if fits says so of the number of values, and otherwise nil.
// It calls fits at most once, with b.mu held.
func (b *bounded[Q, K, V]) addIf(q Q, fits func(n int) bool) *V {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v := b.find(q); v != nil {
		return v // somebody else was faster
	}
	if !fits(b.n) {
		return nil
	}
	k, v := b.build(q)
	grown := map[K][]*V{}
	if old := b.current.Load(); old != nil {
		grown = maps.Clone(*old)
	}
	grown[k] = append(slices.Clip(grown[k]), v)
	b.current.Store(&grown)
	b.n++
	return v
}

func (b *bounded[Q, K, V]) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}
