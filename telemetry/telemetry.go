package telemetry

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/settings"
	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

// scopeName is the instrumentation scope of all spans and metrics.
const scopeName = "github.com/trivet-go/trivet/telemetry"

// Telemetry observes requests: spans, metrics, access log and objectives. Create one with [New].
// A Telemetry is safe for concurrent use and starts no goroutines.
type Telemetry struct {
	cfg     Config // read-only after New
	proxies origin.Proxies
	tracer  trace.Tracer // nil if there are no spans
	meter   metric.Meter
	methods []string          // index 0 is _OTHER
	method  map[string]uint8  // method to index
	hosts   map[string]string // those of Config.Hosts, so that a series keeps no request's memory
	query   map[string]bool   // names of Config.Query
	fields  []string          // canonical names of the propagator's fields

	server, client instruments
	registered     sync.Map // of registration

	inFlight                         atomic.Int64
	requests, failed, panics, faults atomic.Uint64
	overflowed                       atomic.Uint64 // requests and events in an overflow series
}

// New returns a Telemetry. The error, if any, names every invalid field of cfg.
func New(cfg Config) (*Telemetry, error) {
	f := settings.Of("telemetry", "Config")
	cfg = cfg.withDefaults(f)
	t := &Telemetry{
		cfg:     cfg,
		proxies: origin.NewProxies(f, cfg.TrustedProxies, cfg.TrustUnix),
		methods: append([]string{methodOther}, cfg.Methods...),
		method:  make(map[string]uint8, len(cfg.Methods)),
		hosts:   make(map[string]string, len(cfg.Hosts)),
		query:   make(map[string]bool, len(cfg.Query)),
	}
	if err := f.Err(); err != nil {
		return nil, err
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
	for _, name := range cfg.Propagator.Fields() {
		t.fields = append(t.fields, http.CanonicalHeaderKey(name))
	}
	if _, none := cfg.TracerProvider.(noop.TracerProvider); !none {
		t.tracer = cfg.TracerProvider.Tracer(scopeName, trace.WithSchemaURL(schemaURL))
	}
	t.meter = cfg.MeterProvider.Meter(scopeName, metric.WithSchemaURL(schemaURL))
	if err := t.makeInstruments(); err != nil {
		return nil, fmt.Errorf("telemetry: Config.MeterProvider: %w", err)
	}
	return t, nil
}

// Stats is a snapshot of a [Telemetry].
type Stats struct {
	InFlight   int    `json:"in_flight"`   // requests inside Middleware
	Requests   uint64 `json:"requests"`    // requests that Middleware finished
	Failures   uint64 `json:"failures"`    // of them, those that failed by the server's fault
	Panics     uint64 `json:"panics"`      // of them, those whose handler panicked
	Series     int    `json:"series"`      // series of the HTTP metrics, overflow included
	Overflowed uint64 `json:"overflowed"`  // requests and events counted in an overflow series
	LogSkipped uint64 `json:"log_skipped"` // log lines that sampling left out

	// Faults counts the panics of providers, log handlers and hooks, which are caught. Other
	// packages count those as panics; here Panics are those of the handler that is observed.
	Faults uint64 `json:"faults"`
}

// Stats returns a snapshot.
func (t *Telemetry) Stats() Stats {
	s := Stats{
		InFlight:   int(t.inFlight.Load()),
		Requests:   t.requests.Load(),
		Failures:   t.failed.Load(),
		Panics:     t.panics.Load(),
		Series:     t.server.series.size() + t.client.series.size(),
		Overflowed: t.overflowed.Load(),
		Faults:     t.faults.Load(),
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
		return // a hook may panic at every request: only panics 1, 2, 4, 8 ... are reported
	}
	defer func() { _ = recover() }() // the error handler is not ours either
	otel.Handle(fmt.Errorf("telemetry: caught panic, number %d: %s",
		n, redact.Escape(redact.Text(fmt.Sprint(v)))))
}
