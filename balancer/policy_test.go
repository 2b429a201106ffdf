package balancer_test

import (
	"math"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/balancer"
)

// policies are all that need no configuration of the user's.
func policies() map[string]balancer.Policy {
	return map[string]balancer.Policy{
		"Adaptive":        balancer.Adaptive(),
		"LeastRequest(0)": balancer.LeastRequest(0),
		"LeastRequest(2)": balancer.LeastRequest(2),
		"RoundRobin":      balancer.RoundRobin(),
		"Random":          balancer.Random(),
		"PeakEWMA":        balancer.PeakEWMA(10 * time.Second),
		"Hash": balancer.Hash(
			balancer.HashConfig{Key: func(r *http.Request) (string, bool) { return r.URL.Path, true }},
		),
		"Hash/no key": balancer.Hash(
			balancer.HashConfig{Key: func(r *http.Request) (string, bool) { return "", false }},
		),
		"Sticky":        balancer.Sticky(balancer.StickyConfig{Secret: make([]byte, 16)}),
		"user's":        everyone{},
		"user's, wrong": wrong{},
	}
}

type wrong struct{}

func (wrong) Pick(v *balancer.View, _ *http.Request) int { return v.Len() + 3 }

// chiSquare returns the statistic of counts against weights.
func chiSquare(counts []int, weights []float64) float64 {
	total, sum := 0.0, 0.0
	for i := range counts {
		total += float64(counts[i])
		sum += weights[i]
	}
	x := 0.0
	for i := range counts {
		want := total * weights[i] / sum
		x += (float64(counts[i]) - want) * (float64(counts[i]) - want) / want
	}
	return x
}

// critical bounds a chi-square statistic of n categories at about 1e-6 (Wilson and Hilferty).
func critical(n int) float64 {
	k := float64(n - 1)
	return k * math.Pow(1-2/(9*k)+4.75*math.Sqrt(2/(9*k)), 3)
}

// The turns of weighted endpoints are exact over a round, and evenly spread.
func TestRoundRobinIsSmooth(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.NewPushed(
			balancer.Endpoint{Addr: "a:1", Weight: 5},
			balancer.Endpoint{Addr: "b:1"},
			balancer.Endpoint{Addr: "c:1"},
		),
		Policy: balancer.RoundRobin(), Wrap: ok200,
	})
	for range 100 {
		pickOf(t, b)
	}
	var turns []string
	counts := map[string]int{}
	for range 70 {
		turns = append(turns, pickOf(t, b).Endpoint.Addr)
		counts[turns[len(turns)-1]]++
	}
	require.InDelta(t, 50, counts["a:1"], 1)
	require.InDelta(t, 10, counts["b:1"], 1)
	require.InDelta(t, 10, counts["c:1"], 1)
	run := 0
	for _, a := range turns {
		if run++; a != "a:1" {
			run = 0
		}
		require.LessOrEqual(t, run, 5, "%v", turns)
	}
}

// A pick ends, whatever the weights are and whatever endpoints must be avoided.
func TestL29_ExtremeWeights(t *testing.T) {
	for name, p := range policies() {
		t.Run(name, func(t *testing.T) {
			for _, weights := range [][]uint32{
				{0}, {math.MaxUint32}, {1, math.MaxUint32}, {
					math.MaxUint32, math.MaxUint32, math.MaxUint32,
				}, {0, 1, math.MaxUint32 - 1},
			} {
				var set []balancer.Endpoint
				for i, w := range weights {
					set = append(set, balancer.Endpoint{Addr: addrs(3)[i], Weight: w})
				}
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.NewPushed(set...), Policy: p, Wrap: ok200,
				})
				for range 20 {
					ctx := balancer.Avoid(t.Context())
					for range len(set) + 1 { // the heavy one is to be avoided, then all are
						_, err := get(ctx, b)
						require.NoError(t, err)
					}
				}
			}
		})
	}
}

// A user's own policy sees all that a View offers.
func TestView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet("a:1", "b:1")
		f.set("b:1", server{status: 500, delay: 10 * time.Millisecond})
		spy := &spy{}
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.NewPushed(
				balancer.Endpoint{Addr: "a:1", Labels: map[string]string{"v": "1"}},
				balancer.Endpoint{Addr: "b:1"},
			),
			Policy: spy, Wrap: f.wrap, Outlier: balancer.OutlierConfig{Consecutive: -1},
		})
		for range 3 {
			_, err := get(t.Context(), b)
			require.NoError(t, err)
		}
		go func() { _, _ = get(t.Context(), b) }()
		synctest.Wait()
		_, err := get(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, 2, spy.len)
		require.Equal(t, "1", spy.endpoints[0].Labels["v"])
		require.Equal(t, 1, spy.inflight)
		require.Equal(t, 3, spy.failures)
		require.Zero(t, spy.cost, "a failure tells nothing of the latency")
		require.NotEqual(t, spy.sequence[0], spy.sequence[1])
		require.Equal(t, balancer.ReasonPolicy, spy.reason(t, b))
	})
}

// spy sends everything to the second endpoint.
type spy struct {
	mu        sync.Mutex // guards the fields below
	len       int
	inflight  int
	failures  int
	cost      time.Duration
	endpoints []balancer.Endpoint
	sequence  [2]uint64
}

func (s *spy) Pick(v *balancer.View, _ *http.Request) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.len, s.inflight, s.failures, s.cost = v.Len(), v.InFlight(1), v.Failures(1), v.Cost(1)
	s.endpoints = []balancer.Endpoint{v.Endpoint(0), v.Endpoint(1)}
	s.sequence = [2]uint64{v.Sequence(), v.Sequence()}
	_ = v.Rand()
	return 1
}

func (s *spy) reason(t *testing.T, b *balancer.Balancer) balancer.Reason { return pickOf(t, b).Reason }

// Under every sequence of requests, the counters of every policy add up.
func TestBooksAreKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 80).Draw(rt, "hosts") // Adaptive samples beyond 64
		names := []string{}
		for name := range policies() {
			names = append(names, name)
		}
		name := rapid.SampledFrom(names).Draw(rt, "policy")
		b, err := balancer.New(
			balancer.Config{Resolver: balancer.Static(addrs(n)...), Policy: policies()[name], Wrap: ok200},
		)
		if err != nil {
			rt.Fatal(err)
		}
		defer b.Close(t.Context())
		ctx := t.Context()
		if rapid.Bool().Draw(rt, "avoid") {
			ctx = balancer.Avoid(ctx)
		}
		sends := rapid.IntRange(1, 200).Draw(rt, "sends")
		for range sends {
			if _, err := get(ctx, b); err != nil {
				rt.Fatal(err)
			}
		}
		s := b.Stats()
		total := uint64(0)
		for _, c := range s.EndpointRequests {
			total += c
		}
		if s.Requests != uint64(sends) || total != s.Requests || s.InFlight != 0 || s.Failures != 0 {
			rt.Fatalf("%d sent: %+v", sends, s)
		}
	})
}
