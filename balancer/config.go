package balancer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	defaultMaxTargets  = 1000
	defaultConns       = 1
	defaultSlowStart   = 10 * time.Second
	defaultIdleTimeout = 15 * time.Minute
	defaultPanic       = 0.5

	defaultHealthInterval = 10 * time.Second
	defaultHealthTimeout  = 3 * time.Second
	defaultRise           = 2
	defaultFall           = 3

	// The defaults of gRPC's outlier detection (proposal A50), except for the share (10 % of a
	// small fleet is nobody) and for Base: a restart takes seconds, and trying again costs one request.
	defaultConsecutive = 5
	defaultInterval    = 10 * time.Second
	defaultBase        = 2 * time.Second
	defaultMax         = 5 * time.Minute
	defaultMaxEjected  = 0.3
	defaultDeviations  = 1.9
	defaultMinHosts    = 5
	defaultMinRequests = 100
)

// forever is a time that nobody sees the end of. With more, the sums that jitter and the present are part of would overflow.
const forever = 100 * 365 * 24 * time.Hour

// Config configures a [Balancer]. Only Resolver is required.
type Config struct {
	// Resolver says which endpoints serve a target. Required.
	Resolver Resolver

	// Policy picks an endpoint for each request. If nil, it is [Adaptive].
	Policy Policy

	// Transport is the template of every endpoint's transport. It is cloned, never used or changed itself. Its DialContext, if
	// set, is called with the endpoint's address. Its Proxy is ignored, since a proxy would pick the endpoint. DialTLSContext,
	// the deprecated Dial and DialTLS, and an h2 in TLSNextProto (as golang.org/x/net/http2.ConfigureTransport sets it) are
	// invalid. If nil: connect timeout 3 s, response header timeout 60 s, 256 idle connections an endpoint, HTTP/2 where the
	// server offers it. For h2c set Protocols.
	Transport *http.Transport

	// Wrap, if not nil, wraps every endpoint's transport once, before the endpoint's first request: the place for what
	// belongs to one endpoint. An error from it that has NotSent() bool and says true sends the request to
	// another endpoint and counts against none.
	Wrap func(e Endpoint, next http.RoundTripper) http.RoundTripper

	// Conns is how many transports, hence HTTP/2 connections, an endpoint has. Requests take them
	// in turn. Zero means 1. More help behind a layer 4 balancer or a low stream limit.
	Conns int

	// ConnLife is how long a connection takes new requests, give or take a fifth. Zero means
	// without limit. Behind a layer 4 balancer it lets new servers get their part.
	ConnLife time.Duration

	// Warm is how many connections are opened to a new endpoint before it gets requests, by so
	// many concurrent health checks (OPTIONS * without a Health.Path). Zero means none.
	Warm int

	// Health configures active checks. The zero Health makes none.
	Health Health

	// Outlier configures the ejection of endpoints that fail requests. The zero Outlier is on.
	Outlier Outlier

	// SlowStart is how long an endpoint that is new or has come back takes to reach its full
	// share, which grows from a tenth. Zero means 10 s. Negative means at once. The endpoints of a target's
	// first resolution start in full.
	SlowStart time.Duration

	// Panic is the share of available endpoints below which all of a target's endpoints get
	// requests, whatever is known of them. Zero means 0.5. Negative means never: with none
	// available, requests fail with [ErrNoHosts].
	Panic float64

	// Zone, if not empty, makes endpoints of that zone preferred: others of the same priority get requests
	// only as far as the zone is unhealthy or overloaded.
	Zone string

	// IdleTimeout is how long a target is kept without a request. Zero means 15 minutes. Negative
	// means for ever.
	IdleTimeout time.Duration

	// MaxTargets is how many targets are kept at once; requests for further ones fail with
	// [ErrTooManyTargets]. Zero means 1000.
	MaxTargets int

	// Observe, if not nil, receives every attempt, and every change of an endpoint's state. It is
	// called with no lock held; it must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e Event)

	defaultTransport bool // Transport was nil
}

// Health configures active health checks. A check goes through the endpoint's own transport, below [Config.Wrap].
// An endpoint that is added to a running target gets its first request after its first good check;
// the endpoints of a first resolution are taken to be healthy until a check says otherwise.
type Health struct {
	// Path, if not empty, is requested with GET; any status from 200 to 399 is good.
	Path string

	// Check, if not nil, replaces the request of Path: an error means that e failed. It must
	// return when ctx ends. It is given the endpoint's transport.
	Check func(ctx context.Context, e Endpoint, rt http.RoundTripper) error

	// Interval is the time between two checks of an endpoint, give or take a fifth. Zero means 10 s.
	Interval time.Duration

	// Timeout bounds one check. Zero means 3 s, or Interval if that is less.
	Timeout time.Duration

	// Rise and Fall are how many checks in a row an endpoint must pass to become available and fail to
	// become unavailable. Zero means 2 and 3.
	Rise, Fall int
}

func (h Health) enabled() bool { return h.Path != "" || h.Check != nil }

// Outlier configures passive health checks: endpoints that fail real requests are ejected.
// 5xx answers, errors and expired deadlines are failures. 429 is not (it speaks of the client), nor
// is a request that its caller cancelled.
type Outlier struct {
	// Consecutive is how many failures in a row eject an endpoint, unless most of the others
	// are failing too: then the fault is elsewhere. Zero means 5. Negative means off.
	Consecutive int

	// Deviations ejects an endpoint whose success rate over an Interval is so many standard deviations
	// below the mean of all. It needs MinHosts endpoints with MinRequests requests each. Zero means 1.9. Negative means off.
	Deviations float64

	// Latency ejects an endpoint whose latency has been above Latency times the median of all
	// for a whole Interval, with at least MinRequests requests. Zero or negative means off: [Adaptive] avoids slow endpoints anyway.
	// Values from 0 to 1 are invalid.
	Latency float64

	// Interval is how often success rates and latencies are judged. Zero means 10 s.
	Interval time.Duration

	// Base is how long an endpoint is ejected the first time, and by how much more each further time,
	// up to Max, give or take a tenth. Good Intervals let the count fall again. Zero means 2 s and 5 minutes.
	Base, Max time.Duration

	// MaxEjected is the largest share of a target's endpoints that may be ejected at once. One may always
	// be, unless it is the last available. Zero means 0.3. At most 1.
	MaxEjected float64

	// MinHosts and MinRequests say how much must be known for Deviations. Zero means 5 and 100.
	MinHosts, MinRequests int
}

// problems collects what is wrong with a configuration.
type problems []error

func (p *problems) add(field, format string, args ...any) {
	*p = append(*p, fmt.Errorf("balancer: Config."+field+": "+format, args...))
}

func orDefault[T int | float64 | time.Duration](p *problems, field string, v *T, def T, negativeOK bool) {
	switch {
	case *v == 0:
		*v = def
	case *v < 0 && !negativeOK:
		p.add(field, "%v is negative", *v)
	}
}

// withDefaults validates c and fills in zero fields.
func (c Config) withDefaults() (Config, error) {
	var p problems
	if isNil(c.Resolver) {
		p.add("Resolver", "is required")
	}
	if c.Policy == nil {
		c.Policy = Adaptive()
	}
	if err := validatePolicy(c.Policy); err != nil {
		p.add("Policy", "%w", err)
	}
	if v, ok := c.Resolver.(interface{ validate() error }); ok && !isNil(c.Resolver) {
		if err := v.validate(); err != nil {
			p.add("Resolver", "%w", err)
		}
	}
	if t := c.Transport; t == nil {
		c.Transport, c.defaultTransport = defaultTransport(), true
	} else if t.DialTLSContext != nil || hasDeprecatedDial(t) {
		p.add("Transport", "only DialContext can be pinned to an endpoint; DialTLSContext, Dial and DialTLS are invalid")
	} else if t.Clone().TLSNextProto["h2"] != nil { // of the clone: net/http puts its own there in one that has been used
		p.add("Transport", "TLSNextProto has an h2 that would send all endpoints' requests over one connection; for HTTP/2 set Protocols")
	}
	orDefault(&p, "Conns", &c.Conns, defaultConns, false)
	orDefault(&p, "ConnLife", &c.ConnLife, 0, false)
	orDefault(&p, "Warm", &c.Warm, 0, false)
	orDefault(&p, "SlowStart", &c.SlowStart, defaultSlowStart, true)
	orDefault(&p, "Panic", &c.Panic, defaultPanic, true)
	if c.Panic > 1 || math.IsNaN(c.Panic) {
		p.add("Panic", "%v is not a share", c.Panic)
	}
	orDefault(&p, "IdleTimeout", &c.IdleTimeout, defaultIdleTimeout, true)
	orDefault(&p, "MaxTargets", &c.MaxTargets, defaultMaxTargets, false)

	h := &c.Health
	orDefault(&p, "Health.Interval", &h.Interval, defaultHealthInterval, false)
	orDefault(&p, "Health.Timeout", &h.Timeout, min(defaultHealthTimeout, h.Interval), false)
	orDefault(&p, "Health.Rise", &h.Rise, defaultRise, false)
	orDefault(&p, "Health.Fall", &h.Fall, defaultFall, false)
	switch u, err := (&url.URL{Scheme: "http", Host: "target"}).Parse(h.Path); {
	case h.Path != "" && h.Path[0] != '/':
		p.add("Health.Path", "%q does not start with a slash", h.Path)
	case err != nil:
		p.add("Health.Path", "%w", err)
	case u.Host != "target":
		p.add("Health.Path", "%q names a host", h.Path)
	}

	o := &c.Outlier
	orDefault(&p, "Outlier.Consecutive", &o.Consecutive, defaultConsecutive, true)
	orDefault(&p, "Outlier.Deviations", &o.Deviations, defaultDeviations, true)
	if math.IsNaN(o.Deviations) {
		p.add("Outlier.Deviations", "NaN is not a number")
	}
	if o.Latency > 0 && o.Latency <= 1 || math.IsNaN(o.Latency) {
		p.add("Outlier.Latency", "%v does not exceed 1", o.Latency)
	}
	orDefault(&p, "Outlier.Interval", &o.Interval, defaultInterval, false)
	orDefault(&p, "Outlier.Base", &o.Base, defaultBase, false)
	orDefault(&p, "Outlier.Max", &o.Max, max(defaultMax, o.Base), false)
	if o.Max > 0 && o.Max < o.Base {
		p.add("Outlier.Max", "%v is less than Base, %v", o.Max, o.Base)
	}
	orDefault(&p, "Outlier.MaxEjected", &o.MaxEjected, defaultMaxEjected, false)
	if o.MaxEjected > 1 || math.IsNaN(o.MaxEjected) {
		p.add("Outlier.MaxEjected", "%v is not a share", o.MaxEjected)
	}
	orDefault(&p, "Outlier.MinHosts", &o.MinHosts, defaultMinHosts, false)
	orDefault(&p, "Outlier.MinRequests", &o.MinRequests, defaultMinRequests, false)
	for _, d := range []*time.Duration{&c.ConnLife, &c.SlowStart, &h.Interval, &h.Timeout, &o.Interval, &o.Base, &o.Max} {
		*d = min(*d, forever)
	}
	return c, errors.Join(p...)
}

func defaultTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  time.Minute,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 1 << 20,
	}
}
