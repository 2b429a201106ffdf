package balancer

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultMaxTargets  = 1000
	defaultConns       = 1
	defaultMaxConns    = 1024
	defaultSlowStart   = 10 * time.Second
	defaultIdleTimeout = 15 * time.Minute
	defaultPanicBelow  = 0.5

	defaultHealthInterval = 10 * time.Second
	defaultHealthTimeout  = 3 * time.Second
	defaultRise           = 2
	defaultFall           = 3

	// The defaults of gRPC's outlier detection (proposal A50), with three exceptions. Consecutive
	// is Envoy's, since A50 counts no failures in a row. The share is larger, since 10 % of a
	// small fleet is no endpoint at all. Base is shorter, since a restart takes seconds and trying
	// again costs one request.
	defaultConsecutive  = 5
	defaultInterval     = 10 * time.Second
	defaultBase         = 2 * time.Second
	defaultMax          = 5 * time.Minute
	defaultMaxEjected   = 0.3
	defaultDeviations   = 1.9
	defaultMinEndpoints = 5
	defaultMinRequests  = 100
)

// forever caps durations: adding jitter or the current time to more could overflow. Config and
// DNSConfig say so.
const forever = 100 * 365 * 24 * time.Hour

// Config configures a [Balancer]. Only Resolver is required. Its functions, Resolver and Policy
// must be safe for concurrent use. A duration of more than 100 years counts as 100 years.
type Config struct {
	// Resolver says which endpoints serve a target. Required.
	Resolver Resolver

	// Targets are the hosts of the URLs that Resolver's endpoints serve, such as "users.internal"
	// or "users.internal:8443"; without a port, that of the URL's scheme is meant. Requests for
	// others fail with [ErrOtherTarget]. If empty, there is no such bound: a resolver that has the
	// same endpoints for every target, as [Static] and [Pushed] do, then also gets what a redirect
	// sends to a stranger's site, credentials for that site included.
	Targets []string

	// Policy picks an endpoint for each request. If nil, it is [Adaptive].
	Policy Policy

	// Transport is the template of every endpoint's transport. It is cloned, never used or changed
	// itself. Its DialContext, if set, is called with the endpoint's address. Its Proxy is ignored,
	// since a proxy would pick the endpoint. DialTLSContext, the deprecated Dial and DialTLS, and
	// an h2 in TLSNextProto (as golang.org/x/net/http2.ConfigureTransport sets it) are invalid. If
	// nil: connect timeout 3 s, response header timeout 60 s, 256 idle connections per endpoint,
	// HTTP/2 where the server offers it. For h2c set Protocols.
	Transport *http.Transport

	// Wrap, if not nil, wraps every endpoint's transport once, before the endpoint's first request:
	// the place for what belongs to one endpoint. If an error from it has a method NotSent() bool
	// that returns true, the request goes to another endpoint and no endpoint is blamed.
	Wrap func(e Endpoint, next http.RoundTripper) http.RoundTripper

	// Conns is how many transports, hence HTTP/2 connections, an endpoint has. Requests take them
	// in turn. Zero means 1. Negative is invalid. More help behind a layer 4 balancer or a low
	// limit on streams.
	Conns int

	// MaxConns is how many requests an endpoint works on at once: connections of HTTP/1.1, upgraded
	// ones included, or streams of HTTP/2. A request for which every endpoint is full waits in a
	// queue of at most MaxConns requests, first come first served, for up to a second or until its
	// own deadline; then it fails with [ErrFull]. Zero means 1,024: more than most servers work on
	// at once, and few enough that a few clients do not take all ports and descriptors. Negative
	// means no bound. Health checks are not counted.
	MaxConns int

	// ConnLife is how long a connection takes new requests, varied by a fifth. Zero means without
	// limit. Negative is invalid. Behind a layer 4 balancer it lets new servers get their part.
	ConnLife time.Duration

	// Warm is how many connections are opened to a new endpoint before it gets requests, by as many
	// concurrent health checks (OPTIONS * without a Health.Path). Zero means none. Negative is
	// invalid.
	Warm int

	// Health configures active checks. The zero HealthConfig makes none.
	Health HealthConfig

	// Outlier configures the ejection of endpoints that fail requests. The zero OutlierConfig is
	// on.
	Outlier OutlierConfig

	// SlowStart is how long an endpoint that is new or has come back takes to reach its full share,
	// which grows from a tenth. Zero means 10 s. Negative means no slow start. The endpoints of a
	// target's first resolution start with their full share.
	SlowStart time.Duration

	// PanicBelow is the share of available endpoints below which a target can be in panic mode: all
	// of its endpoints get requests, whatever is known of them. Panic mode also takes that the
	// available endpoints of all priorities together cannot carry all requests. A priority is taken
	// to carry 1.4 times the share of its endpoints that is available: with 72 % of them it carries
	// everything. With a Zone, the endpoints in it and the others count as two priorities. Zero
	// means 0.5. At most 1. Negative means never: with none available, requests fail with
	// [ErrNoEndpoints].
	PanicBelow float64

	// Zone, if not empty, makes endpoints of that zone preferred: others of the same priority get
	// requests only as far as the zone is unhealthy or overloaded.
	Zone string

	// IdleTimeout is how long a target is kept without a request. Zero means 15 minutes. Negative
	// means for ever.
	IdleTimeout time.Duration

	// MaxTargets is how many targets are kept at once; requests for further ones fail with
	// [ErrTooManyTargets]. Zero means 1,000. Negative is invalid.
	MaxTargets int

	// Observe, if not nil, receives every attempt, and every change of an endpoint's state. It is
	// called with no lock held. It must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e Event)
}

// HealthConfig configures active health checks. A check goes to the endpoint below [Config.Wrap],
// over a connection of its own: one that is cut off must not break a caller's request. An endpoint
// that is added to a running target gets its first request after its first good check. The
// endpoints of a first resolution are taken to be healthy until a check says otherwise.
type HealthConfig struct {
	// Path, if not empty, is requested with GET; any status from 200 to 399 is good.
	Path string

	// Host, if not empty, is what the request of Path has in its Host field. By default that is the
	// target's.
	Host string

	// Check, if not nil, replaces the request of Path: an error means that e failed. It must return
	// when ctx ends. It is given the endpoint's transport for checks.
	Check func(ctx context.Context, e Endpoint, rt http.RoundTripper) error

	// Interval is the time between two checks of an endpoint, varied by a fifth. Zero means 10 s.
	// Negative is invalid.
	Interval time.Duration

	// Timeout bounds one check. Zero means 3 s, or Interval if that is less. Negative is invalid.
	Timeout time.Duration

	// Rise and Fall are how many checks in a row an endpoint must pass to become available and fail
	// to become unavailable. Zero means 2 and 3. Negative is invalid.
	Rise, Fall int
}

func (h *HealthConfig) enabled() bool { return h.Path != "" || h.Check != nil }

// OutlierConfig configures passive health checks: endpoints that fail real requests are ejected.
//
// These are failures: a status of 5xx other than 501, 505 and a 503 with Retry-After, or below 100;
// a body that breaks off; an error that neither the caller nor the request is to blame for, a
// failed dial included; and a deadline that expired although it left the endpoint the usual time of
// a reply. A 429 is none, since it is about the client, and neither is a request that its caller
// canceled.
type OutlierConfig struct {
	// Consecutive is how many failures in a row eject an endpoint, unless most of the others are
	// failing too: then the fault is elsewhere. Zero means 5. Negative means off.
	Consecutive int

	// Deviations ejects an endpoint whose success rate over an Interval is that many standard
	// deviations below the mean of all. It needs MinEndpoints endpoints with MinRequests requests
	// each. Zero means 1.9. Negative means off.
	Deviations float64

	// Interval is how often success rates are judged. Zero means 10 s. Negative is invalid.
	Interval time.Duration

	// Base is how long the first ejection of an endpoint lasts, and by how much each further one is
	// longer, up to Max; both are varied by a tenth. An Interval with few failures takes one
	// ejection off the count. Zero means 2 s and 5 minutes. Negative is invalid.
	Base, Max time.Duration

	// MaxEjected is the largest share of a target's endpoints that may be ejected at once. One may
	// always be, unless it is the last one available. Zero means 0.3. At most 1. Negative is
	// invalid.
	MaxEjected float64

	// MinEndpoints and MinRequests say how much must be known for Deviations. Zero means 5 and 100.
	// Negative is invalid.
	MinEndpoints, MinRequests int
}

// withDefaults validates c and fills in zero fields, except Transport.
func (c Config) withDefaults() (Config, error) {
	f := settings.Of("balancer", "Config")
	if isNil(c.Resolver) {
		f.Add("Resolver", "is required")
	} else if v, ok := c.Resolver.(interface{ validate() error }); ok {
		f.Nest("Resolver", v.validate())
	}
	validateTargets(f, c.Targets)
	c.Targets = slices.Clone(c.Targets)
	if c.Policy == nil {
		c.Policy = Adaptive()
	}
	f.Nest("Policy", validatePolicy(c.Policy))
	validateTransport(f, c.Transport)
	settings.Positive(f, "Conns", &c.Conns, defaultConns)
	settings.Default(f, "MaxConns", &c.MaxConns, defaultMaxConns)
	settings.NotNegative(f, "ConnLife", c.ConnLife)
	settings.NotNegative(f, "Warm", c.Warm)
	settings.Default(f, "SlowStart", &c.SlowStart, defaultSlowStart)
	settings.Share(f, "PanicBelow", &c.PanicBelow, defaultPanicBelow)
	settings.Default(f, "IdleTimeout", &c.IdleTimeout, defaultIdleTimeout)
	settings.Positive(f, "MaxTargets", &c.MaxTargets, defaultMaxTargets)
	c.Health.setDefaults(f)
	c.Outlier.setDefaults(f)
	h, o := &c.Health, &c.Outlier
	for _, d := range []*time.Duration{
		&c.ConnLife, &c.SlowStart, &h.Interval, &h.Timeout, &o.Interval, &o.Base, &o.Max,
	} {
		*d = min(*d, forever)
	}
	return c, f.Err()
}

func (h *HealthConfig) setDefaults(f *settings.Faults) {
	settings.Positive(f, "Health.Interval", &h.Interval, defaultHealthInterval)
	settings.Positive(f, "Health.Timeout", &h.Timeout, min(defaultHealthTimeout, h.Interval))
	settings.Positive(f, "Health.Rise", &h.Rise, defaultRise)
	settings.Positive(f, "Health.Fall", &h.Fall, defaultFall)
	switch u, err := (&url.URL{Scheme: "http", Host: "target"}).Parse(h.Path); {
	case h.Path != "" && h.Path[0] != '/':
		f.Add("Health.Path", "%q does not start with a slash", h.Path)
	case err != nil:
		f.Add("Health.Path", "%w", err)
	case u.Host != "target":
		f.Add("Health.Path", "%q names a host", h.Path)
	}
}

func (o *OutlierConfig) setDefaults(f *settings.Faults) {
	settings.Default(f, "Outlier.Consecutive", &o.Consecutive, defaultConsecutive)
	settings.Default(f, "Outlier.Deviations", &o.Deviations, defaultDeviations)
	settings.Positive(f, "Outlier.Interval", &o.Interval, defaultInterval)
	settings.Positive(f, "Outlier.Base", &o.Base, defaultBase)
	settings.Positive(f, "Outlier.Max", &o.Max, max(defaultMax, o.Base))
	if o.Max > 0 && o.Max < o.Base {
		f.Add("Outlier.Max", "%v is less than Base, %v", o.Max, o.Base)
	}
	settings.Share(f, "Outlier.MaxEjected", &o.MaxEjected, defaultMaxEjected)
	if o.MaxEjected < 0 {
		f.Add("Outlier.MaxEjected", "%v is negative", o.MaxEjected)
	}
	settings.Positive(f, "Outlier.MinEndpoints", &o.MinEndpoints, defaultMinEndpoints)
	settings.Positive(f, "Outlier.MinRequests", &o.MinRequests, defaultMinRequests)
}

func validateTransport(f *settings.Faults, t *http.Transport) {
	switch {
	case t == nil:
	case t.DialTLSContext != nil || hasDeprecatedDial(t):
		f.Add("Transport", "only DialContext can be pinned to an endpoint; "+
			"DialTLSContext, Dial and DialTLS are invalid")
	// Of the clone: net/http puts an h2 of its own into a transport that has been used.
	case t.Clone().TLSNextProto["h2"] != nil:
		f.Add("Transport", "TLSNextProto has an h2 that would send all endpoints' requests "+
			"over one connection; for HTTP/2 set Protocols")
	}
}

// hasDeprecatedDial reports whether a dial is set that cannot be pinned to an address.
func hasDeprecatedDial(t *http.Transport) bool {
	//lint:ignore SA1019 to refuse them, they must be looked at
	return t.Dial != nil || t.DialTLS != nil
}

var defaultDial = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext

func defaultTransport() *http.Transport {
	return &http.Transport{
		DialContext:            defaultDial,
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  time.Minute,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 1 << 20,
	}
}
