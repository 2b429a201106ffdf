//go:build !race

// Statistics of how policies share out requests, over minutes of simulated time. What they do at
// once is tested with the race detector in pool_test.go.

package balancer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

func TestL28_EqualEndpointsShareEvenly(t *testing.T) {
	for name, p := range policies() {
		if name == "Hash" || name == "Adaptive" || name == "PeakEWMA" || name == "Sticky" ||
			name == "Hash/no key" {
			continue // they look at more than load: see TestEqualCostsShareEvenly
		}
		t.Run(name, func(t *testing.T) {
			hosts := addrs(10)
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(hosts...), Policy: p, Wrap: ok200})
			counts, index := make([]int, len(hosts)), map[string]int{}
			for i, a := range hosts {
				index[a] = i
			}
			for range 100 { // all endpoints are new: until each has replied they are not equal
				pickOf(t, b)
			}
			for range 20000 {
				counts[index[pickOf(t, b).Endpoint.Addr]]++
			}
			even := make([]float64, len(hosts))
			for i := range even {
				even[i] = 1
			}
			require.Less(t, chiSquare(counts, even), critical(len(hosts)), "%v", counts)
		})
	}
}

// If all endpoints have the same latency, policies that measure it give each its part. Each request
// comes alone.
func TestEqualCostsShareEvenly(t *testing.T) {
	for name, p := range policies() {
		if name == "Hash" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(addrs(8)...)
				for _, a := range f.addrs() {
					f.set(a, server{delay: 10 * time.Millisecond})
				}
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(f.addrs()...), Policy: p, Wrap: f.wrap,
				})
				sent, failed := load(t, b, time.Millisecond, 8*time.Second)
				require.Zero(t, failed)
				fair := float64(sent) / 8
				for addr, n := range b.Stats().EndpointRequests {
					// Of equal endpoints, Adaptive prefers those that it knows to take concurrent
					// requests well.
					require.Greater(t, float64(n), 0.3*fair, addr)
					require.Less(t, float64(n), 2*fair, addr)
				}
			})
		})
	}
}

func TestWeights(t *testing.T) {
	weights := []float64{1, 2, 4, 8}
	for name, p := range map[string]balancer.Policy{
		"Random": balancer.Random(), "RoundRobin": balancer.RoundRobin(),
		"LeastRequest(0)": balancer.LeastRequest(0),
		"Hash":            balancer.Hash(balancer.HashConfig{Key: counter(), Bound: -1}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet()
				var set []balancer.Endpoint
				for i, w := range weights {
					set = append(set, balancer.Endpoint{Addr: addrs(4)[i], Weight: uint32(w)})
					f.set(addrs(4)[i], server{delay: 100 * time.Millisecond})
				}
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.NewPushed(set...), Policy: p, Wrap: f.wrap,
				})
				sent, _ := load(t, b, time.Millisecond, 15*time.Second)
				n := b.Stats().EndpointRequests
				for i, w := range weights {
					require.InDelta(t, w/15, float64(n[addrs(4)[i]])/float64(sent), 0.03, "%v", n)
				}
			})
		})
	}
}

// counter makes every key a new one.
func counter() func(*http.Request) (string, bool) {
	var n atomic.Uint64
	return func(*http.Request) (string, bool) { return fmt.Sprint(n.Add(1)), true }
}

func TestPoliciesAvoidSlowEndpoints(t *testing.T) {
	for name, p := range policies() {
		if name != "Adaptive" && name != "PeakEWMA" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(addrs(4)...)
				for _, a := range f.addrs() {
					f.set(a, server{delay: 5 * time.Millisecond})
				}
				f.set("10.0.0.0:80", server{delay: 500 * time.Millisecond})
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(f.addrs()...), Policy: p, Wrap: f.wrap,
				})
				sent, _ := load(t, b, 2*time.Millisecond, 10*time.Second)
				require.Less(t, float64(statusOf(t, b, "10.0.0.0:80").Requests), 0.05*float64(sent))
			})
		})
	}
}

// A slow endpoint that has recovered gets its part again. Active checks find it out; without them,
// a few requests do.
func TestSlowEndpointsAreFoundAgain(t *testing.T) {
	for _, health := range []bool{false, true} {
		t.Run(fmt.Sprintf("checks=%v", health), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var delay atomic.Int64 // of the first
				delay.Store(int64(500 * time.Millisecond))
				serve := func(e balancer.Endpoint) {
					d := 5 * time.Millisecond
					if e.Addr == "10.0.0.0:80" {
						d = time.Duration(delay.Load())
					}
					time.Sleep(time.Duration((0.8 + 0.4*rand.Float64()) * float64(d)))
				}
				cfg := balancer.Config{
					Resolver: balancer.Static(addrs(4)...),
					Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
						serve(e)
						return answer(200), nil
					}).wrap,
				}
				if health {
					cfg.Health = balancer.HealthConfig{
						Interval: time.Second,
						Check: func(_ context.Context, e balancer.Endpoint, _ http.RoundTripper) error {
							serve(e)
							return nil
						},
					}
				}
				b := newBalancer(t, cfg)
				load(t, b, time.Millisecond, 10*time.Second)
				before := statusOf(t, b, "10.0.0.0:80").Requests
				sent, _ := load(t, b, time.Millisecond, 10*time.Second)
				hit := float64(statusOf(t, b, "10.0.0.0:80").Requests - before)
				if health {
					// The second slow reply is needed to show that the first was no accident.
					require.LessOrEqual(t, hit, 2.0, "of %d", sent)
				} else {
					require.LessOrEqual(t, hit, 0.005*float64(sent))
				}
				delay.Store(int64(5 * time.Millisecond))
				load(t, b, time.Millisecond, 10*time.Second)
				before = statusOf(t, b, "10.0.0.0:80").Requests
				sent, _ = load(t, b, time.Millisecond, 10*time.Second)
				require.Greater(
					t,
					float64(statusOf(t, b, "10.0.0.0:80").Requests-before),
					0.25*float64(sent)/4,
					"a quarter of its fair share, ten seconds after it has recovered",
				)
			})
		})
	}
}

// An endpoint that answers at once that it is busy looks idle to policies that only count requests
// in flight.
func TestBusyEndpointsPauseWithoutCosts(t *testing.T) {
	for name, policy := range map[string]balancer.Policy{
		"LeastRequest(0)": balancer.LeastRequest(0),
		"LeastRequest(2)": balancer.LeastRequest(2),
		"RoundRobin":      balancer.RoundRobin(),
		"Random":          balancer.Random(),
		"Hash":            balancer.Hash(balancer.HashConfig{Key: byContext, Next: balancer.Random()}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var busy atomic.Bool
				pause := "2"
				busy.Store(true)
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(addrs(4)...), Policy: policy,
					Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
						if e.Addr == "10.0.0.0:80" && busy.Load() {
							resp := answer(503)
							resp.Header.Set("Retry-After", pause)
							return resp, nil
						}
						time.Sleep(20 * time.Millisecond)
						return answer(200), nil
					}).wrap,
				})
				sent, failed := load(t, b, 5*time.Millisecond, 20*time.Second)
				require.Less(t, failed, sent/100, "of %d", sent)
				pause = "0"
				sent, failed = load(t, b, 5*time.Millisecond, 20*time.Second)
				require.Less(t, failed, sent/15, "of %d", sent)
				require.Zero(t, b.Stats().Ejections)
				busy.Store(false)
				time.Sleep(3 * time.Second)
				before := statusOf(t, b, "10.0.0.0:80").Requests
				sent, failed = load(t, b, 5*time.Millisecond, 20*time.Second)
				require.Zero(t, failed)
				require.Greater(t, statusOf(t, b, "10.0.0.0:80").Requests-before, uint64(sent/8))
			})
		})
	}
}

// Whatever made an endpoint bad, 10 s after it is well again it gets at least a quarter of its fair
// share.
func TestRecoveredEndpointsAreNotStarved(t *testing.T) {
	for name, fault := range map[string]server{
		"fails": {delay: 10 * time.Millisecond, status: 500},
		"slow":  {delay: 500 * time.Millisecond},
		"hangs": {delay: time.Hour},
	} {
		for policy, p := range map[string]balancer.Policy{
			"adaptive":      balancer.Adaptive(),
			"peak":          balancer.PeakEWMA(10 * time.Second),
			"least request": balancer.LeastRequest(2),
		} {
			if name == "slow" && policy == "peak" {
				continue // how a rival forgets a slow reply is chance, and not ours
			}
			for _, checks := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/checks=%v", name, policy, checks), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						f := newFleet(addrs(5)...)
						for _, a := range addrs(5) {
							f.set(a, server{delay: 10 * time.Millisecond})
						}
						cfg := balancer.Config{
							Resolver: balancer.Static(addrs(5)...),
							Wrap:     f.wrap,
							Policy:   p,
						}
						if checks {
							cfg.Health = balancer.HealthConfig{
								Interval: time.Second,
								Check: func(
									ctx context.Context, e balancer.Endpoint, _ http.RoundTripper,
								) error {
									req, _ := http.NewRequestWithContext(
										ctx,
										http.MethodGet,
										"http://users.internal/",
										nil,
									)
									resp, err := f.wrap(e, nil).RoundTrip(req)
									if err == nil && resp.StatusCode >= 400 {
										err = errCheck
									}
									return err
								},
							}
						}
						b := newBalancer(t, cfg)
						bad := addrs(5)[2]
						gap := 5 * time.Millisecond
						if !checks { // requests of users find out, 0.2 % of them
							gap = 2 * time.Millisecond
						}
						send := func(d time.Duration) (sent int) {
							tick := time.NewTicker(gap)
							defer tick.Stop()
							for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
								sent++
								go func() {
									ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
									defer cancel()
									_, _ = get(ctx, b)
								}()
							}
							return sent
						}
						send(3 * time.Second)
						f.set(bad, fault)
						send(10 * time.Second)
						f.set(bad, server{delay: 10 * time.Millisecond})
						send(10 * time.Second)
						before := statusOf(t, b, bad).Requests
						sent := send(2 * time.Second)
						time.Sleep(3 * time.Second)
						got := float64(statusOf(t, b, bad).Requests-before) / (float64(sent) / 5)
						require.GreaterOrEqual(t, got, 0.25, "of its fair share")
					})
				})
			}
		}
	}
}
