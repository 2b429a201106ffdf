//go:build !race

package telemetry_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"
	apitrace "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// The bars of what a request costs beyond the handler: the SDK's part included.
func TestMiddlewareAllocations(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(200) })
	r := httptest.NewRequest("GET", "/users/7", nil)
	r.Header.Set("User-Agent", "curl/8")
	w := discard{http.Header{}}
	bare := testing.AllocsPerRun(1000, func() { mux.ServeHTTP(w, r) })
	for _, tt := range []struct {
		name     string
		provider apitrace.TracerProvider
		most     float64
	}{
		{"metrics only", noop.NewTracerProvider(), 2},
		{"unsampled", trace.NewTracerProvider(trace.WithSampler(trace.NeverSample())), 7},
		{"sampled", trace.NewTracerProvider(trace.WithSampler(trace.AlwaysSample())), 14},
	} {
		h := newBench(t, telemetry.Config{TracerProvider: tt.provider}).Middleware(mux)
		added := testing.AllocsPerRun(1000, func() {
			r.Pattern = "" // as a server's is; what it says from the start is part of the span's name
			h.ServeHTTP(w, r)
		}) - bare
		t.Logf("%s: %v allocations", tt.name, added)
		require.LessOrEqual(t, added, tt.most, tt.name)
	}
}

// An event costs what its LogValue costs, and nothing more.
func TestObserverAllocations(t *testing.T) {
	tel, err := telemetry.New(telemetry.Config{TracerProvider: noop.NewTracerProvider(),
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))})
	require.NoError(t, err)
	ctx := context.Background()
	flat := telemetry.Observer[decision](tel, "x")
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { flat(ctx, decision{"p", true}) }), 1.0)
	e := pick{Backend: "b", Duration: time.Second}
	own := testing.AllocsPerRun(1000, func() { sink = e.LogValue() })
	full := telemetry.Observer[pick](tel, "x")
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { full(ctx, e) }), own)
}

var sink slog.Value
