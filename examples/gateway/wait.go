package main

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/balancer"
)

// maxWaiting is how many requests of an upstream wait for a host at once. More are treated as if
// there were no wait.
const maxWaiting = 1000

// A standby lets requests of an upstream wait while, as health checks say, all of its hosts are
// down. It goes on with the balancer over reloads, so that requests which began before one are
// woken, too.
type standby struct {
	down    atomic.Bool
	waiting atomic.Int64

	mu sync.Mutex    // guards the field below, and changes of down
	up chan struct{} // closed when a host is up; nil while one is
}

// observe notes what has become of the hosts. It must be called after each change of one.
func (s *standby) observe(hosts func() []balancer.EndpointStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Read with the lock held: the last caller has the latest state.
	down := true
	for _, h := range hosts() {
		if h.State == balancer.Healthy {
			down = false
		}
	}
	switch {
	case down && s.up == nil:
		s.up = make(chan struct{})
	case !down && s.up != nil:
		close(s.up)
		s.up = nil
	}
	s.down.Store(down)
}

// wait lets a request wait up to d while all hosts are down. What it gets then is the same as
// without. It ends with the client, as far as net/http knows: over HTTP/1.1 a client that leaves is
// not noticed before its body has been read.
func (s *standby) wait(r *http.Request, d Duration) {
	if d == 0 || !s.down.Load() {
		return
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > maxWaiting {
		return
	}
	s.mu.Lock()
	up := s.up
	s.mu.Unlock()
	if up == nil {
		return
	}
	timer := time.NewTimer(time.Duration(d))
	defer timer.Stop()
	select {
	case <-up:
	case <-timer.C:
	case <-r.Context().Done():
	}
}
