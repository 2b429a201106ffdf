package balancer

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"time"
)

// oldCheckWeight is the weight of what is known against a further check in the average of their
// latencies.
const oldCheckWeight = 1 / math.E

// startChecksLocked starts what e needs before and beside its requests: warm-up and active checks.
func (p *pool) startChecksLocked(e *endpoint) {
	cfg := p.cfg
	if cfg.Warm == 0 && !cfg.Health.enabled() {
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	p.checks[e] = cancel
	warm := cfg.Warm
	if e.picked.Load() > 0 {
		warm = 0 // after a Reload it has connections
	}
	p.balancer.wg.Go(func() {
		defer cancel()
		if warm > 0 {
			p.warm(ctx, cfg, e, warm)
			p.group.warmed(e, p.balancer.now())
		}
		if cfg.Health.enabled() {
			p.check(ctx, cfg, e)
		}
	})
}

func (p *pool) stopChecksLocked(e *endpoint) {
	if cancel := p.checks[e]; cancel != nil {
		cancel()
		delete(p.checks, e)
	}
}

// check checks e until ctx ends.
func (p *pool) check(ctx context.Context, cfg *Config, e *endpoint) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := p.balancer.now()
		err := p.checkOnce(ctx, cfg, e)
		if !p.checked(ctx, e, err, start) {
			return
		}
		timer.Reset(time.Duration((0.8 + 0.4*rand.Float64()) * float64(cfg.Health.Interval)))
	}
}

// checked enters how the check of e went that began at start. It returns false if ctx has ended:
// then the check failed because it was stopped, or no further one will correct what it says.
func (p *pool) checked(ctx context.Context, e *endpoint, err error, start int64) bool {
	now := p.balancer.now()
	p.mu.Lock()
	defer p.unlock()
	if ctx.Err() != nil { // with the mutex held, since Reload stops checks under it
		return false
	}
	p.group.checked(e, err, now-start, now)
	return true
}

func (p *pool) checkOnce(ctx context.Context, cfg *Config, e *endpoint) (err error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Health.Timeout)
	defer cancel()
	rt := checkConns{e.transport.Load().conns}
	if cfg.Health.Check != nil {
		defer func() {
			if v := recover(); v != nil { // a check is the user's code on our goroutine
				p.balancer.panics.Add(1)
				err = fmt.Errorf("balancer: health check panicked: %v", v)
			}
		}()
		return cfg.Health.Check(ctx, e.public(), rt)
	}
	h := &cfg.Health
	resp, err := ask(ctx, rt, p.target, h.Host, http.MethodGet, h.Path, "Trivet-Health-Check")
	if err == nil && (resp.StatusCode < 200 || resp.StatusCode > 399) {
		err = fmt.Errorf("balancer: health check: status %d", resp.StatusCode)
	}
	return err
}

// checked tells the group how an active check of e went.
func (g *group) checked(e *endpoint, err error, took, now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isMemberLocked(e) {
		return
	}
	config := g.config.Load()
	first := !e.checked
	e.checked = true
	if err != nil {
		e.checks, e.checkError = min(e.checks, 0)-1, err.Error()
		pending, available := e.down && first, !e.down
		if pending || available && -e.checks >= config.Health.Fall {
			e.down = true
			event := e.changeLocked(now, ReasonHealthCheck)
			event.Err = err
			g.emitLocked(event)
			g.publishLocked(now)
		}
		return
	}
	e.checks, e.checkError = max(e.checks, 0)+1, ""
	e.checkCost = (&estimator{}).average(e.checkCost, float64(max(took, 1)), oldCheckWeight)
	if e.down && (first || e.checks >= config.Health.Rise) {
		e.down = false
		e.failures.Store(0)
		e.brokenBodies.Store(0)
		g.startSlowlyLocked(config, e, now)
		g.emitLocked(e.changeLocked(now, ReasonHealthCheck))
		g.publishLocked(now)
	}
	g.reviseLocked(config, e, now)
}

// reviseLocked refreshes the estimate of a slow endpoint by how its checks compare with those of
// the others, so that no user's request is spent on finding out. If its checks are good and its
// replies slow, it meets one request per check.
func (g *group) reviseLocked(config *groupConfig, e *endpoint, now int64) {
	typical := g.typical.Load()
	if e.slow.Load() < 2 || typical == 0 || !config.keepsCosts() {
		return
	}
	var others []float64
	for _, o := range g.endpoints {
		if o != e && o.checkCost > 0 {
			others = append(others, o.checkCost)
		}
	}
	if len(others) == 0 {
		return
	}
	ratio := e.checkCost / lowerMedian(others)
	if ratio > slowFactor/2 {
		return
	}
	e.slow.Store(0)
	g.setCost(config, e, typical*max(ratio, 1))
	e.sampled.Store(now)
	g.startProbationLocked(e, now)
}

// warmed lets an endpoint that waited for its warm-up have requests, unless it waits for a check
// too.
func (g *group) warmed(e *endpoint, now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if config := g.config.Load(); e.down && !config.checksHealth {
		e.down = false
		g.emitLocked(e.changeLocked(now, ReasonWarmUp))
		g.publishLocked(now)
	}
}
