package main

import (
	"context"
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
	split    *split               // nil without a rollout
	shadow   *routeShadow         // nil without a shadow
}

// newRouting makes a route live. It takes over from old, the same route before a reload, or nil,
// each part whose settings have not changed. commit, if not nil, takes over the rest.
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
	if rt.shadow, err = newRouteShadow(r, old.shadow, tel); err != nil {
		return nil, nil, fmt.Errorf("shadow of route %s: %w", r.label(), err)
	}
	rt.split = g.newSplit(r, trusted)
	return rt, commit, nil
}

// handler returns what serves the requests of the route.
func (rt *routing) handler(upstreams map[string]*upstream) (http.Handler, error) {
	h := http.Handler(upstreams[rt.route.Upstream])
	if rt.route.Redirect != nil {
		h = rt.route.Redirect.handler(rt.route.Path)
	}
	if rt.versions != nil {
		var err error
		if h, err = rt.route.Versions.choose(rt.versions, upstreams); err != nil {
			return nil, fmt.Errorf("versions of route %s: %w", rt.route.label(), err)
		}
	}
	h = rt.split.wrap(rt.shadow.wrap(h), upstreams)
	if rt.deadline != nil {
		h = rt.deadline.Middleware(h)
	}
	h = rt.split.decide(rt.cache.wrap(rt.gate.bound(h)))
	if rt.versions != nil {
		h = rt.versions.Resolve(h)
	}
	h = rt.gate.limit(newEdit(rt.route.Headers.Request).request(h))
	h = withinBody(rt.route.MaxBody, h)
	return steadily(rt.route.StallTimeout, newEdit(rt.route.Headers.Response), h), nil
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
	if rt.split != nil && rt.split.rollout != nil {
		add(telemetry.Register(tel, label, rt.split.rollout.Stats))
	}
	if rt.shadow != nil {
		add(telemetry.Register(tel, label, rt.shadow.shadow.Stats))
	}
}

// retire ends what heir, the same route after a reload, or nil, has not taken over. A rollout may
// go on at another route: see split.retire.
func (rt *routing) retire(heir *routing) {
	if heir == nil {
		heir = &routing{}
	}
	if rt.cache != nil && heir.cache != rt.cache {
		_ = rt.cache.cache.Close(context.Background())
	}
	if rt.shadow != nil && heir.shadow != rt.shadow {
		_ = rt.shadow.shadow.Close(context.Background())
	}
}

// close ends what works without a request.
func (rt *routing) close(ctx context.Context) {
	if rt.cache != nil {
		_ = rt.cache.cache.Close(ctx)
	}
	if rt.shadow != nil {
		_ = rt.shadow.shadow.Close(ctx)
	}
	if rt.split != nil && rt.split.rollout != nil {
		_ = rt.split.rollout.Close(ctx)
	}
}

// upstreams returns the names of the upstreams that r sends requests to.
func (r Route) upstreams() []string {
	var names []string
	if r.Redirect != nil {
		return nil
	}
	if r.Versions == nil {
		names = append(names, r.Upstream)
	} else {
		for _, v := range r.Versions.List {
			names = append(names, v.Upstream)
		}
	}
	if r.Rollout != nil {
		names = append(names, r.Rollout.Canary)
	}
	if r.Shadow != nil {
		names = append(names, r.Shadow.Upstream)
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
