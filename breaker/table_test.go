package breaker

import (
	"fmt"
	"testing"

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
