package balancer

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A wire is how requests get to a host.
type wire struct {
	rt    http.RoundTripper // conns as Config.Wrap sees fit
	conns *conns
}

func newWire(cfg *Config, e Endpoint) *wire {
	c := newConns(cfg, e)
	return &wire{rt: wrap(cfg, e, c), conns: c}
}

func wrap(cfg *Config, e Endpoint, c *conns) http.RoundTripper {
	if cfg.Wrap != nil {
		return cfg.Wrap(e, c.direct())
	}
	return c.direct()
}

// conns are the transports of one endpoint, each pinned to its address. It takes them in
// turn, and replaces each when its connections have lived long enough.
type conns struct {
	slots []atomic.Pointer[http.Transport]
	next  atomic.Uint64
	fresh func() *http.Transport
	life  time.Duration

	mu      sync.Mutex // guards the fields below
	expires []time.Time
	retired []retired
}

// retired transports get no new requests; their connections are closed as they fall idle. What is still
// running after until is left to the transport's idle timeout.
type retired struct {
	t     *http.Transport
	until time.Time
}

func newConns(cfg *Config, e Endpoint) *conns {
	c := &conns{
		slots:   make([]atomic.Pointer[http.Transport], cfg.Conns),
		expires: make([]time.Time, cfg.Conns),
		fresh:   func() *http.Transport { return pinned(cfg.Transport, e) },
		life:    cfg.ConnLife,
	}
	now := time.Now()
	for i := range c.slots {
		c.slots[i].Store(c.fresh())
		c.expires[i] = c.expiry(now)
	}
	return c
}

// expiry spreads the ends of lives by a fifth, so that not all connections are made anew at once.
func (c *conns) expiry(now time.Time) time.Time {
	return now.Add(time.Duration((0.8 + 0.4*rand.Float64()) * float64(c.life)))
}

// direct returns the only transport, if that never changes, or else c.
func (c *conns) direct() http.RoundTripper {
	if len(c.slots) == 1 && c.life == 0 {
		return c.slots[0].Load()
	}
	return c
}

func (c *conns) RoundTrip(r *http.Request) (*http.Response, error) {
	return c.slots[c.next.Add(1)%uint64(len(c.slots))].Load().RoundTrip(r)
}

// CloseIdleConnections closes what is idle in every transport.
func (c *conns) CloseIdleConnections() {
	for i := range c.slots {
		c.slots[i].Load().CloseIdleConnections()
	}
}

// inherit takes over the transports of old, which gets no more requests.
func (c *conns) inherit(old *conns, until time.Time) {
	old.mu.Lock()
	defer old.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = append(c.retired, old.retired...)
	for i := range old.slots {
		c.retired = append(c.retired, retired{old.slots[i].Load(), until})
	}
}

// upkeep replaces transports at the end of their life.
func (c *conns) upkeep(now time.Time, drain time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life > 0 {
		for i := range c.slots {
			if now.After(c.expires[i]) {
				old := c.slots[i].Swap(c.fresh())
				c.expires[i] = c.expiry(now)
				c.retired = append(c.retired, retired{old, now.Add(drain)})
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

// neverSent reports whether err shows that no byte of the request left.
func neverSent(err error) bool {
	var dial *dialError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError // the answer to our greeting is not TLS
	return errors.As(err, &dial) || errors.As(err, &verify) || errors.As(err, &record)
}

// pinned clones template for one endpoint.
func pinned(template *http.Transport, e Endpoint) *http.Transport {
	t := template.Clone()
	dial := t.DialContext
	if dial == nil {
		dial = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext
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
		t.ForceAttemptHTTP2 = true // a DialContext of one's own switches it off otherwise
	}
	if t.HTTP2 == nil {
		// Without pings, a peer that is gone without a word is noticed by the requests that hang.
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second}
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	if t.TLSClientConfig.ClientSessionCache == nil {
		t.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(16)
	}
	return t
}

// hasDeprecatedDial reports whether a dial is set that pinned could not pin.
func hasDeprecatedDial(t *http.Transport) bool {
	//lint:ignore SA1019 to refuse them, they must be looked at
	return t.Dial != nil || t.DialTLS != nil
}

// A guard is a request body that a failed dial must not close, so that another endpoint can have it.
type guard struct {
	rc io.ReadCloser

	mu       sync.Mutex // guards the fields below: transports read and close on goroutines of their own
	read     bool
	readErr  error // other than io.EOF: the caller's body failed, not the host
	closed   bool  // asked to close, while that was held back
	released bool
}

func (g *guard) Read(p []byte) (int, error) {
	g.mu.Lock()
	g.read = true
	g.mu.Unlock()
	n, err := g.rc.Read(p)
	if err != nil && err != io.EOF {
		g.mu.Lock()
		g.readErr = err
		g.mu.Unlock()
	}
	return n, err
}

func (g *guard) Close() error {
	g.mu.Lock()
	hold := !g.released && !g.read
	g.closed = true
	g.mu.Unlock()
	if hold {
		return nil
	}
	return g.rc.Close()
}

// untouched reports whether the body can be used once more, and makes it so.
func (g *guard) untouched() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.read {
		return false
	}
	g.closed = false
	return true
}

// release lets a close through from now on, and one that was held back at once.
func (g *guard) release() {
	g.mu.Lock()
	held := g.closed && !g.read && !g.released
	g.released = true
	g.mu.Unlock()
	if held {
		g.rc.Close()
	}
}

func (g *guard) failed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.readErr != nil
}
