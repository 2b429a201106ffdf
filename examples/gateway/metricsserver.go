package main

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A MetricsListener serves pages of the admin server to those who scrape and probe the gateway from
// other machines: by GET, and no more than Paths names.
type MetricsListener struct {
	Listen string   `yaml:"listen"` // any address; needs a restart to change; none
	Paths  []string `yaml:"paths"`  // of /metrics, /healthz and /readyz
}

var metricsPaths = []string{"/metrics", "/healthz", "/readyz"}

// check adds to f the faults of the key admin.metrics.
func (m MetricsListener) check(f *faults, path ...any) {
	for i, p := range m.Paths {
		switch {
		case !slices.Contains(metricsPaths, p):
			f.add(fmt.Sprintf("%q is not one of: /metrics, /healthz, /readyz", p), with(path, "paths", i)...)
		case slices.Contains(m.Paths[:i], p):
			f.add(fmt.Sprintf("%q stands here twice", p), with(path, "paths", i)...)
		}
	}
	switch {
	case m.Listen == "" && len(m.Paths) > 0:
		f.add("is required, since there are paths", with(path, "listen")...)
	case m.Listen != "" && f.listen(&m.Listen, "", with(path, "listen")...) && len(m.Paths) == 0:
		f.add("at least one is required", with(path, "paths")...)
	}
}

// newMetricsServer returns the server of admin.metrics. Which paths it has follows reloads.
func newMetricsServer(g *gateway) *http.Server {
	pages := map[string]http.Handler{
		"/metrics": g.observer.metrics,
		"/healthz": g.observer.health.Live(), "/readyz": g.observer.health.Ready(),
	}
	serve := func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(g.current.Load().cfg.Admin.Metrics.Paths, r.URL.Path) {
			writeProblem(w, http.StatusNotFound, "there is nothing here")
			return
		}
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			writeProblem(w, http.StatusMethodNotAllowed, "this path takes GET only")
			return
		}
		pages[r.URL.Path].ServeHTTP(w, r)
	}
	// Strangers may reach it, so it takes little from each of them.
	return &http.Server{
		Handler:           http.HandlerFunc(serve),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          g.errorLog(),
	}
}

// listenMetrics listens for the server of admin.metrics. The listener is nil if there is none.
func listenMetrics(addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("admin.metrics.listen: %w", err)
	}
	return ln, nil
}

// checkListeners adds to f the addresses on which two of the servers would listen.
func (c Config) checkListeners(f *faults) {
	type listener struct {
		addr string
		path []any
	}
	all := []listener{
		{c.Server.Listen, []any{"server", "listen"}},
		{c.Admin.Listen, []any{"admin", "listen"}},
		{c.Admin.Metrics.Listen, []any{"admin", "metrics", "listen"}},
	}
	for i, l := range all {
		for _, other := range all[:i] {
			if clash(l.addr, other.addr) {
				f.add(pathString(other.path)+" has the same address", l.path...)
			}
		}
	}
}

// clash reports whether nobody can listen on both addresses.
func clash(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB && portA != "0" &&
		(hostA == hostB || takes(hostA, hostB) || takes(hostB, hostA))
}

// takes reports whether to listen on all is to listen on host, too.
func takes(all, host string) bool {
	return all == "" || all == "::" || all == "0.0.0.0" && !strings.Contains(host, ":")
}
