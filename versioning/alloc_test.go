//go:build !race

package versioning_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// A bareWriter is a ResponseWriter that costs next to nothing and is used again.
type bareWriter struct{ header http.Header }

func (w *bareWriter) Header() http.Header         { return w.header }
func (w *bareWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *bareWriter) WriteHeader(int)             {}

// speaking are requests that name the head version in each way.
func speaking() map[string]*http.Request {
	return map[string]*http.Request{
		"path":       request("GET", "/v2/users"),
		"header":     request("GET", "/users", "X-Api-Version", "2"),
		"media_type": request("GET", "/users", "Accept", "application/json;version=2"),
		"query":      request("GET", "/users?api-version=2"),
	}
}

func allSpeaking(tb testing.TB) *versioning.Versions {
	return newVersions(tb, versioning.Config{
		Versions: named("1", "2"), Sources: allSources(),
		Changes: []versioning.Change{rename("2", "a", "b")},
	})
}

// TestAllocations: the bars are 2 to find a version, 3 where the path names it, and no more for the
// head version to pass through Convert.
func TestAllocations(t *testing.T) {
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	v := allSpeaking(t)
	w := &bareWriter{header: http.Header{}}
	measure := func(h http.Handler, r *http.Request) float64 {
		return testing.AllocsPerRun(1000, func() {
			clear(w.header)
			h.ServeHTTP(w, r)
		})
	}
	for name, r := range speaking() {
		bar := 2.0
		require.LessOrEqual(t, measure(v.Resolve(nothing), r), bar, name)
		if name == "path" {
			bar = 3
		}
		require.LessOrEqual(t, measure(v.Middleware(nothing), r), bar, name)
	}
	// Fields about a version cost nothing either, but for a Link, which is a list.
	echo := newVersions(t, versioning.Config{
		Versions: []versioning.Version{{Name: "1", Deprecated: day1, Sunset: day1.AddDate(200, 0, 0)},
			{Name: "2"}},
		Sources: []versioning.Source{versioning.Header("V")}, Echo: "Api-Version", Supported: "Api-Versions",
	})
	require.LessOrEqual(t, measure(echo.Resolve(nothing), request("GET", "/", "V", "1")), 2.0)
}

// TestRolloutAllocations: the bar is one beyond the key function, and none once nothing is watched.
func TestRolloutAllocations(t *testing.T) {
	bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })
	r := request("GET", "/")
	w := &bareWriter{header: http.Header{}}
	measure := func(h http.Handler) float64 {
		return testing.AllocsPerRun(1000, func() {
			clear(w.header)
			h.ServeHTTP(w, r)
		})
	}
	require.LessOrEqual(t, measure(runningRollout(t, bare, bare, "Surrogate-Key")), 1.0)
	cfg := rolloutOf(0.3)
	cfg.Key = fixedKey
	rollout := newRollout(t, cfg)
	h := rollout.Handler(bare, bare)
	require.LessOrEqual(t, measure(h), 1.0)
	require.NoError(t, rollout.Rollback(t.Context(), ""))
	require.Zero(t, measure(h))
}

// TestShadowAllocations: the bar is six, of a request whose copy waits or finds no room.
func TestShadowAllocations(t *testing.T) {
	forever := make(chan struct{})
	cfg := shadowOf(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-forever }))
	cfg.Queue = 5000
	cfg.MaxBytes = 1 << 30
	s := newShadow(t, cfg)
	defer close(forever)
	answer := []byte("answer")
	h := s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(answer)
	}))
	r := request("GET", "/users", "Accept", "application/json", "User-Agent", "x", "Authorization", "y")
	w := &bareWriter{header: http.Header{}}
	serveOne := func() {
		clear(w.header)
		h.ServeHTTP(w, r)
	}
	for range 50 {
		serveOne() // the workers hang from here on
	}
	require.LessOrEqual(t, testing.AllocsPerRun(2000, serveOne), 6.0)
	require.Positive(t, s.Stats().Queue)
}
