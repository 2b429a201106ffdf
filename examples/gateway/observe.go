package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	goruntime "go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trivet-go/trivet/retry"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/telemetry/health"
)

// requestID is the header field with a request's id. The gateway keeps a client's id if it is
// harmless.
const requestID = "X-Request-Id"

// A Telemetry configures what the gateway tells about itself. Metrics are always at /metrics of the
// admin server.
type Telemetry struct {
	Service   string    `yaml:"service"` // the resource's service.name; "gateway"
	AccessLog AccessLog `yaml:"access_log"`
	OTLP      OTLP      `yaml:"otlp"`
}

// An AccessLog configures the access log, which has a line of JSON for each request.
type AccessLog struct {
	Output          string   `yaml:"output"`           // "stdout", "stderr" or "none"; stdout
	SampleEvery     int      `yaml:"sample_every"`     // n writes one in n of the ordinary requests; 1
	Slow            Duration `yaml:"slow"`             // a request that takes this long is slow; 1s
	Client          string   `yaml:"client"`           // "network" (/24, /48), "full" or "none"; network
	RequestHeaders  []string `yaml:"request_headers"`  // header fields to show; none
	ResponseHeaders []string `yaml:"response_headers"` // header fields to show; none
	Query           []string `yaml:"query"`            // parameters whose values are shown; none
}

// An OTLP configures the OpenTelemetry collector that gets traces and metrics by HTTP. The
// environment variables OTEL_EXPORTER_OTLP_HEADERS and OTEL_EXPORTER_OTLP_CERTIFICATE apply, too.
type OTLP struct {
	Endpoint string   `yaml:"endpoint"` // "http://127.0.0.1:4318"; if empty, there are no traces
	Sample   Share    `yaml:"sample"`   // the share of requests that are traced; 0.01
	Interval Duration `yaml:"interval"` // between two sendings of metrics; 30s
}

func (t Telemetry) withDefaults(f *faults) Telemetry {
	t.Service = cmp.Or(t.Service, "gateway")
	l := &t.AccessLog
	l.Output = cmp.Or(l.Output, "stdout")
	if !slices.Contains([]string{"stdout", "stderr", "none"}, l.Output) {
		f.add(fmt.Sprintf("%q is not one of: stdout, stderr, none", l.Output),
			"telemetry", "access_log", "output")
	}
	l.Client = cmp.Or(l.Client, "network")
	if _, ok := clientDetails[l.Client]; !ok {
		f.add(fmt.Sprintf("%q is not one of: network, full, none", l.Client),
			"telemetry", "access_log", "client")
	}
	l.SampleEvery = cmp.Or(l.SampleEvery, 1)
	if l.SampleEvery < 0 {
		f.add("must be positive", "telemetry", "access_log", "sample_every")
	}
	f.duration(&l.Slow, time.Second, "telemetry", "access_log", "slow")
	if _, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{
		Handler: slog.DiscardHandler, RequestHeaders: l.RequestHeaders, ResponseHeaders: l.ResponseHeaders,
	}); err != nil {
		f.wrapped(err, map[string]string{
			"RequestHeaders": "request_headers", "ResponseHeaders": "response_headers",
		}, "telemetry", "access_log")
	}

	o := &t.OTLP
	f.duration(&o.Interval, 30*time.Second, "telemetry", "otlp", "interval")
	if o.Sample == 0 {
		o.Sample = 0.01
	}
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
			u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			f.add("is not a URL such as http://127.0.0.1:4318", "telemetry", "otlp", "endpoint")
		}
	}
	return t
}

var clientDetails = map[string]telemetry.ClientDetail{
	"network": telemetry.ClientNetwork, "full": telemetry.ClientFull, "none": telemetry.ClientNone,
}

// An observer holds the gateway's telemetry, its health and its objectives.
type observer struct {
	tel        *telemetry.Telemetry
	health     *health.Health
	objectives map[string]*telemetry.SLO
	metrics    http.Handler
	shutdown   []func(context.Context) error
}

// newObserver returns the observer of a gateway whose access log goes to stdout or stderr.
func newObserver(cfg Config, c *counts, stdout, stderr io.Writer, log *slog.Logger) (*observer, error) {
	o := &observer{objectives: map[string]*telemetry.SLO{}}
	if err := o.start(cfg, c, stdout, stderr, log); err != nil {
		o.discard()
		return nil, err
	}
	return o, nil
}

func (o *observer) start(cfg Config, c *counts, stdout, stderr io.Writer, log *slog.Logger) error {
	tracers, meters, err := o.providers(cfg.Telemetry, log)
	if err != nil {
		return err
	}
	var slos []*telemetry.SLO
	for _, name := range slices.Sorted(maps.Keys(cfg.Objectives)) {
		slo, err := cfg.Objectives[name].slo(name, cfg.Telemetry.Service)
		if err != nil {
			return fmt.Errorf("objectives.%s: %w", name, err)
		}
		o.objectives[name] = slo
		slos = append(slos, slo)
	}
	lines, err := o.newAccessLog(cfg.Telemetry.AccessLog, stdout, stderr)
	if err != nil {
		return err
	}
	trusted := trustIn(cfg.Server.TrustedProxies)
	o.tel, err = telemetry.New(telemetry.Config{
		TracerProvider: tracers,
		MeterProvider:  meters,
		Public:         true, // links the trace context of a client instead of continuing it
		TrustedProxies: trusted.proxies,
		TrustUnix:      trusted.unix,
		RequestID:      requestID,
		Query:          cfg.Telemetry.AccessLog.Query,
		AccessLog:      lines,
		ResendCount:    retry.Attempts,
		SLOs:           slos,
		// The pattern includes the host: two hosts may have routes with the same path.
		RouteFunc: func(r *http.Request) string { return r.Pattern },
	})
	if err != nil {
		return err
	}
	// drain itself waits for the delay, since a reload may change it.
	probes := health.Config{DrainDelay: -1}
	if c.client != nil {
		probes.Checks = []health.CheckConfig{{
			Name: "redis", Func: func(ctx context.Context) error { return c.client.Ping(ctx).Err() },
			Optional: true, // while it is down, on_error decides
		}}
	}
	if o.health, err = health.New(probes); err != nil {
		return err
	}
	return o.register(c)
}

// register exports the statistics that last as long as the gateway.
func (o *observer) register(c *counts) error {
	_, err := telemetry.Register(o.tel, "", o.tel.Stats)
	_, e := telemetry.Register(o.tel, "", o.health.Stats)
	err = errors.Join(err, e)
	for name, slo := range o.objectives {
		_, e := telemetry.Register(o.tel, name, slo.Stats)
		err = errors.Join(err, e)
	}
	if c.redis != nil {
		_, e := telemetry.Register(o.tel, "", c.redis.Stats)
		err = errors.Join(err, e)
	}
	return err
}

// providers returns the providers of traces and metrics. Metrics go to Prometheus. If there is a
// collector, it gets both.
func (o *observer) providers(cfg Telemetry, log *slog.Logger) (
	trace.TracerProvider, *metric.MeterProvider, error,
) {
	ctx := context.Background()
	about := resource.NewSchemaless(attribute.String("service.name", cfg.Service))
	registry := prometheus.NewRegistry()
	scheduling := goruntime.NewProducer() // times that goroutines waited for a processor
	reader, err := otelprometheus.New(otelprometheus.WithRegisterer(registry),
		otelprometheus.WithoutScopeInfo(), otelprometheus.WithProducer(scheduling))
	if err != nil {
		return nil, nil, err
	}
	o.metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:     promhttp.ContinueOnError, // or one bad series would hide all others
	})
	options := []metric.Option{metric.WithResource(about), metric.WithReader(reader)}
	var tracers trace.TracerProvider = noop.NewTracerProvider()
	if cfg.OTLP.Endpoint != "" {
		base := strings.TrimSuffix(cfg.OTLP.Endpoint, "/")
		spans, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(base+"/v1/traces"))
		if err != nil {
			return nil, nil, err
		}
		sdk := sdktrace.NewTracerProvider(
			sdktrace.WithResource(about),
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(float64(cfg.OTLP.Sample)))),
			sdktrace.WithBatcher(spans)) // drops spans when its queue is full, so that requests do not wait
		o.shutdown = append(o.shutdown, sdk.Shutdown)
		tracers = sdk
		exporter, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(base+"/v1/metrics"))
		if err != nil {
			return nil, nil, err
		}
		interval := metric.WithInterval(time.Duration(cfg.OTLP.Interval))
		options = append(options, metric.WithReader(metric.NewPeriodicReader(exporter, interval)))
	}
	meters := metric.NewMeterProvider(options...)
	o.shutdown = append(o.shutdown, meters.Shutdown)
	return tracers, meters, goruntime.Start(goruntime.WithMeterProvider(meters))
}

// newAccessLog returns nil if no access log is wanted.
func (o *observer) newAccessLog(cfg AccessLog, stdout, stderr io.Writer) (*telemetry.AccessLog, error) {
	var to io.Writer
	switch cfg.Output {
	case "stdout":
		to = stdout
	case "stderr":
		to = stderr
	default:
		return nil, nil
	}
	lines := &lineBuffer{to: to}
	o.shutdown = append(o.shutdown, func(context.Context) error { return lines.close() })
	return telemetry.NewAccessLog(telemetry.AccessLogConfig{
		Handler:         slog.NewJSONHandler(lines, nil),
		SampleEvery:     cfg.SampleEvery,
		Slow:            time.Duration(cfg.Slow),
		Client:          clientDetails[cfg.Client],
		RequestHeaders:  cfg.RequestHeaders,
		ResponseHeaders: cfg.ResponseHeaders,
	})
}

// close sends what has not been sent, or gives up when ctx ends.
func (o *observer) close(ctx context.Context) error {
	var errs []error
	for _, f := range o.shutdown {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

// discard ends o without sending anything.
func (o *observer) discard() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = o.close(ctx)
}

// inline returns an attribute that puts those of an event beside the others on a line.
func inline(e slog.LogValuer) slog.Attr { return slog.Attr{Value: e.LogValue()} }
