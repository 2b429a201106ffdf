package balancer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// alone sends n requests, each after the reply to the one before. It returns how many each of two
// endpoints got.
func alone(seed uint64, n int, latency func(host int, r *rand.Rand) float64) (counts [2]int) {
	r := rand.New(rand.NewPCG(seed, 1))
	c := newSimClient(Config{}, r)
	c.SetServers(0, []int{0, 1})
	now, tick := int64(0), int64(0)
	for range n {
		for ; tick <= now; tick += int64(tickInterval) {
			c.Tick(tick)
		}
		host, token, _ := c.Pick(now, nil)
		took := int64(latency(host, r))
		now += took
		c.g.reply(&c.open[token], now, took, Success, 0)
		c.Finish(token, now)
		counts[host]++
	}
	return counts
}

// A caller that sends one request after the other has no requests in flight to compare. It has only
// latencies, and those are never quite the same.
func TestCallerOfOneRequestAtATimeSharesEqualEndpoints(t *testing.T) {
	const n = 10_000
	for name, noise := range map[string]func(*rand.Rand) float64{
		"the same":     func(*rand.Rand) float64 { return 1 },
		"a tenth more": func(r *rand.Rand) float64 { return 0.9 + 0.2*r.Float64() },
		"exponential":  func(r *rand.Rand) float64 { return 0.1 + 0.9*r.ExpFloat64() },
	} {
		for _, mean := range []float64{1e6, 1e7, 1e8} {
			t.Run(fmt.Sprintf("%s/%gms", name, mean/1e6), func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(5) {
					equal := alone(seed, n, func(_ int, r *rand.Rand) float64 { return mean * noise(r) })
					require.Greater(t, slices.Min(equal[:]), n/4)
					slightly := alone(
						seed,
						n,
						func(
							host int, r *rand.Rand,
						) float64 {
							return mean * noise(r) * (1 + 0.05*float64(host))
						},
					)
					require.Greater(t, slices.Min(slightly[:]), n/8, "5 %% slower: %v", slightly)
					much := alone(
						seed,
						n,
						func(host int, r *rand.Rand) float64 { return mean * noise(r) * (1 + float64(host)) },
					)
					require.Less(t, much[1], n/6, "twice as slow")
				}
			})
		}
	}
}

// restrictedGroup returns a group of n endpoints of which every second one is in probation, with a
// request in flight.
func restrictedGroup(t *testing.T, policy Policy, n int) *group {
	g := pickGroup(t, policy, n)
	for i, h := range g.endpoints {
		if i%2 == 1 {
			h.probation.Store(true)
			h.restricted.Store(true)
			h.inFlight.Store(1)
			g.restricted.Add(1)
		}
	}
	return g
}

// Up to 64 endpoints are looked at beforehand. Of more, only those are looked at that a policy asks
// about. The answers are the same.
func TestEndpointsArePassedOver(t *testing.T) {
	for _, p := range pickPolicies {
		for _, n := range []int{2, 64, 65, 300} {
			t.Run(fmt.Sprintf("%s/%d", p.name, n), func(t *testing.T) {
				t.Parallel()
				g := restrictedGroup(t, p.policy, n)
				var v View
				for range 1000 {
					p, ok := g.pick(&v, g.config.Load(), nil, nil, 1e9)
					require.True(t, ok)
					require.False(t, p.endpoint.probation.Load())
					require.Equal(t, n > scanLimit, v.skip == nil)
					g.finish(&p, 0, false)
				}
				// A request that has been to all endpoints but a restricted one gets that one. A
				// request that has been to all gets any.
				tried := slices.Delete(slices.Clone(g.endpoints), 1, 2)
				p, ok := g.pick(&v, g.config.Load(), nil, tried, 1e9)
				require.True(t, ok)
				require.Same(t, g.endpoints[1], p.endpoint)
				_, ok = g.pick(&v, g.config.Load(), nil, g.endpoints, 1e9)
				require.True(t, ok)
			})
		}
	}
}

// The share of a slow start is the share of the picks that may consider the endpoint, in large
// groups as in small ones.
func TestShareOfASlowStart(t *testing.T) {
	for _, n := range []int{10, 100} {
		g := pickGroup(t, Random(), n)
		h := g.endpoints[3]
		h.slowStart.Store(0.25)
		h.restricted.Store(true)
		g.restricted.Add(1)
		var v View
		const picks = 100_000
		got := 0
		for range picks {
			p, _ := g.pick(&v, g.config.Load(), nil, nil, 1e9)
			if p.endpoint == h {
				got++
			}
			g.finish(&p, 0, false)
		}
		require.InDelta(t, 0.25, float64(got)/picks*float64(n), 0.07, "%d endpoints", n)
	}
}

type always500 struct{}

func (always500) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 500, Header: http.Header{}, Body: http.NoBody}, nil
}

func failing(tb testing.TB, hosts int) *Balancer {
	addrs := make([]string, hosts)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("10.0.0.%d:80", i)
	}
	b, err := New(Config{
		Resolver: Static(addrs...), Observe: func(context.Context, Event) {},
		Wrap: func(Endpoint, http.RoundTripper) http.RoundTripper { return always500{} },
	})
	require.NoError(tb, err)
	return b
}

// While every endpoint fails, requests do not queue for the group's mutex. Here somebody holds it.
func TestFailuresDoNotWaitForTheLock(t *testing.T) {
	for _, hosts := range []int{1, 4, 32} {
		synctest.Test(t, func(t *testing.T) {
			b := failing(t, hosts)
			defer b.Close(t.Context())
			req, err := http.NewRequest("GET", "http://a.test/", nil)
			require.NoError(t, err)
			for range 100 * hosts {
				_, err := b.RoundTrip(req)
				require.NoError(t, err)
			}
			p, err := b.pool(req.URL)
			require.NoError(t, err)
			var done atomic.Int32
			p.group.mu.Lock()
			go func() {
				for range 1000 {
					_, _ = b.RoundTrip(req)
					done.Add(1)
				}
			}()
			for i := 0; i < 100_000_000 && done.Load() < 1000; i++ {
				runtime.Gosched()
			}
			p.group.mu.Unlock()
			require.Equal(t, int32(1000), done.Load(), "%d endpoints", hosts)
		})
	}
}

// BenchmarkRoundTripAllFail measures requests that all fail, with an observer.
func BenchmarkRoundTripAllFail(b *testing.B) {
	for _, hosts := range []int{4, 32} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			bal := failing(b, hosts)
			defer bal.Close(b.Context())
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				req, _ := http.NewRequest("GET", "http://a.test/", nil)
				for pb.Next() {
					if _, err := bal.RoundTrip(req); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// Turns come out right for weights of any size, also where counters of 31, 32, 63 and 64 bits
// overflow.
func TestL29_TurnsOfLargeWeights(t *testing.T) {
	for _, weights := range [][]uint32{
		{1, 1, 1}, {1 << 31, 1 << 30, 1 << 30},
		{math.MaxUint32, math.MaxUint32 / 2, math.MaxUint32 / 2}, {3e9, 2e9, 1e9},
	} {
		// The last counter comes to its end at 0.
		for _, end := range []uint64{0, 1 << 31, 1 << 32, 1 << 63} {
			cfg, err := Config{Resolver: Static("unused"), Policy: RoundRobin()}.withDefaults()
			require.NoError(t, err)
			g := newGroup(&cfg)
			set, sum := make([]Endpoint, len(weights)), 0.0
			for i, w := range weights {
				set[i] = Endpoint{Addr: fmt.Sprintf("10.0.0.%d:80", i), Weight: w}
				sum += float64(w)
			}
			g.update(set, 0, func(*endpoint) {})
			const n = 6000
			g.sequence.Store(end - n)
			counts := make([]int, len(weights))
			v := new(View)
			for range n {
				v.reset(g, g.config.Load(), &g.current.Load().tiers[0], 0)
				counts[g.config.Load().Policy.Pick(v, nil)]++
			}
			for i, w := range weights {
				require.InDelta(
					t,
					float64(w)/sum,
					float64(counts[i])/n,
					0.05,
					"%v of %v, before %d",
					counts,
					weights,
					end,
				)
			}
		}
	}
}

// The result of a check that ends while a Reload stops checks is ignored: no further check would
// bring its endpoint back.
func TestChecksDoNotOutliveTheReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := errors.New("failed")
		cfg := Config{
			Resolver: Static("a:1", "b:1"),
			Health: HealthConfig{
				Fall:  1,
				Check: func(context.Context, Endpoint, http.RoundTripper) error { return nil },
			},
		}
		b, err := New(cfg)
		require.NoError(t, err)
		defer func() { require.NoError(t, b.Close(t.Context())) }()
		require.NoError(t, b.Warm(t.Context(), "http://users.internal", 0))
		synctest.Wait()
		p := (*b.pools.Load())[targetKey{"http", "users.internal"}]
		h := p.group.members()[0]
		p.mu.Lock()
		ctx, cancel := context.WithCancel(t.Context())
		stop := p.checks[h]
		p.checks[h] = func() { cancel(); stop() } // ctx is that of a check which is just ending
		p.mu.Unlock()
		require.NoError(t, b.Reload(Config{Resolver: cfg.Resolver, Health: HealthConfig{Fall: 1}}))
		require.False(t, p.checked(ctx, h, failed, 0))
		require.Equal(t, Healthy, b.Endpoints("http://users.internal")[0].State)
	})
}
