package balancer

import "net/http"

// RoundRobin returns a policy that takes the endpoints in turn, as often as their weights say,
// evenly spread.
func RoundRobin() Policy { return roundRobin{} }

type roundRobin struct{}

func (roundRobin) validate() error { return nil }
func (roundRobin) traits() traits  { return traits{} }

// Pick walks a static stride schedule: in every round each endpoint comes up once, and is taken in
// weight of maxWeight rounds.
func (roundRobin) Pick(v *View, _ *http.Request) int {
	v.reason = ReasonTurn
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
