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
	index map[*endpoint]int
	host  map[int]*endpoint
	asked []int
	open  []choice // by token
	free  []int
}

func newSimClient(cfg Config, random *rand.Rand) *simClient {
	cfg.Resolver = Static("unused")
	cfg, err := cfg.withDefaults()
	if err != nil {
		panic(err)
	}
	c := &simClient{g: newGroup(&cfg), index: map[*endpoint]int{}, host: map[int]*endpoint{}}
	c.g.random = random.Uint64
	c.g.sequence.Store(random.Uint64() >> 1)
	return c
}

func (c *simClient) SetServers(now int64, servers []int) {
	endpoints := make([]Endpoint, len(servers))
	for k, i := range servers {
		endpoints[k].Addr = fmt.Sprintf("%04d", i)
	}
	c.g.update(endpoints, now, func(h *endpoint) {
		var i int
		fmt.Sscanf(h.public().Addr, "%04d", &i)
		c.index[h], c.host[i] = i, h
	})
}

func (c *simClient) Pick(now int64, tried []int) (server, token int, ok bool) {
	var been []*endpoint
	for h, i := range c.index {
		for _, t := range tried {
			if i == t {
				been = append(been, h)
			}
		}
	}
	p, ok := c.g.pick(&c.view, c.g.config.Load(), nil, been, now)
	if !ok {
		return 0, 0, false
	}
	if n := len(c.free); n > 0 {
		token = c.free[n-1]
		c.free = c.free[:n-1]
	} else {
		token = len(c.open)
		c.open = append(c.open, choice{})
	}
	c.open[token] = p
	return c.index[p.endpoint], token, true
}

func (c *simClient) Reply(token int, now, took int64, o lbsim.Outcome, l lbsim.Load) {
	out := Failure
	if o == lbsim.Success {
		out = Success
	}
	p := &c.open[token]
	c.g.reply(p, now, took, out, 0)
	if l != (lbsim.Load{}) {
		c.told(p.endpoint, p.inFlight-1, now, l)
	}
}

func (c *simClient) Finish(token int, now int64) {
	c.g.finish(&c.open[token], now, false)
	c.free = append(c.free, token)
}

func (c *simClient) Tick(now int64) {
	c.g.tick(now)
}

func (c *simClient) Probes(int64) []int {
	c.asked = c.asked[:0]
	if p := c.g.config.Load().probes; p != nil {
		for len(p.asks) > 0 {
			c.asked = append(c.asked, c.index[<-p.asks])
		}
	}
	return c.asked
}

func (c *simClient) Probed(server int, now int64, l lbsim.Load) {
	h := c.host[server]
	c.told(h, h.inFlight.Load(), now, l)
}

func (c *simClient) told(h *endpoint, own, now int64, l lbsim.Load) {
	if p := c.g.config.Load().probes; p != nil {
		p.answered(h, load{int64(l.InFlight), time.Duration(l.Latency), l.Failing}, own, now)
	}
}

// simReporter is a reporter in a simulated server.
type simReporter struct{ r reporter }

func (s *simReporter) Begin(now int64) int { return int(s.r.begin()) }
func (s *simReporter) End(others int, now, took int64, failed bool) {
	s.r.end(int64(others), now, took, failed)
}
func (s *simReporter) Load(now int64) lbsim.Load {
	l := s.r.load(now)
	return lbsim.Load{InFlight: int(l.inFlight), Latency: int64(l.latency), Failing: l.failing}
}

// A simPolicy is a way to pick that the figures compare. Without a config it is the oracle.
type simPolicy struct {
	name   string
	config func() Config
}

func with(p Policy) func() Config { return func() Config { return Config{Policy: p} } }

var (
	rivals      = []string{"random", "round robin", "least request", "P2C", "peak EWMA"}
	simPolicies = []simPolicy{
		{"random", with(Random())},
		{"round robin", with(RoundRobin())},
		{"least request", with(LeastRequest(0))},
		{"P2C", with(LeastRequest(2))},
		{"peak EWMA", with(PeakEWMA(10 * time.Second))},
		{"adaptive", with(Adaptive())},
		{"probing", with(Probing(ProbingConfig{}))},
		{"oracle", nil},
	}
)
