package balancer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// drain is how long the connections of a replaced transport are closed as they fall idle. Those that are
// busy for longer are left to the transport's idle timeout.
const drain = 30 * time.Second

// A wire is how requests get to a host.
type wire struct {
	conns *conns

	wrapped atomic.Pointer[http.RoundTripper] // conns as Config.Wrap sees fit; nil before the first request

	mu       sync.Mutex // is held while wrap runs
	wrap     func(e Endpoint, next http.RoundTripper) http.RoundTripper
	endpoint Endpoint
}

func newWire(cfg *Config, e Endpoint) *wire {
	return rewire(cfg, e, &conns{cfg: cfg, endpoint: e, slots: make([]slot, cfg.Conns)})
}

// rewire returns a wire with connections that there are.
func rewire(cfg *Config, e Endpoint, c *conns) *wire {
	return &wire{conns: c, wrap: cfg.Wrap, endpoint: e}
}

// transport returns the host's transport. The first request calls Config.Wrap: it is the user's code, and no other lock
// than w's is held here. Should it panic, that is this request's end and nobody else's.
func (w *wire) transport() http.RoundTripper {
	if rt := w.wrapped.Load(); rt != nil {
		return *rt
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wrapped.Load() == nil {
		rt := http.RoundTripper(w.conns)
		if w.wrap != nil {
			rt = w.wrap(w.endpoint, rt)
		}
		w.wrapped.Store(&rt)
	}
	return *w.wrapped.Load()
}

// conns are the transports of one endpoint, each pinned to its address. It takes them in
// turn, and replaces each when its connections have lived long enough.
type conns struct {
	cfg      *Config
	endpoint Endpoint
	slots    []slot
	next     atomic.Uint64

	mu      sync.Mutex // guards retired, and the writing of slots
	retired []retired
}

// A slot has no transport before its first request: a large set is replaced quickly, and not every endpoint of it is used.
type slot struct {
	transport atomic.Pointer[http.Transport]
	expires   time.Time
}

// retired transports get no new requests. Running ones are never cut.
type retired struct {
	t     *http.Transport
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
	return t.RoundTrip(r)
}

func (c *conns) open(s *slot) *http.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := s.transport.Load(); t != nil {
		return t
	}
	return c.renewLocked(s, time.Now())
}

// renewLocked gives s a new transport. Its life varies by a fifth, so that not all end at once.
func (c *conns) renewLocked(s *slot, now time.Time) *http.Transport {
	t := pinned(c.cfg.Transport, c.endpoint)
	s.expires = now.Add(time.Duration((0.8 + 0.4*rand.Float64()) * float64(c.cfg.ConnLife)))
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
	for i := range c.slots {
		if t := c.slots[i].transport.Load(); t != nil {
			t.CloseIdleConnections()
		}
	}
}

// inherit takes over the transports of old, which gets no more requests.
func (c *conns) inherit(old *conns, now time.Time) {
	old.mu.Lock()
	defer old.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = append(c.retired, old.retired...)
	for i := range old.slots {
		if t := old.slots[i].transport.Load(); t != nil {
			c.retired = append(c.retired, retired{t, now.Add(drain)})
		}
	}
}

// upkeep replaces transports at the end of their life.
func (c *conns) upkeep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg.ConnLife > 0 {
		for i := range c.slots {
			s := &c.slots[i]
			if t := s.transport.Load(); t != nil && now.After(s.expires) {
				c.renewLocked(s, now)
				c.retired = append(c.retired, retired{t, now.Add(drain)})
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
	var record tls.RecordHeaderError
	notTLS := errors.As(err, &record) && record.Conn != nil // the answer to our greeting; it is nil after the handshake
	if errors.As(err, &dial) || errors.As(err, &verify) || notTLS {
		return true
	}
	for err != nil && err.Error() != "net/http: TLS handshake timeout" { // it has no exported type
		err = errors.Unwrap(err)
	}
	return err != nil
}

// callersFault reports whether err says that req is one that cannot be sent to anybody, or not over this protocol: no endpoint
// is to blame, or callers could have them ejected. net/http has no types for these errors. Only their beginnings
// are looked at: what follows may be what an endpoint wrote.
func callersFault(req *http.Request, err error) bool {
	s := err.Error()
	if strings.HasPrefix(s, "http2: request header list larger than ") {
		return fieldBytes(req.Header) >= wellSized // with less the limit is to blame
	}
	return slices.ContainsFunc(requestErrors[:], func(prefix string) bool { return strings.HasPrefix(s, prefix) })
}

var requestErrors = [...]string{
	"net/http: invalid ", // method, field name or value
	"net/http: HTTP/1.x transport connection broken: http: ContentLength=",
	"http2: invalid ", // fields of the connection; an upgrade, which only HTTP/1.1 has
	"http2: request body larger than ",
	"idna: ", "http2: idna: ", // a Host that is no name: an HTTP/2 client may send any
	"net/http: can't write control character",
	"http: Request.ContentLength=",
}

// wellSized is what a server may be expected to take.
const wellSized = 8 << 10

// fieldBytes is the size of h as RFC 9113, section 6.5.2 counts it.
func fieldBytes(h http.Header) (n int) {
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v) + 32
		}
	}
	return n
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
	// Clones share the slice's array, and net/http changes it in place.
	t.TLSClientConfig.NextProtos = slices.Clone(t.TLSClientConfig.NextProtos)
	if t.TLSClientConfig.ClientSessionCache == nil {
		t.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(16)
	}
	return t
}

var memoryBodies = [...]reflect.Type{reflect.TypeOf(io.NopCloser(nil)), reflect.TypeOf(io.NopCloser(&bytes.Reader{}))}

// mayFail reports whether reading body can fail, as a client's can that a layer above keeps for replays. Those that http.NewRequest
// wraps are in memory, and net/http sends them together with the header only if it sees what they are.
func mayFail(body io.ReadCloser) bool { return !slices.Contains(memoryBodies[:], reflect.TypeOf(body)) }

// A guard is a request body whose failures are told from the host's, and that a failed dial must not close, so that another
// endpoint can have it.
type guard struct {
	rc io.ReadCloser

	mu       sync.Mutex // guards the fields below: transports read and close on goroutines of their own
	read     bool
	readErr  error // other than io.EOF: the caller's body failed, not the host
	closed   bool  // asked to close, while that was held back
	released bool  // closes are let through
}

func (g *guard) Read(p []byte) (int, error) {
	g.mu.Lock()
	g.read = true
	g.mu.Unlock()
	n, err := g.rc.Read(p)
	if err != nil && err != io.EOF {
		g.mu.Lock()
		if !g.closed { // a transport that gives up closes the body under its own reader
			g.readErr = err
		}
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

// failure returns why the body could not be read, if it could not. g may be nil.
func (g *guard) failure() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.readErr
}
