package telemetry_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/telemetry/health"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// hung is an exporter that never answers.
type hung struct{ release chan struct{} }

func (h hung) wait(ctx context.Context) error {
	<-h.release // deaf to its context, too
	return ctx.Err()
}

func (h hung) ExportSpans(ctx context.Context, _ []trace.ReadOnlySpan) error   { return h.wait(ctx) }
func (h hung) Export(ctx context.Context, _ *metricdata.ResourceMetrics) error { return h.wait(ctx) }
func (h hung) Shutdown(context.Context) error                                  { return nil }
func (h hung) ForceFlush(context.Context) error                                { return nil }
func (h hung) Temporality(k metric.InstrumentKind) metricdata.Temporality {
	return metric.DefaultTemporalitySelector(k)
}
func (h hung) Aggregation(k metric.InstrumentKind) metric.Aggregation {
	return metric.DefaultAggregationSelector(k)
}

// O12: with exporters that hang, requests go on and memory stays flat.
func TestO12_HungExporter(t *testing.T) {
	h := hung{make(chan struct{})}
	spans := trace.NewTracerProvider(trace.WithBatcher(h, trace.WithBatchTimeout(time.Millisecond)))
	meter := metric.NewMeterProvider(metric.WithReader(metric.NewPeriodicReader(h,
		metric.WithInterval(time.Millisecond))))
	l, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{Handler: slog.DiscardHandler})
	require.NoError(t, err)
	b := newBench(t, telemetry.Config{TracerProvider: spans, MeterProvider: meter, AccessLog: l})
	handler := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "x")
	}))
	rounds := func(n int) {
		for i := range n {
			r := httptest.NewRequest("GET", fmt.Sprint("/", i), nil)
			require.Equal(t, 200, serve(handler, r).Code)
		}
	}
	rounds(5000) // fills the queue of 2048 spans
	before := heap()
	rounds(20000)
	require.Less(t, heap()-before, int64(4<<20), "what cannot be exported is dropped")
	close(h.release)
	require.NoError(t, spans.Shutdown(context.Background()))
	require.NoError(t, meter.Shutdown(context.Background()))
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// O13: nothing is mounted by itself, and names that end in pages and files hold nothing that means
// something there.
func TestO13_NothingIsMountedOrInjected(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/vars", "/healthz", "/"} {
		_, pattern := http.DefaultServeMux.Handler(httptest.NewRequest("GET", path, nil))
		require.Empty(t, pattern, path)
		require.Equal(t, 404, serve(b.Middleware(http.NewServeMux()),
			httptest.NewRequest("GET", path, nil)).Code)
	}
	const html = `<script>alert("1")</script>`
	observe := telemetry.Observer[loose](b.Telemetry, "")
	observe(context.Background(), loose{slog.GroupValue(slog.String("event", html), slog.Duration(html, 1))})
	_, err := telemetry.Register(b.Telemetry, "", func() struct {
		N uint64 `json:"<b>&amp;"`
	} {
		return struct {
			N uint64 `json:"<b>&amp;"`
		}{1}
	})
	require.NoError(t, err)
	for name := range b.metrics(t) {
		require.Regexp(t, `^[a-z][a-z0-9_.]*$`, name)
	}
	_, err = telemetry.NewSLO(telemetry.SLOConfig{Name: html, Availability: 0.9})
	require.Error(t, err)
	h, err := health.New(health.Config{Checks: []health.CheckConfig{
		{Name: html, Func: func(context.Context) error { return nil }},
	}})
	require.NoError(t, err)
	w := serve(h.Ready(), httptest.NewRequest("GET", "/", nil))
	require.NotContains(t, w.Body.String(), "<script>")
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
}

// O15: requests that are canceled leave no goroutine.
func TestO15_CanceledRequestsLeaveNoGoroutine(t *testing.T) {
	l, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{Handler: slog.DiscardHandler})
	require.NoError(t, err)
	b := newBench(t, telemetry.Config{AccessLog: l, ActiveRequests: true, BodySizes: true, ServerTiming: true,
		TracerProvider: noop.NewTracerProvider()})
	client := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	}))
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://api.test/", nil)
		_, err := client.RoundTrip(req)
		require.ErrorIs(t, err, context.Canceled)
	}))
	before := runtime.NumGoroutine()
	for range 10000 {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		serve(h, httptest.NewRequest("GET", "/", strings.NewReader("x")).WithContext(ctx))
	}
	// require.Eventually has goroutines itself
	for start := time.Now(); runtime.NumGoroutine() > before; runtime.Gosched() {
		require.Less(t, time.Since(start), patience, "goroutines are left")
	}
	for _, p := range append(b.points(t, "http.server.active_requests"),
		b.points(t, "http.client.active_requests")...) {
		require.True(t, strings.HasSuffix(p, " = 0"), p)
	}
	require.EqualValues(t, 10000, b.Stats().Requests)
	require.Zero(t, b.Stats().Failures)
}

// Hostile paths, methods and hosts: ten million of them with make soak.
func TestSoakHostileRequests(t *testing.T) {
	n := 100_000
	if os.Getenv("TRIVET_SOAK") == "1" {
		n = 10_000_000
	}
	b := newBench(t, telemetry.Config{TracerProvider: noop.NewTracerProvider(),
		RouteFunc: func(r *http.Request) string { return r.URL.Path }})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200 + len(r.Host)%400)
	}))
	w := discard{http.Header{}}
	r := httptest.NewRequest("GET", "/", nil)
	rounds := func(from, to int) {
		for i := from; i < to; i++ {
			s := strconv.Itoa(i)
			r.URL.Path, r.Method, r.Host = "/"+s, "M"+s, "host"+s
			r.RemoteAddr = "192.0.2.1:" + s
			h.ServeHTTP(w, r)
		}
	}
	rounds(0, n/10)
	before := heap()
	rounds(n/10, n)
	grown := heap() - before
	series := len(b.points(t, "http.server.request.duration"))
	t.Logf("%d requests: %d series, heap %+d bytes", n, series, grown)
	require.LessOrEqual(t, series, 1000)
	require.Less(t, grown, int64(2<<20))
}

// discard is a ResponseWriter that costs nothing.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
