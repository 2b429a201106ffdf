package balancer

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// idleTick is how often an idle target's upkeep looks.
const idleTick = time.Second

// A pool is a target: its group, its resolver, and the wires to its hosts.
type pool struct {
	b      *Balancer
	key    targetKey
	target *url.URL
	name   string
	g      *group

	ready     chan struct{} // closed when the resolver has spoken first
	readyOnce sync.Once
	refresh   chan struct{} // one hint at a time
	problem   atomic.Pointer[error]
	streams   atomic.Int64 // upgraded connections
	repicked  atomic.Uint64
	refused   atomic.Uint64 // requests without a host
	waiting   atomic.Int64  // requests that wait for the resolver, or are between two endpoints

	// over says that requests which are not counted yet find no one to wait for them. It is written before they are counted for the
	// last time, and read after a pick has counted its request in: one of the two sees the other.
	over atomic.Bool

	// The group's mutex guards the fields below.
	cfg     *Config
	ctx     context.Context // of the present resolver and checks
	cancel  context.CancelFunc
	checks  map[*host]context.CancelFunc
	leaving []leaving // hosts that are gone, with connections still to close
	counted Stats     // by hosts that are gone
}

type leaving struct {
	h     *host
	quiet int // ticks without a request
}

func newPool(b *Balancer, cfg *Config, key targetKey) *pool {
	return &pool{
		b: b, key: key, cfg: cfg,
		target:  &url.URL{Scheme: key.scheme, Host: key.host},
		name:    key.scheme + "://" + key.host,
		g:       newGroup(cfg),
		ready:   make(chan struct{}),
		refresh: make(chan struct{}, 1),
		checks:  make(map[*host]context.CancelFunc),
	}
}

// start starts the pool's goroutines. It is called with the Balancer's lock held, and not after Close.
func (p *pool) start() {
	ctx, cancel := context.WithCancel(p.b.ctx)
	p.b.wg.Go(func() {
		defer cancel()
		p.upkeep(ctx)
	})
	p.g.mu.Lock()
	p.resolveLocked(ctx)
	p.g.mu.Unlock()
}

// resolveLocked starts a resolver that ends with parent, or with the next call.
func (p *pool) resolveLocked(parent context.Context) {
	if p.cancel != nil {
		p.cancel()
	}
	ctx, cancel := context.WithCancel(parent)
	p.ctx, p.cancel = ctx, cancel
	resolver := p.cfg.Resolver
	if probes := p.g.set.Load().probes; probes != nil {
		for range probeWorkers {
			p.b.wg.Go(func() { p.askLoads(ctx, probes) })
		}
	}
	p.b.wg.Go(func() {
		defer cancel()
		resolver.Resolve(ctx, p.target, p.refresh, func(endpoints []Endpoint, err error) { p.update(ctx, endpoints, err) })
		if ctx.Err() == nil { // it has given up: nobody should wait for it
			p.readyOnce.Do(func() { close(p.ready) })
		}
	})
}

// update takes what the resolver of ctx says.
func (p *pool) update(ctx context.Context, endpoints []Endpoint, err error) {
	p.g.mu.Lock()
	if ctx.Err() != nil { // an older resolver's last word: the present one's is still to come
		p.g.mu.Unlock()
		return
	}
	defer p.readyOnce.Do(func() { close(p.ready) })
	if err != nil {
		p.problem.Store(&err)
		p.g.emitLocked(Event{Kind: TargetResolved, Err: err, Endpoints: len(p.g.hosts)})
		p.unlock()
		return
	}
	p.problem.Store(nil)
	set := make([]Endpoint, 0, len(endpoints))
	for i, e := range endpoints {
		if e.lacksAddress() {
			err := fmt.Errorf("balancer: endpoint %d has no address", i)
			p.problem.Store(&err)
			p.g.emitLocked(Event{Kind: TargetResolved, Err: err, Endpoints: len(p.g.hosts)})
			continue
		}
		set = append(set, e.withPort(p.target))
	}
	added, changed, removed := p.g.updateLocked(set, p.b.now(), func(h *host) { h.wire.Store(newWire(p.cfg, h.endpoint())) })
	for _, h := range changed {
		h.wire.Store(rewire(p.cfg, h.endpoint(), h.wire.Load().conns))
	}
	for _, h := range removed {
		p.dismissLocked(h)
	}
	for _, h := range added {
		p.checkLocked(h)
	}
	if len(added)+len(changed)+len(removed) > 0 {
		p.g.emitLocked(Event{Kind: TargetResolved, Endpoints: len(p.g.hosts)})
	}
	p.unlock()
}

// dismissLocked lets go of a host that is no longer in the set.
func (p *pool) dismissLocked(h *host) {
	if cancel := p.checks[h]; cancel != nil {
		cancel()
		delete(p.checks, h)
	}
	p.leaving = append(p.leaving, leaving{h: h})
}

// unlock releases the group's lock and sends what has been collected under it.
func (p *pool) unlock() {
	events, observe := p.g.takeEventsLocked(), p.cfg.Observe
	ctx := p.ctx
	p.g.mu.Unlock()
	p.send(ctx, observe, events)
}

func (p *pool) send(ctx context.Context, observe func(context.Context, Event), events []Event) {
	if observe == nil { // since a Reload: the events are from before
		return
	}
	for _, e := range events {
		e.Target = p.name
		observe(ctx, e)
	}
}

// wait returns when the pool's set is known, or cannot be.
func (p *pool) wait(ctx context.Context) error {
	if p.g.current.Load() != nil {
		return nil
	}
	p.waiting.Add(1) // the target is not idle
	defer p.waiting.Add(-1)
	select {
	case <-p.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.b.ctx.Done():
		return ErrClosed
	}
	switch {
	case p.g.current.Load() != nil:
		return nil
	case p.b.ctx.Err() != nil:
		return ErrClosed
	case p.over.Load():
		return errForgotten
	}
	return p.noEndpoints(0, nil)
}

func (p *pool) noEndpoints(tried int, err error) error {
	p.refused.Add(1)
	if problem := p.problem.Load(); err == nil && problem != nil {
		err = *problem
	}
	p.hint()
	return &NoEndpointsError{Target: p.name, Tried: tried, Err: err}
}

// hint asks the resolver for fresher data.
func (p *pool) hint() {
	select {
	case p.refresh <- struct{}{}:
	default:
	}
}

// upkeep runs the group's tick and looks after connections until ctx ends or the target has
// been idle for long.
func (p *pool) upkeep(ctx context.Context) {
	timer := time.NewTimer(tickInterval)
	defer timer.Stop()
	last, lastUse := uint64(0), p.b.now()
	for {
		select {
		case <-ctx.Done():
			p.g.mu.Lock()
			p.cancel()
			p.g.mu.Unlock()
			return
		case <-timer.C:
		}
		now := p.b.now()
		p.g.mu.Lock()
		if p.g.current.Load() != nil {
			p.g.tickLocked(now)
		}
		hosts, left := p.g.hosts, p.leaveLocked()
		available, all := p.g.availableLocked(now)
		idle := p.cfg.IdleTimeout
		p.unlock()
		for _, h := range hosts {
			h.wire.Load().conns.upkeep(time.Now())
		}
		closeIdle(left)
		if all > 0 && 2*available <= all {
			p.hint()
		}
		if n := p.count().Requests; n != last || p.inflight() > 0 {
			last, lastUse = n, now
		}
		if quiet := time.Duration(now - lastUse); idle > 0 && quiet >= idle && p.b.drop(p) {
			p.g.mu.Lock()
			p.cancel()
			p.g.mu.Unlock()
			p.readyOnce.Do(func() { close(p.ready) }) // for a request that came at this moment
			p.closeIdle()
			return
		} else if quiet > idleTick {
			timer.Reset(idleTick)
		} else {
			timer.Reset(tickInterval)
		}
	}
}

// leaveLocked returns the hosts that are leaving, and lets go of those that are done.
func (p *pool) leaveLocked() []*host {
	hosts := make([]*host, 0, len(p.leaving))
	kept := p.leaving[:0]
	for _, l := range p.leaving {
		hosts = append(hosts, l.h)
		if l.quiet++; l.h.inflight.Load() > 0 {
			l.quiet = 0
		}
		if l.quiet < 2 { // twice, for a pick from the last snapshot and a connection on its way to the idle ones
			kept = append(kept, l)
			continue
		}
		p.counted.count(l.h)
	}
	clear(p.leaving[len(kept):])
	p.leaving = kept
	return hosts
}

// reload applies cfg. It is called with the Balancer's lock held.
func (p *pool) reload(cfg *Config) {
	p.g.mu.Lock()
	old := p.cfg
	p.cfg = cfg
	p.g.set.Store(newGroupConfig(cfg))
	sameConns := old.Transport == cfg.Transport && old.Conns == cfg.Conns && old.ConnLife == cfg.ConnLife
	for _, h := range p.g.hosts {
		p.g.castLocked(h, h.endpoint())
		if w := h.wire.Load(); sameConns {
			h.wire.Store(rewire(cfg, h.endpoint(), w.conns))
		} else {
			h.wire.Store(newWire(cfg, h.endpoint()))
			h.wire.Load().conns.inherit(w.conns, time.Now())
		}
		if cancel := p.checks[h]; cancel != nil {
			cancel()
			delete(p.checks, h)
		}
		if !cfg.Health.enabled() {
			wasDown := h.down
			if h.down, h.checks, h.checkError = false, 0, ""; wasDown {
				p.g.emitLocked(Event{Kind: EndpointChanged, Endpoint: h.endpoint(), State: h.stateLocked(p.b.now()), Reason: "no health checks"})
			}
		}
	}
	p.resolveLocked(p.b.ctx)
	for _, h := range p.g.hosts {
		p.checkLocked(h)
	}
	if p.g.current.Load() != nil {
		p.g.publishLocked(p.b.now())
	}
	p.g.mu.Unlock() // the next tick sends the events: the Balancer's lock is held here
}

func (p *pool) inflight() int64 {
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	n := p.streams.Load() + p.waiting.Load()
	for _, h := range p.g.hosts {
		n += h.inflight.Load()
	}
	for _, l := range p.leaving {
		n += l.h.inflight.Load()
	}
	return n
}

// closeIdle closes the idle connections of hosts. No lock may be held: wrappers are the user's, and a peer can make the end of a TLS
// connection take seconds.
func closeIdle(hosts []*host) {
	for _, h := range hosts {
		w := h.wire.Load()
		w.conns.CloseIdleConnections()
		if rt := w.wrapped.Load(); rt != nil {
			if c, ok := (*rt).(interface{ CloseIdleConnections() }); ok {
				c.CloseIdleConnections()
			}
		}
	}
}

func (p *pool) closeIdle() {
	p.g.mu.Lock()
	hosts := slices.Clone(p.g.hosts)
	for _, l := range p.leaving {
		hosts = append(hosts, l.h)
	}
	p.g.mu.Unlock()
	closeIdle(hosts)
}
