package telemetry_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come: longer than a busy machine takes.
const patience = time.Minute

// A bench is a Telemetry with everything it writes to.
type bench struct {
	*telemetry.Telemetry
	reader *metric.ManualReader
	spans  *tracetest.SpanRecorder
}

func newBench(t testing.TB, cfg telemetry.Config) *bench {
	b := &bench{reader: metric.NewManualReader(), spans: tracetest.NewSpanRecorder()}
	if cfg.MeterProvider == nil {
		cfg.MeterProvider = metric.NewMeterProvider(metric.WithReader(b.reader))
	}
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = trace.NewTracerProvider(trace.WithSpanProcessor(b.spans))
	}
	tel, err := telemetry.New(cfg)
	require.NoError(t, err)
	b.Telemetry = tel
	return b
}

// metrics returns what was recorded, by instrument.
func (b *bench) metrics(t testing.TB) map[string]metricdata.Metrics {
	var rm metricdata.ResourceMetrics
	require.NoError(t, b.reader.Collect(context.Background(), &rm))
	all := map[string]metricdata.Metrics{}
	for _, s := range rm.ScopeMetrics {
		for _, m := range s.Metrics {
			all[m.Name] = m
		}
	}
	return all
}

// points returns the attribute sets of a metric's data points as text.
func (b *bench) points(t testing.TB, name string) []string {
	m, ok := b.metrics(t)[name]
	if !ok {
		return nil
	}
	var sets []string
	add := func(s attribute.Set, value any) { sets = append(sets, text(s.ToSlice())+" = "+fmt.Sprint(value)) }
	switch d := m.Data.(type) {
	case metricdata.Histogram[float64]:
		for _, p := range d.DataPoints {
			add(p.Attributes, p.Count)
		}
	case metricdata.Histogram[int64]:
		for _, p := range d.DataPoints {
			add(p.Attributes, p.Sum)
		}
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			add(p.Attributes, p.Value)
		}
	case metricdata.Gauge[float64]:
		for _, p := range d.DataPoints {
			add(p.Attributes, p.Value)
		}
	default:
		t.Fatalf("%s is a %T", name, d)
	}
	sort.Strings(sets)
	return sets
}

// text writes attributes as sorted key=value pairs.
func text(kv []attribute.KeyValue) string {
	pairs := make([]string, len(kv))
	for i, a := range kv {
		pairs[i] = fmt.Sprintf("%s=%v", a.Key, a.Value.AsInterface())
	}
	sort.Strings(pairs)
	return strings.Join(pairs, " ")
}

// span returns the only span that ended.
func (b *bench) span(t testing.TB) trace.ReadOnlySpan {
	require.Eventually(t, func() bool { return len(b.spans.Ended()) > 0 }, patience, time.Millisecond)
	spans := b.spans.Ended()
	require.Len(t, spans, 1)
	return spans[0]
}

// serve runs one request through h without a network.
func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// server starts a server of HTTP/1.1, or of HTTP/2 with TLS.
func server(t testing.TB, h2 bool, h http.Handler) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = h2
	if h2 {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

// protocols runs a test with each.
func protocols(t *testing.T, f func(t *testing.T, h2 bool)) {
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "h1", true: "h2"}[h2], func(t *testing.T) { f(t, h2) })
	}
}

func get(t testing.TB, c *http.Client, url string) (*http.Response, string) {
	resp, err := c.Get(url)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp, string(body)
}
