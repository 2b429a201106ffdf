package retry

import (
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Finding a state takes no lock, also beyond the bound.
func TestTableFindsWithoutALock(t *testing.T) {
	table := newTable(2, func() *int { return new(int) })
	a, shared := table.get("a")
	require.False(t, shared)
	b, _ := table.get("b")
	rest, shared := table.get("c")
	require.True(t, shared)
	table.mu.Lock() // whoever takes it now waits for ever
	defer table.mu.Unlock()
	for key, want := range map[string]*int{"a": a, "b": b, "c": rest, "d": rest} {
		got, _ := table.get(key)
		require.Same(t, want, got)
	}
}

// Newcomers at the same time get one state for each key.
func TestTableConcurrently(t *testing.T) {
	table := newTable(50, func() *int { return new(int) })
	var all [100]sync.Map
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for key := range all {
				v, _ := table.get(strconv.Itoa(key))
				all[key].Store(v, true)
			}
		})
	}
	wg.Wait()
	require.Len(t, table.all(), 50)
	for key := range all {
		n := 0
		all[key].Range(func(any, any) bool { n++; return true })
		require.Equal(t, 1, n)
	}
}
