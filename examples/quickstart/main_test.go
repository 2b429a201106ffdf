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
	require.NoError(t, run(&out, 1))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	endpoints := lines[len(lines)-3:]
	var good, bad, refused, cached, pages int
	_, err := fmt.Sscanf(lines[len(lines)-6],
		"%d answered, %d failed, %d refused by the limit, %d greetings and %d pages from the caches",
		&good, &bad, &refused, &cached, &pages)
	require.NoError(t, err)
	require.Equal(t, 600, good+bad+refused)
	require.Zero(t, bad, "a user has seen the broken server")
	require.InDelta(t, 500, good+bad, 30, "the burst, and one more for each second of a slow machine")
	require.InDelta(t, 270, cached, 50)
	require.InDelta(t, 49, pages, 20, "a tenth of what the limit admits, but for the first")
	require.Len(t, endpoints, 3)

	var attempts, requests int
	_, err = fmt.Sscanf(lines[len(lines)-5], "%d attempts for %d requests", &attempts, &requests)
	require.NoError(t, err)
	require.Greater(t, attempts, requests, "nothing was repeated")
	require.Less(t, attempts, requests+20, "the balancer soon leaves the broken server out")

	var old int
	_, err = fmt.Sscanf(lines[len(lines)-4], "%d requests in version 1", &old)
	require.NoError(t, err)
	require.InDelta(t, 125, old, 60, "a quarter of the requests that the limit admits")

	// The access log has a line for each request, with the events of each package.
	require.Zero(t, strings.Count(out.String(), "level=ERROR"))
	for _, field := range []string{
		"http.route=/hello/{name}",
		"limit.decision.outcome=admitted",
		"cache.load.failed=false",
		"http.route=/about",
		"pages.request.outcome=hit",
		"pages.request.outcome=miss",
		"versions.request.version=1",
		"versions.request.source=path",
		"retry.request.outcome=success",
		"retry.request.retried=true",
		"greetings.attempt.n=2", // the first was the broken server
		"greetings.endpoint.state=ejected",
	} {
		require.Contains(t, out.String(), field)
	}
}
