package balancer

import (
	"slices"
	"strings"
)

// update makes set the group's endpoints. It returns those that are new, those whose description
// has changed, and those that have left. connect prepares a new one before a request can see it.
func (g *group) update(
	set []Endpoint, now int64, connect func(*endpoint),
) (added, changed, removed []*endpoint) {
	g.mu.Lock()
	defer g.mu.Unlock()
	config := g.config.Load()
	first := !g.ready()
	old := make(map[string]*endpoint, len(g.endpoints))
	for _, e := range g.endpoints {
		old[e.public().Addr] = e
	}
	endpoints := make([]*endpoint, 0, len(set))
	seen := make(map[string]bool, len(set))
	for _, public := range set {
		if seen[public.Addr] {
			continue
		}
		seen[public.Addr] = true
		e := old[public.Addr]
		switch {
		case e == nil:
			e = g.newEndpoint(config, public, now)
			if !first {
				e.down = config.checksHealth || config.Warm > 0 // until its first check or warm-up
				g.startSlowlyLocked(config, e, now)
			}
			connect(e)
			added = append(added, e)
		case !e.public().equal(public):
			was := e.public().Drain
			g.describe(config, e, public)
			changed = append(changed, e)
			if was != public.Drain {
				g.drainedLocked(config, e, now)
			}
		}
		endpoints = append(endpoints, e)
	}
	for addr, e := range old {
		if !seen[addr] {
			removed = append(removed, e)
			g.endSlowStartLocked(e)
		}
	}
	slices.SortFunc(endpoints, func(a, b *endpoint) int {
		return strings.Compare(a.public().Addr, b.public().Addr)
	})
	g.endpoints = endpoints
	g.publishLocked(now)
	return added, changed, removed
}

// drainedLocked tells that e is drained, or not any more: then it starts slowly, as whatever comes
// back.
func (g *group) drainedLocked(config *groupConfig, e *endpoint, now int64) {
	reason := ReasonDrain
	if !e.public().Drain {
		reason = ReasonEndOfDrain
		g.startSlowlyLocked(config, e, now)
	}
	g.emitLocked(e.changeLocked(now, reason))
}

// reload makes the group go by cfg.
func (g *group) reload(cfg *Config, now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	config := newGroupConfig(cfg)
	g.config.Store(config)
	for _, e := range g.endpoints {
		g.describe(config, e, e.public())
		if !config.checksHealth {
			wasDown := e.down
			e.down, e.checks, e.checkError = false, 0, ""
			if wasDown {
				g.emitLocked(e.changeLocked(now, ReasonNoHealthChecks))
			}
		}
	}
	if g.ready() {
		g.publishLocked(now)
	}
}

func (g *group) newEndpoint(config *groupConfig, public Endpoint, now int64) *endpoint {
	e := &endpoint{hash: hashString(public.Addr), probationFrom: now}
	e.slowStart.Store(1)
	e.cost.set(0, 1)
	e.probation.Store(true)
	g.restrict(e)
	g.describe(config, e, public)
	return e
}

// describe enters what the resolver and the configuration say of e.
func (g *group) describe(config *groupConfig, e *endpoint, public Endpoint) {
	d := &description{Endpoint: public, weight: float64(max(public.Weight, 1))}
	if config.sticky != nil {
		d.cookie = config.sticky.cookieValue(public.Addr)
	}
	e.description.Store(d)
	e.setMaxConns(config.MaxConns)
	g.setCost(config, e, e.cost.Load())
}
