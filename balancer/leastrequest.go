package balancer

import (
	"net/http"

	"github.com/trivet-go/trivet/internal/settings"
)

// LeastRequest returns a policy that draws d endpoints and picks the one with the fewest requests
// in flight for its weight. With d = 2 it is the power of two choices. Zero means that it looks at
// all. One and negative values are invalid.
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
	v.reason = ReasonLeastRequest
	load := func(i int) float64 {
		e := v.endpoints[i]
		return float64(e.inFlight.Load()+1) / e.weight()
	}
	if p.d > 0 && p.d < len(v.endpoints) {
		return v.leastOf(p.d, load)
	}
	return v.least(load)
}

// least returns the endpoint with the least value; of equal ones that is any.
func (v *View) least(value func(i int) float64) int {
	n := len(v.endpoints)
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
		if s := value(i); best < 0 || s < least {
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
