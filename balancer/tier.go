package balancer

import "slices"

const (
	// overprovisioning is how much more than its share a tier's endpoints can carry: with 72 % of
	// them available it still takes everything. Envoy's value.
	overprovisioning = 1.4

	// A tier whose median load is more than spillRatio times the next one's passes on spillStep
	// more of its requests at every tick, up to spillMax. When it is not, it takes back a twentieth
	// of what it passes on.
	spillRatio = 2
	spillStep  = 0.02
	spillMax   = 0.9

	// The ratio is a moving average over about two seconds. One moment counts as spillCap at most.
	spillWeight = 0.05
	spillCap    = 10
)

func newTier(endpoints []*endpoint, upTo float64) tier {
	t := tier{endpoints: endpoints, upTo: upTo, uniform: true}
	for _, e := range endpoints {
		w := max(e.public().Weight, 1)
		if t.maxWeight != 0 && w != t.maxWeight {
			t.uniform = false
		}
		t.maxWeight = max(t.maxWeight, w)
	}
	return t
}

// publishLocked makes a new snapshot of the endpoints' states.
func (g *group) publishLocked(now int64) {
	config := g.config.Load()
	healthy := make(map[int][]*endpoint) // by level
	totals := make(map[int]int)
	known, available := 0, 0
	usable := make([]*endpoint, 0, len(g.endpoints)) // in panic mode
	for _, e := range g.endpoints {
		state := e.stateLocked(now)
		if state == Draining {
			continue
		}
		usable = append(usable, e)
		if state == Pending { // a fleet that grows is not one that fails
			continue
		}
		level := config.levelOf(e)
		totals[level]++
		known++
		if state == Healthy {
			healthy[level] = append(healthy[level], e)
			available++
		}
	}
	levels := make([]int, 0, len(totals))
	for level := range totals {
		levels = append(levels, level)
	}
	slices.Sort(levels)

	s := &snapshot{all: g.endpoints}
	carried := 0.0
	for _, level := range levels {
		share := min(overprovisioning*float64(len(healthy[level]))/float64(totals[level]), 1-carried)
		if share > 0 {
			carried += share
			s.tiers = append(s.tiers, newTier(healthy[level], carried))
		}
	}
	panicking := carried < 1 && config.PanicBelow > 0 && len(usable) > 0 &&
		(available == 0 || float64(available) < config.PanicBelow*float64(known))
	switch {
	case panicking:
		s.tiers = []tier{newTier(usable, 1)}
	case len(s.tiers) == 0:
		s.tiers = []tier{{}}
	}
	if panicking != g.panicking {
		g.panicking = panicking
		g.emitLocked(Event{
			Kind: PanicChanged, Panicking: panicking, Available: available, Endpoints: len(usable),
		})
	}
	// The shares of a set that cannot carry everything add up to carried, not to 1.
	for i := range s.tiers {
		s.tiers[i].upTo /= s.tiers[len(s.tiers)-1].upTo
	}
	if len(s.tiers) == 1 && len(levels) > 1 && !panicking {
		// The next tier is not needed for health, but may be for load.
		i := slices.IndexFunc(levels, func(l int) bool { return len(healthy[l]) > 0 })
		if i+1 < len(levels) && len(healthy[levels[i+1]]) > 0 {
			s.tiers = append(s.tiers, newTier(healthy[levels[i+1]], 1))
		}
	}
	if len(s.tiers) > 1 {
		s.tiers[0].upTo *= 1 - g.spill
	} else {
		g.spill = 0
	}
	g.current.Store(s)
}

// levelOf orders endpoints by priority, and within one by zone: the preferred ones have the lowest.
func (c *groupConfig) levelOf(e *endpoint) int {
	public := e.public()
	level := 2 * int(public.Priority)
	if c.Zone != "" && public.Zone != c.Zone {
		level++
	}
	return level
}

// adaptSpillLocked adapts how much the first tier passes on to the second for its load. It reports
// whether the snapshot has to follow.
func (g *group) adaptSpillLocked(config *groupConfig) bool {
	s := g.current.Load()
	if len(s.tiers) < 2 {
		g.loadRatio = 0
		return false
	}
	before := g.spill
	// One moment says little: a single request in flight at each endpoint already doubles what the
	// next would meet.
	ratio := min(g.medianLoad(config, &s.tiers[0])/g.medianLoad(config, &s.tiers[1]), spillCap)
	g.loadRatio += (ratio - g.loadRatio) * spillWeight
	if g.loadRatio > spillRatio {
		g.spill = min(g.spill+spillStep, spillMax)
	} else if g.spill *= 0.95; g.spill < spillStep/2 {
		g.spill = 0
	}
	return g.spill != before
}

// medianLoad returns the lower median of what a further request would meet on t's endpoints, in
// units that only comparisons within one group share.
func (g *group) medianLoad(config *groupConfig, t *tier) float64 {
	typical := max(g.typical.Load(), 1)
	loads := make([]float64, 0, len(t.endpoints))
	for _, e := range t.endpoints {
		cost := e.cost.Load()
		if cost == 0 {
			cost = typical
		}
		if !config.keepsCosts() || config.estimator.perInFlight {
			cost *= float64(e.inFlight.Load()+1) / e.weight()
		}
		loads = append(loads, cost)
	}
	return lowerMedian(loads)
}
