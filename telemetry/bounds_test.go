package telemetry_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trivet-go/trivet/telemetry"
)

// Bounds hold where they stand: what is as long as it may be passes, and what is longer does not.

func TestO14_RequestIDsAsLongAsTheyMayBe(t *testing.T) {
	b := newBench(t, telemetry.Config{RequestID: "X-Request-Id"})
	var seen string
	h := b.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = telemetry.RequestID(r.Context())
	}))
	for n, kept := range map[int]bool{127: true, 128: true, 129: false} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Request-Id", strings.Repeat("a", n))
		serve(h, r)
		require.Equal(t, kept, seen == r.Header.Get("X-Request-Id"), "%d bytes", n)
	}
}

func TestO06_FieldsAsLongAsTheyMayBe(t *testing.T) {
	for longer := range 2 {
		var seen naive
		b := newBench(t, telemetry.Config{Propagator: &seen})
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Tracestate"] = []string{strings.Repeat("x", 2000), strings.Repeat("x", 2095+longer)}
		r.Header["X-B3"] = []string{strings.Repeat("x", 4096+longer)}
		r.Header["Baggage"] = []string{
			"a=" + strings.Repeat("x", 4000), "b=" + strings.Repeat("x", 4187+longer),
		}
		serve(b.Middleware(http.NotFoundHandler()), r)
		if longer == 0 {
			require.Equal(t, naive{keys: 3, baggage: 8191, state: 4096, other: 4096}, seen)
		} else {
			require.Equal(t, naive{keys: 3}, seen)
		}
	}
}

// TestValuesOfAFieldOnALine: as many as there may be, and no more.
func TestValuesOfAFieldOnALine(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{RequestHeaders: []string{"Accept"}})
	h := newBench(t, telemetry.Config{AccessLog: l}).Middleware(http.NotFoundHandler())
	for _, n := range []int{16, 17} {
		r := httptest.NewRequest("GET", "/", nil)
		for i := range n {
			r.Header.Add("Accept", fmt.Sprint("v", i))
		}
		serve(h, r)
	}
	for _, line := range out.all(t) {
		shown := line["http.request.header"].(map[string]any)["accept"].(string)
		require.Len(t, strings.Split(shown, ", "), 16)
		require.True(t, strings.HasSuffix(shown, ", v15"), shown)
	}
}

// TestSeriesOfStatusesWithoutRoute: an eighth of the bound is theirs once there is no other room.
func TestSeriesOfStatusesWithoutRoute(t *testing.T) {
	const most = 80
	b := newBench(t, telemetry.Config{MaxSeries: most, TracerProvider: noop.NewTracerProvider()})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(r.ContentLength))
	}))
	for status := 200; status < 600; status++ {
		r := httptest.NewRequest("GET", "/", nil)
		r.ContentLength = int64(status)
		serve(h, r)
	}
	points := b.points(t, "http.server.request.duration")
	require.LessOrEqual(t, len(points), most)
	bare := 0
	for _, p := range points {
		if strings.Contains(p, "overflow") && strings.Contains(p, "status_code") {
			bare++
		}
	}
	require.Equal(t, most/8, bare)
}

// TestO11_AbortsOfClientsThatLeft: a proxy aborts when its client has left. That is the client's
// doing and no fault of the server.
func TestO11_AbortsOfClientsThatLeft(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{})
	b := newBench(t, telemetry.Config{AccessLog: l})
	ctx, leave := context.WithCancel(t.Context())
	h := b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		leave()
		panic(http.ErrAbortHandler)
	}))
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		serve(h, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	})
	points := b.points(t, "http.server.request.duration")
	require.Len(t, points, 1)
	require.Contains(t, points[0], "error.type=canceled")
	require.Zero(t, b.Stats().Failures)
	require.Equal(t, "WARN", out.all(t)[0]["level"])
}

// TestStreamsWithoutAFirstByte: nobody can say how long it took, so no objective counts it as
// quick.
func TestStreamsWithoutAFirstByte(t *testing.T) {
	s := newSLO(t, telemetry.SLOConfig{Name: "all", Latency: time.Second, LatencyTarget: 0.9})
	b := newBench(t, telemetry.Config{SLOs: []*telemetry.SLO{s}, TracerProvider: noop.NewTracerProvider()})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusSwitchingProtocols)
	}))
	serve(h, httptest.NewRequest("GET", "/", nil))
	require.EqualValues(t, 1, s.Stats().Requests)
	require.Zero(t, s.Stats().Timed)
}

// TestMeasuresOfOneNameAddUp: a handler that asks its database twice has waited for both.
func TestMeasuresOfOneNameAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, telemetry.Config{ServerTiming: true})
		h := b.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for _, d := range []time.Duration{30 * time.Millisecond, 12 * time.Millisecond} {
				end := telemetry.Measure(r.Context(), "db")
				time.Sleep(d)
				end()
			}
		}))
		lines := serve(h, httptest.NewRequest("GET", "/", nil)).Header().Values("Server-Timing")
		require.True(t, slices.Equal([]string{"total;dur=42.0, db;dur=42.0"}, lines), "%q", lines)
	})
}
