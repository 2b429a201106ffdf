package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// newAdmin returns the admin server of g.
func newAdmin(g *gateway) *http.Server {
	mux := http.NewServeMux()
	// Alive: this process answers.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok") })
	// Ready: send me requests. The upstreams' health is not part of it: if they are all down, so they are
	// for every other gateway, and taking all gateways out helps nobody.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if g.draining.Load() {
			writeText(w, http.StatusServiceUnavailable, "draining")
			return
		}
		writeText(w, http.StatusOK, "ready")
	})
	mux.HandleFunc("GET /upstreams", func(w http.ResponseWriter, _ *http.Request) {
		upstreams := map[string]any{}
		for name, u := range g.generation().upstreams {
			upstreams[name] = u.status()
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(upstreams)
	})
	return &http.Server{
		Handler:           loopbackHosts(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
	}
}

// loopbackHosts refuses requests for other names: a web page that the operator's browser has
// open could let its own name resolve to 127.0.0.1 (DNS rebinding).
func loopbackHosts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if len(host) > 2 && host[0] == '[' {
			host = host[1 : len(host)-1]
		}
		ip, err := netip.ParseAddr(host)
		if host != "localhost" && (err != nil || !ip.IsLoopback()) {
			writeProblem(w, http.StatusForbidden, "the admin server answers to loopback names only")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}
