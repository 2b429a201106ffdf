package balancer

import (
	"context"
	"fmt"
	"time"
)

// resolveAgain is how long after a panic a resolver is called again.
const resolveAgain = time.Second

// guarded runs a hook on a goroutine of the pool's own, where a panic would end the process. It
// returns and counts it as an error.
func (p *pool) guarded(hook func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p.balancer.panics.Add(1)
			err = fmt.Errorf("balancer: hook panicked: %v", v)
		}
	}()
	hook()
	return nil
}

// resolve runs the resolver until it returns or ctx ends. A panic of it counts as a failed lookup,
// after which the last good endpoints stay.
func (p *pool) resolve(ctx context.Context, resolver Resolver) {
	update := func(endpoints []Endpoint, err error) { p.update(ctx, endpoints, err) }
	for {
		err := p.guarded(func() { resolver.Resolve(ctx, p.target, p.refresh, update) })
		if err == nil {
			return
		}
		update(nil, err)
		timer := time.NewTimer(resolveAgain)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}
