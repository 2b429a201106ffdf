package balancer

import (
	"context"
	"slices"
	"sync"
)

type triedKey struct{}

// tried are the hosts that requests of one context have been to.
type tried struct {
	mu    sync.Mutex // guards hosts
	hosts []*host
}

func (t *tried) list() []*host {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.hosts)
}

func (t *tried) add(h *host) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.hosts, h) {
		t.hosts = append(t.hosts, h)
	}
}

// Avoid returns a context whose requests each go to an endpoint that none of them has been to, as long as there
// is one. Retrying and hedging layers call it once for a request and use the context for all of its attempts, also concurrently.
func Avoid(ctx context.Context) context.Context {
	return context.WithValue(ctx, triedKey{}, &tried{})
}

func triedFrom(ctx context.Context) *tried {
	t, _ := ctx.Value(triedKey{}).(*tried)
	return t
}

// A Pick tells where a request went, and why.
type Pick struct {
	Endpoint Endpoint
	Reason   string // "cost", "least request", "turn", "random", "hash", "sticky", "probe", "explore", "only", "policy", "any"
	Among    int    // endpoints that were chosen from
	Repicked int    // endpoints before this one that the request could not be sent to
	Panic    bool   // the target was in panic mode
}

type pickKey struct{}

// WithPick returns a context whose requests write where they went to pick, before they are sent. It is
// for one request at a time: the caller must not read pick while a request is running.
func WithPick(ctx context.Context, pick *Pick) context.Context {
	return context.WithValue(ctx, pickKey{}, pick)
}
