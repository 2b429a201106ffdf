package cache

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTagsWithoutEntriesAreForgotten(t *testing.T) {
	m, err := NewMemory(MemoryConfig[int, int]{MaxEntries: 100, Tags: func(k, _ int) []string {
		return []string{fmt.Sprint(k), "all"}
	}})
	require.NoError(t, err)
	for k := range 10_000 {
		m.Set(k, k)
		m.InvalidateTag(fmt.Sprint(k-50), Soft+Invalidation(k%2))
		m.InvalidateTag(fmt.Sprint("unknown ", k), Hard)
	}
	require.LessOrEqual(t, len(m.tags.tags), 101)
	m.Clear()
	require.Empty(t, m.tags.tags)

	// While a load is under way what was invalidated must be remembered, within a bound.
	_, err = m.Load(context.Background(), 1, func(context.Context, int) (int, error) {
		for k := range 100_000 {
			m.InvalidateTag(fmt.Sprint("unknown ", k), Hard)
			require.LessOrEqual(t, len(m.tags.tags), maxEmptyTags+1)
		}
		return 1, nil
	})
	require.NoError(t, err)
	_, ok := m.Get(1)
	require.False(t, ok, "with so many forgotten, one may have been its own")
	require.NoError(t, m.Close(context.Background()))
	m.Clear()
	m.InvalidateTag("any", Hard)
	require.Zero(t, len(m.tags.tags))
	require.Zero(t, len(m.tags.empty))
}
