package balancer

import (
	"math"
	"net/http"
	"slices"
	"time"
)

const (
	// exploreOneIn is how many picks bring one request to a slow endpoint, where no active check
	// tells whether it has recovered.
	exploreOneIn = 512

	// scanLimit is how many endpoints a pick looks at one by one. Of more it looks at a sample.
	scanLimit = 64
)

// A choice is the endpoint that a group has chosen for one attempt.
type choice struct {
	endpoint *endpoint
	at       int64 // when
	inFlight int64 // at the endpoint, this attempt included
	gate     *gate // through which the attempt has come; nil if there is no bound
	reason   Reason
}

// undo takes back what pick has counted.
func (c *choice) undo() {
	c.endpoint.picked.Add(^uint64(0))
	c.endpoint.inFlight.Add(-1)
}

// pick chooses an endpoint for r (nil in simulations) that is not among tried, if any is left. It
// returns false if the group has no endpoint to offer.
func (g *group) pick(
	v *View, config *groupConfig, r *http.Request, tried []*endpoint, now int64,
) (choice, bool) {
	s := g.current.Load()
	t, i := 0, -1
	if config.sticky != nil && len(tried) == 0 {
		t, i = config.sticky.find(s, r)
	}
	if i < 0 {
		t = g.pickTier(config, s, r)
	}
	v.reset(g, config, &s.tiers[t], now)
	if len(v.endpoints) == 0 {
		return choice{}, false
	}
	if len(tried) > 0 {
		v.avoidTried(s, t, tried)
	} else if i < 0 && g.restricted.Load() != 0 {
		v.avoid(nil)
	}
	if i >= 0 {
		v.reason = ReasonSticky
	} else {
		i = v.choose(r)
	}
	e := v.endpoints[i]
	e.picked.Add(1)
	return choice{endpoint: e, at: now, inFlight: e.inFlight.Add(1), reason: v.reason}, true
}

// pickTier draws a tier by the shares of the tiers.
func (g *group) pickTier(config *groupConfig, s *snapshot, r *http.Request) int {
	if len(s.tiers) == 1 {
		return 0
	}
	random := g.random()
	if config.tier != nil {
		if b, ok := config.tier(r); ok {
			random = b
		}
	}
	x, t := unit(random), 0
	for t < len(s.tiers)-1 && x >= s.tiers[t].upTo {
		t++
	}
	return t
}

// A View is what a [Policy] sees: the endpoints that may get a request. It is valid during Pick
// only.
type View struct {
	group     *group
	config    *groupConfig
	tier      *tier
	endpoints []*endpoint // of tier
	now       int64
	bits      uint64 // random, drawn once per pick
	reason    Reason

	tried      []*endpoint
	avoids     bool   // some endpoints may have to be passed over
	skip       []bool // which of them; nil if that is found out endpoint by endpoint
	skipBuffer []bool
}

func (v *View) reset(g *group, config *groupConfig, t *tier, now int64) {
	v.group, v.config, v.tier, v.endpoints = g, config, t, t.endpoints
	v.now, v.bits, v.reason = now, g.random(), ReasonPolicy
	v.tried, v.avoids, v.skip = nil, false, nil
}

// choose asks the policy, or explores.
func (v *View) choose(r *http.Request) int {
	if len(v.endpoints) == 1 {
		v.reason = ReasonOnly
		return 0
	}
	if v.config.keepsCosts() && !v.config.checksHealth && v.bits%exploreOneIn == 0 {
		if i := v.longestSlow(); i >= 0 {
			v.reason = ReasonExplore
			return i
		}
	}
	if i := v.config.Policy.Pick(v, r); i >= 0 && i < len(v.endpoints) {
		return i
	}
	v.reason = ReasonAny
	return v.any()
}

// longestSlow returns the slow endpoint that has gone longest without a reply, or -1.
func (v *View) longestSlow() int {
	best, oldest := -1, int64(math.MaxInt64)
	for i, e := range v.endpoints {
		at := e.sampled.Load()
		if e.slow.Load() > 1 && at < oldest && e.awaiting() == 0 && !v.Avoided(i) {
			best, oldest = i, at
		}
	}
	return best
}

// avoidTried prepares v for a request that has tried some endpoints. It gets the rest of tier t;
// without a rest, that of another tier; if all have been tried, tier t again.
func (v *View) avoidTried(s *snapshot, t int, tried []*endpoint) {
	for k := range s.tiers {
		other := &s.tiers[(t+k)%len(s.tiers)]
		for _, e := range other.endpoints {
			if !slices.Contains(tried, e) {
				v.tier, v.endpoints = other, other.endpoints
				v.avoid(tried)
				return
			}
		}
	}
}

// avoid makes the pick pass over the endpoints tried and over those that are restricted: in
// probation with a request in flight, in slow start but for their share, and, if the policy has no
// estimates, pausing. If that leaves none, only those tried are passed over. With more than
// scanLimit endpoints this is decided lazily, for each endpoint that is looked at, so that a policy
// that samples does not pay for all.
func (v *View) avoid(tried []*endpoint) {
	v.tried, v.avoids = tried, true
	if len(v.endpoints) > scanLimit {
		return
	}
	skip, left := v.skipBuffer[:0], false
	for _, e := range v.endpoints {
		s := v.mustPassOver(e)
		left = left || !s
		skip = append(skip, s)
	}
	v.skipBuffer = skip
	if !left {
		for i, e := range v.endpoints {
			skip[i] = slices.Contains(tried, e)
			left = left || !skip[i]
		}
	}
	if v.avoids = left; left {
		v.skip = skip
	}
}

func (v *View) mustPassOver(e *endpoint) bool {
	if e.restricted.Load() {
		if !v.config.keepsCosts() && e.pauseUntil.Load() > v.now {
			return true
		}
		if e.probation.Load() {
			if e.inFlight.Load() > 0 {
				return true
			}
		} else if share := e.slowStart.Load(); share < 1 && unit(mix(v.bits, e.hash)) >= share {
			return true
		}
	}
	return slices.Contains(v.tried, e)
}

// Len returns the number of endpoints.
func (v *View) Len() int { return len(v.endpoints) }

// Endpoint returns endpoint i.
func (v *View) Endpoint(i int) Endpoint { return v.endpoints[i].public() }

// InFlight returns the number of requests that endpoint i is working on for this Balancer, bodies
// and upgraded connections included.
func (v *View) InFlight(i int) int { return int(v.endpoints[i].inFlight.Load()) }

// Cost returns the recent latency of endpoint i divided by the requests in flight when they were
// sent; zero if nothing is known.
func (v *View) Cost(i int) time.Duration { return time.Duration(v.endpoints[i].cost.Load()) }

// Failures returns how many requests endpoint i has failed in a row.
func (v *View) Failures(i int) int { return int(v.endpoints[i].failures.Load()) }

// Avoided reports whether endpoint i should be passed over this time. The reason is one of three:
// the request has been there already; the endpoint is new or coming back and has its share; it
// asked for a pause, and the policy does not see that in the cost.
func (v *View) Avoided(i int) bool {
	return v.avoids && (v.skip != nil && v.skip[i] || v.skip == nil && v.mustPassOver(v.endpoints[i]))
}

// Rand returns random bits.
func (v *View) Rand() uint64 { return v.group.random() }

// Sequence returns the next number of a counter that all picks of a target share.
func (v *View) Sequence() uint64 { return v.group.sequence.Add(1) }

// below returns a random index below n.
func (v *View) below(n int) int { return scale(uint32(v.group.random()>>32), n) }

// any returns a random endpoint.
func (v *View) any() int {
	n := len(v.endpoints)
	i := v.below(n)
	if !v.avoids {
		return i
	}
	for k := range min(n, scanLimit) {
		if j := (i + k) % n; !v.Avoided(j) {
			return j
		}
	}
	for k := range n { // restricted ones too, if the request has not been there
		if j := (i + k) % n; !slices.Contains(v.tried, v.endpoints[j]) {
			return j
		}
	}
	return i
}

// unit maps random bits to [0, 1).
func unit(random uint64) float64 { return float64(random>>11) / (1 << 53) }

// scale maps 32 random bits to an index below n.
func scale(random uint32, n int) int { return int(uint64(random) * uint64(n) >> 32) }
