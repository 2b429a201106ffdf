package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/versioning"
)

// A running is the public server of a gateway.
type running struct {
	gateway  *gateway
	server   *http.Server
	listener net.Listener
	conns    conns
	served   chan error // receives what Serve returns
	cut      func()     // ends the context of all requests, also of upgraded ones
}

// listen listens on an address of the configuration. The socket that a gateway has left behind, on
// which nobody listens any more, makes way.
func listen(addr string) (net.Listener, error) {
	path := unixPath(addr)
	if path == "" {
		return net.Listen("tcp", addr)
	}
	ln, err := net.Listen("unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	// Of two gateways that start at once, the second must not remove the socket of the first.
	lock, lockErr := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if lockErr != nil {
		return nil, errors.Join(err, lockErr)
	}
	defer lock.Close() // which unlocks it
	if lockErr := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); lockErr != nil {
		return nil, errors.Join(err, lockErr)
	}
	if file, statErr := os.Lstat(path); statErr != nil || file.Mode().Type() != fs.ModeSocket {
		return nil, err
	}
	conn, dialErr := net.Dial("unix", path)
	if dialErr == nil {
		conn.Close()
	}
	if !errors.Is(dialErr, syscall.ECONNREFUSED) {
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// startServer serves g on ln.
func startServer(g *gateway, cfg Server, ln net.Listener) *running {
	ctx, cut := context.WithCancel(context.Background())
	s := &running{gateway: g, listener: ln, served: make(chan error, 1), cut: cut}
	s.server = &http.Server{
		Handler:           g,
		ReadHeaderTimeout: time.Duration(cfg.ReadHeaderTimeout),
		IdleTimeout:       time.Duration(cfg.IdleTimeout),
		MaxHeaderBytes:    int(cfg.MaxHeaderBytes),
		// WriteTimeout bounds what net/http itself writes, such as 431. For requests that reach
		// serve, limitStalls replaces it.
		WriteTimeout: cmp.Or(max(time.Duration(cfg.StallTimeout), 0), defaultStall),
		BaseContext:  func(net.Listener) context.Context { return ctx },
		ConnState:    s.conns.track,
		ErrorLog:     g.errorLog(),
	}
	if cfg.H2C { // for clients that begin with it: net/http knows no upgrade to it
		s.server.Protocols = new(http.Protocols)
		s.server.Protocols.SetHTTP1(true)
		s.server.Protocols.SetUnencryptedHTTP2(true)
	}
	go func() {
		if g.tls.Load() == nil {
			s.served <- s.server.Serve(ln)
			return
		}
		s.server.TLSConfig = listenerTLS(&g.tls)
		s.served <- s.server.ServeTLS(ln, "", "")
	}()
	return s
}

// errorLog is where a server says what net/http has to say.
func (g *gateway) errorLog() *log.Logger { return slog.NewLogLogger(g.log.Handler(), slog.LevelWarn) }

// close ends the server at once.
func (s *running) close() {
	s.cut()
	s.server.Close()
}

// ServeHTTP serves a request under telemetry.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isGRPC(r.Header) {
		g.handler.ServeHTTP(w, r)
		return
	}
	rpc := &grpcWriter{ResponseWriter: w, http1: r.ProtoMajor == 1}
	g.handler.ServeHTTP(rpc, r)
	rpc.end()
}

// serve takes a request through the bounds to its route.
func (g *gateway) serve(outer http.ResponseWriter, r *http.Request) {
	gen := g.acquire()
	defer gen.release()
	observed := r // telemetry reads its Pattern; limitStalls returns a copy
	cfg := &gen.cfg.Server
	w, r, done := limitStalls(outer, r, bounds{
		stall: cfg.StallTimeout, pace: cfg.MinRate, tunnelIdle: cfg.TunnelIdle,
		draining: g.draining.Load, taken: &g.taken,
	})
	defer done()
	have, bound, detail := &g.requests, cfg.MaxRequests, "too many requests are in flight"
	if wantsTunnel(r) {
		have, bound, detail = &g.tunnels, cfg.MaxTunnels, "too many connections are upgraded"
	}
	defer have.leave()
	if !have.enter(w, r, bound, detail) {
		return
	}
	if !limitHeader(w, r, cfg.MaxHeaderFields) {
		return
	}
	if (cfg.DeadlineField != "" || cfg.HintField != "") && !gen.trusted.believes(r.RemoteAddr) {
		removeField(r.Header, cfg.DeadlineField)
		removeField(r.Header, cfg.HintField)
	}
	removeField(r.Header, versioning.ShadowField)
	for _, name := range [...]string{versioning.ShadowField, cfg.DeadlineField, cfg.HintField} {
		removeField(r.Trailer, name) // of trusted peers, too: they pass on what others have sent
	}
	if r.Method == http.MethodConnect {
		// RFC 9110, sections 10.2.1 and 15.5.6: an empty Allow says that the target takes no
		// method.
		w.Header()["Allow"] = []string{""}
		refuse(w, r, http.StatusMethodNotAllowed, "CONNECT is not supported")
		return
	}
	// HTTP/2 in clear begins with "PRI *".
	if r.URL.Opaque != "" || r.URL.Path != "" && r.URL.Path[0] != '/' {
		refuse(w, r, http.StatusBadRequest, "the request's target is not a path")
		return
	}
	if !validAuthority(r.Host) || r.URL.Scheme != "" && r.URL.Host == "" {
		// RFC 9112, section 3.2; RFC 9110, section 4.2.1. net/http checks only which bytes the host
		// has. The upstream could read another name in it than route does, that of another route.
		refuse(w, r, http.StatusBadRequest, "the host is not a name or address with or without a port")
		return
	}
	if strings.ContainsFunc(r.URL.Path, unicode.IsControl) {
		// Servers written in C end a path at a NUL.
		refuse(w, r, http.StatusBadRequest, "the path has control characters")
		return
	}
	if balancer.HiddenDots(r.URL) { // route resolves plain ones only
		refuse(w, r, http.StatusBadRequest, "the path has hidden dot segments")
		return
	}
	h, pattern := gen.route(r)
	if strings.ContainsAny(r.URL.EscapedPath(), "%;\\") {
		plain := *r
		plain.URL = &url.URL{Path: plainPath(r.URL.Path)}
		if _, other := gen.route(&plain); other != pattern {
			refuse(w, r, http.StatusBadRequest, "the path could be read as another route's")
			return
		}
	}
	observed.Pattern = pattern // as http.ServeMux does
	if routed := routedHost(r.Host); routed != r.Host {
		r2 := *r // the client's own request stays
		r2.Host = routed
		r = &r2
	}
	h.ServeHTTP(w, r)
}

// refuse answers a request whose body nobody has read, so that a client that still sends it gets
// the answer.
func refuse(w http.ResponseWriter, r *http.Request, status int, detail string) {
	balancer.Refuse(w, r, func(w http.ResponseWriter) { writeProblem(w, status, detail) })
}

// writeProblem answers with problem details (RFC 9457). The client reads detail, so it must not
// tell of internals.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"title": http.StatusText(status), "status": status, "detail": detail,
	})
}
