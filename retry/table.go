package retry

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
)

// A table holds one state for each key. Keys beyond its bound share one more. Finding a state takes
// no lock: the map is never changed, but replaced by a larger one.
type table[V any] struct {
	bound int
	fresh func() *V // makes a state

	current atomic.Pointer[map[string]*V]
	rest    atomic.Pointer[V] // of the keys beyond the bound; nil before the first of them

	mu sync.Mutex // serialises writers of the fields above
}

func newTable[V any](bound int, fresh func() *V) *table[V] {
	t := &table[V]{bound: bound, fresh: fresh}
	t.current.Store(&map[string]*V{})
	return t
}

// get returns the state of key, which it makes at need. shared reports whether other keys have it
// too.
func (t *table[V]) get(key string) (v *V, shared bool) {
	m := *t.current.Load()
	if v := m[key]; v != nil {
		return v, false
	}
	if v := t.rest.Load(); v != nil && len(m) >= t.bound {
		return v, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m = *t.current.Load()
	if v := m[key]; v != nil {
		return v, false
	}
	if len(m) >= t.bound {
		if t.rest.Load() == nil {
			t.rest.Store(t.fresh())
		}
		return t.rest.Load(), true
	}
	grown := make(map[string]*V, len(m)+1)
	maps.Copy(grown, m)
	v = t.fresh()
	grown[strings.Clone(key)] = v // key may be a part of a long URL
	t.current.Store(&grown)
	return v, false
}

func (t *table[V]) all() map[string]*V { return *t.current.Load() }
