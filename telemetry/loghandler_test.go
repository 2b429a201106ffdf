package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trivet-go/trivet/telemetry"
)

// TestLogHandler: a service's own lines tell to which request they belong, outside of groups.
func TestLogHandler(t *testing.T) {
	var out bytes.Buffer
	plain := slog.NewJSONHandler(&out, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	logger := slog.New(telemetry.LogHandler(plain))
	lines := func() (all []map[string]any) {
		t.Helper()
		all = decode(t, &out)
		out.Reset()
		return all
	}
	b := newBench(t, telemetry.Config{RequestID: "X-Request-Id"})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		logger.InfoContext(ctx, "plain", "a", 1)
		logger.With("b", 2).WithGroup("g").With("c", 3).WithGroup("").InfoContext(ctx, "grouped", "d", 4)
		var wg sync.WaitGroup
		wg.Go(func() { logger.WarnContext(ctx, "elsewhere") })
		wg.Wait()
		logger.Info("without")
	})
	r := httptest.NewRequest("GET", "/items/7", nil)
	r.Header.Set("X-Request-Id", "id-1")
	serve(b.Middleware(mux), r)
	sc := b.span(t).SpanContext()
	want := func(more map[string]any) map[string]any {
		fields := map[string]any{
			"trace_id": sc.TraceID().String(), "span_id": sc.SpanID().String(),
			"request_id": "id-1", "http.route": "/items/{id}",
		}
		for k, v := range more {
			fields[k] = v
		}
		return fields
	}
	require.Equal(t, []map[string]any{
		want(map[string]any{"msg": "plain", "a": 1.}),
		want(map[string]any{"msg": "grouped", "b": 2., "g": map[string]any{"c": 3., "d": 4.}}),
		want(map[string]any{"msg": "elsewhere"}),
		{"msg": "without"},
	}, lines())

	// Between Middleware and a mux that gets a copy of the request, and without spans and ids.
	b = newBench(t, telemetry.Config{TracerProvider: noop.NewTracerProvider()})
	inner := telemetry.Route(mux)
	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		logger.InfoContext(r.Context(), "before")
		inner.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), t, 1)))
		logger.InfoContext(r.Context(), "after")
	})), httptest.NewRequest("GET", "/items/7", nil))
	got := lines()
	require.Equal(t, map[string]any{"msg": "before"}, got[0])
	require.Equal(t, map[string]any{"msg": "plain", "a": 1., "http.route": "/items/{id}"}, got[1])
	require.Equal(t, map[string]any{"msg": "after", "http.route": "/items/{id}"}, got[5])

	require.False(t, telemetry.LogHandler(plain).Enabled(t.Context(), slog.LevelDebug))
	require.PanicsWithValue(t, "telemetry: nil handler", func() { telemetry.LogHandler(nil) })
}

// TestLogHandlerOfAnAccessLog: its lines have the fields once.
func TestLogHandlerOfAnAccessLog(t *testing.T) {
	var out bytes.Buffer
	h := telemetry.LogHandler(slog.NewJSONHandler(&out, nil)).WithAttrs([]slog.Attr{slog.Int("x", 1)})
	l, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{Handler: h})
	require.NoError(t, err)
	b := newBench(t, telemetry.Config{AccessLog: l, RequestID: "X-Request-Id"})
	serve(b.Middleware(http.NotFoundHandler()), httptest.NewRequest("GET", "/", nil))
	for _, field := range []string{`"trace_id"`, `"request_id"`, `"span_id"`, `"x"`} {
		require.Equal(t, 1, bytes.Count(out.Bytes(), []byte(field)), field)
	}
}

func decode(t *testing.T, out *bytes.Buffer) (all []map[string]any) {
	for line := range bytes.Lines(out.Bytes()) {
		var m map[string]any
		require.NoError(t, json.Unmarshal(line, &m))
		all = append(all, m)
	}
	return all
}
