package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A running is the public server of a gateway while it runs.
type running struct {
	gateway  *gateway
	server   *http.Server
	listener net.Listener
	conns    conns
	served   chan error // receives what Serve returns
	cut      func()     // ends the context of all requests, upgraded connections too
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
		// For what net/http itself writes. ServeHTTP replaces it by a limit on standing still.
		WriteTimeout: time.Duration(cfg.StallTimeout),
		BaseContext:  func(net.Listener) context.Context { return ctx },
		ConnState:    s.conns.track,
		ErrorLog:     slog.NewLogLogger(g.log.Handler(), slog.LevelWarn),
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

// close ends the server at once.
func (s *running) close() {
	s.cut()
	s.server.Close()
}

// ServeHTTP serves a request, observed.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.handler.ServeHTTP(w, r) }

// serve takes a request through the bounds to its route.
func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	gen := g.acquire()
	defer gen.release()
	observed := r // what follows may copy it
	w, r, done := limitStalls(w, r, time.Duration(gen.cfg.Server.StallTimeout), g.draining.Load)
	defer done()
	if !limitHeader(w, r, gen.cfg.Server.MaxHeaderFields) || !limitBody(w, r, int64(gen.cfg.Server.MaxBody)) {
		return
	}
	if r.Method == http.MethodConnect {
		w.Header()["Allow"] = []string{""} // RFC 9110, sections 10.2.1 and 15.5.6: there is no method for this target
		writeProblem(w, http.StatusMethodNotAllowed, "CONNECT is not supported")
		return
	}
	if r.URL.Opaque != "" || r.URL.Path != "" && r.URL.Path[0] != '/' { // "PRI *", with which HTTP/2 in clear begins
		writeProblem(w, http.StatusBadRequest, "the request's target is not a path")
		return
	}
	if !validAuthority(r.Host) || r.URL.Scheme != "" && r.URL.Host == "" {
		// RFC 9112, section 3.2; RFC 9110, section 4.2.1. net/http has looked at the bytes only. The upstream could find another
		// name in it than route, and with it another route's host.
		writeProblem(w, http.StatusBadRequest, "the host is not a name or address with or without a port")
		return
	}
	if hiddenDots(r.URL) {
		writeProblem(w, http.StatusBadRequest, "the path has hidden dot segments")
		return
	}
	h, pattern := gen.route(r)
	if strings.ContainsAny(r.URL.EscapedPath(), "%;\\") {
		plain := *r
		plain.URL = &url.URL{Path: plainPath(r.URL.Path)}
		if _, other := gen.route(&plain); other != pattern {
			writeProblem(w, http.StatusBadRequest, "the path could be read as another route's")
			return
		}
	}
	observed.Pattern = pattern // as http.ServeMux does
	h.ServeHTTP(w, r)
}

// withTimeout bounds the whole exchange of a route.
func withTimeout(next http.Handler, r Route) http.Handler {
	if r.Timeout == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), time.Duration(r.Timeout))
		defer cancel()
		next.ServeHTTP(w, req.WithContext(ctx))
	})
}

// writeProblem answers with problem details (RFC 9457). detail is for the client: no internals.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"title": http.StatusText(status), "status": status, "detail": detail})
}
