package telemetry

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/settings"
)

const (
	// The OpenTelemetry SDK folds what is beyond 2,000 attribute sets per instrument into one.
	// Staying below lets us decide what the overflow still tells.
	defaultMaxSeries = 1000
	minMaxSeries     = 16
	maxMethods       = 200 // an index fits a byte
)

// Config configures a [Telemetry]. The zero Config is valid: it uses the global OpenTelemetry
// providers and trusts no proxy. Its functions are called by many requests at a time: they must be
// safe for concurrent use.
type Config struct {
	// TracerProvider makes the spans. If nil, otel.GetTracerProvider() is used. Give it
	// noop.NewTracerProvider() to have no spans: that makes requests cheaper, and an incoming
	// trace context still travels on.
	TracerProvider trace.TracerProvider

	// MeterProvider makes the metrics. If nil, otel.GetMeterProvider() is used.
	MeterProvider metric.MeterProvider

	// Propagator reads and writes trace context. If nil, W3C trace context and baggage are used.
	Propagator propagation.TextMapPropagator

	// Public says that strangers reach Middleware directly. Their trace context is then linked
	// and not continued, and their baggage dropped: whoever may choose a trace id can flood the
	// sampler and mix up traces (W3C Trace Context, sections 3.4 and 7.2). If false, the context
	// of every caller is continued, within bounds.
	Public bool

	// TrustedProxies are the networks whose X-Forwarded-For, X-Forwarded-Proto and
	// X-Forwarded-Host are believed. The client is then the right-most address that is in none of
	// them. If empty, the client is the peer.
	TrustedProxies []netip.Prefix

	// TrustUnix believes the forwarding fields of all peers that come over a unix socket.
	TrustUnix bool

	// Skip, if not nil, names requests that Middleware passes on untouched, such as probes.
	Skip func(*http.Request) bool

	// RouteFunc, if not nil, returns the route pattern of a request after it was served, or "" if
	// it knows none. It has precedence over the pattern of net/http's ServeMux. It must return few
	// different patterns, and never a path. See [Route] for where it is called.
	RouteFunc func(*http.Request) string

	// ResendCount, if not nil, says how many times the request that carries the context was sent
	// before, for http.request.resend_count. A transport that repeats requests knows it. Redirects
	// that [http.Client] follows are counted without it. A negative count counts as zero.
	ResendCount func(context.Context) int

	// Methods are the request methods to tell apart; all others are reported as _OTHER. If nil,
	// those of RFC 9110, PATCH and QUERY. At most 200.
	Methods []string

	// Hosts are the host names that server metrics may carry as server.address; other requests
	// carry none. If empty, none do: clients choose their Host, so it is no bounded label.
	Hosts []string

	// Query names the query parameters whose values may be shown in spans and logs. All others are
	// shown as REDACTED.
	Query []string

	// RequestID is the header field that carries a request id, such as X-Request-Id. A client's is
	// kept if it consists of at most 128 letters, digits, '-', '_' and '.' and begins with neither
	// '-' nor '.'; it is replaced if not. It is repeated on the response and on what
	// [Telemetry.Transport] sends. Empty means no ids.
	RequestID string

	// Panics says what to do with a handler's panic. Zero means [PassOn].
	Panics PanicAction

	// ActiveRequests adds http.server.active_requests and http.client.active_requests.
	ActiveRequests bool

	// BodySizes adds the histograms of request and response body sizes.
	BodySizes bool

	// ServerTiming sends what [Measure] measured as the Server-Timing field. Anyone can read it.
	ServerTiming bool

	// MaxSeries bounds the attribute sets of the server's metrics, of the client's, and of each
	// [Observer]. Requests beyond it share series marked otel.metric.overflow: first without what
	// strangers choose (method, protocol, scheme, Host), then without the status. The route stays,
	// with error.type 5xx for all that failed by the server's fault, of each route that was seen
	// while there was room, and of the first MaxSeries/32 others. Zero means 1,000.
	// Less than 16 is invalid. The SDK has a limit of its own, 2,000 unless told otherwise.
	MaxSeries int

	// AccessLog, if not nil, writes a line about each request. See [NewAccessLog].
	AccessLog *AccessLog

	// SLOs are told about each request, and their latency thresholds become boundaries of the
	// duration histogram. See [NewSLO].
	SLOs []*SLO
}

// The methods of RFC 9110, PATCH (RFC 5789) and QUERY.
var standardMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, "QUERY",
}

// withDefaults returns c with zero fields filled in, and adds its faults to f.
func (c Config) withDefaults(f *settings.Faults) Config {
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.MeterProvider == nil {
		c.MeterProvider = otel.GetMeterProvider()
	}
	if c.Propagator == nil {
		c.Propagator = propagation.NewCompositeTextMapPropagator(
			propagation.TraceContext{}, propagation.Baggage{})
	}
	if c.Methods == nil {
		c.Methods = standardMethods
	}
	c.Methods = slices.Clone(c.Methods)
	if len(c.Methods) > maxMethods {
		f.Add("Methods", "%d methods, at most %d", len(c.Methods), maxMethods)
	}
	for _, m := range c.Methods {
		if !grammar.IsToken(m) {
			f.Add("Methods", "%q is no method", m)
		}
	}
	c.Hosts = slices.Clone(c.Hosts)
	for i, h := range c.Hosts {
		switch host, port := origin.SplitHost(h); {
		case h == "":
			f.Add("Hosts", "name %d is empty", i)
		case (host != h || port != "") && !isAddress(h):
			f.Add("Hosts", "%q is not a name alone: write %q", h, host)
		}
		c.Hosts[i] = strings.ToLower(h)
	}
	c.Query = slices.Clone(c.Query)
	if c.RequestID != "" {
		if !grammar.IsToken(c.RequestID) {
			f.Add("RequestID", "%q is no field name", c.RequestID)
		}
		c.RequestID = http.CanonicalHeaderKey(c.RequestID)
	}
	if c.Panics < PassOn || c.Panics > Answer500 {
		f.Add("Panics", "%d is no PanicAction", int(c.Panics))
	}
	settings.Default(f, "MaxSeries", &c.MaxSeries, defaultMaxSeries)
	if c.MaxSeries < minMaxSeries {
		f.Add("MaxSeries", "%d is less than %d", c.MaxSeries, minMaxSeries)
	}
	c.SLOs = slices.Clone(c.SLOs)
	for i, s := range c.SLOs {
		if s == nil {
			f.Add("SLOs["+strconv.Itoa(i)+"]", "is nil")
		}
	}
	return c
}

// isAddress reports whether s is an IP address, without brackets and port.
func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}
