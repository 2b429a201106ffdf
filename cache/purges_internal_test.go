package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The labels of a response that is not stored, since a later one is there, are given back.
func TestLabelsOfWhatComesTooLateAreGivenBack(t *testing.T) {
	s, err := NewMemoryStore(MemoryStoreConfig{})
	require.NoError(t, err)
	labels := func() (n int) {
		for i := range s.purges.stripes {
			n += len(s.purges.stripes[i].labels)
		}
		return n
	}
	_, mark, err := s.Get(t.Context(), Key{})
	require.NoError(t, err)
	now := time.Now()
	put := func(received time.Time, label string) {
		require.NoError(t, s.Put(t.Context(), Key{}, &Entry{
			Mark: mark, Status: 200, Received: received, Labels: []string{label},
		}, 8))
	}
	put(now, "the later one")
	for i := range 5 {
		put(now.Add(-time.Second), fmt.Sprint(i))
	}
	require.Equal(t, 1, labels())
	put(now.Add(time.Second), "the latest one")
	require.Equal(t, 1, labels())
}

// What was fetched from far is given up for what was stored meanwhile, with its labels.
func TestLabelsOfWhatIsNotReplacedAreGivenBack(t *testing.T) {
	s, err := NewMemoryStore(MemoryStoreConfig{})
	require.NoError(t, err)
	mark := Mark(s.purges.clock.Load())
	entry := func(label string, kept time.Duration) *Entry {
		return &Entry{Mark: mark, Status: 200, Labels: []string{label}, kept: kept}
	}
	require.NoError(t, s.Put(t.Context(), Key{}, entry("new", 2), 8))
	s.replace(Key{}, &Resource{Entries: []*Entry{entry("old", 1)}}, 1)
	n := 0
	for i := range s.purges.stripes {
		n += len(s.purges.stripes[i].labels)
	}
	require.Equal(t, 1, n)
}
