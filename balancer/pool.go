package balancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A pool is a target at work: its group, its resolver, and the transports of its endpoints.
type pool struct {
	balancer *Balancer
	key      targetKey
	target   *url.URL
	name     string
	group    *group

	ready      chan struct{} // closed when the resolver has spoken for the first time
	readyOnce  sync.Once
	refresh    chan struct{} // one hint at a time
	resolveErr atomic.Pointer[error]
	streams    atomic.Int64 // upgraded connections, which are in flight at their endpoints
	waiting    atomic.Int64 // requests that wait for the resolver, or are between two endpoints
	repicked   atomic.Uint64
	unserved   atomic.Uint64 // requests that failed with ErrNoEndpoints
	full       atomic.Uint64 // of these, with ErrFull

	// dropped is set when the pool is dropped, and by Close. drop sets it, then counts the
	// requests; a request counts itself, then reads it, so at least one of the two notices.
	dropped atomic.Bool

	mu      sync.Mutex // guards the fields below; is taken before the group's
	cfg     *Config
	ctx     context.Context // of the present resolver and checks
	cancel  context.CancelFunc
	checks  map[*endpoint]context.CancelFunc
	leaving []leaving
	left    counters // of endpoints that have left
}

// A leaving endpoint is no longer in the set, but has connections to close.
type leaving struct {
	endpoint *endpoint
	quiet    int // ticks without a request
}

type targetKey struct{ scheme, host string }

// parseTarget parses a target as [Balancer.Endpoints] and [Balancer.Warm] take it.
func parseTarget(target string) (*url.URL, error) {
	u, err := url.Parse(target)
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		err = errors.New("want scheme://host")
	}
	if err != nil {
		return nil, fmt.Errorf("balancer: target %q: %w", target, err)
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

// resolved returns the pool of u's target when its endpoints are known.
func (b *Balancer) resolved(ctx context.Context, u *url.URL) (*pool, error) {
	for {
		p, err := b.pool(u)
		if err != nil {
			return nil, err
		}
		if err := p.wait(ctx); err != errDropped {
			return p, err
		}
	}
}

// pool returns the pool of u's target, and starts it if there is none.
func (b *Balancer) pool(u *url.URL) (*pool, error) {
	key := targetKey{u.Scheme, u.Host}
	if p := (*b.pools.Load())[key]; p != nil {
		return p, nil
	}
	key.host = strings.ToLower(key.host) // rarely needed, so not on the fast path
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	pools := *b.pools.Load()
	if p := pools[key]; p != nil {
		return p, nil
	}
	cfg := b.cfg.Load()
	if len(pools) >= cfg.MaxTargets {
		return nil, ErrTooManyTargets
	}
	p := newPool(b, cfg, key)
	pools = maps.Clone(pools)
	pools[key] = p
	b.pools.Store(&pools)
	p.start()
	return p, nil
}

// errDropped says that a pool was dropped when a request came for it.
var errDropped = errors.New("balancer: target dropped")

// wait returns when the pool's endpoints are known, or cannot be.
func (p *pool) wait(ctx context.Context) error {
	if p.group.ready() {
		return nil
	}
	p.waiting.Add(1) // the target is not idle
	defer p.waiting.Add(-1)
	select {
	case <-p.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.balancer.ctx.Done():
		return ErrClosed
	}
	switch {
	case p.group.ready():
		return nil
	case p.balancer.ctx.Err() != nil:
		return ErrClosed
	case p.dropped.Load():
		return errDropped
	}
	return p.noEndpoints(0, nil)
}

func (p *pool) noEndpoints(tried int, err error) error {
	p.unserved.Add(1)
	if resolveErr := p.resolveErr.Load(); err == nil && resolveErr != nil {
		err = *resolveErr
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

func newPool(b *Balancer, cfg *Config, key targetKey) *pool {
	return &pool{
		balancer: b, key: key, cfg: cfg,
		target:  &url.URL{Scheme: key.scheme, Host: key.host},
		name:    key.scheme + "://" + key.host,
		group:   newGroup(cfg),
		ready:   make(chan struct{}),
		refresh: make(chan struct{}, 1),
		checks:  make(map[*endpoint]context.CancelFunc),
	}
}

// start starts the pool's goroutines. It is called with the Balancer's mutex held, and not after
// Close.
func (p *pool) start() {
	ctx, cancel := context.WithCancel(p.balancer.ctx)
	p.balancer.wg.Go(func() {
		defer cancel()
		p.upkeep(ctx)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.startResolverLocked(ctx)
}

// startResolverLocked starts a resolver that ends with parent, with the next call, or with
// stopResolver.
func (p *pool) startResolverLocked(parent context.Context) {
	if p.cancel != nil {
		p.cancel()
	}
	ctx, cancel := context.WithCancel(parent)
	p.ctx, p.cancel = ctx, cancel
	resolver := p.cfg.Resolver
	if probes := p.group.config.Load().probes; probes != nil {
		for range probeWorkers {
			p.balancer.wg.Go(func() { p.probe(ctx, probes) })
		}
	}
	p.balancer.wg.Go(func() {
		resolving, done := context.WithCancel(ctx) // checks and probes go on when it has given up
		defer done()
		p.resolve(resolving, resolver)
		if ctx.Err() == nil { // it has given up, so that requests must not wait for it
			p.readyOnce.Do(func() { close(p.ready) })
		}
	})
}

// update takes what the resolver of ctx says.
func (p *pool) update(ctx context.Context, endpoints []Endpoint, err error) {
	p.mu.Lock()
	if ctx.Err() != nil { // an older resolver's last word: the present one's is still to come
		p.mu.Unlock()
		return
	}
	defer p.readyOnce.Do(func() { close(p.ready) })
	defer p.unlock()
	if err != nil {
		p.resolveErr.Store(&err)
		p.group.emit(Event{Kind: TargetResolved, Err: err, Endpoints: len(p.group.members())})
		return
	}
	p.resolveErr.Store(nil)
	set := make([]Endpoint, 0, len(endpoints))
	for i, e := range endpoints {
		if e.lacksAddress() {
			err := fmt.Errorf("balancer: endpoint %d has no address", i)
			p.resolveErr.Store(&err)
			p.group.emit(Event{Kind: TargetResolved, Err: err, Endpoints: len(p.group.members())})
			continue
		}
		set = append(set, e.withPort(p.target))
	}
	connect := func(e *endpoint) { e.transport.Store(newEndpointTransport(p.cfg, e.public())) }
	added, changed, removed := p.group.update(set, p.balancer.now(), connect)
	for _, e := range changed {
		e.transport.Store(wrapConns(p.cfg, e.public(), e.transport.Load().conns))
	}
	for _, e := range removed {
		p.stopChecksLocked(e)
		p.leaving = append(p.leaving, leaving{endpoint: e})
	}
	for _, e := range added {
		p.startChecksLocked(e)
	}
	if len(added)+len(changed)+len(removed) > 0 {
		p.group.emit(Event{Kind: TargetResolved, Endpoints: len(p.group.members())})
	}
}

// unlock releases the pool's mutex and tells the observer what has happened. It runs on goroutines
// of the pool's own, so a panic of the observer goes no further.
func (p *pool) unlock() {
	ctx, observe := p.ctx, p.cfg.Observe
	p.mu.Unlock()
	if observe == nil {
		return
	}
	p.tell(ctx, func(ctx context.Context, e Event) {
		_ = p.guarded(func() { observe(ctx, e) })
	})
}

// tell sends the group's events to observe. No lock may be held.
func (p *pool) tell(ctx context.Context, observe func(context.Context, Event)) {
	if observe == nil {
		return
	}
	for _, e := range p.group.takeEvents() {
		e.Target = p.name
		observe(ctx, e)
	}
}

// reload makes the pool go by cfg. It is called with the Balancer's mutex held, so the events have
// to wait for the next tick.
func (p *pool) reload(cfg *Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.cfg
	p.cfg = cfg
	sameConns := old.Transport == cfg.Transport && old.Conns == cfg.Conns && old.ConnLife == cfg.ConnLife
	for _, e := range p.group.members() {
		if t := e.transport.Load(); sameConns {
			e.transport.Store(wrapConns(cfg, e.public(), t.conns))
		} else {
			next := newEndpointTransport(cfg, e.public())
			e.transport.Store(next)
			next.conns.inherit(t.conns, time.Now())
		}
		p.stopChecksLocked(e)
	}
	p.group.reload(cfg, p.balancer.now())
	if cfg.Observe == nil {
		p.group.takeEvents() // there is no observer to tell
	}
	p.startResolverLocked(p.balancer.ctx)
	for _, e := range p.group.members() {
		p.startChecksLocked(e)
	}
}

// inFlight returns how many requests the pool has, waiting ones and upgraded connections included.
func (p *pool) inFlight() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.waiting.Load()
	for _, e := range p.allLocked() {
		n += e.inFlight.Load()
	}
	return n
}

// allLocked returns the members of the group and the endpoints that are leaving.
func (p *pool) allLocked() []*endpoint {
	all := slices.Clone(p.group.members())
	for _, l := range p.leaving {
		all = append(all, l.endpoint)
	}
	return all
}

func (p *pool) closeIdle() {
	p.mu.Lock()
	all := p.allLocked()
	p.mu.Unlock()
	for _, e := range all {
		e.transport.Load().closeIdle()
	}
}
