package balancer

import (
	"context"
	"slices"
	"sync"
)

type visitedKey struct{}

// visited are the endpoints that the requests of one context have been to.
type visited struct {
	mu        sync.Mutex // guards endpoints
	endpoints []*endpoint
}

// Avoid returns a context whose requests each go to an endpoint that none of them has been to, as
// long as there is one. Retrying and hedging layers call it once per request and use the context
// for all attempts, also concurrently.
func Avoid(ctx context.Context) context.Context {
	return context.WithValue(ctx, visitedKey{}, &visited{})
}

func visitedFrom(ctx context.Context) *visited {
	v, _ := ctx.Value(visitedKey{}).(*visited)
	return v
}

func (v *visited) list() []*endpoint {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.endpoints)
}

func (v *visited) add(e *endpoint) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !slices.Contains(v.endpoints, e) {
		v.endpoints = append(v.endpoints, e)
	}
}
