package balancer

import (
	"math"
	"math/bits"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

// A Policy picks one of a target's endpoints for a request.
type Policy interface {
	// Pick returns the index of an endpoint in v, or -1 to leave the choice to chance. It is called
	// concurrently, on the path of every request: it must not block, and should not allocate. It must
	// not keep v. It should pick an endpoint for which v.Avoided is true only if there is no other.
	Pick(v *View, r *http.Request) int
}

// Adaptive returns the default policy. Of all endpoints, or of a sample of 16 where there are more
// than 64, it picks the one with the least (requests in flight + 1) · ∛cost / weight. The cost is a
// moving average over 1.5 s of the latency to the header, divided by the requests in flight when the
// request was sent. The root keeps an old latency from outweighing what is known for sure, the
// requests in flight. Averaging roots keeps a few expensive requests from making their endpoint look
// slow. Endpoints whose costs differ by less than a third share the requests, the more evenly the
// less they differ: otherwise a caller that sends one request after the other would leave all
// endpoints but one cold.
func Adaptive() Policy { return adaptive{} }

type adaptive struct{}

const (
	sampleSize = 16

	// indifference is the share by which a score is varied at random. Otherwise rounding and the
	// noise of the estimates would decide between endpoints that are equally fast, for good.
	indifference = 0.05
)

func (adaptive) validate() error { return nil }

func (adaptive) traits() traits {
	return traits{estimator: estimator{decay: 1500 * time.Millisecond, perInFlight: true, cubeRoots: true}}
}

func (adaptive) Pick(v *View, _ *http.Request) int {
	v.reason = "cost"
	if len(v.endpoints) > scanLimit {
		return v.bestOfSample()
	}
	least, seed := uint64(math.MaxUint64), v.bits
	if !v.avoids { // the compiler keeps more in registers without a call
		for i, e := range v.endpoints {
			least = min(least, e.rank(seed)|uint64(i))
			seed += jitterStep
		}
		return int(least % scanLimit)
	}
	for i, e := range v.endpoints {
		if !v.Avoided(i) {
			least = min(least, e.rank(seed)|uint64(i))
		}
		seed += jitterStep
	}
	if least == math.MaxUint64 {
		return -1
	}
	return int(least % scanLimit)
}

// rank returns the bits of e's score with jitter. Floats that are not negative sort like their bits.
// The low 6 bits are cleared for the endpoint's index, so that a plain minimum finds both: a branch
// that is taken at random costs more than all the rest.
func (e *endpoint) rank(seed uint64) uint64 {
	return math.Float64bits(float64(e.inFlight.Load()+1)*e.score.Load()*jitter(seed)) &^ (scanLimit - 1)
}

// bestOfSample returns the best of sampleSize endpoints drawn at random.
func (v *View) bestOfSample() int {
	best, least, random := -1, 0.0, uint64(0)
	for k := range sampleSize {
		if random <<= 32; k%2 == 0 {
			random = v.group.random()
		}
		i := scale(uint32(random>>32), len(v.endpoints))
		if v.avoids && v.Avoided(i) {
			continue
		}
		if s := v.score(i) * jitter(v.bits+uint64(i)*jitterStep); best < 0 || s < least {
			best, least = i, s
		}
	}
	if best < 0 {
		return v.any()
	}
	return best
}

// score is what policies with estimates compare: least is best.
func (v *View) score(i int) float64 {
	e := v.endpoints[i]
	return float64(e.inFlight.Load()+1) * e.score.Load()
}

// jitter returns 1, varied by indifference, by a hash of x.
func jitter(x uint64) float64 {
	hi, lo := bits.Mul64(x, 0xd1b54a32d192ed03)
	return 1 + float64(int32((hi^lo)>>32))*(indifference/(1<<31))
}

// jitterStep lies between the arguments of jitter for one endpoint and the next.
const jitterStep = 0x9e3779b97f4a7c15

// LeastRequest returns a policy that draws d endpoints and picks the one with the fewest requests in
// flight for its weight. With d = 2 it is the power of two choices. Zero means that it looks at all.
// One and negative values are invalid.
func LeastRequest(d int) Policy { return leastRequest{d} }

type leastRequest struct{ d int }

func (p leastRequest) validate() error {
	f := settings.Of("balancer", "LeastRequest")
	if p.d < 0 || p.d == 1 {
		f.Add("", "LeastRequest(%d) has nothing to compare", p.d)
	}
	return f.Err()
}

func (leastRequest) traits() traits { return traits{} }

func (p leastRequest) Pick(v *View, _ *http.Request) int {
	v.reason = "least request"
	load := func(i int) float64 {
		e := v.endpoints[i]
		return float64(e.inFlight.Load()+1) / e.weight()
	}
	n := len(v.endpoints)
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

// leastOf returns the endpoint with the least value of d drawn at random. They are distinct if d is
// small against their number.
func (v *View) leastOf(d int, value func(i int) float64) int {
	n := len(v.endpoints)
	best, least := -1, 0.0
	last := -1
	var random uint64
	for k := range d {
		if random <<= 32; k%2 == 0 {
			random = v.group.random()
		}
		i := scale(uint32(random>>32), n)
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

// RoundRobin returns a policy that takes the endpoints in turn, as often as their weights say, evenly
// spread.
func RoundRobin() Policy { return roundRobin{} }

type roundRobin struct{}

func (roundRobin) validate() error { return nil }
func (roundRobin) traits() traits  { return traits{} }

// Pick walks a static stride schedule: in every round each endpoint comes up once, and is taken in
// weight of maxWeight rounds.
func (roundRobin) Pick(v *View, _ *http.Request) int {
	v.reason = "turn"
	n, top := uint64(len(v.endpoints)), uint64(v.tier.maxWeight)
	if v.tier.uniform {
		for range min(n, scanLimit) {
			if i := int(v.Sequence() % n); !v.avoids || !v.Avoided(i) {
				return i
			}
		}
		return v.any()
	}
	// The heaviest endpoint is taken whenever it comes up. A longer search means that it is to be
	// avoided, or that weights are changing meanwhile: the tier's are those of when it was made.
	for range 2 * n {
		seq := v.Sequence()
		i, round := seq%n, seq/n
		if v.Avoided(int(i)) {
			continue
		}
		// Both factors are below 2^32. The offset keeps endpoints of the same weight out of step.
		w := min(uint64(max(v.endpoints[i].public().Weight, 1)), top)
		if (w*(round%top)+i*(top/2))%top >= top-w {
			return int(i)
		}
	}
	return v.byWeight()
}

// byWeight returns a random endpoint by weight.
func (v *View) byWeight() int {
	total, last := 0.0, -1
	for i, e := range v.endpoints {
		if !v.Avoided(i) {
			total += e.weight()
			last = i
		}
	}
	if last < 0 { // all are to be avoided
		return v.any()
	}
	x := unit(v.Rand()) * total
	for i, e := range v.endpoints {
		if v.Avoided(i) {
			continue
		}
		if x -= e.weight(); x < 0 {
			return i
		}
	}
	return last
}
