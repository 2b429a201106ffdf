package balancer

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Stats is a snapshot of a [Balancer]'s counters and gauges.
type Stats struct {
	Requests    uint64 `json:"requests"`     // attempts with a header or an error
	Failures    uint64 `json:"failures"`     // of these
	Repicked    uint64 `json:"repicked"`     // attempts that could not be sent and went to another endpoint
	NoEndpoints uint64 `json:"no_endpoints"` // requests that failed with ErrNoEndpoints
	Ejections   uint64 `json:"ejections"`

	Targets   int `json:"targets"`
	Endpoints int `json:"endpoints"`
	Available int `json:"available"` // endpoints that get requests
	InFlight  int `json:"in_flight"` // attempts, bodies included
	Streams   int `json:"streams"`   // upgraded connections
	Panicking int `json:"panicking"` // targets in panic mode

	// By endpoint address.
	EndpointRequests map[string]uint64 `json:"endpoint_requests"`
	EndpointFailures map[string]uint64 `json:"endpoint_failures"`
	EndpointInFlight map[string]int    `json:"endpoint_in_flight"`
}

func (s *Stats) add(o Stats) {
	s.Requests += o.Requests
	s.Failures += o.Failures
	s.Repicked += o.Repicked
	s.NoEndpoints += o.NoEndpoints
	s.Ejections += o.Ejections
}

func (s *Stats) count(h *host) {
	s.Requests += h.replied.Load()
	s.Failures += h.failed.Load()
}

// count returns the counters of p.
func (p *pool) count() Stats {
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	s := p.counted
	for _, h := range p.g.hosts {
		s.count(h)
	}
	for _, l := range p.leaving {
		s.count(l.h)
	}
	s.Repicked, s.NoEndpoints, s.Ejections = p.repicked.Load(), p.refused.Load(), p.g.ejectTotal
	return s
}

func (g *group) availableLocked(now int64) (available, all int) {
	for _, h := range g.hosts {
		if h.stateLocked(now) == Healthy {
			available++
		}
	}
	return available, len(g.hosts)
}

// Stats returns the present counters and gauges.
func (b *Balancer) Stats() Stats {
	s := Stats{EndpointRequests: map[string]uint64{}, EndpointFailures: map[string]uint64{}, EndpointInFlight: map[string]int{}}
	b.mu.Lock()
	s.add(b.gone)
	pools := *b.pools.Load()
	b.mu.Unlock()
	now := b.now()
	for _, p := range pools {
		s.add(p.count())
		s.Targets++
		s.Streams += int(p.streams.Load())
		p.g.mu.Lock()
		available, all := p.g.availableLocked(now)
		s.Available += available
		s.Endpoints += all
		if p.g.panicking {
			s.Panicking++
		}
		for _, h := range p.g.hosts {
			addr, n := h.endpoint().Addr, int(h.inflight.Load())
			s.EndpointRequests[addr] += h.replied.Load()
			s.EndpointFailures[addr] += h.failed.Load()
			s.EndpointInFlight[addr] += n
			s.InFlight += n
		}
		for _, l := range p.leaving {
			n := int(l.h.inflight.Load())
			s.EndpointInFlight[l.h.endpoint().Addr] += n
			s.InFlight += n
		}
		p.g.mu.Unlock()
	}
	return s
}

// A EndpointStatus is what is known of one endpoint of a target.
type EndpointStatus struct {
	Addr     string            `json:"addr"`
	Weight   uint32            `json:"weight"`
	Priority uint8             `json:"priority"`
	Zone     string            `json:"zone,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`

	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"` // of an ejection, or the last check's error
	// Share is how much of its part the endpoint gets while it comes back; otherwise 1.
	Share          float64       `json:"share"`
	InFlight       int           `json:"in_flight"`
	Requests       uint64        `json:"requests"`
	Failures       uint64        `json:"failures"`
	FailuresInARow int           `json:"failures_in_a_row"`
	Cost           time.Duration `json:"cost_ns"` // see [View.Cost]
	EjectedFor     time.Duration `json:"ejected_for_ns,omitempty"`
	Ejections      int           `json:"ejections"` // that count for the length of the next one
	CheckLatency   time.Duration `json:"check_latency_ns,omitempty"`
}

// Endpoints returns the endpoints of target ("https://users.internal"), by address, and those that
// are draining. It is nil if the target has had no request.
func (b *Balancer) Endpoints(target string) []EndpointStatus {
	u, err := parseTarget(target)
	if err != nil {
		return nil
	}
	p := (*b.pools.Load())[targetKey{u.Scheme, u.Host}]
	if p == nil {
		return nil
	}
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	now := b.now()
	all := make([]EndpointStatus, 0, len(p.g.hosts)+len(p.leaving))
	for _, h := range p.g.hosts {
		all = append(all, h.statusLocked(now))
	}
	for _, l := range p.leaving {
		s := l.h.statusLocked(now)
		s.State = Draining
		all = append(all, s)
	}
	return all
}

func (h *host) statusLocked(now int64) EndpointStatus {
	e := h.endpoint()
	s := EndpointStatus{
		Addr: e.Addr, Weight: max(e.Weight, 1), Priority: e.Priority, Zone: e.Zone, Labels: e.Labels,
		State: h.stateLocked(now), Reason: h.reason, Share: h.ramp.Load(),
		InFlight: int(h.inflight.Load()), Requests: h.replied.Load(), Failures: h.failed.Load(), FailuresInARow: int(h.failures.Load()),
		Cost: time.Duration(h.cost.Load()), Ejections: h.ejections, CheckLatency: time.Duration(h.probeCost),
	}
	if h.ejectedUntil > now {
		s.EjectedFor = time.Duration(h.ejectedUntil - now)
	}
	if s.Reason == "" {
		s.Reason = h.checkError
	}
	return s
}

// parseTarget parses a target as [Balancer.Endpoints] and [Balancer.Warm] take it.
func parseTarget(target string) (*url.URL, error) {
	u, err := url.Parse(target)
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		err = fmt.Errorf("want scheme://host")
	}
	if err != nil {
		return nil, fmt.Errorf("balancer: target %q: %w", target, err)
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}
