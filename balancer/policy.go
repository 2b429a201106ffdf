package balancer

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/http"
	"slices"
	"time"
)

// A Policy picks one of a target's hosts for a request.
type Policy interface {
	// Pick returns the index of a host in v, or -1 to leave the choice to chance. It is
	// called concurrently, on the path of every request: it must not block, and should not
	// allocate. It must not keep v. A host for which v.Avoided is true should be picked only if
	// there is no other.
	Pick(v *View, r *http.Request) int
}

// A View is what a [Policy] sees: the hosts that may get a request. It is valid
// during Pick only.
type View struct {
	group  *group
	tier   *tier
	hosts  []*host
	now    int64
	bits   uint64 // random, drawn once a pick
	reason string

	tried      []*host
	avoids     bool   // some hosts may have to be passed over
	skip       []bool // which, if that is known
	skipBuffer []bool
}

func (v *View) reset(g *group, t *tier, now int64) {
	v.group, v.tier, v.hosts, v.now, v.bits, v.reason = g, t, t.hosts, now, g.random(), "policy"
	v.tried, v.avoids, v.skip = nil, false, nil
}

// avoid makes the pick pass over the hosts tried, those in probation with a request in flight, those ramping up but for
// their share, and, for policies without estimates, those that asked for a pause. If that leaves none, all but the tried stay in. Of many hosts it is found out when one is looked at: a policy that
// draws a few must not pay for all.
func (v *View) avoid(tried []*host) {
	v.tried, v.avoids = tried, true
	if len(v.hosts) > scanLimit {
		return
	}
	skip, left := v.skipBuffer[:0], false
	for _, h := range v.hosts {
		s := v.passOver(h)
		left = left || !s
		skip = append(skip, s)
	}
	v.skipBuffer = skip
	if !left {
		for i, h := range v.hosts {
			skip[i] = slices.Contains(tried, h)
			left = left || !skip[i]
		}
	}
	if v.avoids = left; left {
		v.skip = skip
	}
}

func (v *View) passOver(h *host) bool {
	if h.held.Load() {
		if v.group.set.Load().est.decay == 0 && h.coolUntil.Load() > v.now {
			return true
		}
		if h.probation.Load() {
			if h.inflight.Load() > 0 {
				return true
			}
		} else if ramp := h.ramp.Load(); ramp < 1 && unit(mix(v.bits, h.hash)) >= ramp {
			return true
		}
	}
	return slices.Contains(v.tried, h)
}

// Len returns the number of hosts.
func (v *View) Len() int { return len(v.hosts) }

// Endpoint returns host i's endpoint.
func (v *View) Endpoint(i int) Endpoint { return v.hosts[i].endpoint() }

// InFlight returns the number of requests that host i is working on for this Balancer, bodies included.
func (v *View) InFlight(i int) int { return int(v.hosts[i].inflight.Load()) }

// Cost returns the recent latency of host i divided by the requests in flight when they were sent; zero if nothing is
// known. With [PeakEWMA] it is the decaying peak of the latency.
func (v *View) Cost(i int) time.Duration { return time.Duration(v.hosts[i].cost.Load()) }

// Failures returns how many requests host i has failed in a row.
func (v *View) Failures(i int) int { return int(v.hosts[i].failures.Load()) }

// Avoided reports whether host i should be passed over this time: the request has been there already, the host is new
// or coming back and has its share, or it asked for a pause and the policy is one that does not see that in the cost.
func (v *View) Avoided(i int) bool {
	return v.avoids && (v.skip != nil && v.skip[i] || v.skip == nil && v.passOver(v.hosts[i]))
}

// Rand returns random bits.
func (v *View) Rand() uint64 { return v.group.random() }

// Sequence returns the next number of a counter that all picks of a target share.
func (v *View) Sequence() uint64 { return v.group.sequence.Add(1) }

// below returns a random index below n.
func (v *View) below(n int) int { return part(uint32(v.group.random()>>32), n) }

// part maps 32 random bits to an index below n.
func part(bits uint32, n int) int { return int(uint64(bits) * uint64(n) >> 32) }

// any returns a random host.
func (v *View) any() int {
	n := len(v.hosts)
	i := v.below(n)
	if !v.avoids {
		return i
	}
	for k := range min(n, scanLimit) {
		if j := (i + k) % n; !v.Avoided(j) {
			return j
		}
	}
	for k := range n { // at least one that it has not been to
		if j := (i + k) % n; !slices.Contains(v.tried, v.hosts[j]) {
			return j
		}
	}
	return i
}

// score is what policies of estimates compare: least is best.
func (v *View) score(i int) float64 {
	h := v.hosts[i]
	return float64(h.inflight.Load()+1) * h.score.Load()
}

func estimatorOf(p Policy) estimator {
	if e, ok := p.(interface{ estimator() estimator }); ok {
		return e.estimator()
	}
	return adaptive{}.estimator() // for the Cost that a user's own policy reads
}

// validatePolicy says what is wrong with p.
func validatePolicy(p Policy) error {
	if isNil(p) {
		return fmt.Errorf("is a nil %T", p)
	}
	if v, ok := p.(interface{ validate() error }); ok {
		return v.validate()
	}
	return nil
}

// validateNext says what is wrong with p as the Next of another policy.
func validateNext(p Policy) error {
	if _, ok := p.(sticky); ok {
		return errors.New("Sticky sets no cookies as the Next of another policy; give it that one as its own Next")
	}
	return validatePolicy(p)
}

// Adaptive returns the default policy: of all hosts, or a sample of 16 where there are more than 64,
// the one with the least (requests in flight + 1) · ∛cost / weight. The cost is a moving average over 1.5 s of
// latency to the header divided by the requests in flight at dispatch. The root keeps an old latency
// from outweighing what is known for sure, the requests in flight; averaging roots keeps a few
// expensive requests from making their host look slow. Hosts whose costs differ by less than a third share the requests, the
// more evenly the less they differ: a caller that sends one after the other would else leave all but one host cold.
func Adaptive() Policy { return adaptive{} }

type adaptive struct{}

const (
	scanLimit  = 64
	sampleSize = 16

	// indifference is by how much a score may come out better or worse than it is. Rounding and the noise of estimates would
	// else decide between hosts that are equally fast, for good.
	indifference = 0.05
)

func (adaptive) estimator() estimator {
	return estimator{decay: 1500 * time.Millisecond, perInflight: true, root: true}
}

func (adaptive) Pick(v *View, _ *http.Request) int {
	v.reason = "cost"
	if len(v.hosts) > scanLimit {
		return v.sample()
	}
	least, seed := uint64(math.MaxUint64), v.bits
	if !v.avoids { // the compiler keeps more in registers without a call
		for i, h := range v.hosts {
			least = min(least, h.rank(seed)|uint64(i))
			seed += aboutStep
		}
		return int(least % scanLimit)
	}
	for i, h := range v.hosts {
		if !v.Avoided(i) {
			least = min(least, h.rank(seed)|uint64(i))
		}
		seed += aboutStep
	}
	if least == math.MaxUint64 {
		return -1
	}
	return int(least % scanLimit)
}

// rank returns the bits of h's score, give or take indifference. They compare as the scores do, which are not negative. The last ones
// are left to the host's index: to take a branch at random costs more than all the rest.
func (h *host) rank(seed uint64) uint64 {
	return math.Float64bits(float64(h.inflight.Load()+1)*h.score.Load()*about(seed)) &^ (scanLimit - 1)
}

// sample returns the best of sampleSize hosts drawn at random.
func (v *View) sample() int {
	best, least, random := -1, 0.0, uint64(0)
	for k := range sampleSize {
		if random <<= 32; k%2 == 0 {
			random = v.group.random()
		}
		i := part(uint32(random>>32), len(v.hosts))
		if v.avoids && v.Avoided(i) {
			continue
		}
		if s := v.score(i) * about(v.bits+uint64(i)*aboutStep); best < 0 || s < least {
			best, least = i, s
		}
	}
	if best < 0 {
		return v.any()
	}
	return best
}

// about returns 1, give or take indifference, by a hash of x.
func about(x uint64) float64 {
	hi, lo := bits.Mul64(x, 0xd1b54a32d192ed03)
	return 1 + float64(int32((hi^lo)>>32))*(indifference/(1<<31))
}

// aboutStep is between the arguments of about for one host and the next.
const aboutStep = 0x9e3779b97f4a7c15

// leastOf returns the host with the least value of d drawn at random, which are distinct if d is
// small against their number.
func (v *View) leastOf(d int, value func(i int) float64) int {
	n := len(v.hosts)
	best, least := -1, 0.0
	last := -1
	var random uint64
	for k := range d {
		if random <<= 32; k%2 == 0 {
			random = v.group.random()
		}
		i := part(uint32(random>>32), n)
		if i == last {
			i = (i + 1) % n
		}
		last = i
		if v.avoids && v.Avoided(i) {
			continue
		}
		if s := value(i); best < 0 || s < least {
			best, least = i, s
		}
	}
	if best < 0 {
		return v.any()
	}
	return best
}

// LeastRequest returns a policy that draws d hosts and picks the one with the fewest requests in
// flight for its weight. With d = 2 it is the power of two choices. With d = 0 it looks at all.
func LeastRequest(d int) Policy { return leastRequest{d} }

type leastRequest struct{ d int }

func (p leastRequest) validate() error {
	if p.d < 0 || p.d == 1 {
		return fmt.Errorf("LeastRequest(%d) has nothing to compare", p.d)
	}
	return nil
}

func (leastRequest) estimator() estimator { return estimator{} }

func (p leastRequest) Pick(v *View, _ *http.Request) int {
	v.reason = "least request"
	load := func(i int) float64 {
		h := v.hosts[i]
		return float64(h.inflight.Load()+1) / h.weight()
	}
	n := len(v.hosts)
	if p.d > 0 && p.d < n {
		return v.leastOf(p.d, load)
	}
	start := v.below(n)
	best, least := -1, 0.0
	for k := range n {
		i := start + k
		if i >= n {
			i -= n
		}
		if v.avoids && v.Avoided(i) {
			continue
		}
		if s := load(i); best < 0 || s < least {
			best, least = i, s
		}
	}
	return best
}

// PeakEWMA returns Finagle's policy: the better of two random hosts by (requests in flight + 1) ·
// latency, where a higher latency counts at once and a lower one with the time constant decay. Finagle uses 10 s.
func PeakEWMA(decay time.Duration) Policy { return peakEWMA{decay} }

type peakEWMA struct{ decay time.Duration }

func (p peakEWMA) validate() error {
	if p.decay <= 0 {
		return errors.New("PeakEWMA needs a positive decay")
	}
	return nil
}

func (p peakEWMA) estimator() estimator { return estimator{decay: p.decay, peak: true} }

func (p peakEWMA) Pick(v *View, _ *http.Request) int {
	v.reason = "cost"
	return v.leastOf(2, v.score)
}

// RoundRobin returns a policy that takes the hosts in turn, as often as their weights say, evenly spread.
func RoundRobin() Policy { return roundRobin{} }

type roundRobin struct{}

func (roundRobin) estimator() estimator { return estimator{} }

// Pick walks a static stride schedule: in every round each host comes up once, and is taken in weight of
// maxWeight rounds.
func (roundRobin) Pick(v *View, _ *http.Request) int {
	v.reason = "turn"
	n, top := uint64(len(v.hosts)), uint64(v.tier.maxWeight)
	if v.tier.uniform {
		for range min(n, scanLimit) {
			if i := int(v.Sequence() % n); !v.avoids || !v.Avoided(i) {
				return i
			}
		}
		return v.any()
	}
	// The heaviest host is taken whenever it comes up. Longer searches mean that it is to be avoided,
	// or that weights are changing under our feet: the tier's are those of when it was made.
	for range 2 * n {
		seq := v.Sequence()
		i, round := seq%n, seq/n
		if v.Avoided(int(i)) {
			continue
		}
		// Both factors are below 2^32. The offset keeps hosts of the same weight out of step.
		w := min(uint64(max(v.hosts[i].endpoint().Weight, 1)), top)
		if (w*(round%top)+i*(top/2))%top >= top-w {
			return int(i)
		}
	}
	return v.byWeight()
}

// Random returns a policy that draws a host at random, by weight.
func Random() Policy { return random{} }

type random struct{}

func (random) estimator() estimator { return estimator{} }

func (random) Pick(v *View, _ *http.Request) int {
	v.reason = "random"
	if v.tier.uniform {
		return v.any()
	}
	return v.byWeight()
}

// byWeight returns a random host by weight.
func (v *View) byWeight() int {
	total, last := 0.0, -1
	for i, h := range v.hosts {
		if !v.Avoided(i) {
			total += h.weight()
			last = i
		}
	}
	if last < 0 { // all are to be avoided
		return v.any()
	}
	x := unit(v.Rand()) * total
	for i, h := range v.hosts {
		if v.Avoided(i) {
			continue
		}
		if x -= h.weight(); x < 0 {
			return i
		}
	}
	return last
}
