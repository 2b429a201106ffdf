package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
)

// A gateway serves requests by its current configuration, which can be replaced meanwhile.
// It is safe for concurrent use.
type gateway struct {
	log      *slog.Logger
	draining atomic.Bool

	reloads sync.Mutex // held by reload: one at a time

	mu      sync.Mutex // guards the fields below, and use and retired of each generation
	current *generation
}

// A generation is one configuration, live.
type generation struct {
	cfg       Config
	routes    *http.ServeMux
	upstreams map[string]*upstream

	use      int           // requests that run in it
	retired  bool          // it gets no more
	idle     chan struct{} // closed when retired and not in use
	makeIdle func()        // closes idle
}

// newGateway returns a gateway of cfg, which loadConfig or withDefaults has completed.
func newGateway(cfg Config, log *slog.Logger) (*gateway, error) {
	gen, _, err := newGeneration(cfg, nil, log)
	if err != nil {
		return nil, err
	}
	for _, u := range gen.upstreams {
		u.start()
	}
	return &gateway{log: log, current: gen}, nil
}

// newGeneration makes cfg live. What has not changed since old goes on as it is. Nothing
// that old uses is touched before commit is called.
func newGeneration(cfg Config, old *generation, log *slog.Logger) (gen *generation, commit func(), err error) {
	gen = &generation{cfg: cfg, routes: http.NewServeMux(), upstreams: map[string]*upstream{}, idle: make(chan struct{})}
	gen.makeIdle = sync.OnceFunc(func() { close(gen.idle) })
	var changes []func()
	var errs []error
	for name, u := range cfg.Upstreams {
		if old != nil && old.upstreams[name] != nil && reflect.DeepEqual(old.cfg.Upstreams[name], u) {
			gen.upstreams[name] = old.upstreams[name]
			continue
		}
		fresh, err := newUpstream(name, u, log)
		if err != nil {
			errs = append(errs, fmt.Errorf("upstreams.%s: %w", name, err))
			continue
		}
		gen.upstreams[name] = fresh
		if old != nil && old.upstreams[name] != nil {
			// The hosts that stay keep their connections and what is known of them.
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

	type place struct{ host, path string }
	routes := map[place]methods{}
	for _, r := range cfg.Routes {
		at := place{r.Host, r.Path}
		if routes[at] == nil {
			routes[at] = methods{}
			gen.routes.Handle(r.Host+r.Path, routes[at])
		}
		h := withTimeout(gen.upstreams[r.Upstream], r)
		if len(r.Methods) == 0 {
			routes[at][""] = h
		}
		for _, m := range r.Methods {
			routes[at][m] = h
		}
	}
	return gen, func() {
		for _, change := range changes {
			change()
		}
	}, nil
}

// reload replaces the configuration as a whole, or not at all. Requests that run end
// as they began.
func (g *gateway) reload(cfg Config) error {
	g.reloads.Lock()
	defer g.reloads.Unlock()
	old := g.generation()
	if fixed := fixedChanges(old.cfg, cfg); len(fixed) > 0 {
		return fmt.Errorf("needs a restart to change: %s", strings.Join(fixed, ", "))
	}
	next, commit, err := newGeneration(cfg, old, g.log)
	if err != nil {
		return err
	}
	commit()
	for _, u := range next.upstreams {
		u.start()
	}
	g.mu.Lock()
	g.current = next
	g.retireLocked(old)
	g.mu.Unlock()
	go func() { // ends with the last request of the old generation
		<-old.idle
		for name, u := range old.upstreams {
			if heir := next.upstreams[name]; heir == nil || heir.balancer != u.balancer {
				u.close(context.Background())
			}
		}
	}()
	return nil
}

// fixedChanges names the fields that differ and that a running server cannot change.
func fixedChanges(a, b Config) []string {
	var names []string
	for _, field := range []struct {
		name string
		same bool
	}{
		{"server.listen", a.Server.Listen == b.Server.Listen},
		{"server.read_header_timeout", a.Server.ReadHeaderTimeout == b.Server.ReadHeaderTimeout},
		{"server.idle_timeout", a.Server.IdleTimeout == b.Server.IdleTimeout},
		{"server.max_header_bytes", a.Server.MaxHeaderBytes == b.Server.MaxHeaderBytes},
		{"admin.listen", a.Admin.Listen == b.Admin.Listen},
	} {
		if !field.same {
			names = append(names, field.name)
		}
	}
	return names
}

func (g *gateway) generation() *generation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.current
}

// acquire returns the current generation, which stays live until release is called.
func (g *gateway) acquire() (gen *generation, release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gen = g.current
	gen.use++
	return gen, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		gen.use--
		if gen.retired && gen.use == 0 {
			gen.makeIdle()
		}
	}
}

func (g *gateway) retireLocked(gen *generation) {
	gen.retired = true
	if gen.use == 0 {
		gen.makeIdle()
	}
}

// close ends the upstreams after the last request, or when ctx ends. No new requests may come.
func (g *gateway) close(ctx context.Context) {
	g.mu.Lock()
	gen := g.current
	g.retireLocked(gen)
	g.mu.Unlock()
	select {
	case <-gen.idle:
	case <-ctx.Done():
	}
	for _, u := range gen.upstreams {
		u.close(ctx)
	}
}
