package telemetry

import (
	"errors"
	"fmt"
	"github.com/trivet-go/trivet/telemetry/internal/redact"
	"net/http"
	"slices"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// scopeName is the instrumentation scope of all spans and metrics.
const scopeName = "github.com/trivet-go/trivet/telemetry"

// Stats is a snapshot of a [Telemetry].
type Stats struct {
	InFlight   int    `json:"in_flight"`   // requests inside Middleware
	Requests   uint64 `json:"requests"`    // requests that Middleware finished
	Errors     uint64 `json:"errors"`      // of them, those that failed by the server's fault
	Panics     uint64 `json:"panics"`      // of them, those whose handler panicked
	Series     int    `json:"series"`      // series of the HTTP metrics, overflow included
	Overflow   uint64 `json:"overflow"`    // requests and events counted in an overflow series
	LogSkipped uint64 `json:"log_skipped"` // log lines that sampling left out
	Faults     uint64 `json:"faults"`      // panics of providers, handlers and hooks, caught
}

// Telemetry observes requests: spans, metrics, access log and objectives. Create one with [New].
// A Telemetry is safe for concurrent use and starts no goroutines.
type Telemetry struct {
	cfg     Config       // read-only after New
	tracer  trace.Tracer // nil if there are no spans
	meter   metric.Meter
	methods []string         // index 0 is _OTHER
	method  map[string]uint8 // method to index
	hosts   map[string]string
	query   map[string]bool
	fields  []string // canonical names of the propagator's fields

	server, client side

	inFlight                         atomic.Int64
	requests, failed, panics, faults atomic.Uint64
	eventOverflow                    atomic.Uint64
}

// A side holds the instruments of one side of a connection.
type side struct {
	series       *seriesCache
	duration     metric.Float64Histogram
	active       metric.Int64UpDownCounter // nil if off
	requestBody  metric.Int64Histogram     // nil if off
	responseBody metric.Int64Histogram     // nil if off
	activeServer [][2][]metric.AddOption   // server side: by method and scheme
}

// New returns a Telemetry. The error, if any, names every invalid field of cfg.
func New(cfg Config) (*Telemetry, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &Telemetry{
		cfg:     cfg,
		methods: append([]string{methodOther}, cfg.Methods...),
		method:  make(map[string]uint8, len(cfg.Methods)),
		hosts:   make(map[string]string, len(cfg.Hosts)),
		query:   make(map[string]bool, len(cfg.Query)),
	}
	for i, m := range cfg.Methods {
		t.method[m] = uint8(i + 1)
	}
	for _, h := range cfg.Hosts {
		t.hosts[h] = h
	}
	for _, q := range cfg.Query {
		t.query[q] = true
	}
	for _, f := range cfg.Propagator.Fields() {
		t.fields = append(t.fields, http.CanonicalHeaderKey(f))
	}
	if _, none := cfg.TracerProvider.(noop.TracerProvider); !none {
		t.tracer = cfg.TracerProvider.Tracer(scopeName, trace.WithSchemaURL(schemaURL))
	}
	t.meter = cfg.MeterProvider.Meter(scopeName, metric.WithSchemaURL(schemaURL))
	if err := t.instruments(); err != nil {
		return nil, fmt.Errorf("telemetry: Config.MeterProvider: %w", err)
	}
	return t, nil
}

// instruments creates the HTTP metrics of both sides.
func (t *Telemetry) instruments() error {
	buckets := slices.Clone(durationBuckets)
	for _, s := range t.cfg.SLOs {
		if s.cfg.Latency > 0 {
			buckets = append(buckets, s.cfg.Latency.Seconds())
		}
	}
	slices.Sort(buckets)
	buckets = slices.Compact(buckets)

	t.server.series = newSeriesCache(t.cfg.MaxSeries, t.serverSeries)
	t.client.series = newSeriesCache(t.cfg.MaxSeries, t.clientSeries)
	var errs []error
	for _, s := range []struct {
		*side
		name    string
		buckets []float64
	}{{&t.server, "server", buckets}, {&t.client, "client", durationBuckets}} {
		var err error
		s.duration, err = t.meter.Float64Histogram("http."+s.name+".request.duration",
			metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(s.buckets...),
			metric.WithDescription("Duration of HTTP "+s.name+" requests."))
		errs = append(errs, err)
		if t.cfg.ActiveRequests {
			s.active, err = t.meter.Int64UpDownCounter("http."+s.name+".active_requests",
				metric.WithUnit("{request}"), metric.WithDescription("Number of active HTTP "+s.name+" requests."))
			errs = append(errs, err)
		}
		if t.cfg.BodySizes {
			s.requestBody, err = t.meter.Int64Histogram("http."+s.name+".request.body.size",
				metric.WithUnit("By"), metric.WithDescription("Size of HTTP "+s.name+" request bodies."))
			errs = append(errs, err)
			s.responseBody, err = t.meter.Int64Histogram("http."+s.name+".response.body.size",
				metric.WithUnit("By"), metric.WithDescription("Size of HTTP "+s.name+" response bodies."))
			errs = append(errs, err)
		}
	}
	for _, m := range t.methods {
		var byScheme [2][]metric.AddOption
		for i, scheme := range []string{"http", "https"} {
			byScheme[i] = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(
				attribute.String(attrMethod, m), attribute.String(attrScheme, scheme)))}
		}
		t.server.activeServer = append(t.server.activeServer, byScheme)
	}
	return errors.Join(errs...)
}

// serverSeries makes the series of k for Middleware.
func (t *Telemetry) serverSeries(k seriesKey) *series {
	kv := k.outcome(false, 5)
	s := &series{key: k, end: kv, name: spanName(t.methods[k.method], k.route)}
	if k.overflow {
		kv = append(slices.Clip(kv), attribute.Bool(attrOverflow, true))
	} else {
		kv = append(slices.Clip(kv), attribute.String(attrMethod, t.methods[k.method]), attribute.String(attrScheme, k.scheme()))
		if k.proto != 0 {
			kv = append(kv, attribute.String(attrProtocol, protocols[k.proto]))
		}
		if k.host != "" {
			kv = append(kv, attribute.String(attrServerAddress, k.host))
		}
	}
	s.record = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(kv...))}
	return s
}

// clientSeries makes the series of k for Transport.
func (t *Telemetry) clientSeries(k seriesKey) *series {
	kv := k.outcome(true, 6)
	s := &series{key: k, end: kv}
	if k.overflow {
		kv = append(slices.Clip(kv), attribute.Bool(attrOverflow, true))
	} else {
		kv = append(slices.Clip(kv),
			attribute.String(attrMethod, t.methods[k.method]), attribute.String(attrScheme, k.scheme()),
			attribute.String(attrServerAddress, k.host), attribute.Int(attrServerPort, int(k.port)))
		if k.proto != 0 {
			kv = append(kv, attribute.String(attrProtocol, protocols[k.proto]))
		}
	}
	s.record = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(kv...))}
	return s
}

// Stats returns a snapshot.
func (t *Telemetry) Stats() Stats {
	s := Stats{
		InFlight: int(t.inFlight.Load()),
		Requests: t.requests.Load(),
		Errors:   t.failed.Load(),
		Panics:   t.panics.Load(),
		Series:   t.server.series.len() + t.client.series.len(),
		Overflow: t.server.series.lost.Load() + t.client.series.lost.Load() + t.eventOverflow.Load(),
		Faults:   t.faults.Load(),
	}
	if t.cfg.AccessLog != nil {
		s.LogSkipped = t.cfg.AccessLog.skipped.Load()
	}
	return s
}

// guard runs f and catches its panics: no provider, handler or hook may fail a request.
func (t *Telemetry) guard(f func()) {
	defer t.caught()
	f()
}

// caught is for defer. It catches a panic of code that is not ours and reports it.
func (t *Telemetry) caught() {
	v := recover()
	if v == nil {
		return
	}
	n := t.faults.Add(1)
	if n&(n-1) != 0 {
		return // what panics may do so at each request: the log gets the 1st, 2nd, 4th, 8th ...
	}
	defer func() { _ = recover() }() // the error handler is not ours either
	otel.Handle(fmt.Errorf("telemetry: caught panic, number %d: %s", n, redact.Escape(redact.Text(fmt.Sprint(v)))))
}
