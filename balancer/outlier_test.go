package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/balancer"
)

// A fleet is upstream servers in fake time.
type fleet struct {
	mu    sync.Mutex // guards serve
	serve map[string]server
}

type server struct {
	delay  time.Duration
	status int   // zero means 200
	err    error // instead of an answer
	cut    bool  // the body breaks off
}

func newFleet(addrs ...string) *fleet {
	f := &fleet{serve: map[string]server{}}
	for _, a := range addrs {
		f.serve[a] = server{}
	}
	return f
}

func (f *fleet) set(addr string, s server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serve[addr] = s
}

func (f *fleet) addrs() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for a := range f.serve {
		all = append(all, a)
	}
	return all
}

func (f *fleet) wrap(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
	return upstream(func(e balancer.Endpoint, r *http.Request) (*http.Response, error) {
		f.mu.Lock()
		s := f.serve[e.Addr]
		f.mu.Unlock()
		if s.delay > 0 {
			timer := time.NewTimer(s.delay)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		if s.err != nil {
			return nil, s.err
		}
		resp := answer(max(s.status, 200))
		if s.cut {
			resp.Body = io.NopCloser(broken{})
		}
		return resp, nil
	}).wrap(e, next)
}

// load sends a request every gap for d, waits for all of them, and returns how many there were and
// how many failed.
func load(t *testing.T, b *balancer.Balancer, gap, d time.Duration) (sent, failed int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	ticker := time.NewTicker(gap)
	defer ticker.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-ticker.C {
		sent++
		wg.Go(func() {
			if status, err := get(t.Context(), b); err != nil || status >= 500 {
				mu.Lock()
				defer mu.Unlock()
				failed++
			}
		})
	}
	wg.Wait()
	return sent, failed
}

func addrs(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("10.0.0.%d:80", i)
	}
	return all
}

func TestL01_AllEndpointsDown(t *testing.T) {
	for _, all := range []bool{true, false} { // or one left of five, which is below the share too
		t.Run(fmt.Sprintf("all=%v/panic=default", all), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChecks()
				var seen events
				hosts := addrs(5)
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(
						hosts...), Wrap: ok200, Observe: seen.observe, IdleTimeout: -1, SlowStart: -1,
					Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
				})
				pickOf(t, b)
				for i, a := range hosts {
					if all || i > 0 {
						c.set(a, errCheck)
					}
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				got := map[string]bool{}
				for range 200 {
					p := pickOf(t, b)
					require.Equal(t, 1, b.Stats().Panicking)
					got[p.Endpoint.Addr] = true
				}
				require.Len(t, got, 5, "all get requests, whatever is known of them")
				require.Equal(t, 1, b.Stats().Panicking)
				began := seen.of(balancer.PanicChanged)
				require.Len(t, began, 1)
				require.True(t, began[0].Panicking)
				require.Equal(t, 5, began[0].Endpoints)
				for _, a := range hosts {
					c.set(a, nil)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				pickOf(t, b)
				require.Len(t, seen.of(balancer.PanicChanged), 2)
				require.Zero(t, b.Stats().Panicking)
			})
		})
	}
	t.Run("panic=never", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newChecks()
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1", "b:1"), Wrap: ok200, PanicBelow: -1,
				Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
			})
			pickOf(t, b)
			c.set("a:1", errCheck)
			c.set("b:1", errCheck)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			start := time.Now()
			_, err := get(t.Context(), b)
			require.ErrorIs(t, err, balancer.ErrNoEndpoints)
			require.True(t, notSent(err))
			require.Zero(t, time.Since(start), "it does not block")
		})
	})
}

func TestL02_BlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(addrs(10)...)
		for _, a := range f.addrs() {
			f.set(a, server{delay: 10 * time.Millisecond})
		}
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(f.addrs()...), Wrap: f.wrap})
		load(t, b, time.Millisecond, 5*time.Second)
		f.set("10.0.0.3:80", server{delay: 100 * time.Microsecond, status: 500})
		sent, failed := load(t, b, time.Millisecond, time.Second)
		require.Less(t, failed*10, sent, "no more than its fair share")
		more, later := load(t, b, time.Millisecond, 15*time.Second)
		require.LessOrEqual(t, 1000*(failed+later), sent+more, "0.1 %% of all, where taking turns has 10 %%")
		require.NotZero(t, b.Stats().Ejections)
	})
}

// Whatever the policy, the black hole gets fewer requests than its fair share once it has been
// ejected.
func TestFailuresInARowEject(t *testing.T) {
	for name, fault := range map[string]server{
		"500":     {status: 500},
		"502":     {status: 502},
		"broken":  {err: io.ErrUnexpectedEOF},
		"refused": {err: &balancerDial{}},
		"cut":     {cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(addrs(4)...)
				f.set("10.0.0.0:80", fault)
				var seen events
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(
						f.addrs()...), Wrap: f.wrap, Policy: balancer.RoundRobin(), Observe: seen.observe,
					Outlier: balancer.OutlierConfig{Consecutive: 3, Base: 10 * time.Second},
				})
				load(t, b, 10*time.Millisecond, time.Second)
				s := statusOf(t, b, "10.0.0.0:80")
				require.Equal(t, balancer.Ejected, s.State)
				require.Equal(t, "consecutive failures", s.Reason)
				require.Equal(t, uint64(3), s.Failures)
				require.Equal(t, uint64(1), b.Stats().Ejections)
				changed := seen.of(balancer.EndpointChanged)
				require.Len(t, changed, 1)
				require.Equal(t, balancer.Ejected, changed[0].State)
				require.InDelta(
					t,
					10*time.Second,
					changed[0].EjectedFor,
					float64(time.Second)+1,
					"give or take a tenth",
				)
				require.Equal(t, 3, b.Stats().Available)
			})
		})
	}
}

type balancerDial struct{}

func (*balancerDial) Error() string { return "connection refused" }

func TestEjectionsGrowAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(addrs(4)...)
		f.set("10.0.0.0:80", server{status: 500})
		var seen events
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(f.addrs()...), Wrap: f.wrap, Policy: balancer.RoundRobin(),
			Observe: seen.observe, SlowStart: -1,
			Outlier: balancer.OutlierConfig{Base: 10 * time.Second, Max: 25 * time.Second},
		})
		load(t, b, 10*time.Millisecond, 2*time.Minute)
		var lengths []time.Duration
		for _, e := range seen.of(balancer.EndpointChanged) {
			if e.State == balancer.Ejected {
				lengths = append(lengths, e.EjectedFor)
			}
		}
		require.GreaterOrEqual(t, len(lengths), 4)
		for i, want := range []time.Duration{
			10 * time.Second, 20 * time.Second, 25 * time.Second, 25 * time.Second,
		} {
			require.InDelta(t, want, lengths[i], float64(want)/10+1)
		}
		f.set("10.0.0.0:80", server{})
		load(t, b, 10*time.Millisecond, 3*time.Minute)
		s := statusOf(t, b, "10.0.0.0:80")
		require.Equal(t, balancer.Healthy, s.State)
		require.Zero(t, s.Ejections, "good intervals let the count fall")
		require.Empty(t, s.Reason)
	})
}

func TestL12_ReturningEndpointsAreNotSwamped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(addrs(4)...)
		for _, a := range f.addrs() {
			f.set(a, server{delay: 5 * time.Millisecond})
		}
		back := "10.0.0.0:80"
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(f.addrs()...), Wrap: f.wrap, SlowStart: 10 * time.Second,
			Outlier: balancer.OutlierConfig{Base: 10 * time.Second},
		})
		f.set(back, server{delay: 5 * time.Millisecond, status: 500})
		load(t, b, time.Millisecond, 2*time.Second)
		require.Equal(t, balancer.Ejected, statusOf(t, b, back).State)
		f.set(back, server{delay: time.Millisecond}) // fast, since it has nothing to do
		for statusOf(t, b, back).State == balancer.Ejected {
			load(t, b, time.Millisecond, 50*time.Millisecond)
		}
		var shares []float64
		for range 10 {
			before := statusOf(t, b, back).Requests
			sent, failed := load(t, b, time.Millisecond, time.Second)
			require.Zero(t, failed)
			shares = append(shares, float64(statusOf(t, b, back).Requests-before)/float64(sent))
		}
		fair := 0.25
		require.Less(t, shares[0], fair, "in the first second: %v", shares)
		require.Less(t, shares[0], shares[6], "it grows: %v", shares)
		load(t, b, time.Millisecond, 2*time.Second)
		require.Equal(t, 1.0, statusOf(t, b, back).Share)
		before := statusOf(t, b, back).Requests
		sent, _ := load(t, b, time.Millisecond, 2*time.Second)
		require.Greater(
			t,
			float64(statusOf(t, b, back).Requests-before),
			fair*0.25*float64(sent),
			"no starvation after recovery",
		)
	})
	t.Run("probation", func(t *testing.T) {
		// Until the endpoint has answered once, it gets one request at a time.
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(4)...)
			p := balancer.NewPushed(
				balancer.Endpoint{Addr: "10.0.0.0:80"},
				balancer.Endpoint{Addr: "10.0.0.1:80"},
			)
			b := newBalancer(t, balancer.Config{
				Resolver:  p,
				Wrap:      f.wrap,
				SlowStart: -1,
				Outlier:   balancer.OutlierConfig{Consecutive: -1},
			})
			load(t, b, time.Millisecond, time.Second)
			f.set("10.0.0.2:80", server{delay: time.Hour})
			p.Set(
				balancer.Endpoint{Addr: "10.0.0.0:80"},
				balancer.Endpoint{Addr: "10.0.0.1:80"},
				balancer.Endpoint{Addr: "10.0.0.2:80"},
			)
			synctest.Wait()
			for range 1000 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				go func() {
					defer cancel()
					_, _ = get(ctx, b)
				}()
				synctest.Wait()
				require.LessOrEqual(t, statusOf(t, b, "10.0.0.2:80").InFlight, 1)
			}
			time.Sleep(2 * time.Second)
		})
	})
}

func TestWhatDoesNotEject(t *testing.T) {
	t.Run("429, 503 with Retry-After, client errors", func(t *testing.T) {
		for _, status := range []int{400, 404, 429, 501} {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(addrs(4)...)
				f.set("10.0.0.0:80", server{status: status})
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(f.addrs()...),
					Wrap:     f.wrap,
					Policy:   balancer.RoundRobin(),
				})
				load(t, b, 10*time.Millisecond, 30*time.Second)
				require.Zero(t, b.Stats().Ejections, "status %d", status)
				require.Zero(t, b.Stats().Failures)
			})
		}
	})
	t.Run("callers that leave", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(4)...)
			for _, a := range f.addrs() {
				f.set(a, server{delay: time.Second})
			}
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(f.addrs()...), Wrap: f.wrap})
			for range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(500*time.Millisecond, cancel)
				_, err := get(ctx, b)
				require.ErrorIs(t, err, context.Canceled)
			}
			require.Zero(t, b.Stats().Ejections)
			require.Zero(t, b.Stats().Failures)
		})
	})
	t.Run("a body that the caller cannot provide", func(t *testing.T) {
		f := newFleet("a:1", "b:1")
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1"),
			Wrap: func(e balancer.Endpoint, _ http.RoundTripper) http.RoundTripper {
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					_, err := io.ReadAll(r.Body)
					r.Body.Close()
					return nil, err
				})
			},
		})
		_ = f
		for range 20 {
			req, err := http.NewRequest(
				http.MethodPost,
				"http://users.internal/",
				io.MultiReader(strings.NewReader("x"), broken{}),
			)
			require.NoError(t, err)
			_, err = b.RoundTrip(req)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		}
		require.Zero(t, b.Stats().Failures)
		require.Zero(t, b.Stats().Ejections)
	})
	t.Run("a fault of what all share", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(10)...)
			for _, a := range f.addrs() {
				f.set(a, server{status: 502, delay: time.Millisecond})
			}
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static(f.addrs()...),
				Wrap:     f.wrap,
				Policy:   balancer.RoundRobin(),
			})
			load(t, b, 5*time.Millisecond, 30*time.Second)
			require.GreaterOrEqual(t, b.Stats().Available, 9, "fewer endpoints would only have more to do")
		})
	})
}

// An endpoint that says when it has room again is left alone until then, and not blamed.
func TestBusyEndpointsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := true
		var mu sync.Mutex
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(addrs(4)...),
			Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
				time.Sleep(time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				if e.Addr == "10.0.0.0:80" && busy {
					busy = false
					resp := answer(503)
					resp.Header.Set("Retry-After", "5")
					return resp, nil
				}
				return answer(200), nil
			}).wrap,
		})
		for func() bool { mu.Lock(); defer mu.Unlock(); return busy }() {
			_, err := get(t.Context(), b)
			require.NoError(t, err)
		}
		before := statusOf(t, b, "10.0.0.0:80").Requests
		for range 1000 {
			_, err := get(t.Context(), b)
			require.NoError(t, err)
			time.Sleep(3 * time.Millisecond)
		}
		require.LessOrEqual(
			t,
			statusOf(t, b, "10.0.0.0:80").Requests-before,
			uint64(20),
			"in four of the five seconds",
		)
		require.Zero(t, b.Stats().Ejections)
		require.Zero(t, b.Stats().Failures)
		time.Sleep(10 * time.Second)
		load(t, b, 2*time.Millisecond, 10*time.Second)
		before = statusOf(t, b, "10.0.0.0:80").Requests
		sent, _ := load(t, b, 2*time.Millisecond, 10*time.Second)
		require.Greater(t, statusOf(t, b, "10.0.0.0:80").Requests-before, uint64(sent/16))
	})
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

func TestSuccessRateEjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(addrs(6)...), Policy: balancer.RoundRobin(),
			Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				if n++; e.Addr == "10.0.0.0:80" && n%2 == 0 { // never many in a row
					return answer(500), nil
				}
				return answer(200), nil
			}).wrap,
			Outlier: balancer.OutlierConfig{Consecutive: -1, Base: 30 * time.Second},
		})
		// With 6 endpoints in turn, parity would always hit the same: shift it.
		for i := range 4000 {
			if i%7 == 0 {
				mu.Lock()
				n++
				mu.Unlock()
			}
			_, err := get(t.Context(), b)
			require.NoError(t, err)
			time.Sleep(5 * time.Millisecond)
		}
		s := statusOf(t, b, "10.0.0.0:80")
		require.Equal(t, balancer.Ejected, s.State)
		require.Equal(t, "success rate", s.Reason)
		require.Equal(t, uint64(1), b.Stats().Ejections)
	})
	t.Run("not by a single failure", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(6)...)
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static(f.addrs()...),
				Wrap:     f.wrap,
				Policy:   balancer.RoundRobin(),
			})
			for range 5 {
				load(t, b, time.Millisecond, 5*time.Second)
				f.set("10.0.0.0:80", server{status: 500})
				load(t, b, time.Millisecond, 6*time.Millisecond)
				f.set("10.0.0.0:80", server{})
				load(t, b, time.Millisecond, 5*time.Second)
			}
			require.NotZero(t, b.Stats().Failures)
			require.Zero(t, b.Stats().Ejections)
		})
	})
}

// everyone is a user's own policy that leaves every choice to chance. Latencies are measured
// nevertheless.
type everyone struct{}

func (everyone) Pick(*balancer.View, *http.Request) int { return -1 }

// Whatever happens to a target of n endpoints, the last one is never ejected, nor more than the
// share, and every ejected endpoint comes back.
func TestL03_NeverEverybody(t *testing.T) {
	type step struct {
		bad   []bool // by endpoint
		sends int
		pause time.Duration
	}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(rt, "hosts")
		share := rapid.SampledFrom([]float64{0, 0.1, 0.3, 0.5, 1}).Draw(rt, "share")
		consecutive := rapid.IntRange(1, 5).Draw(rt, "consecutive")
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				bad:   rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "bad"),
				sends: rapid.IntRange(1, 40).Draw(t, "sends"),
				pause: time.Duration(rapid.IntRange(0, 20000).Draw(t, "pause")) * time.Millisecond,
			}
		}), 1, 8).Draw(rt, "steps")
		allowed := share
		if allowed == 0 {
			allowed = 0.3
		}
		limit := max(1, int(allowed*float64(n)))
		var fault error
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(n)...)
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static(
					addrs(n)...), Wrap: f.wrap, Policy: balancer.Random(), SlowStart: -1,
				Outlier: balancer.OutlierConfig{
					Consecutive:  consecutive,
					MaxEjected:   share,
					MinEndpoints: 2,
					MinRequests:  5,
					Interval:     time.Second,
					Base:         5 * time.Second,
					Max:          10 * time.Second,
				},
			})
			look := func() {
				ejected, rows := 0, b.Endpoints("http://users.internal")
				for _, h := range rows {
					if h.State == balancer.Ejected {
						ejected++
					}
				}
				if ejected > limit || len(rows) > 0 && ejected == len(rows) {
					fault = errors.Join(
						fault,
						fmt.Errorf("%d of %d endpoints ejected, allowed are %d", ejected, n, limit),
					)
				}
			}
			for _, s := range steps {
				for i, bad := range s.bad {
					v := server{}
					if bad {
						v.status = 500
					}
					f.set(addrs(n)[i], v)
				}
				for range s.sends {
					if _, err := get(t.Context(), b); err != nil {
						fault = errors.Join(fault, err)
					}
					look()
				}
				for range 10 {
					time.Sleep(s.pause / 10)
					look()
				}
			}
			for _, a := range addrs(n) {
				f.set(a, server{})
			}
			time.Sleep(15 * time.Second)
			for range 10 {
				_, _ = get(t.Context(), b)
			}
			if s := b.Stats(); s.Available != n || s.InFlight != 0 {
				fault = errors.Join(
					fault,
					fmt.Errorf("%d of %d available at the end, %d in flight", s.Available, n, s.InFlight),
				)
			}
		})
		if fault != nil {
			rt.Fatal(fault)
		}
	})
}
