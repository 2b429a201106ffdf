package telemetry

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// The instruments of the server's metrics, or of the client's.
type instruments struct {
	series       *seriesCache
	duration     metric.Float64Histogram
	active       metric.Int64UpDownCounter // nil if off
	requestBody  metric.Int64Histogram     // nil if off
	responseBody metric.Int64Histogram     // nil if off
	activeSeries [][2][]metric.AddOption   // the server's, by method and scheme
}

// durationBuckets are the boundaries that the conventions advise, in seconds.
var durationBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

// makeInstruments creates the HTTP metrics of server and client.
func (t *Telemetry) makeInstruments() error {
	buckets := slices.Clone(durationBuckets)
	for _, s := range t.cfg.SLOs {
		if s.cfg.Latency > 0 {
			buckets = append(buckets, s.cfg.Latency.Seconds())
		}
	}
	slices.Sort(buckets)
	buckets = slices.Compact(buckets)

	t.server.series = t.newSeriesCache(t.serverSeries, false)
	t.client.series = t.newSeriesCache(t.clientSeries, true)
	var errs []error
	for _, s := range []struct {
		*instruments
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
				metric.WithUnit("{request}"),
				metric.WithDescription("Number of active HTTP "+s.name+" requests."))
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
		t.server.activeSeries = append(t.server.activeSeries, byScheme)
	}
	return errors.Join(errs...)
}

// serverSeries makes the series of k for Middleware.
func (t *Telemetry) serverSeries(k seriesKey) *series {
	kv := k.endAttributes(false, 5)
	s := &series{key: k, end: kv, name: spanName(t.methods[k.method], k.route)}
	if k.overflow {
		kv = append(slices.Clip(kv), attribute.Bool(attrOverflow, true))
	} else {
		kv = append(slices.Clip(kv),
			attribute.String(attrMethod, t.methods[k.method]), attribute.String(attrScheme, k.scheme()))
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
	kv := k.endAttributes(true, 6)
	s := &series{key: k, end: kv}
	if k.overflow {
		kv = append(slices.Clip(kv), attribute.Bool(attrOverflow, true))
	} else {
		kv = append(slices.Clip(kv),
			attribute.String(attrMethod, t.methods[k.method]), attribute.String(attrScheme, k.scheme()))
	}
	if !k.overflow || k.host != "" {
		kv = append(kv,
			attribute.String(attrServerAddress, k.host), attribute.Int(attrServerPort, int(k.port)))
	}
	if !k.overflow {
		if k.proto != 0 {
			kv = append(kv, attribute.String(attrProtocol, protocols[k.proto]))
		}
	}
	s.record = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(kv...))}
	return s
}

// exemplar returns the context that instruments get for ctx, whose span is span. They look there
// for the span of an exemplar, once for each of them: if it was not sampled, there is nothing to
// find.
func exemplar(ctx context.Context, span trace.Span) context.Context {
	if span == nil || !span.SpanContext().IsSampled() {
		return context.Background()
	}
	return ctx
}

// measure records the metrics of an exchange that ended.
func (ex *exchange) measure(s *series, o outcome) {
	m := &ex.tel.server
	ctx := exemplar(afterScope{&ex.scope}, trace.SpanFromContext(&ex.scope))
	if m.active != nil {
		m.active.Add(ctx, -1, ex.activeSeries()...) // first: what panics below must not leave it behind
	}
	if o.timed && m.duration.Enabled(ctx) {
		m.duration.Record(ctx, o.latency.Seconds(), s.record...)
	}
	if m.requestBody != nil {
		m.requestBody.Record(ctx, ex.body.n.Load(), s.record...)
		m.responseBody.Record(ctx, ex.writer.Bytes, s.record...)
	}
}

func (ex *exchange) activeSeries() []metric.AddOption {
	scheme := 0
	if ex.key.tls {
		scheme = 1
	}
	return ex.tel.server.activeSeries[ex.key.method][scheme]
}

// measure records the metrics of a call that ended.
func (c *call) measure() {
	m := &c.tel.client
	ctx := exemplar(c.ctx, trace.SpanFromContext(c.ctx))
	if c.active != nil {
		m.active.Add(ctx, -1, c.active...)
	}
	s := m.series.of(c.key)
	m.duration.Record(ctx, time.Since(c.start).Seconds(), s.record...)
	if m.requestBody != nil {
		sent := &c.sent
		if again := c.resent.Load(); again != nil {
			sent = again
		}
		m.requestBody.Record(ctx, sent.n.Load(), s.record...)
		m.responseBody.Record(ctx, c.read.Load(), s.record...)
	}
}
