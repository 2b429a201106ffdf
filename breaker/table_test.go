package breaker

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// Where keys become idle one by one, the table is swept ten times a window and not for each
// newcomer.
func TestSweepsDoNotGrowWithNewcomers(t *testing.T) {
	const (
		most   = 1000
		window = 10_000
	)
	type state struct{ until int64 }
	now, looks := int64(1), 0
	keys := newTable(most, window/10,
		func(string) *state { return &state{now + window} },
		func(s *state) bool { looks++; return now >= s.until })
	added := 0
	for i := range 3 * most {
		now += window / most
		if keys.add(fmt.Sprint(i), func() int64 { return now }) != nil {
			added++
		}
	}
	require.Positive(t, looks)
	require.LessOrEqual(t, looks, 22*most, "ten sweeps for each of the windows after the first")
	require.Greater(t, added, most+most/2, "what is idle makes room")
	require.LessOrEqual(t, keys.len(), most)
}

// A key that is a piece of a long string does not keep all of that in memory.
func TestKeysAreCopied(t *testing.T) {
	key := strings.Repeat("long", 1000)[:4]
	keys := newTable(2, 1, func(made string) *string { return &made }, func(*string) bool { return false })
	keys.add(key, func() int64 { return 1 })
	keys.all(func(kept string, state *string) {
		require.Equal(t, key, kept)
		require.NotSame(t, unsafe.StringData(key), unsafe.StringData(kept))
		require.NotSame(t, unsafe.StringData(key), unsafe.StringData(*state))
	})
	require.Equal(t, 1, keys.len())
}

// A request that is admitted while a sweep is about to forget its circuit keeps it.
func TestSweepsLookAgainForRequests(t *testing.T) {
	b, err := New(Config{MinRequests: 1})
	require.NoError(t, err)
	c := newCircuit(b, "a")
	var earlier, k call
	ok, _, _ := c.admit(t.Context(), &earlier) // and is lost
	require.True(t, ok)
	word, lost := c.word.Load(), c.inFlight.Load()

	ok, _, _ = c.admit(t.Context(), &k)
	require.True(t, ok)
	require.False(t, c.forgetLocked(word, true, lost))
	require.Equal(t, closed, c.phase())
	c.end(t.Context(), &k, Failure, false)
	require.Equal(t, open, c.phase(), "it counts")

	require.True(t, c.forgetLocked(c.word.Load(), true, lost), "only the lost one is left")
	require.Equal(t, forgotten, c.phase())
}
