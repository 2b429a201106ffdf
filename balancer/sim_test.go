package balancer

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/trivet-go/trivet/internal/lbsim"
)

// A simClient is a group that decides for a simulated client.
type simClient struct {
	g     *group
	view  View
	names []string
	index map[*host]int
	open  []picked // by token
	free  []int
}

func newSimClient(cfg Config, random *rand.Rand) *simClient {
	cfg.Resolver = Static("unused")
	cfg, err := cfg.withDefaults()
	if err != nil {
		panic(err)
	}
	c := &simClient{g: newGroup(&cfg), index: map[*host]int{}}
	c.g.random = random.Uint64
	c.g.sequence.Store(random.Uint64() >> 1)
	return c
}

func (c *simClient) SetServers(now int64, servers []int) {
	endpoints := make([]Endpoint, len(servers))
	for k, i := range servers {
		endpoints[k].Addr = fmt.Sprintf("%04d", i)
	}
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.g.updateLocked(endpoints, now, func(h *host) {
		var i int
		fmt.Sscanf(h.endpoint().Addr, "%04d", &i)
		c.index[h] = i
	})
}

func (c *simClient) Pick(now int64, tried []int) (server, token int, ok bool) {
	var been []*host
	for h, i := range c.index {
		for _, t := range tried {
			if i == t {
				been = append(been, h)
			}
		}
	}
	p, ok := c.g.pick(&c.view, nil, been)
	if !ok {
		return 0, 0, false
	}
	if n := len(c.free); n > 0 {
		token = c.free[n-1]
		c.free = c.free[:n-1]
	} else {
		token = len(c.open)
		c.open = append(c.open, picked{})
	}
	c.open[token] = p
	return c.index[p.host], token, true
}

func (c *simClient) Reply(token int, now, took int64, o lbsim.Outcome, _ lbsim.Load) {
	out := failure
	if o == lbsim.Success {
		out = success
	}
	c.g.reply(&c.open[token], now, took, out, 0)
}

func (c *simClient) Finish(token int, now int64) {
	c.g.finish(&c.open[token], now, false)
	c.free = append(c.free, token)
}

func (c *simClient) Tick(now int64) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.g.tickLocked(now)
}

func (c *simClient) Probes(int64) []int            { return nil }
func (c *simClient) Probed(int, int64, lbsim.Load) {}

// simPolicies are those that the figures compare, the rivals first.
var simPolicies = []struct {
	name   string
	policy func() Policy
}{
	{"random", Random},
	{"round robin", RoundRobin},
	{"least request", func() Policy { return LeastRequest(0) }},
	{"P2C", func() Policy { return LeastRequest(2) }},
	{"peak EWMA", func() Policy { return PeakEWMA(10 * time.Second) }},
	{"adaptive", Adaptive},
}
