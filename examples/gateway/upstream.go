package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/breaker"
	"github.com/trivet-go/trivet/retry"
	"github.com/trivet-go/trivet/telemetry"
)

// An upstream is a service behind the gateway: a handler that proxies to its hosts.
type upstream struct {
	cfg      Upstream
	files    tlsFiles // that cfg.TLS names
	standby  *standby
	target   *url.URL
	balancer *balancer.Balancer
	breaker  *breaker.Breaker // of each endpoint; nil if there is none
	retrier  *retry.Retrier   // nil if nothing is repeated
	settings balancer.Config
	handler  balancer.HandlerConfig
	proxy    http.Handler
}

func newUpstream(
	name string, cfg Upstream, trusted trust, server Server, sticky stickiness,
	tel *telemetry.Telemetry, log *slog.Logger,
) (*upstream, error) {
	target, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	u := &upstream{
		cfg: cfg, target: &url.URL{Scheme: target.Scheme, Host: target.Host}, standby: new(standby),
	}
	if u.files, err = cfg.TLS.read(); err != nil {
		return nil, err
	}
	secure, err := cfg.TLS.config(u.files)
	if err != nil {
		return nil, err
	}
	policy, err := sticky.policy(cfg)
	if err != nil {
		return nil, err
	}
	if u.breaker, err = newBreaker(name, cfg.Breaker, tel, log); err != nil {
		return nil, err
	}
	if u.retrier, err = newRetrier(name, &cfg, server, tel); err != nil {
		return nil, err
	}
	u.handler = balancer.HandlerConfig{
		TrustedProxies: trusted.proxies, TrustUnix: trusted.unix,
		Rewrite: u.rewrite, ModifyResponse: modifyResponse, ErrorHandler: writeProxyError,
		Transport:    u.repeat,
		LenientQuery: true, // nothing in the gateway reads parameters
	}
	report := telemetry.Observer[balancer.Event](tel, name)
	lines := &failureLog{log: log, upstream: name}
	u.settings = balancer.Config{
		Resolver:  resolver(cfg),
		Policy:    policy,
		Transport: transport(cfg, secure),
		Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
			return u.guard(e, u.edit(tel.Transport(next)))
		},
		Health: balancer.HealthConfig{
			Path:     cfg.Health.Path,
			Host:     cfg.Host,
			Interval: time.Duration(cfg.Health.Interval),
			Timeout:  time.Duration(cfg.Health.Timeout),
			Rise:     cfg.Health.Rise,
			Fall:     cfg.Health.Fall,
		},
		MaxConns:    int(cfg.MaxConns),
		IdleTimeout: -1, // keeps the target as long as it is configured
		Observe: func(ctx context.Context, e balancer.Event) {
			report(ctx, e)
			if e.Kind == balancer.TargetResolved {
				u.forgetBreakers()
			}
			if e.Kind == balancer.TargetResolved || e.Kind == balancer.EndpointChanged {
				u.standby.observe(u.hosts)
			}
			lines.observe(ctx, e)
		},
	}
	u.balancer, err = balancer.New(u.settings)
	if err != nil {
		return nil, err
	}
	u.proxy, err = u.balancer.Handler(u.base(), u.handler)
	return u, err
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.standby.wait(r, u.cfg.Wait)
	u.proxy.ServeHTTP(w, u.strip(r))
}

// base returns the URL below which all requests go.
func (u *upstream) base() *url.URL {
	return &url.URL{Scheme: u.target.Scheme, Host: u.target.Host, Path: u.cfg.Path}
}

// hosts returns the state of each host.
func (u *upstream) hosts() []balancer.EndpointStatus { return u.balancer.Endpoints(u.target.String()) }

// inherit gives u the balancer of old, the upstream of the same name before a reload. Hosts that
// are in both keep their connections, what the balancer has learned of them, and their breakers
// unless the settings of those have changed; so does the upstream its retry budgets. An upstream
// with another url is another service: the balancer would go on to check the hosts of the old one.
func (u *upstream) inherit(old *upstream) {
	if *u.target != *old.target {
		return
	}
	settings := u.settings
	if old.breaker != nil && u.breaker != nil && *u.cfg.Breaker == *old.cfg.Breaker {
		u.breaker = old.breaker
	}
	if u.cfg.sameRetries(&old.cfg) {
		u.retrier = old.retrier
	}
	if u.sameConnections(old) {
		settings.Transport = old.settings.Transport
	}
	proxy, err := old.balancer.Handler(u.base(), u.handler)
	if err != nil {
		return // cannot happen, since u's own balancer has accepted the same
	}
	own := u.balancer
	// Before Reload, whose events ask u for its hosts.
	u.balancer, u.standby = old.balancer, old.standby
	if old.balancer.Reload(settings) != nil {
		u.balancer = own // cannot happen either
		return
	}
	_ = own.Close(context.Background()) // has served nothing
	u.settings, u.proxy = settings, proxy
}

// sameConnections reports whether connections to the hosts of old can be used by u.
func (u *upstream) sameConnections(old *upstream) bool {
	return u.cfg.ConnectTimeout == old.cfg.ConnectTimeout &&
		u.cfg.ResponseTimeout == old.cfg.ResponseTimeout && u.cfg.H2C == old.cfg.H2C &&
		u.cfg.IdleTimeout == old.cfg.IdleTimeout && u.cfg.TLS == old.cfg.TLS && u.files.equal(old.files)
}

// start resolves the hosts and begins to check them, so that the first request need not wait for
// it.
func (u *upstream) start() {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = u.balancer.Warm(ctx, u.target.String(), 0) // Observe gets its errors
	}()
}

// close closes the balancer. It waits for the requests in flight until ctx ends.
func (u *upstream) close(ctx context.Context) { _ = u.balancer.Close(ctx) }

// status returns the endpoints, which are the hosts as the balancer sees them, and statistics for
// the admin server.
func (u *upstream) status() any {
	return struct {
		Target    string                    `json:"target"`
		Endpoints []balancer.EndpointStatus `json:"endpoints"`
		Stats     balancer.Stats            `json:"stats"`
		Waiting   int64                     `json:"waiting"` // requests, since all hosts are down
	}{u.target.String(), u.hosts(), u.balancer.Stats(), u.standby.waiting.Load()}
}

func resolver(cfg Upstream) balancer.Resolver {
	if len(cfg.Hosts) == 0 {
		return balancer.DNS(balancer.DNSConfig{Service: cfg.SRV})
	}
	var endpoints []balancer.Endpoint
	for _, h := range cfg.Hosts {
		e := balancer.Endpoint{Addr: h.Addr, Priority: h.Priority, Drain: h.Weight == drained}
		if !e.Drain {
			e.Weight = uint32(h.Weight)
		}
		endpoints = append(endpoints, e)
	}
	return balancer.NewPushed(endpoints...)
}

func transport(cfg Upstream, secure *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: time.Duration(cfg.ConnectTimeout), KeepAlive: 15 * time.Second}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    time.Duration(cfg.ConnectTimeout),
		ResponseHeaderTimeout:  time.Duration(cfg.ResponseTimeout),
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        time.Duration(cfg.IdleTimeout),
		TLSClientConfig:        secure,
		MaxResponseHeaderBytes: 1 << 20,
		DisableCompression:     true, // or the client's Accept-Encoding would not be sent as it is
	}
	if cfg.H2C {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return t
}

// modifyResponse removes the upstream's request id, since telemetry has set the gateway's own. It
// marks what an upstream answers in its own way to gRPC.
func modifyResponse(resp *http.Response) error {
	resp.Header.Del(requestID)
	if resp.StatusCode >= 400 && isGRPC(resp.Request.Header) {
		resp.Header[passedOn] = nil
	}
	return nil
}

// writeProxyError answers a request that got no response from the upstream.
func writeProxyError(w http.ResponseWriter, r *http.Request, err error) {
	status, wait := balancer.ErrorStatus(err)
	if status == http.StatusBadGateway && errors.Is(r.Context().Err(), context.DeadlineExceeded) {
		status = http.StatusGatewayTimeout // the route's timeout has passed: err is what came of that
	}
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
	writeProblem(w, status, map[int]string{
		http.StatusRequestEntityTooLarge:       "the body is too large",
		http.StatusRequestHeaderFieldsTooLarge: "the header is too large",
		http.StatusRequestTimeout:              "the body stood still for too long",
		http.StatusBadRequest:                  "the body is broken",
		http.StatusServiceUnavailable:          "no server is available for this request",
		http.StatusGatewayTimeout:              "the server behind the gateway took too long",
		http.StatusBadGateway:                  "the server behind the gateway failed",
	}[status])
}
