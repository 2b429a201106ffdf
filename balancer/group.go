package balancer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// tickInterval is the time between two ticks of a group that gets requests.
const tickInterval = 100 * time.Millisecond

// A group decides which of a target's endpoints gets a request, and learns from what became of it. It
// has no goroutines, reads no clock and opens no connection: times are arguments, so that a simulator
// can drive it.
type group struct {
	random func() uint64

	config      atomic.Pointer[groupConfig]
	current     atomic.Pointer[snapshot] // nil until the first set is known
	restricted  atomic.Int64             // endpoints that are restricted
	commonFault atomic.Bool              // most endpoints fail: the fault is in what they share
	typical     atomicFloat              // lower median of the endpoints' costs; zero if none is known
	sequence    atomic.Uint64            // for policies that go round
	ejections   atomic.Uint64            // in total
	hasEvents   atomic.Bool              // there are events

	mu           sync.Mutex  // guards the fields below, and those of endpoints that say so
	endpoints    []*endpoint // by address; replaced as a whole
	panicking    bool
	spill        float64 // share that the first tier passes on to the second for its load
	loadRatio    float64 // moving average of the ratio of those tiers' loads
	lastInterval int64
	lastTick     int64
	events       []Event
}

// A groupConfig is what a group reads of a Config. A request takes one when it begins and goes by it
// to its end, whatever a Reload does meanwhile.
type groupConfig struct {
	*Config
	traits
	checksHealth bool
	probes       *probes // nil unless the traits have probing
}

func newGroupConfig(cfg *Config) *groupConfig {
	c := &groupConfig{Config: cfg, traits: traitsOf(cfg.Policy), checksHealth: cfg.Health.enabled()}
	c.estimator.perDecay = 1 / max(float64(c.estimator.decay), 1)
	if c.probing != nil {
		c.probes = newProbes(*c.probing)
	}
	return c
}

func newGroup(cfg *Config) *group {
	g := &group{random: rand.Uint64}
	g.config.Store(newGroupConfig(cfg))
	g.sequence.Store(g.random() >> 1) // so that many clients do not all start at the first endpoint
	return g
}

// ready reports whether a set of endpoints is known.
func (g *group) ready() bool { return g.current.Load() != nil }

// members returns the present endpoints. The slice must not be changed.
func (g *group) members() []*endpoint {
	if s := g.current.Load(); s != nil {
		return s.all
	}
	return nil
}

// update makes set the group's endpoints. It returns those that are new, those whose description has
// changed, and those that have left. connect prepares a new one before a request can see it.
func (g *group) update(set []Endpoint, now int64, connect func(*endpoint)) (added, changed, removed []*endpoint) {
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
			g.describe(config, e, public)
			changed = append(changed, e)
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
	g.publishLocked(config, now)
	return added, changed, removed
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
				g.emitLocked(config, e.changeLocked(now, "no health checks"))
			}
		}
	}
	if g.ready() {
		g.publishLocked(config, now)
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
	g.setCost(config, e, e.cost.Load())
}

// tick is the upkeep of a group. It is due every tickInterval while there are requests.
func (g *group) tick(now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	config := g.config.Load()
	since := now - g.lastTick
	g.lastTick = now
	typical := g.medianCostLocked()
	g.typical.Store(typical)
	changed := false
	for _, e := range g.endpoints {
		if e.ejectedUntil != 0 && e.ejectedUntil <= now {
			g.endEjectionLocked(config, e, now, typical)
			changed = true
		}
		if e.restricted.Load() {
			g.tickRestrictedLocked(config, e, now)
		}
		if config.estimator.decay > 0 {
			g.tickCostLocked(config, e, now, since, typical)
		}
	}
	g.tickFailuresLocked(now)
	if now-g.lastInterval >= int64(config.Outlier.Interval) {
		g.lastInterval = now
		g.judgeLocked(config, now)
		changed = true
	}
	if g.adaptSpillLocked(config) || changed {
		g.publishLocked(config, now)
	}
}

// isMemberLocked reports whether e is still in the set.
func (g *group) isMemberLocked(e *endpoint) bool { return slices.Contains(g.endpoints, e) }

// changeLocked returns the event that says what state e is in now, and why.
func (e *endpoint) changeLocked(now int64, reason string) Event {
	return Event{Kind: EndpointChanged, Endpoint: e.public(), State: e.stateLocked(now), Reason: reason}
}

// emit and emitLocked keep an event for the caller of takeEvents: observers are called without a lock.
func (g *group) emit(e Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.emitLocked(g.config.Load(), e)
}

func (g *group) emitLocked(config *groupConfig, e Event) {
	if config.Observe != nil {
		g.events = append(g.events, e)
		g.hasEvents.Store(true)
	}
}

// takeEvents returns the events since it was last called.
func (g *group) takeEvents() []Event {
	if !g.hasEvents.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.events
	g.events = nil
	g.hasEvents.Store(false)
	return e
}
