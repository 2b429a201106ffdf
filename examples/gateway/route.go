package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/trivet-go/trivet/retry"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/versioning"
)

// A routing is what a request of one route passes before it is proxied.
type routing struct {
	route    Route
	gate     *gate
	deadline *retry.Deadline      // nil without a timeout
	versions *versioning.Versions // nil without versions
	cache    *routeCache          // nil without a cache
}

// newRouting makes a route live. It takes over from old, the same route before a reload, or nil, each
// part whose settings have not changed. commit, if not nil, takes over the rest.
func (g *gateway) newRouting(r Route, cfg Config, old *routing) (_ *routing, commit func(), err error) {
	rt, tel := &routing{route: r}, g.observer.tel
	if old == nil {
		old = &routing{}
	}
	settings, trusted := newGateSettings(r, cfg), trustIn(cfg.Server.TrustedProxies)
	if rt.gate, err = newGate(settings, old.gate, g.counts, trusted, tel, g.log); err != nil {
		return nil, nil, err
	}
	if rt.deadline, err = newDeadline(r, cfg.Server.DeadlineField, tel); err != nil {
		return nil, nil, fmt.Errorf("timeout of route %s: %w", r.label(), err)
	}
	if rt.versions, commit, err = newVersions(r, old, tel); err != nil {
		return nil, nil, fmt.Errorf("versions of route %s: %w", r.label(), err)
	}
	if rt.cache, err = newRouteCache(r, old.cache, g.store, tel); err != nil {
		return nil, nil, fmt.Errorf("cache of route %s: %w", r.label(), err)
	}
	return rt, commit, nil
}

// handler returns what serves the requests of the route.
func (rt *routing) handler(upstreams map[string]*upstream) (http.Handler, error) {
	h := http.Handler(upstreams[rt.route.Upstream])
	if rt.versions != nil {
		var err error
		if h, err = rt.route.Versions.choose(rt.versions, upstreams); err != nil {
			return nil, fmt.Errorf("versions of route %s: %w", rt.route.label(), err)
		}
	}
	if rt.deadline != nil {
		h = rt.deadline.Middleware(h)
	}
	h = rt.cache.wrap(rt.gate.bound(h))
	if rt.versions != nil {
		h = rt.versions.Resolve(h)
	}
	return steadily(rt.route.StallTimeout, rt.gate.limit(h)), nil
}

// register exports the statistics of the route. add gets the functions that end the exports.
func (rt *routing) register(tel *telemetry.Telemetry, add func(unregister func() error, err error)) {
	label := rt.route.label()
	rt.gate.register(tel, add)
	if rt.versions != nil {
		add(telemetry.Register(tel, label, rt.versions.Stats))
	}
	if rt.cache != nil {
		add(telemetry.Register(tel, label, rt.cache.cache.Stats))
	}
}

// upstreams returns the names of the upstreams that r sends requests to.
func (r Route) upstreams() []string {
	if r.Versions == nil {
		return []string{r.Upstream}
	}
	var names []string
	for _, v := range r.Versions.List {
		names = append(names, v.Upstream)
	}
	return names
}

// unused returns the names of the upstreams that no route uses, in order.
func (c Config) unused() []string {
	used := map[string]bool{}
	for _, r := range c.Routes {
		for _, name := range r.upstreams() {
			used[name] = true
		}
	}
	names := slices.Sorted(maps.Keys(c.Upstreams))
	return slices.DeleteFunc(names, func(name string) bool { return used[name] })
}
