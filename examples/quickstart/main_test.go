package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuickstart(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(&out))
	var good, bad int
	_, err := fmt.Sscanf(out.String(), "%d requests answered, %d failed", &good, &bad)
	require.NoError(t, err)
	require.Equal(t, 1000, good+bad)
	require.Less(t, bad, 100, "the broken server has a third of the addresses")
	require.Contains(t, out.String(), "ejected consecutive failures")
}
