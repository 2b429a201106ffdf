package backend

import (
	"context"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"
)

// A Protocol is what a backend speaks.
type Protocol string

const (
	HTTP1 Protocol = ""    // HTTP/1.1 without TLS
	HTTP2 Protocol = "h2"  // HTTP/2 over TLS, with the certificate that [TLS] trusts
	H2C   Protocol = "h2c" // HTTP/2 without TLS, with prior knowledge
)

// Config configures a backend. The zero Config is valid.
type Config struct {
	// Name is the name that the backend puts in its answers. Empty means "backend".
	Name string

	// Protocol is what the backend speaks. Empty means HTTP/1.1.
	Protocol Protocol

	// Addr is the address to listen on. Empty means a free port on loopback.
	Addr string

	// Behaviour is how the backend answers until Set changes it.
	Behaviour Behaviour

	// Grace is how long a process that is told to terminate continues to serve, with failing
	// health checks, before it refuses connections. Zero or negative means not at all.
	Grace time.Duration

	// Handler, if not nil, answers instead of the built-in handler, and must read the request's
	// body itself. Behaviour still applies. A process cannot have a Handler.
	Handler http.Handler `json:"-"`
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "backend"
	}
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	return c
}

// A Backend is a server inside the test. Create one with [Start]. A Backend is safe for concurrent
// use.
type Backend struct {
	Addr string   // "127.0.0.1:port"
	URL  *url.URL // "http" or "https", as the protocol needs

	handler *handler
	server  *http.Server
	served  chan struct{} // closed when Serve has returned

	mu     sync.Mutex // guards the fields below
	counts map[string]int
}

// Start returns a running Backend, which is closed when tb ends.
func Start(tb testing.TB, cfg Config) *Backend {
	tb.Helper()
	cfg = cfg.withDefaults()
	ln, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		tb.Fatalf("backend: %v", err)
	}
	b := &Backend{
		Addr:   ln.Addr().String(),
		URL:    baseURL(cfg.Protocol, ln.Addr().String()),
		served: make(chan struct{}),
		counts: map[string]int{},
	}
	b.handler = newHandler(cfg, func(id string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.counts[id]++
	})
	b.server = newServer(cfg.Protocol, b.handler)
	go func() {
		defer close(b.served)
		serve(b.server, ln)
	}()
	tb.Cleanup(b.Close)
	return b
}

// Set replaces the Behaviour for requests that arrive from now on.
func (b *Backend) Set(behaviour Behaviour) { b.handler.behaviour.Store(&behaviour) }

// Counts returns how often each request was executed.
func (b *Backend) Counts() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.counts)
}

// Requests returns how many requests were executed.
func (b *Backend) Requests() int { return total(b.Counts()) }

// Close ends the Backend and all its connections at once.
func (b *Backend) Close() {
	b.server.Close()
	<-b.served
}

// Shutdown ends the Backend as [http.Server.Shutdown] does: requests in flight are answered.
func (b *Backend) Shutdown(ctx context.Context) error { return b.server.Shutdown(ctx) }

func total(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

func baseURL(p Protocol, addr string) *url.URL {
	u := &url.URL{Scheme: "http", Host: addr}
	if p == HTTP2 {
		u.Scheme = "https"
	}
	return u
}

func newServer(p Protocol, h http.Handler) *http.Server {
	s := &http.Server{
		Handler:   h,
		ErrorLog:  log.New(os.Stderr, "backend: ", 0),
		Protocols: new(http.Protocols),
	}
	switch p {
	case HTTP2:
		s.TLSConfig = serverTLS()
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetHTTP2(true)
	case H2C:
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
	default:
		s.Protocols.SetHTTP1(true)
	}
	return s
}

func serve(s *http.Server, ln net.Listener) {
	if s.TLSConfig != nil {
		_ = s.ServeTLS(ln, "", "")
		return
	}
	_ = s.Serve(ln)
}

// Transport returns a new Transport that speaks p and trusts the backends' certificate.
func Transport(p Protocol) *http.Transport {
	t := &http.Transport{TLSClientConfig: TLS(), Protocols: new(http.Protocols)}
	switch p {
	case HTTP2:
		t.Protocols.SetHTTP2(true)
	case H2C:
		t.Protocols.SetUnencryptedHTTP2(true)
	default:
		t.Protocols.SetHTTP1(true)
	}
	return t
}
