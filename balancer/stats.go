package balancer

import "time"

// Stats is a snapshot of a [Balancer]'s counters and gauges.
type Stats struct {
	Requests    uint64 `json:"requests"`     // attempts that have a header or an error
	Failures    uint64 `json:"failures"`     // of these
	Repicked    uint64 `json:"repicked"`     // attempts after which the request was sent again
	NoEndpoints uint64 `json:"no_endpoints"` // requests that failed with ErrNoEndpoints
	Full        uint64 `json:"full"`         // of these, with ErrFull
	Ejections   uint64 `json:"ejections"`
	// Panics are those of Observe, of Health.Check and of a Resolver that the Balancer has
	// recovered. On a caller's goroutine a panic passes through, and is not counted.
	Panics uint64 `json:"panics"`

	Targets   int `json:"targets"`
	Endpoints int `json:"endpoints"`
	Available int `json:"available"` // endpoints that get requests
	InFlight  int `json:"in_flight"` // attempts, bodies and upgraded connections included
	Streams   int `json:"streams"`   // upgraded connections
	Queued    int `json:"queued"`    // requests in flight that wait for an endpoint with room
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
	s.Full += o.Full
	s.Ejections += o.Ejections
}

// Stats returns the present counters and gauges.
func (b *Balancer) Stats() Stats {
	s := Stats{
		Panics:           b.panics.Load(),
		EndpointRequests: map[string]uint64{},
		EndpointFailures: map[string]uint64{},
		EndpointInFlight: map[string]int{},
	}
	b.mu.Lock()
	s.add(b.dropped)
	pools := *b.pools.Load()
	b.mu.Unlock()
	now := b.now()
	for _, p := range pools {
		s.add(p.count())
		s.Targets++
		s.Streams += int(p.streams.Load())
		available, all, panicking := p.group.counts(now)
		s.Available += available
		s.Endpoints += all
		if panicking {
			s.Panicking++
		}
		p.mu.Lock()
		for _, e := range p.group.members() {
			addr := e.public().Addr
			s.EndpointRequests[addr] += e.replied.Load()
			s.EndpointFailures[addr] += e.failed.Load()
		}
		for _, e := range p.allLocked() {
			n := int(e.inFlight.Load())
			s.EndpointInFlight[e.public().Addr] += n
			s.InFlight += n
			s.Queued += e.gate.Load().queued()
		}
		p.mu.Unlock()
	}
	return s
}

// count returns the counters of p.
func (p *pool) count() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := p.left
	for _, e := range p.allLocked() {
		sum.add(e)
	}
	return Stats{
		Requests: sum.replied, Failures: sum.failed, Repicked: p.repicked.Load(),
		NoEndpoints: p.unserved.Load(), Full: p.full.Load(), Ejections: p.group.ejections.Load(),
	}
}

// counts returns how many endpoints are available, how many there are, and whether the target is in
// panic mode.
func (g *group) counts(now int64) (available, all int, panicking bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.endpoints {
		if e.stateLocked(now) == Healthy {
			available++
		}
	}
	return available, len(g.endpoints), g.panicking
}

// An EndpointStatus is what is known of one endpoint of a target.
type EndpointStatus struct {
	Addr     string            `json:"addr"`
	Weight   uint32            `json:"weight"`
	Priority uint8             `json:"priority"`
	Zone     string            `json:"zone,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`

	State  State  `json:"state"`
	Reason Reason `json:"reason,omitempty"` // of an ejection
	// CheckError is why the last active check failed, if it did.
	CheckError string `json:"check_error,omitempty"`
	// LastError is why an attempt failed last, if without an answer, and LastErrorAt when.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// Share is how much of its part an endpoint in slow start gets; otherwise 1.
	Share          float64       `json:"share"`
	InFlight       int           `json:"in_flight"`
	Queued         int           `json:"queued"`   // of these, for room under Config.MaxConns
	Requests       uint64        `json:"requests"` // attempts that have a header or an error
	Failures       uint64        `json:"failures"`
	FailuresInARow int           `json:"failures_in_a_row"`
	Cost           time.Duration `json:"cost_ns"` // see [View.Cost]
	EjectedFor     time.Duration `json:"ejected_for_ns,omitempty"`
	Ejections      int           `json:"ejections"` // that count for the length of the next one
	CheckLatency   time.Duration `json:"check_latency_ns,omitempty"`
}

// Endpoints returns the endpoints of target ("https://users.internal"), by address, and then those
// that have been removed and are draining. It is nil if the target has had no request.
func (b *Balancer) Endpoints(target string) []EndpointStatus {
	u, err := parseTarget(target)
	if err != nil {
		return nil
	}
	p := (*b.pools.Load())[targetKey{u.Scheme, u.Host}]
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.group.statuses(p.allLocked(), b.now())
	for i := len(all) - len(p.leaving); i < len(all); i++ {
		all[i].State = Draining
	}
	return all
}

func (g *group) statuses(endpoints []*endpoint, now int64) []EndpointStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]EndpointStatus, len(endpoints))
	for i, e := range endpoints {
		all[i] = e.statusLocked(now)
	}
	return all
}

func (e *endpoint) statusLocked(now int64) EndpointStatus {
	public := e.public()
	s := EndpointStatus{
		Addr: public.Addr, Weight: max(public.Weight, 1), Priority: public.Priority, Zone: public.Zone,
		Labels: public.Labels, State: e.stateLocked(now), Reason: e.reason,
		CheckError: e.checkError, Share: e.slowStart.Load(),
		InFlight: int(e.inFlight.Load()), Requests: e.replied.Load(), Failures: e.failed.Load(),
		FailuresInARow: int(e.failures.Load()), Cost: time.Duration(e.cost.Load()), Ejections: e.ejections,
		CheckLatency: time.Duration(e.checkCost), Queued: e.gate.Load().queued(),
	}
	if e.ejectedUntil > now {
		s.EjectedFor = time.Duration(e.ejectedUntil - now)
	}
	if last := e.lastError.Load(); last != nil {
		s.LastError, s.LastErrorAt = last.text, last.at
	}
	return s
}
