package benchmarks_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// An observed is a middleware and what it records to.
type observed struct {
	wrap   func(http.Handler) http.Handler
	reader *sdkmetric.ManualReader
	spans  *tracetest.SpanRecorder
}

func withOtelhttp(tp trace.TracerProvider, opts ...otelhttp.Option) observed {
	o := observed{reader: sdkmetric.NewManualReader(), spans: tracetest.NewSpanRecorder()}
	if tp == nil {
		tp = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(o.spans))
	}
	opts = append(opts, otelhttp.WithTracerProvider(tp),
		otelhttp.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(o.reader))),
		otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{},
			propagation.Baggage{})))
	o.wrap = otelhttp.NewMiddleware("server", opts...)
	return o
}

func withTrivet(t testing.TB, tp trace.TracerProvider, cfg telemetry.Config) observed {
	o := observed{reader: sdkmetric.NewManualReader(), spans: tracetest.NewSpanRecorder()}
	if tp == nil {
		tp = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(o.spans))
	}
	cfg.TracerProvider = tp
	cfg.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(o.reader))
	tel, err := telemetry.New(cfg)
	require.NoError(t, err)
	o.wrap = tel.Middleware
	return o
}

// points returns the attribute sets and sums of all data points of an instrument.
func (o observed) points(t testing.TB, name string) []string {
	var rm metricdata.ResourceMetrics
	require.NoError(t, o.reader.Collect(context.Background(), &rm))
	var all []string
	for _, s := range rm.ScopeMetrics {
		for _, m := range s.Metrics {
			if m.Name != name {
				continue
			}
			switch d := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					all = append(all, attrText(p.Attributes.ToSlice()))
				}
			case metricdata.Histogram[int64]:
				for _, p := range d.DataPoints {
					all = append(all, attrText(p.Attributes.ToSlice())+fmt.Sprint(" = ", p.Sum))
				}
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					all = append(all, attrText(p.Attributes.ToSlice()))
				}
			}
		}
	}
	return all
}

func attrText(kv []attribute.KeyValue) string {
	var b strings.Builder
	for _, a := range kv {
		fmt.Fprintf(&b, "%s=%v ", a.Key, a.Value.AsInterface())
	}
	return b.String()
}

func serveOnce(h http.Handler, r *http.Request) {
	defer func() { _ = recover() }()
	h.ServeHTTP(httptest.NewRecorder(), r)
}

func telemetryGet(path string) *http.Request { return httptest.NewRequest("GET", path, nil) }

const serverDuration = "http.server.request.duration"

// Seven defects of otelhttp v0.72.0. Each test shows that otelhttp has it and Trivet has not; one
// that fails says that otelhttp mended it.

func TestOtelhttpDefect1_NoActiveRequests(t *testing.T) {
	rival, ours := withOtelhttp(nil), withTrivet(t, nil, telemetry.Config{ActiveRequests: true})
	for o, want := range map[*observed]int{&rival: 0, &ours: 1} {
		serveOnce(o.wrap(http.NotFoundHandler()), telemetryGet("/"))
		require.Len(t, o.points(t, "http.server.active_requests"), want)
	}
}

func TestOtelhttpDefect2_NoErrorTypeOnMetric(t *testing.T) {
	rival, ours := withOtelhttp(nil), withTrivet(t, nil, telemetry.Config{})
	for o, want := range map[*observed]bool{&rival: false, &ours: true} {
		serveOnce(o.wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(503)
		})), telemetryGet("/"))
		require.Equal(t, want, strings.Contains(o.points(t, serverDuration)[0], "error.type=503"))
	}
}

func TestOtelhttpDefect3_PanicsAreNotRecorded(t *testing.T) {
	rival, ours := withOtelhttp(nil), withTrivet(t, nil, telemetry.Config{})
	for o, want := range map[*observed]int{&rival: 0, &ours: 1} {
		serveOnce(o.wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") })),
			telemetryGet("/"))
		require.Len(t, o.points(t, serverDuration), want)
	}
}

// io.Copy finds ReadFrom on the writer: what it copies is not counted.
func TestOtelhttpDefect4_CopiedBytesAreNotCounted(t *testing.T) {
	file := func(w http.ResponseWriter, _ *http.Request) {
		io.Copy(w, struct{ io.Reader }{strings.NewReader("hello")})
	}
	rival, ours := withOtelhttp(nil), withTrivet(t, nil, telemetry.Config{BodySizes: true})
	for o, want := range map[*observed]string{&rival: " = 0", &ours: " = 5"} {
		srv := httptest.NewServer(o.wrap(http.HandlerFunc(file)))
		resp, err := srv.Client().Get(srv.URL)
		require.NoError(t, err)
		resp.Body.Close()
		srv.Close()
		require.True(t, strings.HasSuffix(o.points(t, "http.server.response.body.size")[0], want))
	}
}

type someKey struct{}

func TestOtelhttpDefect5_RouteIsLostOnCopiedRequests(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(http.ResponseWriter, *http.Request) {})
	copying := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), someKey{}, 1)))
		})
	}
	rival, ours := withOtelhttp(nil), withTrivet(t, nil, telemetry.Config{})
	serveOnce(rival.wrap(copying(mux)), telemetryGet("/users/7"))
	serveOnce(ours.wrap(copying(telemetry.Route(mux))), telemetryGet("/users/7"))
	require.NotContains(t, rival.points(t, serverDuration)[0], "http.route=")
	require.NotContains(t, rival.spans.Ended()[0].Name(), "/users/{id}")
	require.Contains(t, ours.points(t, serverDuration)[0], "http.route=/users/{id}")
	require.Equal(t, "GET /users/{id}", ours.spans.Ended()[0].Name())
}

func TestOtelhttpDefect6_HostIsAnUnboundedLabel(t *testing.T) {
	rival, ours := withOtelhttp(nil), withTrivet(t, nil, telemetry.Config{})
	for o, want := range map[*observed]int{&rival: 500, &ours: 1} {
		h := o.wrap(http.NotFoundHandler())
		for i := range 500 {
			r := telemetryGet("/")
			r.Host = fmt.Sprintf("host%d.test", i)
			serveOnce(h, r)
		}
		require.Len(t, o.points(t, serverDuration), want)
	}
}

func TestOtelhttpDefect7_ClientAddressIsWhatTheClientSays(t *testing.T) {
	rival, ours := withOtelhttp(nil), withTrivet(t, nil, telemetry.Config{})
	for o, want := range map[*observed]string{&rival: "6.6.6.6", &ours: "192.0.2.1"} {
		r := telemetryGet("/")
		r.Header.Set("X-Forwarded-For", "6.6.6.6")
		serveOnce(o.wrap(http.NotFoundHandler()), r)
		require.Contains(t, attrText(o.spans.Ended()[0].Attributes()), "client.address="+want+" ")
	}
}

// chi keeps its pattern in a context of its own.
func TestTelemetryWithChi(t *testing.T) {
	ours := withTrivet(t, nil, telemetry.Config{RouteFunc: func(r *http.Request) string {
		if c := chi.RouteContext(r.Context()); c != nil {
			return c.RoutePattern()
		}
		return ""
	}})
	users := chi.NewRouter()
	users.Get("/{id}", func(http.ResponseWriter, *http.Request) {})
	router := chi.NewRouter()
	router.Use(telemetry.Route)
	router.Mount("/users", users)
	serveOnce(ours.wrap(router), telemetryGet("/users/7"))
	require.Contains(t, ours.points(t, serverDuration)[0], "http.route=/users/{id}")
}

// nullResponse is a response that costs nothing.
type nullResponse struct{ h http.Header }

func (w nullResponse) Header() http.Header         { return w.h }
func (w nullResponse) WriteHeader(int)             {}
func (w nullResponse) Write(p []byte) (int, error) { return len(p), nil }

// traceProviders are the three cases of the table.
var traceProviders = []struct {
	name string
	make func() trace.TracerProvider
}{
	{"off", func() trace.TracerProvider { return noop.NewTracerProvider() }},
	{"unsampled", func() trace.TracerProvider {
		return sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	}},
	{"sampled", func() trace.TracerProvider {
		return sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()))
	}},
}

func telemetryMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })
	return mux
}

func telemetryRequest() *http.Request {
	r := telemetryGet("/users/7")
	r.Header.Set("User-Agent", "curl/8")
	return r
}

// BenchmarkTelemetry is one request through each, with SDK metrics on.
func BenchmarkTelemetry(b *testing.B) {
	run := func(name string, h http.Handler) {
		b.Run(name, func(b *testing.B) {
			w, r := nullResponse{http.Header{}}, telemetryRequest()
			b.ReportAllocs()
			for b.Loop() {
				r.Pattern = "" // as a server's is
				h.ServeHTTP(w, r)
			}
		})
	}
	run("contender=bare", telemetryMux())
	for _, p := range traceProviders {
		run("contender=otelhttp/traces="+p.name, withOtelhttp(p.make()).wrap(telemetryMux()))
		run("contender=trivet/traces="+p.name,
			withTrivet(b, p.make(), telemetry.Config{}).wrap(telemetryMux()))
	}
	log, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{
		Handler: slog.NewJSONHandler(io.Discard, nil),
	})
	require.NoError(b, err)
	run("contender=trivet/traces=off/log=json",
		withTrivet(b, noop.NewTracerProvider(), telemetry.Config{AccessLog: log}).wrap(telemetryMux()))
	run("contender=trivet/traces=off/everything=on", withTrivet(b, noop.NewTracerProvider(),
		telemetry.Config{ActiveRequests: true, BodySizes: true, ServerTiming: true,
			RequestID: "X-Request-Id"}).wrap(telemetryMux()))
}

// BenchmarkTelemetryRatio interleaves the contenders in one run and reports medians of process CPU
// time: of both as a whole, and of what each adds to the bare mux. Run it with -benchtime 10x or
// more.
func BenchmarkTelemetryRatio(b *testing.B) {
	for _, p := range traceProviders {
		b.Run("traces="+p.name, func(b *testing.B) {
			pairedCPU(b, 5000, telemetryMux(), withOtelhttp(p.make()).wrap(telemetryMux()),
				withTrivet(b, p.make(), telemetry.Config{}).wrap(telemetryMux()))
		})
	}
}

// pairedCPU runs blocks of n requests through bare, rival and ours in turn.
func pairedCPU(b *testing.B, n int, bare, rival, ours http.Handler) {
	w, r := nullResponse{http.Header{}}, telemetryRequest()
	block := func(h http.Handler) float64 {
		start := cpuTime()
		for range n {
			r.Pattern = "" // as a server's is
			h.ServeHTTP(w, r)
		}
		return float64(cpuTime()-start) / float64(n)
	}
	for _, h := range []http.Handler{bare, rival, ours} {
		block(h) // warm
	}
	var whole, added, theirs, mine []float64
	for b.Loop() {
		base := block(bare)
		x, y := block(rival), block(ours)
		theirs, mine = append(theirs, x), append(mine, y)
		whole = append(whole, y/x)
		added = append(added, (y-base)/(x-base))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(medianOf(theirs), "rival-cpu-ns")
	b.ReportMetric(medianOf(mine), "trivet-cpu-ns")
	b.ReportMetric(medianOf(whole), "ratio")
	b.ReportMetric(slices.Min(whole), "ratio-min")
	b.ReportMetric(slices.Max(whole), "ratio-max")
	b.ReportMetric(medianOf(added), "added-ratio")
}

func medianOf(v []float64) float64 {
	v = slices.Clone(v)
	sort.Float64s(v)
	return v[len(v)/2]
}

// cpuTime is what the process used so far, garbage collection included.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// picked is an event like those of the siblings.
type picked struct {
	Backend  string
	Retry    bool
	Duration time.Duration
}

func (e picked) LogValue() slog.Value {
	return slog.GroupValue(slog.String("event", "pick"), slog.String("backend", e.Backend),
		slog.Bool("retry", e.Retry), slog.Duration("duration", e.Duration))
}

// BenchmarkTelemetryObserver is an event with two dimensions and a measurement, beside the same two
// SDK calls made directly with an attribute set prepared in advance, interleaved.
func BenchmarkTelemetryObserver(b *testing.B) {
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	meter := provider.Meter("direct")
	counter, _ := meter.Int64Counter("pick")
	histogram, _ := meter.Float64Histogram("pick.duration")
	set := metric.WithAttributeSet(attribute.NewSet(attribute.String("backend", "b1"),
		attribute.Bool("retry", false), attribute.String("name", "x")))
	add, record := []metric.AddOption{set}, []metric.RecordOption{set}
	tel, err := telemetry.New(telemetry.Config{MeterProvider: provider,
		TracerProvider: noop.NewTracerProvider()})
	require.NoError(b, err)
	observe := telemetry.Observer[picked](tel, "x")
	ctx := context.Background()
	direct := func() {
		counter.Add(ctx, 1, add...)
		histogram.Record(ctx, 0.001, record...)
	}
	through := func() { observe(ctx, picked{Backend: "b1", Duration: time.Millisecond}) }

	b.Run("impl=direct", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			direct()
		}
	})
	b.Run("impl=observer", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			through()
		}
	})
	b.Run("impl=observer/span=recording", func(b *testing.B) {
		b.ReportAllocs()
		tracer := sdktrace.NewTracerProvider().Tracer("x")
		for b.Loop() {
			b.StopTimer()
			ctx, span := tracer.Start(ctx, "x") // a new one each time: a span keeps 128 events
			b.StartTimer()
			observe(ctx, picked{Backend: "b1", Duration: time.Millisecond})
			b.StopTimer()
			span.End()
			b.StartTimer()
		}
	})
	b.Run("impl=observer/log=line", func(b *testing.B) {
		log, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{Handler: slog.DiscardHandler})
		require.NoError(b, err)
		tel, err := telemetry.New(telemetry.Config{MeterProvider: provider,
			TracerProvider: noop.NewTracerProvider(), AccessLog: log})
		require.NoError(b, err)
		observe := telemetry.Observer[picked](tel, "x")
		b.ReportAllocs()
		h := tel.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ctx := r.Context()
			for b.Loop() {
				observe(ctx, picked{Backend: "b1", Duration: time.Millisecond})
			}
		}))
		h.ServeHTTP(nullResponse{http.Header{}}, telemetryRequest())
	})
	b.Run("added", func(b *testing.B) {
		const n = 10000
		var beyond []float64
		block := func(f func()) float64 {
			start := time.Now()
			for range n {
				f()
			}
			return float64(time.Since(start)) / n
		}
		for b.Loop() {
			beyond = append(beyond, -block(direct)+block(through))
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(medianOf(beyond), "added-ns")
		b.ReportMetric(slices.Min(beyond), "added-ns-min")
		b.ReportMetric(slices.Max(beyond), "added-ns-max")
	})
}
