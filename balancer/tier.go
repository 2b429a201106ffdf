package balancer

import "slices"

const (
	// overprovisioning is how much more than its share a tier's hosts can carry: with 72 % of them
	// available it still takes everything. Envoy's value.
	overprovisioning = 1.4

	// A tier whose median load is spillRatio times the next one's passes on spillStep more of its requests at
	// every tick, and takes back a twentieth of what it has passed on when it is not.
	spillRatio = 2
	spillStep  = 0.02
	spillMax   = 0.9
	// The ratio is a moving average over about two seconds, of moments that count as spillCap at most.
	spillWeight = 0.05
	spillCap    = 10
)

// publishLocked makes a new snapshot of the hosts' states.
func (g *group) publishLocked(now int64) {
	set := g.set.Load()
	levels := make(map[int][]*host)
	totals := make(map[int]int)
	known, available := 0, 0
	for _, h := range g.hosts {
		level := 2 * int(h.endpoint().Priority)
		if zone := set.cfg.Zone; zone != "" && h.endpoint().Zone != zone {
			level++
		}
		state := h.stateLocked(now)
		if state == Pending { // a fleet that grows is not one that fails
			continue
		}
		totals[level]++
		known++
		if state == Healthy {
			levels[level] = append(levels[level], h)
			available++
		}
	}
	order := make([]int, 0, len(totals))
	for level := range totals {
		order = append(order, level)
	}
	slices.Sort(order)

	s := &snapshot{all: g.hosts}
	carried := 0.0
	for _, level := range order {
		share := min(overprovisioning*float64(len(levels[level]))/float64(totals[level]), 1-carried)
		if share > 0 {
			carried += share
			s.tiers = append(s.tiers, newTier(levels[level], carried))
		}
	}
	panicking := carried < 1 && set.cfg.PanicBelow > 0 && len(g.hosts) > 0 && (available == 0 || float64(available) < set.cfg.PanicBelow*float64(known))
	switch {
	case panicking:
		s.tiers, s.panic = []tier{newTier(g.hosts, 1)}, true
	case len(s.tiers) == 0:
		s.tiers = []tier{{}}
	}
	if panicking != g.panicking {
		g.panicking = panicking
		g.emitLocked(Event{Kind: PanicChanged, Panicking: panicking, Available: available, Endpoints: len(g.hosts)})
	}
	// The shares of a set that cannot carry everything add up to carried, not to 1.
	for i := range s.tiers {
		s.tiers[i].upTo /= s.tiers[len(s.tiers)-1].upTo
	}
	if len(s.tiers) == 1 && len(order) > 1 && !s.panic {
		// The next tier is not needed for health, but may be for load.
		if i := slices.IndexFunc(order, func(l int) bool { return len(levels[l]) > 0 }); i+1 < len(order) && len(levels[order[i+1]]) > 0 {
			s.tiers = append(s.tiers, newTier(levels[order[i+1]], 1))
		}
	}
	if len(s.tiers) > 1 {
		s.tiers[0].upTo *= 1 - g.spill
	} else {
		g.spill = 0
	}
	g.current.Store(s)
}

func newTier(hosts []*host, upTo float64) tier {
	t := tier{hosts: hosts, upTo: upTo, uniform: true}
	for _, h := range hosts {
		w := max(h.endpoint().Weight, 1)
		if t.maxWeight != 0 && w != t.maxWeight {
			t.uniform = false
		}
		t.maxWeight = max(t.maxWeight, w)
	}
	return t
}

// spillLocked adapts how much the first tier passes on to the second by load. It
// reports whether the snapshot has to follow.
func (g *group) spillLocked() bool {
	s := g.current.Load()
	if len(s.tiers) < 2 {
		g.loadRatio = 0
		return false
	}
	before := g.spill
	// One moment says little: a single request in flight at each host already doubles what the next would meet.
	ratio := min(g.loadLocked(s.tiers[0].hosts)/g.loadLocked(s.tiers[1].hosts), spillCap)
	g.loadRatio += (ratio - g.loadRatio) * spillWeight
	if g.loadRatio > spillRatio {
		g.spill = min(g.spill+spillStep, spillMax)
	} else if g.spill *= 0.95; g.spill < spillStep/2 {
		g.spill = 0
	}
	return g.spill != before
}

// loadLocked returns the median of what a further request would meet on hosts, in units that only
// comparisons within one group share.
func (g *group) loadLocked(hosts []*host) float64 {
	typical := max(g.typical.Load(), 1)
	loads := make([]float64, 0, len(hosts))
	for _, h := range hosts {
		cost := h.cost.Load()
		if cost == 0 {
			cost = typical
		}
		if est := g.set.Load().est; est.decay == 0 || est.perInflight {
			cost *= float64(h.inflight.Load()+1) / h.weight()
		}
		loads = append(loads, cost)
	}
	slices.Sort(loads)
	return loads[(len(loads)-1)/2]
}
