package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A client may be as slow as the least pace in each window; it is not judged before one ends, and
// what it did in those before does not count.
func TestL51_PaceOfEachWindow(t *testing.T) {
	const least = Pace(100)
	var p pace
	require.False(t, p.tooSlow(0, paceWindow-1, least), "a moment before the end of the window")
	require.True(t, p.tooSlow(999, 1, least))
	require.False(t, p.tooSlow(1000, paceWindow, least))
	require.False(t, p.tooSlow(1_000_000, paceWindow, least))
	require.True(t, p.tooSlow(0, paceWindow, least))
}
