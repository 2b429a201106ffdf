package main

import (
	"context"
	"sync"

	"github.com/trivet-go/trivet/balancer"
)

// holders count the generations that have each balancer and are not idle yet.
type holders struct {
	mu sync.Mutex // guards the field below
	n  map[*balancer.Balancer]int
}

// hold counts gen, which is about to get requests.
func (h *holders) hold(gen *generation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n == nil {
		h.n = map[*balancer.Balancer]int{}
	}
	for _, u := range gen.upstreams {
		h.n[u.balancer]++
	}
}

// drop closes the balancers that only gen, which is idle, has had.
func (h *holders) drop(gen *generation) {
	var unused []*upstream
	h.mu.Lock()
	for _, u := range gen.upstreams {
		if h.n[u.balancer]--; h.n[u.balancer] == 0 {
			delete(h.n, u.balancer)
			unused = append(unused, u)
		}
	}
	h.mu.Unlock()
	for _, u := range unused {
		u.close(context.Background())
	}
}
