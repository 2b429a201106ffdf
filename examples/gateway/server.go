package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
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

// validAuthority reports whether host is an authority (RFC 3986, section 3.2) without user information. An empty one stands for
// the default host (RFC 9112, section 3.3).
func validAuthority(host string) bool {
	port := ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host, port = host[:i], host[i+1:]
		if host == "" {
			return false
		}
	}
	if port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		return ok && err == nil && ip.Is6() && ip.Zone() == ""
	}
	return !strings.ContainsAny(host, "[]:")
}

// hiddenDots reports whether the path has a segment that servers could take for "." or ".." and that does not look like it:
// encoded, with parameters ("..;a=b", which servlet containers cut off), or behind a backslash. Those that do look like it,
// route resolves. The hidden ones it would route as they are, and the upstream could find another route's path in them.
func hiddenDots(u *url.URL) bool {
	for segment := range strings.SplitSeq(u.EscapedPath(), "/") {
		if segment == "." || segment == ".." || !strings.ContainsAny(segment, "%;\\") {
			continue
		}
		plain, err := url.PathUnescape(segment)
		if err != nil {
			return true
		}
		for part := range strings.FieldsFuncSeq(plain, func(r rune) bool { return r == '/' || r == '\\' }) {
			part, _, _ = strings.Cut(part, ";")
			if part == "." || part == ".." {
				return true
			}
		}
	}
	return false
}

// plainPath is what the most lenient server could make of a decoded path: encoded slashes and backslashes are slashes, and
// parameters are cut off. What is in front of one route, such as a limit, must not be passed by writing its path like another's.
func plainPath(p string) string {
	segments := strings.Split(strings.ReplaceAll(p, "\\", "/"), "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return cleanPath(strings.Join(segments, "/"))
}

// route returns the handler of r's host and path, and the pattern that led to it. Host names are compared without
// case, port and final dot (RFC 9110, section 4.2.3; RFC 3986, section 3.2.2).
func (gen *generation) route(r *http.Request) (h http.Handler, pattern string) {
	lookup := *r
	lookup.Host = strings.ToLower(r.Host)
	if host, _, err := net.SplitHostPort(lookup.Host); err == nil {
		lookup.Host = host
	}
	lookup.Host = strings.TrimSuffix(lookup.Host, ".")
	escaped := r.URL.EscapedPath()
	clean := cleanPath(escaped)
	if clean != escaped {
		// ServeMux would redirect to it, too, but encode what is encoded already: "//a%20b" to "/a%2520b".
		plain, _ := url.PathUnescape(clean)
		lookup.URL = &url.URL{Path: plain, RawPath: clean, RawQuery: r.URL.RawQuery}
	}
	h, pattern = gen.routes.Handler(&lookup)
	if pattern == "" {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			writeProblem(w, http.StatusNotFound, "no route for this host and path")
		}), ""
	}
	if clean != escaped && escaped != "" { // the empty path is "/" (RFC 9110, section 4.2.3)
		h = http.RedirectHandler(lookup.URL.String(), http.StatusTemporaryRedirect)
	}
	return h, pattern // of the route, or ServeMux's redirect to the path with a slash
}

// cleanPath is p without empty and dot segments.
func cleanPath(p string) string {
	clean := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// methods are the routes that share host and path; that of "" gets the other methods.
type methods map[string]http.Handler

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := m[r.Method]
	if h == nil && r.Method == http.MethodHead {
		h = m[http.MethodGet]
	}
	if h == nil {
		h = m[""]
	}
	if h == nil {
		allow := slices.Collect(maps.Keys(m))
		if m[http.MethodGet] != nil && m[http.MethodHead] == nil {
			allow = append(allow, http.MethodHead)
		}
		slices.Sort(allow)
		w.Header().Set("Allow", strings.Join(allow, ", "))
		writeProblem(w, http.StatusMethodNotAllowed, "this path does not take "+methodForHumans(r.Method))
		return
	}
	h.ServeHTTP(w, r)
}

func methodForHumans(m string) string {
	if len(m) > 20 {
		return "this method"
	}
	return m
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
