package balancer

import (
	"context"
	"maps"
	"time"
)

// idleTick is the time between two ticks of a target that has had no request for longer than that.
const idleTick = time.Second

// upkeep ticks until ctx ends, or the target has been idle for Config.IdleTimeout and is dropped.
func (p *pool) upkeep(ctx context.Context) {
	timer := time.NewTimer(tickInterval)
	defer timer.Stop()
	last, lastUse := uint64(0), p.balancer.now()
	for {
		select {
		case <-ctx.Done():
			p.stopResolver()
			return
		case <-timer.C:
		}
		now := p.balancer.now()
		idleTimeout := p.tick(now)
		if n := p.count().Requests; n != last || p.inFlight() > 0 {
			last, lastUse = n, now
		}
		quiet := time.Duration(now - lastUse)
		if idleTimeout > 0 && quiet >= idleTimeout && p.balancer.drop(p) {
			p.stopResolver()
			p.readyOnce.Do(func() { close(p.ready) }) // for a request that came at this moment
			p.closeIdle()
			return
		}
		if quiet > idleTick {
			timer.Reset(idleTick)
		} else {
			timer.Reset(tickInterval)
		}
	}
}

// tick is the upkeep of the group and of its endpoints' connections. It returns Config.IdleTimeout.
func (p *pool) tick(now int64) time.Duration {
	if p.group.ready() {
		p.group.tick(now)
	}
	p.mu.Lock()
	members, left := p.group.members(), p.settleLeavingLocked()
	idleTimeout := p.cfg.IdleTimeout
	p.unlock()
	for _, e := range members {
		e.transport.Load().conns.upkeep(time.Now())
	}
	for _, e := range left {
		e.transport.Load().closeIdle()
	}
	if available, all, _ := p.group.counts(now); all > 0 && 2*available <= all {
		p.hint()
	}
	return idleTimeout
}

// settleLeavingLocked returns the endpoints that are leaving, and forgets those that are done.
func (p *pool) settleLeavingLocked() []*endpoint {
	endpoints := make([]*endpoint, 0, len(p.leaving))
	kept := p.leaving[:0]
	for _, l := range p.leaving {
		endpoints = append(endpoints, l.endpoint)
		if l.quiet++; l.endpoint.inFlight.Load() > 0 {
			l.quiet = 0
		}
		// Two ticks, for a pick from the last snapshot and a connection on its way to the idle
		// ones.
		if l.quiet < 2 {
			kept = append(kept, l)
			continue
		}
		p.left.add(l.endpoint)
	}
	clear(p.leaving[len(kept):])
	p.leaving = kept
	return endpoints
}

func (p *pool) stopResolver() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cancel()
}

// drop forgets p, unless a request came meanwhile.
func (b *Balancer) drop(p *pool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	pools := maps.Clone(*b.pools.Load())
	if pools[p.key] != p {
		return false
	}
	if p.dropped.Store(true); p.inFlight() > 0 {
		p.dropped.Store(b.closed)
		return false
	}
	delete(pools, p.key)
	b.pools.Store(&pools)
	b.dropped.add(p.count())
	return true
}
