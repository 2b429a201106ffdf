package conformance

import (
	"context"
	"flag"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

var (
	suiteDir = flag.String("suite", "", "a checkout of the suite, after npm install in it")
	bare     = flag.Bool("bare", false, "run the reverse proxy without a cache")
	testID   = flag.String("id", "", "print the exchanges of the test with this id")
)

// TestConformance runs the suite and prints what each configuration reaches. It fails if a figure
// is below its floor in the majority of three runs.
func TestConformance(t *testing.T) {
	var suite *Suite
	if *suiteDir != "" {
		suite = Checkout(t, *suiteDir)
	} else {
		suite = Release(t)
	}
	tests := suite.Tests(t)
	if *bare {
		t.Run("bare", func(t *testing.T) {
			measure(t, suite, tests, func(next http.Handler) http.Handler { return next }, Score{})
		})
		return
	}
	for _, run := range []struct {
		name string
		cfg  cache.Config
	}{
		{"defaults", cache.Config{}},
		{"StoreSetCookie", cache.Config{StoreSetCookie: true}},
	} {
		t.Run(run.name, func(t *testing.T) {
			c, err := cache.New(run.cfg)
			require.NoError(t, err)
			defer func() { require.NoError(t, c.Close(context.Background())) }()
			failures := measure(t, suite, tests, c.Middleware, floors[run.name][len(tests)])
			explained(t, failures)
		})
	}
}

// floors are the figures that may not be missed, by the number of the suite's tests: 355 are the
// npm package's, 370 those of the repository's state of July 2026.
var floors = map[string]map[int]Score{
	"defaults":       {355: floor(140, 82, 53), 370: floor(158, 101, 70)},
	"StoreSetCookie": {355: floor(142, 83, 53), 370: floor(159, 102, 71)},
}

func floor(required, optimal, check int) Score {
	return Score{Tally{Passed: required}, Tally{Passed: optimal}, Tally{Passed: check}}
}

// measure runs the suite through wrap around a reverse proxy, and returns what does not pass.
func measure(
	t *testing.T, suite *Suite, tests []Test, wrap func(http.Handler) http.Handler, floor Score,
) []Failure {
	origin, logFile := suite.Serve(t)
	server := httptest.NewServer(wrap(proxyTo(origin)))
	defer server.Close()
	if *testID != "" {
		dialogue := suite.Dialogue(t, server.URL, *testID)
		said, err := os.ReadFile(logFile)
		require.NoError(t, err)
		t.Logf("%s\n%s", dialogue, said)
		return nil
	}
	runs := []Results{suite.Run(t, server.URL)}
	score, failures := Judge(tests, runs[0])
	if !score.Reaches(floor) {
		t.Logf("first of three runs: %s", score)
		runs = append(runs, suite.Run(t, server.URL), suite.Run(t, server.URL))
		score, failures = Judge(tests, Majority(runs))
	}
	for _, failure := range failures {
		t.Log(failure)
	}
	t.Log(score)
	require.Truef(t, score.Reaches(floor), "%s is below %d, %d and %d",
		score, floor.Required.Passed, floor.Optimal.Passed, floor.Check.Passed)
	return failures
}

// explained fails t if docs/conformance.md does not say why a required or optimal test fails.
func explained(t *testing.T, failures []Failure) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "conformance.md"))
	require.NoError(t, err)
	for _, failure := range failures {
		if failure.Kind != "check" && !strings.Contains(string(page), "`"+failure.ID+"`") {
			t.Errorf("docs/conformance.md does not say why %s fails", failure.ID)
		}
	}
}

// proxyTo returns a plain reverse proxy. It opens a connection for each request: net/http sends a
// request again if it finds a kept connection closed, which the suite would count.
func proxyTo(origin *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(origin)
			r.Out.Host = r.In.Host
		},
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
}
