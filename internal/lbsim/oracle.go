package lbsim

import (
	"math"
	"math/rand/v2"
	"slices"
)

// oracle knows the present state of all servers, requests on their way included, and picks the one
// where a request of mean work would take the least time. It is greedy, hence no bound.
type oracle struct {
	sim     *sim
	random  *rand.Rand
	servers []int
}

func (o *oracle) Pick(_ int64, tried []int) (server, token int, ok bool) {
	best, least := -1, math.Inf(1)
	start := o.random.IntN(len(o.servers))
	for k := range o.servers {
		i := o.servers[(start+k)%len(o.servers)]
		if e := o.sim.servers[i].expected(); e < least && !slices.Contains(tried, i) {
			best, least = i, e
		}
	}
	if best < 0 {
		best = o.servers[start]
	}
	return best, 0, true
}

func (o *oracle) SetServers(_ int64, servers []int)      { o.servers = servers }
func (o *oracle) Reply(int, int64, int64, Outcome, Load) {}
func (o *oracle) Finish(int, int64)                      {}
func (o *oracle) Tick(int64)                             {}
func (o *oracle) Probes(int64) []int                     { return nil }
func (o *oracle) Probed(int, int64, Load)                {}
