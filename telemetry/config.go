package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	// The OpenTelemetry SDK folds what is beyond 2000 attribute sets per instrument
	// into one. Staying below lets us decide what the overflow still tells.
	defaultMaxSeries = 1000
	minMaxSeries     = 16
	maxMethods       = 200 // an index fits a byte
)

// A PanicPolicy says what [Telemetry.Middleware] does with a handler's panic.
type PanicPolicy int

const (
	// PassOn records the panic and lets it go on, as if Middleware were not there.
	PassOn PanicPolicy = iota

	// Answer500 records the panic with its stack and answers a 500 problem document
	// (RFC 9457). If part of a response is out already, it aborts the connection, so that
	// the client does not take the part for the whole.
	Answer500
)

// A StreamPolicy says how long a stream took, as far as metrics and objectives go. Streams are
// hijacked connections, 101 responses, and event streams, multipart streams and JSON lines that
// the handler flushes or, for [Telemetry.Transport], that have no length. They last as long as the client likes, which
// says nothing about latency.
type StreamPolicy int

const (
	// StreamFirstByte counts the time until the handler first flushed or took the connection.
	StreamFirstByte StreamPolicy = iota

	// StreamSkip leaves streams out of the duration histogram, and so of the rules of [SLO.WriteRules], and of the
	// latency objectives.
	StreamSkip

	// StreamFull counts the whole time.
	StreamFull
)

// Config configures a [Telemetry]. The zero Config is valid: it uses the global
// OpenTelemetry providers and trusts no proxy.
type Config struct {
	// TracerProvider makes the spans. If nil, otel.GetTracerProvider() is used. Give it
	// noop.NewTracerProvider() to have no spans: that makes requests cheaper, and an
	// incoming trace context still travels on.
	TracerProvider trace.TracerProvider

	// MeterProvider makes the metrics. If nil, otel.GetMeterProvider() is used.
	MeterProvider metric.MeterProvider

	// Propagator reads and writes trace context. If nil, W3C trace context and baggage.
	Propagator propagation.TextMapPropagator

	// Public says that strangers reach Middleware directly. Their trace context is then linked
	// and not continued, and their baggage dropped: who may choose a trace id can flood the
	// sampler and mix up traces (W3C Trace Context, sections 3.4 and 7.2). If false, the
	// context of whoever calls is continued, within bounds.
	Public bool

	// TrustedProxies are the networks whose X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host are believed.
	// The client is then the right-most address that is none of them. If empty, it is the peer.
	TrustedProxies []netip.Prefix

	// Skip, if not nil, names requests that Middleware passes on untouched, such as probes.
	Skip func(*http.Request) bool

	// RouteFunc, if not nil, returns the route pattern of a request after it was served, or
	// "". It goes before the pattern of net/http's ServeMux. It must be low in cardinality: never
	// return a path. See [Route] for where it is called.
	RouteFunc func(*http.Request) string

	// ResendCount, if not nil, says how many times the request that carries the context
	// was sent before, for http.request.resend_count. Give it retry.Attempts. Redirects that
	// [http.Client] follows are counted without it.
	ResendCount func(context.Context) int

	// Methods are the request methods to tell apart; all others are reported as _OTHER.
	// If nil, those of RFC 9110, PATCH and QUERY. At most 200.
	Methods []string

	// Hosts are the host names that server metrics may carry as server.address; other requests
	// carry none. If empty, none do: clients choose their Host, so it is no bounded label.
	Hosts []string

	// Query names the query parameters whose values may be shown in spans and logs. All
	// others are shown as REDACTED.
	Query []string

	// RequestID is the header field that carries a request id, such as X-Request-Id. A client's is
	// kept if it consists of at most 128 letters, digits, '-', '_' and '.', and replaced if not.
	// It is repeated on the response and on what [Telemetry.Transport] sends. Empty means no ids.
	RequestID string

	// Panics says what to do with a handler's panic. Zero means [PassOn].
	Panics PanicPolicy

	// Streams says how the duration of a stream is counted. Zero means [StreamFirstByte].
	Streams StreamPolicy

	// ActiveRequests adds http.server.active_requests and http.client.active_requests.
	ActiveRequests bool

	// BodySizes adds the histograms of request and response body sizes.
	BodySizes bool

	// ServerTiming sends what [Measure] measured as the Server-Timing field. Anyone can read it.
	ServerTiming bool

	// MaxSeries bounds the attribute sets of each side's metrics and of each [Observer].
	// Requests beyond it share series marked otel.metric.overflow. Zero means 1000,
	// less than 16 is invalid. The SDK has a limit of its own, 2000 unless told otherwise.
	MaxSeries int

	// AccessLog, if not nil, writes a line about each request. See [NewAccessLog].
	AccessLog *AccessLog

	// SLOs are told about each request, and their latency thresholds become
	// boundaries of the duration histogram. See [NewSLO].
	SLOs []*SLO
}

// The methods of RFC 9110, PATCH (RFC 5789) and QUERY.
var standardMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, "QUERY",
}

// withDefaults validates c and fills in zero fields.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("telemetry: Config."+field+": "+format, args...))
	}
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.MeterProvider == nil {
		c.MeterProvider = otel.GetMeterProvider()
	}
	if c.Propagator == nil {
		c.Propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	c.TrustedProxies = slices.Clone(c.TrustedProxies)
	for i, p := range c.TrustedProxies {
		if !p.IsValid() {
			fault("TrustedProxies", "prefix %d is invalid", i)
		}
		if p.Addr().Is4In6() {
			fault("TrustedProxies", "%v: write the IPv4 form", p)
		}
	}
	if c.Methods == nil {
		c.Methods = standardMethods
	}
	c.Methods = slices.Clone(c.Methods)
	if len(c.Methods) > maxMethods {
		fault("Methods", "%d methods, at most %d", len(c.Methods), maxMethods)
	}
	for _, m := range c.Methods {
		if !isToken(m) {
			fault("Methods", "%q is no method", m)
		}
	}
	c.Hosts = slices.Clone(c.Hosts)
	for i, h := range c.Hosts {
		switch host, port := splitHost(h); {
		case h == "":
			fault("Hosts", "name %d is empty", i)
		case (host != h || port != "") && !isAddress(h):
			fault("Hosts", "%q is not a name alone: write %q", h, host)
		}
		c.Hosts[i] = strings.ToLower(h)
	}
	c.Query = slices.Clone(c.Query)
	if c.RequestID != "" {
		if !isToken(c.RequestID) {
			fault("RequestID", "%q is no field name", c.RequestID)
		}
		c.RequestID = http.CanonicalHeaderKey(c.RequestID)
	}
	if c.Panics < PassOn || c.Panics > Answer500 {
		fault("Panics", "%d is no PanicPolicy", c.Panics)
	}
	if c.Streams < StreamFirstByte || c.Streams > StreamFull {
		fault("Streams", "%d is no StreamPolicy", c.Streams)
	}
	switch {
	case c.MaxSeries == 0:
		c.MaxSeries = defaultMaxSeries
	case c.MaxSeries < minMaxSeries:
		fault("MaxSeries", "%d is less than %d", c.MaxSeries, minMaxSeries)
	}
	c.SLOs = slices.Clone(c.SLOs)
	for i, s := range c.SLOs {
		if s == nil {
			fault("SLOs", "objective %d is nil", i)
		}
	}
	return c, errors.Join(errs...)
}

// isAddress reports whether s is an IP address, without brackets and port.
func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}
