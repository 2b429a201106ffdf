package balancer

import (
	"context"
	"net/http"
	"sync"
)

// Warm resolves target ("https://users.internal") and opens n connections to each of its endpoints,
// so that the first requests need not. With n zero or negative it resolves only. It returns when
// that is done or has failed; the error is that of the resolver, or of ctx. [Balancer.Close] stops
// it.
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
	for _, e := range p.group.members() {
		wg.Go(func() { p.warm(ctx, cfg, e, n) })
	}
	wg.Wait()
	return context.Cause(ctx)
}

// warm opens n connections to e: requests that start together need one each.
func (p *pool) warm(ctx context.Context, cfg *Config, e *endpoint, n int) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Health.Timeout)
	defer cancel()
	method, path := http.MethodGet, cfg.Health.Path
	if path == "" {
		method, path = http.MethodOptions, "*"
	}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			// Whatever the answer, there is a connection now, or none to be had.
			_, _ = ask(ctx, e.transport.Load().conns, p.target, cfg.Health.Host, method, path,
				"Trivet-Health-Check")
		})
	}
	wg.Wait()
}
