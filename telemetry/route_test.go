package telemetry_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
)

type anyKey struct{}

// withValue copies the request, as every middleware does that adds to the context.
func withValue(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), anyKey{}, 1)))
	})
}

func TestRoute(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET example.com/panic/", func(http.ResponseWriter, *http.Request) { panic("boom") })
	// A router in the manner of chi: it keeps its pattern in a context of its own.
	chi := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pattern := new(string)
		r = r.WithContext(context.WithValue(r.Context(), anyKey{}, pattern))
		telemetry.Route(http.HandlerFunc(func(http.ResponseWriter,
			*http.Request) {
			*pattern = "/chi/{id}"
		})).ServeHTTP(w, r)
	})
	chiRoute := func(r *http.Request) string {
		if p, ok := r.Context().Value(anyKey{}).(*string); ok {
			return *p
		}
		return ""
	}
	outer := http.NewServeMux()
	outer.Handle("/api/", http.StripPrefix("/api", telemetry.Route(mux)))
	tests := []struct {
		name   string
		cfg    telemetry.Config
		h      http.Handler
		target string
		route  string // "" for none
	}{
		{"mux directly", telemetry.Config{}, mux, "/users/1", "/users/{id}"},
		{"copied request loses it", telemetry.Config{}, withValue(mux), "/users/1", ""},
		{"Route keeps it", telemetry.Config{}, withValue(telemetry.Route(mux)), "/users/1", "/users/{id}"},
		{"Route keeps it on panic, without host", telemetry.Config{Panics: telemetry.Answer500},
			withValue(telemetry.Route(mux)), "/panic/x", "/panic/"},
		{"unmatched has none", telemetry.Config{}, withValue(telemetry.Route(mux)), "/no", ""},
		{"the innermost counts, with what was stripped", telemetry.Config{}, telemetry.Route(outer),
			"/api/users/1", "/api/users/{id}"},
		{"RouteFunc inside a router", telemetry.Config{RouteFunc: chiRoute}, chi, "/x", "/chi/{id}"},
		{"RouteFunc goes first", telemetry.Config{RouteFunc: func(*http.Request) string { return "/mine" }},
			mux, "/users/1", "/mine"},
		{"RouteFunc may pass", telemetry.Config{RouteFunc: func(*http.Request) string { return "" }}, mux,
			"/users/1", "/users/{id}"},
		{"RouteFunc may panic", telemetry.Config{RouteFunc: func(*http.Request) string { panic("no") }},
			withValue(telemetry.Route(mux)), "/users/1", "/users/{id}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, tt.cfg)
			serve(b.Middleware(tt.h), httptest.NewRequest("GET", tt.target, nil))
			points := b.points(t, "http.server.request.duration")
			require.Len(t, points, 1)
			if tt.route == "" {
				require.NotContains(t, points[0], "http.route")
				require.Equal(t, "GET", b.span(t).Name())
			} else {
				require.Contains(t, points[0], "http.route="+tt.route+" ")
				require.Equal(t, "GET "+tt.route, b.span(t).Name())
			}
		})
	}
	// Without telemetry around it, Route is transparent.
	require.Equal(t, 200, serve(telemetry.Route(mux), httptest.NewRequest("GET", "/users/1", nil)).Code)
}

// What wraps Middleware and looks for the pattern finds it.
func TestPatternReachesOuterHandlers(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	mux := http.NewServeMux()
	mux.HandleFunc("/users/{id}", func(http.ResponseWriter, *http.Request) {})
	r := httptest.NewRequest("GET", "/users/1", nil)
	serve(b.Middleware(mux), r)
	require.Equal(t, "/users/{id}", r.Pattern)
}

// O01: whatever clients choose, series stay below the cap, and the error ratio survives in the
// overflow.
func TestO01_SeriesAreBounded(t *testing.T) {
	const limit = 64
	// A RouteFunc that breaks its promise is the only way to many series.
	b := newBench(t, telemetry.Config{MaxSeries: limit, ActiveRequests: true, BodySizes: true,
		RouteFunc: func(r *http.Request) string { return r.URL.Path }})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "7") {
			w.WriteHeader(500)
		}
	}))
	const n = 2000
	for i := range n {
		r := httptest.NewRequest("GET", fmt.Sprint("/", i), nil)
		r.Method = fmt.Sprint("M", i)
		r.Host = fmt.Sprint("host", i)
		r.Header.Set("User-Agent", fmt.Sprint("agent", i))
		r.Header.Set("Traceparent", fmt.Sprintf("00-%032x-%016x-01", i+1, i+1))
		serve(h, r)
	}
	for name := range b.metrics(t) {
		require.LessOrEqual(t, len(b.points(t, name)), limit, name)
	}
	points := strings.Join(b.points(t, "http.server.request.duration"), "\n")
	require.Contains(t, points, "error.type=500 http.response.status_code=500 otel.metric.overflow=true")
	require.Contains(t, points, "http.response.status_code=200 otel.metric.overflow=true")
	require.NotContains(t, points, "host")
	require.Greater(t, b.Stats().Overflowed, uint64(n-2*limit))
	// A span is not a series: it keeps its own route.
	last := b.spans.Ended()[n-1]
	require.Contains(t, text(last.Attributes()), "http.route=/1999")

	// The same with a mux: no route, no method, no host, so one series and not one more.
	b = newBench(t, telemetry.Config{MaxSeries: limit})
	h = b.Middleware(http.NewServeMux())
	for i := range n {
		r := httptest.NewRequest("GET", fmt.Sprint("/", i), nil)
		r.Method, r.Host = fmt.Sprint("M", i), fmt.Sprint("host", i)
		serve(h, r)
	}
	require.Equal(t, []string{fmt.Sprintf("http.request.method=_OTHER http.response.status_code=404 "+
		"network.protocol.version=1.1 url.scheme=http = %d", n)}, b.points(t, "http.server.request.duration"))
}

// O01, client side: a crawler's hosts.
func TestO01_ClientSeriesAreBounded(t *testing.T) {
	const limit = 64
	b := newBench(t, telemetry.Config{MaxSeries: limit, ActiveRequests: true})
	rt := b.Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	for i := range 1000 {
		req, _ := http.NewRequest("GET", fmt.Sprintf("http://h%d.test/", i), nil)
		_, err := rt.RoundTrip(req)
		require.NoError(t, err)
	}
	for name := range b.metrics(t) {
		require.LessOrEqual(t, len(b.points(t, name)), limit, name)
	}
}
