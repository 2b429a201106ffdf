package balancer_test

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// Sets of endpoints follow one another at random, with requests in flight. No request fails while
// there is an endpoint, none goes where the resolver no longer points, and in the end nothing is
// left of endpoints that have gone.
func TestL10_SetsChangeUnderRequests(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sets := rapid.SliceOfN(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) balancer.Endpoint {
			return balancer.Endpoint{
				Addr:     addrs(6)[rapid.IntRange(0, 5).Draw(t, "addr")],
				Weight:   rapid.SampledFrom([]uint32{0, 1, 5, 1000}).Draw(t, "weight"),
				Priority: uint8(rapid.IntRange(0, 2).Draw(t, "priority")),
			}
		}), 0, 8), 1, 8).Draw(rt, "sets")
		names := []string{}
		for name := range policies() {
			names = append(names, name)
		}
		policy := policies()[rapid.SampledFrom(names).Draw(rt, "policy")]
		var fault error
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(6)...)
			for i, a := range addrs(6) {
				f.set(a, server{delay: time.Duration(i) * 30 * time.Millisecond})
			}
			p := balancer.NewPushed(sets[0]...)
			b := newBalancer(t, balancer.Config{Resolver: p, Wrap: f.wrap, Policy: policy})
			var wg sync.WaitGroup
			var mu sync.Mutex
			for _, set := range sets {
				p.Set(set...)
				synctest.Wait()
				allowed := map[string]bool{}
				for _, e := range set {
					allowed[e.Addr] = true
				}
				for range 10 {
					wg.Go(func() {
						var pick balancer.Event
						_, err := get(withPick(t.Context(), &pick), b)
						mu.Lock()
						defer mu.Unlock()
						if err != nil && (len(set) > 0 || !errors.Is(err, balancer.ErrNoEndpoints)) {
							fault = errors.Join(fault, err)
						}
						if err == nil && !allowed[pick.Endpoint.Addr] {
							fault = errors.Join(fault, fmt.Errorf("%s is not in %v", pick.Endpoint.Addr, set))
						}
					})
					synctest.Wait()
				}
				time.Sleep(50 * time.Millisecond)
			}
			wg.Wait()
			p.Set()
			time.Sleep(time.Second)
			synctest.Wait()
			if rows := b.Endpoints("http://users.internal"); len(rows) != 0 {
				fault = errors.Join(fault, fmt.Errorf("left over: %+v", rows))
			}
			if n := b.Stats().InFlight; n != 0 {
				fault = errors.Join(fault, fmt.Errorf("%d in flight", n))
			}
		})
		if fault != nil {
			rt.Fatal(fault)
		}
	})
}

// The same without fake time, for the race detector: weights and members change while picks run on
// all processors.
func TestL10_ConcurrentUpdates(t *testing.T) {
	for name, policy := range policies() {
		t.Run(name, func(t *testing.T) {
			p := balancer.NewPushed(tiers()...)
			b := newBalancer(t, balancer.Config{
				Resolver: p, Wrap: ok200, Policy: policy, Observe: new(events).observe,
			})
			_, err := get(t.Context(), b)
			require.NoError(t, err)
			var wg sync.WaitGroup
			var stop atomic.Bool
			for range 4 {
				wg.Go(func() {
					for !stop.Load() {
						if _, err := get(t.Context(), b); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			for i := range 200 {
				set := tiers()
				for k := range set {
					// Rising weights are the hard case: all are more than the heaviest was.
					set[k].Weight = uint32(1+k%2) * uint32(math.Pow(5, float64(i%5)))
				}
				p.Set(set[i%3:]...)
				_ = b.Endpoints("http://users.internal")
				_ = b.Stats()
				runtime.Gosched()
			}
			stop.Store(true)
			wg.Wait()
		})
	}
}

// Requests at a removed endpoint run to their end, and its connections are closed as they fall
// idle.
func TestRemovedEndpointsDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet(t)
		for _, a := range addrs(3) {
			net.serve(a, after(10*time.Second, 200))
		}
		p := balancer.NewPushed(balancer.Endpoint{Addr: addrs(3)[0]})
		b := newBalancer(t, balancer.Config{Resolver: p, Transport: net.transport()})
		done := make(chan error, 3)
		for range 2 {
			go func() {
				_, err := get(t.Context(), b)
				done <- err
			}()
			synctest.Wait()
			time.Sleep(time.Second)
		}
		// Two requests run, and a third connection is idle.
		require.NoError(t, b.Warm(t.Context(), "http://users.internal", 1))
		require.Equal(t, 3, net.open(addrs(3)[0]))
		p.Set(balancer.Endpoint{Addr: addrs(3)[1]})
		time.Sleep(time.Second)
		require.Equal(t, 2, net.open(addrs(3)[0]), "the idle connection goes at once")
		rows := b.Endpoints("http://users.internal")
		require.Len(t, rows, 2)
		require.Equal(t, balancer.Draining, rows[1].State)
		require.Equal(t, 2, rows[1].InFlight)
		require.Equal(t, 2, b.Stats().EndpointInFlight[addrs(3)[0]], "the parts are the whole")
		require.Equal(t, 2, b.Stats().InFlight)
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Zero(t, net.open(addrs(3)[0]))
		require.Len(t, b.Endpoints("http://users.internal"), 1)
		require.Equal(t, uint64(2), b.Stats().Requests, "what the removed endpoint has done still counts")
	})
}

// An endpoint that comes back while it drains is a new one: nothing of the old one is mixed up with
// it.
func TestRemovedEndpointsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet(t)
		net.serve("a:1", after(2*time.Second, 200))
		p := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
		b := newBalancer(t, balancer.Config{Resolver: p, Transport: net.transport()})
		done := make(chan error, 2)
		run := func() {
			_, err := get(t.Context(), b)
			done <- err
		}
		go run()
		synctest.Wait()
		p.Set()
		synctest.Wait()
		p.Set(balancer.Endpoint{Addr: "a:1"})
		synctest.Wait()
		go run()
		synctest.Wait()
		require.Equal(t, 2, b.Stats().InFlight)
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		time.Sleep(time.Second)
		require.Zero(t, b.Stats().InFlight)
		require.Len(t, b.Endpoints("http://users.internal"), 1)
		require.Equal(t, 1, net.open("a:1"))
	})
}

func TestL11_NothingIsLeftOfEndpointsThatGo(t *testing.T) {
	var live []*backend.Backend
	for i := range 8 {
		live = append(live, backend.Start(t, backend.Config{Name: fmt.Sprint(i)}))
	}
	set := func(i int) []balancer.Endpoint {
		var s []balancer.Endpoint
		for k := range 3 {
			s = append(s, balancer.Endpoint{Addr: live[(i+k)%len(live)].Addr})
		}
		// Nobody is there.
		return append(s, balancer.Endpoint{Addr: fmt.Sprintf("127.0.0.1:%d", 1+i%1000)})
	}
	p := balancer.NewPushed(set(0)...)
	b := newBalancer(t, balancer.Config{
		Resolver: p, Warm: 1, SlowStart: -1,
		Health: balancer.HealthConfig{Path: "/healthz", Interval: 50 * time.Millisecond},
	})
	settle := func() (goroutines, files int) {
		p.Set(set(0)...)
		last := -1
		for range 100 { // until removed connections are closed, and their goroutines are gone
			_, _ = get(t.Context(), b)
			b.CloseIdleConnections()
			<-time.After(50 * time.Millisecond)
			goroutines, files = runtime.NumGoroutine(), openFiles(t)
			if goroutines == last {
				break
			}
			last = goroutines
		}
		return goroutines, files
	}
	for range 10 {
		_, _ = get(t.Context(), b)
	}
	goroutines, files := settle()
	for i := range 10_000 {
		p.Set(set(i)...)
		if i%20 == 0 {
			_, err := get(t.Context(), b)
			require.NoError(t, err)
		} else {
			runtime.Gosched()
		}
	}
	require.Eventually(t, func() bool {
		g, f := settle()
		return g <= goroutines+10 && f <= files+10
	}, 20*time.Second, 10*time.Millisecond, "goroutines and files as before: %d and %d", goroutines, files)
	require.Len(t, addrsOf(b), 4)
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil { // not Linux
		return 0
	}
	return len(list)
}

func TestReloadKeepsState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet(t)
		for i, a := range addrs(4) {
			status := 200
			if i == 0 {
				status = 500
			}
			net.serve(a, after(5*time.Millisecond, status))
		}
		p := balancer.NewPushed(
			balancer.Endpoint{Addr: addrs(4)[0]},
			balancer.Endpoint{Addr: addrs(4)[1]},
			balancer.Endpoint{Addr: addrs(4)[2]},
		)
		cfg := balancer.Config{
			Resolver:  p,
			Transport: net.transport(),
			Policy:    balancer.RoundRobin(),
			Outlier:   balancer.OutlierConfig{Base: time.Minute},
		}
		b := newBalancer(t, cfg)
		load(t, b, 10*time.Millisecond, time.Second)
		require.Equal(t, balancer.Ejected, statusOf(t, b, addrs(4)[0]).State)
		before, dialed := b.Stats(), net.dialed(addrs(4)[1])

		cfg.Policy = balancer.Adaptive()
		cfg.Resolver = balancer.Static(addrs(4)...) // one more
		require.NoError(t, b.Reload(observed(cfg)))
		synctest.Wait()
		s := statusOf(t, b, addrs(4)[0])
		require.Equal(t, balancer.Ejected, s.State, "what is known stays")
		require.Equal(t, before.EndpointRequests[addrs(4)[0]], s.Requests)
		require.Len(t, b.Endpoints("http://users.internal"), 4)
		load(t, b, 10*time.Millisecond, time.Second)
		require.Equal(t, balancer.ReasonCost, pickOf(t, b).Reason)
		require.Equal(t, dialed, net.dialed(addrs(4)[1]), "connections stay")
		p.Set() // nobody listens to the old resolver any more
		synctest.Wait()
		require.Len(t, b.Endpoints("http://users.internal"), 4)
		require.Equal(t, before.Requests+101, b.Stats().Requests)
	})
}

func TestReloadOfTheTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet(t)
		net.serve("a:1", after(time.Second, 200))
		cfg := balancer.Config{Resolver: balancer.Static("a:1"), Transport: net.transport()}
		b := newBalancer(t, cfg)
		done := make(chan error, 1)
		_, err := get(t.Context(), b)
		require.NoError(t, err)
		go func() {
			_, err := get(t.Context(), b)
			done <- err
		}()
		synctest.Wait() // net/http answers OPTIONS *: the warm-up takes no time
		require.NoError(t, b.Warm(t.Context(), "http://users.internal", 2))
		cfg.Transport = net.transport()
		require.NoError(t, b.Reload(cfg))
		_, err = get(t.Context(), b)
		require.NoError(t, err)
		require.NoError(t, <-done, "what runs on the old connections is not cut")
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 1, net.open("a:1"), "and they are closed when it is over")
	})
	t.Run("and Close at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			net := newMemNet(t)
			net.serve("a:1", after(time.Millisecond, 200))
			cfg := balancer.Config{Resolver: balancer.Static("a:1"), Transport: net.transport()}
			b, err := balancer.New(cfg)
			require.NoError(t, err)
			_, err = get(t.Context(), b)
			require.NoError(t, err)
			cfg.Transport = net.transport()
			require.NoError(t, b.Reload(cfg))
			require.NoError(t, b.Close(t.Context()))
			synctest.Wait()
			require.Zero(
				t,
				net.open("a:1"),
				"nobody is left to close the connections of the transport before",
			)
		})
	})
	t.Run("and removal at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			net := newMemNet(t)
			net.serve("a:1", after(time.Millisecond, 200))
			p := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
			cfg := balancer.Config{Resolver: p, Transport: net.transport()}
			b := newBalancer(t, cfg)
			_, err := get(t.Context(), b)
			require.NoError(t, err)
			cfg.Transport = net.transport()
			require.NoError(t, b.Reload(cfg))
			p.Set()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			require.Zero(t, net.open("a:1"))
		})
	})
}

// A Reload without slow start ends one that is under way.
func TestReloadEndsSlowStart(t *testing.T) {
	for _, slow := range []time.Duration{-1, time.Second} {
		t.Run(fmt.Sprint(slow), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "b:1"})
				cfg := balancer.Config{
					Resolver:  p,
					Wrap:      ok200,
					SlowStart: time.Hour,
					Policy:    balancer.RoundRobin(),
				}
				b := newBalancer(t, cfg)
				load(t, b, 10*time.Millisecond, time.Second)
				p.Set(
					balancer.Endpoint{Addr: "a:1"},
					balancer.Endpoint{Addr: "b:1"},
					balancer.Endpoint{Addr: "new:1"},
				)
				load(t, b, 10*time.Millisecond, time.Second)
				require.Less(t, statusOf(t, b, "new:1").Share, 0.2)
				cfg.SlowStart = slow
				require.NoError(t, b.Reload(cfg))
				load(t, b, 10*time.Millisecond, 3*time.Second)
				require.Equal(t, 1.0, statusOf(t, b, "new:1").Share)
				before := statusOf(t, b, "new:1").Requests
				load(t, b, 10*time.Millisecond, 3*time.Second)
				require.InDelta(t, 100, statusOf(t, b, "new:1").Requests-before, 5)
			})
		})
	}
}

func TestConcurrentReloads(t *testing.T) {
	cfg := func(i int) balancer.Config {
		c := balancer.Config{
			Resolver: balancer.Static(addrs(3 + i%3)...),
			Wrap:     ok200,
			Conns:    1 + i%2,
			Observe:  new(events).observe,
		}
		for _, p := range policies() {
			c.Policy = p
		}
		return c
	}
	b := newBalancer(t, cfg(0))
	var wg sync.WaitGroup
	var stop atomic.Bool
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				if _, err := get(t.Context(), b); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 200 {
		require.NoError(t, b.Reload(cfg(i)))
		b.CloseIdleConnections()
	}
	stop.Store(true)
	wg.Wait()
}

func TestConnectionsHaveALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet(t)
		net.serve("a:1", after(time.Millisecond, 200))
		b := newBalancer(t, balancer.Config{
			Resolver:  balancer.Static("a:1"),
			Transport: net.transport(),
			ConnLife:  time.Minute,
		})
		_, failed := load(t, b, 100*time.Millisecond, 10*time.Minute)
		require.Zero(t, failed)
		require.InDelta(t, 10, net.dialed("a:1"), 3, "a minute each, give or take a fifth")
		require.LessOrEqual(t, net.open("a:1"), 1)
	})
}

func TestSeveralTransportsForEachEndpoint(t *testing.T) {
	be := backend.Start(t, backend.Config{Protocol: backend.H2C})
	for _, conns := range []int{1, 3} {
		accepted := countConns(t, be.Addr)
		b := newBalancer(t, balancer.Config{
			Resolver:  balancer.Static(accepted.addr),
			Transport: backend.Transport(backend.H2C),
			Conns:     conns,
		})
		for range 30 {
			status, err := get(t.Context(), b)
			require.NoError(t, err)
			require.Equal(t, 200, status)
		}
		require.GreaterOrEqual(t, accepted.count(), conns)
		// net/http may dial once more while a new connection is on its way to the idle ones.
		require.LessOrEqual(t, accepted.count(), 2*conns)
	}
}

func TestCloseIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet(t)
		net.serve("a:1", after(time.Millisecond, 200))
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1"), Transport: net.transport()})
		_, err := get(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, 1, net.open("a:1"))
		b.CloseIdleConnections()
		synctest.Wait()
		require.Zero(t, net.open("a:1"))
	})
}

// A wrapper that is asked to close its connections may ask the Balancer.
func TestWrappersCloseConnectionsUnlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resolver := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "b:1"})
		var b *balancer.Balancer
		var closes atomic.Int32
		b = newBalancer(t, balancer.Config{
			Resolver: resolver, Policy: balancer.RoundRobin(),
			Wrap: func(balancer.Endpoint, http.RoundTripper) http.RoundTripper {
				return closer{
					upstream(
						func(
							balancer.Endpoint, *http.Request,
						) (*http.Response, error) {
							return answer(200), nil
						},
					),
					func() {
						b.Stats()
						closes.Add(1)
					},
				}
			},
		})
		pickOf(t, b)
		pickOf(t, b)
		b.CloseIdleConnections()
		require.Equal(t, int32(2), closes.Load())
		resolver.Set(balancer.Endpoint{Addr: "a:1"})
		time.Sleep(time.Second)
		require.Greater(t, closes.Load(), int32(2), "as one leaves")
	})
}

type closer struct {
	upstream
	close func()
}

func (c closer) RoundTrip(r *http.Request) (*http.Response, error) {
	return c.upstream(balancer.Endpoint{}, r)
}
func (c closer) CloseIdleConnections() { c.close() }
