package balancer

import (
	"math"
	"math/bits"
	"net/http"
)

// Adaptive returns the default policy. Of all endpoints, or of a sample of 16 where there are more
// than 64, it picks the one with the least (requests in flight + 1) · ∛cost / weight. The cost is a
// moving average over 1.5 s of the latency to the header, divided by the requests in flight when
// the request was sent. The root keeps an old latency from outweighing what is known for sure, the
// requests in flight. Averaging roots keeps a few expensive requests from making their endpoint
// look slow. Endpoints whose costs differ by less than a third share the requests, the more evenly
// the less they differ: otherwise a caller that sends one request after the other would leave all
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

func (adaptive) traits() traits { return traits{estimator: rootEstimator} }

func (adaptive) Pick(v *View, r *http.Request) int {
	if r != nil && len(r.Header["Upgrade"]) > 0 {
		return v.fewestOpen()
	}
	v.reason = ReasonCost
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

// fewestOpen returns the endpoint with the fewest requests in flight for its weight. Those that
// fail or pause count as if they had more.
func (v *View) fewestOpen() int {
	v.reason = ReasonConnections
	return v.least(func(i int) float64 {
		e := v.endpoints[i]
		load := float64(e.inFlight.Load()+1) / e.weight()
		if e.pauseUntil.Load() != 0 {
			return load * maxCost
		}
		return load * max(e.penalty.Load(), 1)
	})
}

// rank returns the bits of e's score with jitter. Floats that are not negative sort like their
// bits. The low 6 bits are cleared for the endpoint's index, so that a plain minimum finds both: a
// branch that is taken at random costs more than all the rest.
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
