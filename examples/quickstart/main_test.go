package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestQuickstart(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(&out))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	hosts := lines[len(lines)-3:]
	var good, bad, refused, cached int
	_, err := fmt.Sscanf(lines[len(lines)-4], "%d answered, %d failed, %d refused by the limit, %d greetings from the cache", &good, &bad, &refused, &cached)
	require.NoError(t, err)
	require.Equal(t, 600, good+bad+refused)
	require.Less(t, bad, 20, "the broken server has a third of the addresses")
	require.InDelta(t, 500, good+bad, 30, "the burst, and what a slow machine earns meanwhile")
	require.InDelta(t, 300, cached, 50)
	require.Len(t, hosts, 3)

	// The access log has the failures, with what each package did about them.
	require.Equal(t, bad, strings.Count(out.String(), "level=ERROR"))
	for _, field := range []string{"http.route=/hello/{name}", "limit.decision.outcome=admitted", "cache.load.failed=true", "greetings.attempt.outcome=failure", "greetings.endpoint.state=ejected"} {
		require.Contains(t, out.String(), field)
	}
}
