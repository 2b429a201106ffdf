package balancer

import (
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/balancer/internal/wire"
)

// drainTime is how long the connections of a replaced transport are closed as they fall idle. Those
// that are busy for longer are left to the transport's idle timeout.
const drainTime = 30 * time.Second

// An endpointTransport takes requests to one endpoint.
type endpointTransport struct {
	conns *conns

	rt atomic.Pointer[http.RoundTripper] // conns within Config.Wrap; nil before the first request

	mu       sync.Mutex // held while wrap runs
	wrap     func(e Endpoint, next http.RoundTripper) http.RoundTripper
	endpoint Endpoint
}

func newEndpointTransport(cfg *Config, e Endpoint) *endpointTransport {
	c := &conns{template: cfg.Transport, life: cfg.ConnLife, endpoint: e, slots: make([]slot, cfg.Conns)}
	return wrapConns(cfg, e, c)
}

// wrapConns returns an endpointTransport that goes on with the connections c.
func wrapConns(cfg *Config, e Endpoint, c *conns) *endpointTransport {
	return &endpointTransport{conns: c, wrap: cfg.Wrap, endpoint: e}
}

// wrapped returns the endpoint's transport. The first request calls Config.Wrap: it is the user's
// code, and no other lock than t's is held here. If it panics, that is the end of this request and
// of no other.
func (t *endpointTransport) wrapped() http.RoundTripper {
	if rt := t.rt.Load(); rt != nil {
		return *rt
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rt.Load() == nil {
		rt := http.RoundTripper(t.conns)
		if t.wrap != nil {
			rt = t.wrap(t.endpoint, rt)
		}
		t.rt.Store(&rt)
	}
	return *t.rt.Load()
}

// closeIdle closes the connections that no request is using. No lock may be held: wrappers are the
// user's, and a peer can make the end of a TLS connection take seconds.
func (t *endpointTransport) closeIdle() {
	t.conns.CloseIdleConnections()
	if rt := t.rt.Load(); rt != nil {
		if c, ok := (*rt).(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	}
}

// conns are the transports of one endpoint, each pinned to its address. Requests take them in turn.
// Each is replaced when its connections have lived long enough.
type conns struct {
	template *http.Transport
	life     time.Duration // zero is without limit
	endpoint Endpoint
	slots    []slot
	own      slot // of requests of the Balancer's own
	next     atomic.Uint64

	mu      sync.Mutex // guards the fields below, and the writing of slots
	retired []retired
	heir    *conns // replaced these at a Reload; requests that still hold these may open slots
}

// A slot has no transport before its first request: a large set is replaced quickly, and not every
// endpoint of it is used.
type slot struct {
	transport atomic.Pointer[wire.Transport]
	expires   time.Time
}

// A retired transport gets no new requests. Running ones go on to their end.
type retired struct {
	t     *wire.Transport
	until time.Time
}

func (c *conns) RoundTrip(r *http.Request) (*http.Response, error) {
	i := uint64(0)
	if len(c.slots) > 1 {
		i = c.next.Add(1) % uint64(len(c.slots))
	}
	t := c.slots[i].transport.Load()
	if t == nil {
		t = c.open(&c.slots[i])
	}
	resp, err := t.RoundTrip(r)
	if err != nil {
		return nil, classify(r, err)
	}
	return resp, nil
}

// A checkConns takes requests of the Balancer's own to the endpoint of conns, over connections that
// no caller's request uses: see cutOff for what a check could do to one.
type checkConns struct{ conns *conns }

func (c checkConns) RoundTrip(r *http.Request) (*http.Response, error) {
	t := c.conns.own.transport.Load()
	if t == nil {
		t = c.conns.open(&c.conns.own)
	}
	return t.RoundTrip(r)
}

// CloseIdleConnections closes those of checks, and no others.
func (c checkConns) CloseIdleConnections() {
	if t := c.conns.own.transport.Load(); t != nil {
		t.CloseIdleConnections()
	}
}

// ask sends a request of the Balancer's own to target through rt. The response's body has been read
// and closed.
func ask(
	ctx context.Context, rt http.RoundTripper, target *url.URL, host, method, path, agent string,
) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, err
	}
	if path == "*" {
		req.URL.Opaque = "*"
	} else if req.URL, err = target.Parse(path); err != nil {
		return nil, err
	}
	if host != "" {
		req.Host = host
	}
	req.Header.Set("User-Agent", agent)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	// To its end, so that the connection can be used again.
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp, err
}

func (c *conns) open(s *slot) *wire.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := s.transport.Load(); t != nil {
		return t
	}
	now := time.Now()
	t := c.renewLocked(s, now)
	if c.heir != nil {
		c.heir.retire(t, now)
	}
	return t
}

// retire takes t among the retired transports, or leaves it to the heir.
func (c *conns) retire(t *wire.Transport, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heir != nil {
		c.heir.retire(t, now)
		return
	}
	c.retired = append(c.retired, retired{t, now.Add(drainTime)})
}

// renewLocked gives s a new transport. Its life varies by a fifth, so that not all end at once.
func (c *conns) renewLocked(s *slot, now time.Time) *wire.Transport {
	t := wire.New(pinned(c.template, c.endpoint))
	s.expires = now.Add(time.Duration((0.8 + 0.4*rand.Float64()) * float64(c.life)))
	s.transport.Store(t)
	return t
}

// CloseIdleConnections closes what is idle in every transport, retired ones included.
func (c *conns) CloseIdleConnections() {
	c.mu.Lock()
	for _, r := range c.retired {
		r.t.CloseIdleConnections()
	}
	c.mu.Unlock()
	for s := range c.all {
		if t := s.transport.Load(); t != nil {
			t.CloseIdleConnections()
		}
	}
}

// all yields every slot.
func (c *conns) all(yield func(*slot) bool) {
	for i := range c.slots {
		if !yield(&c.slots[i]) {
			return
		}
	}
	yield(&c.own)
}

// inherit takes over the transports of old, which get no more requests.
func (c *conns) inherit(old *conns, now time.Time) {
	old.mu.Lock()
	defer old.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	old.heir = c
	c.retired = append(c.retired, old.retired...)
	for s := range old.all {
		if t := s.transport.Load(); t != nil {
			c.retired = append(c.retired, retired{t, now.Add(drainTime)})
		}
	}
}

// upkeep replaces transports at the end of their life.
func (c *conns) upkeep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life > 0 && c.heir == nil {
		for s := range c.all {
			if t := s.transport.Load(); t != nil && now.After(s.expires) {
				c.renewLocked(s, now)
				c.retired = append(c.retired, retired{t, now.Add(drainTime)})
			}
		}
	}
	kept := c.retired[:0]
	for _, r := range c.retired {
		r.t.CloseIdleConnections()
		if now.Before(r.until) {
			kept = append(kept, r)
		}
	}
	clear(c.retired[len(kept):])
	c.retired = kept
}

// A dialError is the failure of a pinned dial: the request has not been sent.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// pinned clones template for one endpoint.
func pinned(template *http.Transport, e Endpoint) *http.Transport {
	t := template.Clone()
	dial := t.DialContext
	if dial == nil {
		dial = defaultDial
	}
	network, addr := e.network()
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, &dialError{err}
		}
		return conn, nil
	}
	t.Proxy = nil
	// The default of 2 makes a client open and close connections all the time.
	t.MaxIdleConnsPerHost = cmp.Or(t.MaxIdleConnsPerHost, 256)
	t.MaxIdleConns = 0
	t.IdleConnTimeout = cmp.Or(t.IdleConnTimeout, 90*time.Second)
	if t.Protocols == nil {
		t.ForceAttemptHTTP2 = true // otherwise a custom DialContext switches it off
	}
	if t.HTTP2 == nil {
		// Without pings, only requests that hang show that a peer is gone without a word.
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second}
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	// Clones share the slice's array, and net/http changes it in place.
	t.TLSClientConfig.NextProtos = slices.Clone(t.TLSClientConfig.NextProtos)
	if t.TLSClientConfig.ClientSessionCache == nil {
		t.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(16)
	}
	return t
}
