package balancer

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// pickGroup returns a group of that many endpoints, of which something is known.
func pickGroup(tb testing.TB, policy Policy, hosts int) *group {
	cfg, err := Config{Resolver: Static("unused"), Policy: policy}.withDefaults()
	require.NoError(tb, err)
	g := newGroup(&cfg)
	endpoints := make([]Endpoint, hosts)
	for i := range endpoints {
		endpoints[i].Addr = fmt.Sprintf("10.0.0.%d:80", i)
	}
	g.update(endpoints, 0, func(*endpoint) {})
	var v View
	for i := range 100 * hosts {
		pickOnce(g, &v, int64(i)*1000)
	}
	g.tick(int64(100*hosts) * 1000)
	return g
}

// pickOnce does for one request what the group does. The caller reads the clock.
func pickOnce(g *group, v *View, now int64) {
	p, ok := g.pick(v, g.config.Load(), nil, nil, now)
	if !ok {
		panic("no endpoint")
	}
	g.reply(&p, now, 20_000_000+now%1_000_000, Success, 0)
	g.finish(&p, now, false)
}

var pickPolicies = []struct {
	name   string
	policy Policy
}{
	{"adaptive", Adaptive()}, {"least", LeastRequest(0)}, {"p2c", LeastRequest(2)}, {"peak", PeakEWMA(1e10)},
	{"turn", RoundRobin()}, {"random", Random()}, {"probing", Probing(ProbingConfig{})},
}

// BenchmarkPick measures pick and feedback without clock reads.
func BenchmarkPick(b *testing.B) {
	for _, p := range pickPolicies {
		for _, hosts := range []int{4, 32, 100} {
			g := pickGroup(b, p.policy, hosts)
			b.Run(fmt.Sprintf("policy=%s/hosts=%d/run=serial", p.name, hosts), func(b *testing.B) {
				var v View
				now := int64(1e9)
				b.ReportAllocs()
				for b.Loop() {
					now += 1000
					pickOnce(g, &v, now)
				}
			})
			b.Run(fmt.Sprintf("policy=%s/hosts=%d/run=parallel", p.name, hosts), func(b *testing.B) {
				var clock atomic.Int64
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					var v View
					now := int64(1e9) + clock.Add(1)
					for pb.Next() {
						now += 1000
						pickOnce(g, &v, now)
					}
				})
			})
		}
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, p := range pickPolicies {
		t.Run(p.name, func(t *testing.T) {
			for _, hosts := range []int{4, 32, 100} {
				g := pickGroup(t, p.policy, hosts)
				var v View
				now := int64(1e9)
				require.Zero(t, testing.AllocsPerRun(200, func() {
					now += 1000
					pickOnce(g, &v, now)
				}))
			}
		})
	}
}
