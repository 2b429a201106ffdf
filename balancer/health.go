package balancer

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// checkLocked starts what h needs before and beside its requests: warm-up, and active checks.
func (p *pool) checkLocked(h *host) {
	cfg := p.cfg
	if cfg.Warm == 0 && !cfg.Health.enabled() {
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	p.checks[h] = cancel
	warm := cfg.Warm
	if h.picked.Load() > 0 {
		warm = 0 // after a Reload it has connections
	}
	p.b.wg.Go(func() {
		defer cancel()
		if warm > 0 {
			p.warm(ctx, cfg, h, warm)
			p.g.admit(h, p.b.now())
		}
		if cfg.Health.enabled() {
			p.check(ctx, cfg, h)
		}
	})
}

// check checks h until ctx ends.
func (p *pool) check(ctx context.Context, cfg *Config, h *host) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := p.b.now()
		err := p.checkOnce(ctx, cfg, h)
		if !p.checked(ctx, h, err, start) {
			return
		}
		timer.Reset(time.Duration((0.8 + 0.4*rand.Float64()) * float64(cfg.Health.Interval)))
	}
}

// checked enters how the check of h went that began at start. It returns false if ctx has ended: the check failed because we are leaving,
// or nobody is left to take back what it says.
func (p *pool) checked(ctx context.Context, h *host, err error, start int64) bool {
	now := p.b.now()
	p.g.mu.Lock()
	defer p.unlock()
	if ctx.Err() != nil { // with the lock held, since Reload ends checks under it
		return false
	}
	p.g.checkedLocked(h, err, now-start, now)
	return true
}

func (p *pool) checkOnce(ctx context.Context, cfg *Config, h *host) (err error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Health.Timeout)
	defer cancel()
	rt := h.wire.Load().conns
	if cfg.Health.Check != nil {
		defer func() {
			if v := recover(); v != nil { // a check is the user's code on our goroutine
				err = fmt.Errorf("balancer: health check panicked: %v", v)
			}
		}()
		return cfg.Health.Check(ctx, h.endpoint(), rt)
	}
	status, err := p.probe(ctx, rt, http.MethodGet, cfg.Health.Path)
	if err == nil && (status < 200 || status > 399) {
		err = fmt.Errorf("balancer: health check: status %d", status)
	}
	return err
}

// probe sends a request of the pool's own.
func (p *pool) probe(ctx context.Context, rt http.RoundTripper, method, path string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, p.name, nil)
	if err != nil {
		return 0, err
	}
	if path == "*" {
		req.URL.Opaque = "*"
	} else if req.URL, err = p.target.Parse(path); err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "Trivet-Health-Check")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	return resp.StatusCode, err
}

// warm opens n connections to h: requests that start together each need one.
func (p *pool) warm(ctx context.Context, cfg *Config, h *host, n int) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Health.Timeout)
	defer cancel()
	method, path := http.MethodGet, cfg.Health.Path
	if path == "" {
		method, path = http.MethodOptions, "*"
	}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			_, _ = p.probe(ctx, h.wire.Load().conns, method, path) // whatever it says, there is a connection now, or none to be had
		})
	}
	wg.Wait()
}

// Warm resolves target ("https://users.internal") and opens n connections to each of its endpoints, so that the first
// requests need not. It returns when that is done or has failed; the error is that of the resolver, or of ctx.
// [Balancer.Close] stops it.
func (b *Balancer) Warm(ctx context.Context, target string, n int) error {
	u, err := parseTarget(target)
	if err != nil {
		return err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	b.wg.Add(1) // Close waits
	b.mu.Unlock()
	defer b.wg.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.ctx, func() { cancel(ErrClosed) })()
	p, err := b.resolved(ctx, u)
	if err != nil {
		return err
	}
	cfg := b.cfg.Load()
	var wg sync.WaitGroup
	for _, h := range p.g.current.Load().all {
		wg.Go(func() { p.warm(ctx, cfg, h, n) })
	}
	wg.Wait()
	return context.Cause(ctx)
}
