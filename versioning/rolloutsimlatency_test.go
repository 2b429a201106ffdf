//go:build !race

package versioning

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A latencyScene is a kind of run about latency.
type latencyScene struct {
	name     string
	keys     string
	requests int
	duration func(c *latencyClient) float64 // in seconds
	least    float64                        // share of runs in which it must be found; 0: none is asked for
	null     bool                           // nothing is there to be found
}

// A latencyClient is whose request is timed.
type latencyClient struct {
	rng    *rand.Rand
	key    int
	canary bool
	at     float64 // of the run, from 0 to 1
}

// lognormal has a median of 50 ms and a 95th percentile of 114 ms.
func (c *latencyClient) lognormal() float64 { return 0.05 * math.Exp(0.5*c.rng.NormFloat64()) }

// clientFactor is how slow the client's network is: always the same for a key.
func (c *latencyClient) clientFactor() float64 {
	return 1 + 4*math.Pow(float64(mix(uint64(c.key)+77)>>11)/(1<<53), 8)
}

func ifCanary(c *latencyClient, yes, no float64) float64 {
	if c.canary {
		return yes
	}
	return no
}

var latencyScenes = []latencyScene{
	{"log-normal", equalKeys, simNull, (*latencyClient).lognormal, 0, true},
	{"slow clients", zipfKeys, simNull, func(c *latencyClient) float64 {
		return c.lognormal() * c.clientFactor()
	}, 0, true},
	{"bimodal: 4 % take ten times as long", equalKeys, simNull, func(c *latencyClient) float64 {
		if c.rng.Float64() < 0.04 {
			return 10 * c.lognormal()
		}
		return c.lognormal()
	}, 0, true},
	{"growing load: three times as long at the end, and twice in bursts", equalKeys, simNull,
		func(c *latencyClient) float64 {
			x := c.lognormal() * (1 + 2*c.at)
			if int(c.at*97)%7 == 0 {
				x *= 2
			}
			return x
		}, 0, true},
	{"sparse", equalKeys, 2000, (*latencyClient).lognormal, 0, true},
	{"+50 %", equalKeys, simNull, func(c *latencyClient) float64 {
		return c.lognormal() * ifCanary(c, 1.5, 1)
	}, 0.99, false},
	{"+50 % above the 90th percentile only", equalKeys, simNull, func(c *latencyClient) float64 {
		x := c.lognormal()
		if x > 0.0949 {
			x *= ifCanary(c, 1.5, 1)
		}
		return x
	}, 0.99, false},
	{"+50 % with slow clients", zipfKeys, simNull, func(c *latencyClient) float64 {
		return c.lognormal() * c.clientFactor() * ifCanary(c, 1.5, 1)
	}, 0, false},
	{"bimodal: 4 → 12 % take ten times as long", equalKeys, simNull, func(c *latencyClient) float64 {
		if c.rng.Float64() < ifCanary(c, 0.12, 0.04) {
			return 10 * c.lognormal()
		}
		return c.lognormal()
	}, 0.99, false},
	{"+50 %, sparse", equalKeys, 2000, func(c *latencyClient) float64 {
		return c.lognormal() * ifCanary(c, 1.5, 1)
	}, 0, false},
	{"+10 %, within the tolerance", equalKeys, simNull, func(c *latencyClient) float64 {
		return c.lognormal() * ifCanary(c, 1.1, 1)
	}, 0, false},
}

// run returns after how many requests to canary the analysis, which looks each ten seconds, has
// rejected it; -1 if never.
func (s *latencyScene) run(seed uint64) float64 {
	rng := rand.New(rand.NewPCG(seed, 95))
	errors := scene{keys: s.keys}
	c := errors.customer(rng)
	salt := rng.Uint64()
	cfg := &RolloutConfig{Alpha: simAlpha, Tolerance: defaultTolerance, Steps: []Step{{Weight: 0.05}}}
	state := &RolloutState{Weight: shareOf(simWeight), Period: 1}
	e := &evidence{weight: simWeight}
	var slow slowness
	begin := time.Unix(0, 0)
	slow.look(e, begin)
	perLook := min(s.requests/100, 10*simRate)
	for at := range s.requests {
		key := c.key()
		d := draw{counts: true, bucket: simBucket(salt, key)}
		d.canary = d.bucket < simWeight
		seconds := s.duration(&latencyClient{rng, key, d.canary, float64(at) / float64(s.requests)})
		e.record(d, success, time.Duration(seconds*1e9))
		if (at+1)%perLook != 0 {
			continue
		}
		now := begin.Add(time.Duration((at+1)/perLook) * slowWindow)
		slow.look(e, now)
		var t tally
		e.addTo(&t)
		p := position{cfg: cfg, state: state, judged: Advance}
		if v := p.verdict(&t, now); v.Decision == RejectRelease {
			return float64(v.Canary.Requests)
		}
	}
	return -1
}

func simulateLatency(t *testing.T, r *simReport) {
	r.head("The test of latency at weight 5 %, a look each ten seconds", "latencies", "keys", "requests",
		"runs", "found", "after requests to canary (median)", "upper 95 % bound")
	for i := range latencyScenes {
		s := &latencyScenes[i]
		n := simRuns(1000)
		results := make([]float64, n)
		parallel(n, func(i int) { results[i] = s.run(uint64(i) + 1) })
		found := slices.DeleteFunc(results, func(x float64) bool { return x < 0 })
		slices.Sort(found)
		bound := ""
		if s.null {
			bound = fmt.Sprintf("%.2f %%", upperBound(len(found), n)*100)
		}
		r.row(s.name, s.keys, s.requests, n, share100(len(found), n), medianOf(found), bound)
		switch {
		case !s.null:
			require.GreaterOrEqual(t, float64(len(found)), s.least*float64(n), s.name)
		case *simulateAll:
			require.LessOrEqual(t, upperBound(len(found), n), 0.01, s.name)
		default:
			require.LessOrEqual(t, len(found), 1, s.name)
		}
	}
}
