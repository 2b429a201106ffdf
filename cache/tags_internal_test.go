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

// Functions of the configuration run before the lock is taken. What they store under the key in the
// meantime is what SetIfAbsent finds, and the tags of its own value are given back.
func TestSetIfAbsentThatComesSecondHoldsNoTags(t *testing.T) {
	var m *Memory[string, int]
	m, err := NewMemory(MemoryConfig[string, int]{Tags: func(_ string, v int) []string {
		if v == 2 {
			m.Set("k", 1)
		}
		return []string{"t"}
	}})
	require.NoError(t, err)
	v, stored := m.SetIfAbsent("k", MemoryItem[int]{Value: 2})
	require.False(t, stored)
	require.Equal(t, 1, v)
	v, ok := m.Get("k")
	require.True(t, ok)
	require.Equal(t, 1, v)
	require.Equal(t, 1, m.tags.tags["t"].refs)
	require.True(t, m.Delete("k"))
	require.Empty(t, m.tags.tags)
}
