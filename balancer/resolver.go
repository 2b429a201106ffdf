package balancer

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"slices"
	"sync"

	"github.com/trivet-go/trivet/internal/settings"
)

// A Resolver says which endpoints serve a target. It must be safe for concurrent use.
type Resolver interface {
	// Resolve calls update with the complete set of target's endpoints, now and whenever it
	// changes, or with an error when it cannot tell; the set before the error stays in use. It
	// returns when ctx ends. A value from refresh hints that something is wrong with the set and a
	// fresh one is wanted. update copies the set. target has a scheme and a host only.
	Resolve(
		ctx context.Context, target *url.URL, refresh <-chan struct{}, update func([]Endpoint, error),
	)
}

// Static returns a resolver with the same endpoints for every target: see [Config.Targets].
func Static(addrs ...string) Resolver {
	endpoints := make([]Endpoint, len(addrs))
	for i, a := range addrs {
		endpoints[i] = Endpoint{Addr: a}
	}
	return NewPushed(endpoints...)
}

// A Pushed is a [Resolver] whose set of endpoints is given by [Pushed.Set]: for control planes, and
// for endpoints with weights, priorities or zones. All targets get the same set: see
// [Config.Targets]. Create one with [NewPushed]. It is safe for concurrent use.
type Pushed struct {
	mu        sync.Mutex // guards the fields below
	endpoints []Endpoint
	changed   chan struct{} // closed by the next Set
}

// NewPushed returns a Pushed with the endpoints given.
func NewPushed(endpoints ...Endpoint) *Pushed {
	return &Pushed{endpoints: slices.Clone(endpoints), changed: make(chan struct{})}
}

// Set replaces the endpoints. Requests in flight at endpoints that are gone run to their end. An
// endpoint without an address is left out, and reported as an [Event].
func (p *Pushed) Set(endpoints ...Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endpoints = slices.Clone(endpoints)
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Pushed) validate() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := settings.Of("balancer", "Pushed")
	for i, e := range p.endpoints {
		if e.lacksAddress() {
			f.Add("", "endpoint %d has no address", i)
		}
	}
	return f.Err()
}

// Resolve implements [Resolver].
func (p *Pushed) Resolve(ctx context.Context, _ *url.URL, _ <-chan struct{}, update func([]Endpoint, error)) {
	for {
		p.mu.Lock()
		endpoints, changed := p.endpoints, p.changed
		p.mu.Unlock()
		update(endpoints, nil)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Subset returns a resolver that passes on at most size of r's endpoints, for fleets in which not
// every client can have connections to every server. key identifies the client: each key has its
// own subset, chosen by rendezvous hashing, so that a change of the set moves little. size must be
// positive; use at least 20, and a policy that looks at load, since the number of clients per
// endpoint varies. [New] checks r and size.
func Subset(r Resolver, key string, size int) Resolver {
	return &subset{r, key, size}
}

type subset struct {
	next Resolver
	key  string
	size int
}

func (s *subset) validate() error {
	var err error
	f := settings.Of("balancer", "Subset")
	if isNil(s.next) {
		f.Add("", "the resolver of a Subset is nil")
	} else if v, ok := s.next.(interface{ validate() error }); ok {
		err = v.validate()
	}
	if s.size <= 0 {
		f.Add("", "the size of a Subset, %d, is not positive", s.size)
	}
	return errors.Join(f.Err(), err)
}

func (s *subset) Resolve(
	ctx context.Context, target *url.URL, refresh <-chan struct{}, update func([]Endpoint, error),
) {
	s.next.Resolve(ctx, target, refresh, func(all []Endpoint, err error) {
		update(s.choose(all), err)
	})
}

func (s *subset) choose(all []Endpoint) []Endpoint {
	if len(all) <= s.size {
		return all
	}
	key := hashString(s.key)
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b Endpoint) int {
		return cmp.Or(
			cmp.Compare(mix(key, hashString(b.Addr)), mix(key, hashString(a.Addr))),
			cmp.Compare(a.Addr, b.Addr),
		)
	})
	return all[:s.size]
}
