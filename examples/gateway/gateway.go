package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/trivet-go/trivet/telemetry"
)

// A gateway serves requests by its current configuration, which reload can replace while requests
// run. It is safe for concurrent use.
type gateway struct {
	log      *slog.Logger
	observer *observer
	counts   *counts
	store    *cacheStore                // of the caches of all routes
	rollouts rolloutStores              // of the rollouts of all routes
	sticky   stickiness                 // of upstreams
	token    string                     // that actions on the admin server ask for
	handler  http.Handler               // serve, wrapped by telemetry
	tls      atomic.Pointer[tls.Config] // of the current generation; nil without HTTPS
	draining atomic.Bool
	requests tally        // in flight
	tunnels  tally        // upgraded connections, and requests for one
	taken    atomic.Int64 // connections that net/http counts no more: upgraded, or with an early answer

	current atomic.Pointer[generation]
	holders holders

	begin      func()         // begins what the first generation has; used by start
	reloads    sync.Mutex     // held during a reload
	unregister []func() error // end the exports of the current generation; used by start, then by reload
}

// A generation is one configuration made live.
type generation struct {
	cfg       Config
	tls       *tls.Config // nil without HTTPS
	trusted   trust
	routes    *http.ServeMux
	wildcards map[string]string // hosts of routes with a star, by what stands behind it
	upstreams map[string]*upstream
	parts     map[string]*routing // of each route, by its label
	splits    map[string]*split   // of the routes that have a rollout, by its name

	longestWildcard int // of the keys of wildcards

	use      atomic.Int64  // requests that run in it
	retired  atomic.Bool   // no more requests will use it
	idle     chan struct{} // closed when it is retired and not in use
	makeIdle func()        // closes idle
	alone    chan struct{} // closed when all earlier generations, which may share its parts, are idle
}

// newGateway returns a gateway of cfg, which loadConfig or withDefaults has returned. Its access
// log goes to stdout or stderr. It sends nothing to upstreams before start.
func newGateway(cfg Config, log *slog.Logger, stdout, stderr io.Writer) (*gateway, error) {
	g := &gateway{log: log, sticky: newStickiness()}
	var err error
	if g.counts, err = newCounts(cfg.Redis); err != nil {
		return nil, err
	}
	if g.observer, err = newObserver(cfg, g.counts, stdout, stderr, log); err != nil {
		g.counts.close()
		return nil, err
	}
	if g.token, err = adminToken(cfg.Admin.TokenEnv); err == nil {
		g.store, err = g.newCacheStore(cfg)
	}
	if err != nil {
		g.observer.discard()
		g.counts.close()
		return nil, err
	}
	if g.rollouts, err = newRolloutStores(cfg.Redis, g.counts, g.observer.tel); err != nil {
		g.observer.discard()
		g.counts.close()
		return nil, err
	}
	var first *generation
	if first, g.begin, err = g.newGeneration(cfg, nil); err != nil {
		g.observer.discard()
		g.counts.close()
		return nil, err
	}
	close(first.alone)
	g.holders.hold(first)
	g.current.Store(first)
	g.tls.Store(first.tls)
	g.handler = g.observer.tel.Middleware(http.HandlerFunc(g.serve))
	return g, nil
}

// start begins to resolve hosts, to check them, to try releases and to export statistics.
func (g *gateway) start() {
	gen := g.current.Load()
	g.store.begin()
	g.begin()
	for _, u := range gen.upstreams {
		u.start()
	}
	g.register(gen)
}

// newGeneration makes cfg live. It takes over from old, which may be nil, each part whose settings
// have not changed. It changes nothing that old uses: commit does that.
func (g *gateway) newGeneration(cfg Config, old *generation) (gen *generation, commit func(), err error) {
	gen = &generation{
		cfg: cfg, routes: http.NewServeMux(), parts: map[string]*routing{}, upstreams: map[string]*upstream{},
		splits: map[string]*split{}, wildcards: map[string]string{},
		idle: make(chan struct{}), alone: make(chan struct{}),
	}
	gen.makeIdle = sync.OnceFunc(func() { close(gen.idle) })
	var changes []func()
	var errs []error
	if gen.tls, err = cfg.Server.TLS.load(); err != nil {
		errs = append(errs, err)
	}
	trusted := trustIn(cfg.Server.TrustedProxies)
	gen.trusted = trusted
	for _, r := range cfg.Routes {
		var before *routing
		if old != nil {
			before = old.parts[r.label()]
		}
		parts, change, err := g.newRouting(r, cfg, before)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		gen.parts[r.label()] = parts
		if change != nil {
			changes = append(changes, change)
		}
	}
	for name, u := range cfg.Upstreams {
		if old.keeps(name, u) {
			gen.upstreams[name] = old.upstreams[name]
			continue
		}
		fresh, err := newUpstream(name, u, trusted, cfg.Server, g.sticky, g.observer.tel, g.log)
		if err != nil {
			errs = append(errs, fmt.Errorf("upstreams.%s: %w", name, err))
			continue
		}
		gen.upstreams[name] = fresh
		if old != nil && old.upstreams[name] != nil {
			changes = append(changes, func() { fresh.inherit(old.upstreams[name]) })
		}
	}
	if len(errs) > 0 {
		for name, u := range gen.upstreams {
			if old == nil || old.upstreams[name] != u {
				u.close(context.Background())
			}
		}
		return nil, nil, errors.Join(errs...)
	}

	for _, name := range cfg.unused() {
		g.log.Warn("no route uses this upstream", "upstream", name)
	}
	type place struct{ host, path string }
	routes := map[place]methods{}
	for _, r := range cfg.Routes {
		at := place{r.Host, r.Path}
		if routes[at] == nil {
			routes[at] = methods{}
			gen.routes.Handle(r.Host+r.Path, routes[at])
			gen.noteHost(r.Host)
		}
		h, err := gen.parts[r.label()].handler(gen.upstreams)
		if err != nil {
			return nil, nil, err // cannot happen
		}
		if len(r.Methods) == 0 {
			routes[at][""] = h
		}
		for _, m := range r.Methods {
			routes[at][m] = h
		}
	}
	for _, parts := range gen.parts {
		if s := parts.split; s != nil {
			gen.splits[s.settings.Name] = s
			changes = append(changes, func() { s.begin(old.splitOf(s.settings.Name), g.log) })
		}
		if s := parts.shadow; s != nil {
			changes = append(changes, func() { s.candidate.Store(gen.upstreams[s.settings.Upstream]) })
		}
	}
	return gen, func() {
		for _, change := range changes {
			change()
		}
	}, nil
}

// reload replaces the configuration as a whole, or not at all. Requests in flight end with the
// configuration that they began with.
func (g *gateway) reload(cfg Config) error {
	g.reloads.Lock()
	defer g.reloads.Unlock()
	old := g.current.Load()
	if fixed := fixedChanges(old.cfg, cfg); len(fixed) > 0 {
		return fmt.Errorf("needs a restart to change: %s", strings.Join(fixed, ", "))
	}
	next, commit, err := g.newGeneration(cfg, old)
	if err != nil {
		g.counts.retain(old.cfg.Routes)
		return err
	}
	commit()
	for _, u := range next.upstreams {
		u.start()
	}
	g.register(next)
	g.holders.hold(next)
	g.tls.Store(next.tls)
	g.current.Store(next)
	g.counts.retain(cfg.Routes)
	old.retire()
	go func() { // not as late as the other goroutine: a tunnel may keep an earlier generation for days
		<-old.idle
		g.holders.drop(old)
	}()
	go func() { // ends with the last request of the old and all earlier generations
		<-old.alone
		<-old.idle
		close(next.alone)
		for label, parts := range old.parts {
			parts.retire(next.parts[label])
		}
		for name, s := range old.splits {
			s.retire(next.splits[name])
		}
	}()
	return nil
}

// register exports the statistics of gen instead of those of the previous generation.
func (g *gateway) register(gen *generation) {
	for _, f := range g.unregister {
		if err := f(); err != nil {
			g.log.Warn("statistics", "err", err)
		}
	}
	g.unregister = nil
	add := func(f func() error, err error) {
		if err != nil { // no reason to refuse requests
			g.log.Warn("statistics", "err", err)
			return
		}
		g.unregister = append(g.unregister, f)
	}
	for name, u := range gen.upstreams {
		add(telemetry.Register(g.observer.tel, name, u.balancer.Stats))
		if u.breaker != nil {
			add(telemetry.Register(g.observer.tel, name, u.breaker.Stats))
		}
		if u.retrier != nil {
			add(telemetry.Register(g.observer.tel, name, u.retrier.Stats))
		}
	}
	for _, parts := range gen.parts {
		parts.register(g.observer.tel, add)
	}
	g.store.register(g.observer.tel, add)
}

// acquire returns the current generation. It stays live until the caller calls its release.
func (g *gateway) acquire() *generation {
	for {
		gen := g.current.Load()
		gen.use.Add(1)
		if g.current.Load() == gen {
			return gen
		}
		gen.release() // a reload has replaced gen, which may be idle already
	}
}

func (gen *generation) release() {
	// use is read again since another request may have acquired gen between Add and its retirement.
	if gen.use.Add(-1) == 0 && gen.retired.Load() && gen.use.Load() == 0 {
		gen.makeIdle()
	}
}

// retire makes gen idle after its last request. No request may acquire gen after the call.
func (gen *generation) retire() {
	gen.retired.Store(true)
	if gen.use.Load() == 0 {
		gen.makeIdle()
	}
}

// close waits for the last request or for the end of ctx, then closes the upstreams and telemetry.
// No request may begin after the call.
func (g *gateway) close(ctx context.Context) {
	gen := g.current.Load()
	gen.retire()
	select {
	case <-gen.idle:
	case <-ctx.Done():
	}
	for _, parts := range gen.parts {
		parts.close(ctx)
	}
	for _, u := range gen.upstreams {
		u.close(ctx)
	}
	g.store.close()
	if err := g.observer.close(ctx); err != nil {
		g.log.Warn("telemetry has not been sent whole", "err", err)
	}
	g.counts.close()
}
