package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// newAdmin returns the admin server of g.
func newAdmin(g *gateway) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, adminIndex)
	})
	mux.Handle("GET /healthz", g.observer.health.Live())
	// Readiness does not depend on the upstreams: if they are down for one gateway, they are down
	// for all, and to take all gateways out helps nobody.
	mux.Handle("GET /readyz", g.observer.health.Ready())
	mux.Handle("GET /metrics", g.observer.metrics)
	mux.HandleFunc("GET /upstreams", func(w http.ResponseWriter, _ *http.Request) {
		upstreams := map[string]any{}
		for name, u := range g.current.Load().upstreams {
			upstreams[name] = u.status()
		}
		writeJSON(w, upstreams)
	})
	mux.HandleFunc("GET /breakers", func(w http.ResponseWriter, _ *http.Request) {
		breakers := map[string]any{}
		for name, u := range g.current.Load().upstreams {
			if u.breaker != nil {
				breakers[name] = u.breaker.Stats()
			}
		}
		writeJSON(w, breakers)
	})
	mux.HandleFunc("GET /retries", func(w http.ResponseWriter, _ *http.Request) {
		gen := g.current.Load()
		retries := map[string]any{}
		for name, u := range gen.upstreams {
			if u.retrier != nil {
				retries[name] = u.retrier.Stats()
			}
		}
		timeouts := map[string]any{}
		for label, parts := range gen.parts {
			if parts.deadline != nil {
				timeouts[label] = parts.deadline.Stats()
			}
		}
		writeJSON(w, map[string]any{"upstreams": retries, "timeouts": timeouts})
	})
	mux.HandleFunc("GET /versions", func(w http.ResponseWriter, _ *http.Request) {
		routes := map[string]any{}
		for label, parts := range g.current.Load().parts {
			if parts.versions != nil {
				routes[label] = parts.versions.Report()
			}
		}
		writeJSON(w, routes)
	})
	mux.HandleFunc("GET /rollouts", g.showRollouts)
	mux.Handle("POST /rollouts", withToken(g.token, http.HandlerFunc(g.actOnRollout)))
	mux.HandleFunc("GET /cache", func(w http.ResponseWriter, _ *http.Request) {
		routes := map[string]any{}
		for label, parts := range g.current.Load().parts {
			if parts.cache != nil {
				routes[label] = parts.cache.cache.Stats()
			}
		}
		status := g.store.status()
		status["routes"] = routes
		writeJSON(w, status)
	})
	mux.Handle("POST /purge", withToken(g.token, http.HandlerFunc(g.purge)))
	mux.HandleFunc("GET /limits", func(w http.ResponseWriter, _ *http.Request) {
		status := struct {
			Routes map[string]any    `json:"routes"`
			Redis  *redislimit.Stats `json:"redis,omitempty"`
			Server map[string]any    `json:"server"`
		}{Routes: map[string]any{}, Server: map[string]any{
			"requests": g.requests.status(), "tunnels": g.tunnels.status(),
		}}
		for label, parts := range g.current.Load().parts {
			gate := parts.gate
			if gate.limiter != nil || gate.concurrency != nil {
				status.Routes[label] = gate.status()
			}
		}
		if g.counts.redis != nil {
			s := g.counts.redis.Stats()
			status.Redis = &s
		}
		writeJSON(w, status)
	})
	mux.HandleFunc("GET /objectives", func(w http.ResponseWriter, _ *http.Request) {
		objectives := map[string]any{}
		for name, slo := range g.observer.objectives {
			objectives[name] = slo.Stats()
		}
		writeJSON(w, objectives)
	})
	return &http.Server{
		// A page in the operator's browser may post to a loopback address.
		Handler:           loopbackHosts(http.NewCrossOriginProtection().Handler(mux)),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
	}
}

// loopbackHosts refuses requests whose Host is not a loopback name or address. The name of a web
// page in the operator's browser may resolve to 127.0.0.1 (DNS rebinding).
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

const adminIndex = `/healthz     the process answers
/readyz      the process wants requests
/upstreams   the endpoints of each upstream, and their state
/breakers    the circuit breakers of each upstream's hosts
/retries     repeated requests of each upstream, and what its budget has left
/versions    who uses which version of each route, and which may be removed
/rollouts    the releases that are tried: weight, evidence and verdict, and what shadows found
/cache       what the caches of routes answered, and what their store holds
/limits      how many requests each route admitted and refused
/objectives  how fast the error budgets burn
/metrics     metrics for Prometheus
POST /purge  makes what the cache holds stale, or removes it: {"url": "https://…", "hard": true}, or a
             prefix, a tag, or a group and its origin; Authorization: Bearer and the token
POST /rollouts  acts on a rollout, with the token: {"route": "/", "action": "rollback"}, or promote,
             switch, pause, resume, retry`

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}
