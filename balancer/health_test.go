package balancer_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// checks is a [balancer.HealthConfig.Check] whose results a test sets.
type checks struct {
	mu     sync.Mutex // guards the fields below
	bad    map[string]error
	at     map[string][]time.Time
	before func() // of each check; nil for nothing
}

func newChecks() *checks { return &checks{bad: map[string]error{}, at: map[string][]time.Time{}} }

func (c *checks) set(addr string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad[addr] = err
}

func (c *checks) times(addr string) []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Time(nil), c.at[addr]...)
}

func (c *checks) check(_ context.Context, e balancer.Endpoint, _ http.RoundTripper) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.before != nil {
		c.before()
	}
	c.at[e.Addr] = append(c.at[e.Addr], time.Now())
	return c.bad[e.Addr]
}

var errCheck = errors.New("disk full")

func TestHealthRiseAndFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		var seen events
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1"), Wrap: ok200, Observe: seen.observe,
			Health: balancer.HealthConfig{Check: c.check, Interval: time.Second, Rise: 4, Fall: 3},
		})
		pickOf(t, b)
		synctest.Wait()
		require.Equal(t, balancer.Healthy, statusOf(t, b, "a:1").State)
		c.set("a:1", errCheck)
		n := len(c.times("a:1"))
		for statusOf(t, b, "a:1").State == balancer.Healthy {
			time.Sleep(10 * time.Millisecond)
		}
		require.Len(t, c.times("a:1"), n+3, "checks failed in a row")
		s := statusOf(t, b, "a:1")
		require.Equal(t, balancer.Down, s.State)
		require.Equal(t, "disk full", s.CheckError)
		for range 50 {
			require.Equal(t, "b:1", pickOf(t, b).Endpoint.Addr)
		}
		changed := seen.of(balancer.EndpointChanged)
		require.Len(t, changed, 1)
		require.Equal(t, balancer.Down, changed[0].State)
		require.Equal(t, balancer.ReasonHealthCheck, changed[0].Reason)
		require.Equal(t, "a:1", changed[0].Endpoint.Addr)
		require.ErrorIs(t, changed[0].Err, errCheck)

		c.set("a:1", nil)
		n = len(c.times("a:1"))
		for statusOf(t, b, "a:1").State == balancer.Down {
			time.Sleep(10 * time.Millisecond)
		}
		require.Len(t, c.times("a:1"), n+4, "checks passed in a row")
		require.Less(t, statusOf(t, b, "a:1").Share, 1.0, "it comes back slowly")
		require.Empty(t, statusOf(t, b, "a:1").CheckError)
		require.Len(t, seen.of(balancer.EndpointChanged), 2)
	})
}

func TestL04_FlappingChecksChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		flips := 0
		c.before = func() { // fails two of three
			flips++
			c.bad["a:1"] = nil
			if flips%3 != 0 {
				c.bad["a:1"] = errCheck
			}
		}
		var seen events
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1"), Wrap: ok200, Observe: seen.observe, IdleTimeout: -1,
			Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
		})
		pickOf(t, b)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Empty(t, seen.of(balancer.EndpointChanged))
		at := c.times("a:1")
		require.InDelta(t, 600, len(at), 40, "checks in ten minutes")
		first, varied := at[1].Sub(at[0]), false
		for i := 1; i < len(at); i++ {
			gap := at[i].Sub(at[i-1])
			require.GreaterOrEqual(t, gap, 800*time.Millisecond)
			require.LessOrEqual(t, gap, 1200*time.Millisecond)
			varied = varied || gap != first
		}
		require.True(t, varied, "many clients must not check in step")
	})
	t.Run("while down", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newChecks()
			c.set("a:1", errCheck)
			var seen events
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1", "b:1"), Wrap: ok200, Observe: seen.observe, IdleTimeout: -1,
				Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
			})
			pickOf(t, b)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			require.Equal(t, balancer.Down, statusOf(t, b, "a:1").State)
			n := 0
			c.mu.Lock()
			c.before = func() {
				n++
				c.bad["a:1"] = nil
				if n/2%2 == 0 { // each endpoint is checked in turn
					c.bad["a:1"] = errCheck
				}
			}
			c.mu.Unlock()
			before := len(seen.of(balancer.EndpointChanged))
			time.Sleep(time.Minute)
			synctest.Wait()
			// Whatever the order of checks was, the hysteresis bounds the changes.
			require.LessOrEqual(t, len(seen.of(balancer.EndpointChanged))-before, 60/5+1)
		})
	})
}

// Checks and requests may disagree. An endpoint is available only if both are good.
func TestL05_ChecksAndRequestsBothCount(t *testing.T) {
	t.Run("checks pass, requests fail", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newChecks()
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1", "b:1", "c:1", "d:1"),
				Policy:   balancer.RoundRobin(), Wrap: failingAt("a:1"),
				Outlier: balancer.OutlierConfig{Base: 30 * time.Second},
				Health:  balancer.HealthConfig{Check: c.check, Interval: time.Second},
			})
			for range 100 {
				_, err := get(t.Context(), b)
				require.NoError(t, err)
				time.Sleep(10 * time.Millisecond)
			}
			require.Equal(t, balancer.Ejected, statusOf(t, b, "a:1").State)
			time.Sleep(10 * time.Second) // good checks do not end an ejection
			require.Equal(t, balancer.Ejected, statusOf(t, b, "a:1").State)
		})
	})
	t.Run("requests pass, checks fail", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newChecks()
			c.set("a:1", errCheck)
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1", "b:1", "c:1", "d:1"),
				Policy:   balancer.RoundRobin(), Wrap: ok200,
				Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
			})
			for range 1000 {
				_, err := get(t.Context(), b)
				require.NoError(t, err)
				time.Sleep(10 * time.Millisecond)
			}
			require.Equal(t, balancer.Down, statusOf(t, b, "a:1").State)
		})
	})
	t.Run("the end of an ejection does not bring back who is down", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newChecks()
			var seen events
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1", "b:1", "c:1", "d:1"),
				Policy:   balancer.RoundRobin(), Wrap: failingAt("a:1"), Observe: seen.observe,
				Outlier:     balancer.OutlierConfig{Base: 30 * time.Second},
				Health:      balancer.HealthConfig{Check: c.check, Interval: time.Second},
				IdleTimeout: -1,
			})
			for range 100 {
				_, err := get(t.Context(), b)
				require.NoError(t, err)
			}
			require.Equal(t, balancer.Ejected, statusOf(t, b, "a:1").State)
			c.set("a:1", errCheck)
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Equal(t, balancer.Down, statusOf(t, b, "a:1").State)
			for _, e := range seen.of(balancer.EndpointChanged) {
				require.NotEqual(t, balancer.Healthy, e.State, "%+v", e)
			}
			for range 50 {
				require.NotEqual(t, "a:1", pickOf(t, b).Endpoint.Addr)
			}
		})
	})
}

// failingAt fails the requests that go to addr.
func failingAt(addr string) func(balancer.Endpoint, http.RoundTripper) http.RoundTripper {
	return upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
		if e.Addr == addr {
			return answer(500), nil
		}
		return answer(200), nil
	}).wrap
}

func TestNewEndpointsWaitForTheirFirstCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		p := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
		b := newBalancer(t, balancer.Config{
			Resolver: p, Wrap: ok200,
			Health: balancer.HealthConfig{
				Check: func(ctx context.Context, e balancer.Endpoint, rt http.RoundTripper) error {
					time.Sleep(500 * time.Millisecond)
					return c.check(ctx, e, rt)
				},
				Interval: time.Second,
			},
		})
		pickOf(t, b) // the first set is trusted
		c.set("bad:1", errCheck)
		p.Set(
			balancer.Endpoint{Addr: "a:1"},
			balancer.Endpoint{Addr: "bad:1"},
			balancer.Endpoint{Addr: "new:1"},
		)
		synctest.Wait()
		require.Equal(t, balancer.Pending, statusOf(t, b, "new:1").State)
		for range 50 {
			require.Equal(t, "a:1", pickOf(t, b).Endpoint.Addr)
		}
		time.Sleep(600 * time.Millisecond)
		require.Equal(t, balancer.Healthy, statusOf(t, b, "new:1").State, "one good check will do")
		require.Equal(t, balancer.Down, statusOf(t, b, "bad:1").State)
		time.Sleep(20 * time.Second)
		got := map[string]bool{}
		for range 100 {
			got[pickOf(t, b).Endpoint.Addr] = true
		}
		require.Equal(t, map[string]bool{"a:1": true, "new:1": true}, got)
	})
}

func TestChecksThatMisbehave(t *testing.T) {
	for name, check := range map[string]func(context.Context) error{
		"hang":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"panic": func(context.Context) error { panic("bug") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static("a:1", "b:1"), Wrap: ok200,
					Health: balancer.HealthConfig{
						Interval: 10 * time.Second,
						Timeout:  time.Second,
						Check: func(ctx context.Context, e balancer.Endpoint, _ http.RoundTripper) error {
							if e.Addr == "a:1" {
								return check(ctx)
							}
							return nil
						},
					},
				})
				pickOf(t, b)
				time.Sleep(40 * time.Second)
				require.Equal(t, balancer.Down, statusOf(t, b, "a:1").State)
				require.Equal(t, balancer.Healthy, statusOf(t, b, "b:1").State)
				if name == "panic" {
					require.Equal(t, "balancer: health check panicked: bug", statusOf(t, b, "a:1").CheckError)
					require.GreaterOrEqual(t, b.Stats().Panics, uint64(3), "each is counted")
				} else {
					require.Zero(t, b.Stats().Panics)
				}
			})
		})
	}
}

// An endpoint may be ejected and fail its checks: its status says both.
func TestStatusTellsEjectionsFromChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		c.set("a:1", errCheck)
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1", "c:1"), Policy: balancer.RoundRobin(),
			Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
				if e.Addr == "a:1" {
					return answer(500), nil
				}
				return answer(200), nil
			}).wrap,
			Health:  balancer.HealthConfig{Interval: time.Minute, Check: c.check},
			Outlier: balancer.OutlierConfig{Consecutive: 2, Base: time.Hour, Max: time.Hour},
		})
		for range 12 {
			pickOf(t, b)
		}
		synctest.Wait()
		s := statusOf(t, b, "a:1")
		require.Equal(t, balancer.Ejected, s.State)
		require.Equal(t, balancer.ReasonConsecutiveFailures, s.Reason)
		require.Equal(t, "disk full", s.CheckError)
		require.Empty(t, statusOf(t, b, "b:1").CheckError)
		require.Empty(t, statusOf(t, b, "b:1").Reason)
	})
}

func TestHealthPathOverHTTP(t *testing.T) {
	for status, good := range map[int]bool{
		200: true,
		204: true,
		302: true,
		399: true,
		404: false,
		500: false,
		503: false,
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var asked []string
				net := newMemNet(t)
				net.serve("a:1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/healthz" {
						mu.Lock()
						asked = append(asked, r.Method+" "+r.Host+" "+r.URL.String()+" "+r.UserAgent())
						mu.Unlock()
						w.Header().Set("Location", "/elsewhere")
						w.WriteHeader(status)
					}
				}))
				net.serve("b:1", http.NotFoundHandler())
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static("a:1"), Transport: net.transport(),
					Health: balancer.HealthConfig{Path: "/healthz?deep=1", Interval: time.Second},
				})
				_, err := get(t.Context(), b)
				require.NoError(t, err)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				want := balancer.Healthy
				if !good {
					want = balancer.Down
				}
				require.Equal(t, want, statusOf(t, b, "a:1").State)
				mu.Lock()
				defer mu.Unlock()
				require.Equal(
					t,
					"GET users.internal /healthz?deep=1 Trivet-Health-Check",
					asked[0],
					"as the target's name, redirects not followed",
				)
				require.Equal(t, uint64(1), b.Stats().Requests, "checks are not requests")
			})
		})
	}
}

func TestChecksEndWithTheirEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		p := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "b:1"})
		b := newBalancer(t, balancer.Config{
			Resolver:    p,
			Wrap:        ok200,
			IdleTimeout: -1,
			Health:      balancer.HealthConfig{Check: c.check, Interval: time.Second},
		})
		pickOf(t, b)
		time.Sleep(10 * time.Second)
		p.Set(balancer.Endpoint{Addr: "b:1"})
		synctest.Wait()
		n := len(c.times("a:1"))
		require.Greater(t, n, 5)
		time.Sleep(10 * time.Second)
		require.Len(t, c.times("a:1"), n)
		// Reload neither doubles the checks of those that stay, nor leaves any where there should
		// be none.
		n = len(c.times("b:1"))
		for range 5 {
			require.NoError(
				t,
				b.Reload(
					balancer.Config{
						Resolver:    p,
						Wrap:        ok200,
						IdleTimeout: -1,
						Health:      balancer.HealthConfig{Check: c.check, Interval: time.Second},
					},
				),
			)
		}
		time.Sleep(10 * time.Second)
		require.InDelta(t, 10, len(c.times("b:1"))-n, 8)
		require.NoError(t, b.Reload(balancer.Config{Resolver: p, Wrap: ok200, IdleTimeout: -1}))
		synctest.Wait()
		n = len(c.times("b:1"))
		time.Sleep(10 * time.Second)
		require.Len(t, c.times("b:1"), n)
	})
}

func TestWarmUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet(t)
		net.latency = 10 * time.Millisecond
		for _, addr := range []string{"a:1", "b:1"} {
			net.serve(addr, after(10*time.Millisecond, 200))
		}
		p := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
		b := newBalancer(t, balancer.Config{Resolver: p, Transport: net.transport(), Warm: 3, SlowStart: -1})
		require.NoError(t, b.Warm(t.Context(), "http://users.internal", 2))
		require.GreaterOrEqual(t, net.dialed("a:1"), 2)
		p.Set(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "b:1"})
		synctest.Wait()
		require.Equal(t, "a:1", pickOf(t, b).Endpoint.Addr, "b is warming up")
		time.Sleep(time.Second)
		require.Equal(t, 3, net.open("b:1"))
		got := map[string]bool{}
		for range 50 {
			got[pickOf(t, b).Endpoint.Addr] = true
		}
		require.Len(t, got, 2)
		require.Equal(t, 3, net.dialed("b:1"), "requests use the connections that are there")
	})
	t.Run("errors", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: failing{errRefused}})
		require.ErrorIs(t, b.Warm(t.Context(), "http://users.internal", 1), errRefused)
		require.ErrorContains(t, b.Warm(t.Context(), "users.internal", 1), "want scheme://host")
	})
}

// Every change of an endpoint's state is an event, so that a counter of states is always right.
func TestEveryChangeOfStateIsObserved(t *testing.T) {
	changes := func(seen *events) (all []string) {
		for _, e := range seen.of(balancer.EndpointChanged) {
			all = append(all, e.Endpoint.Addr+" "+string(e.State)+", "+string(e.Reason))
		}
		return all
	}
	t.Run("a new endpoint that is bad, and checks that end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, seen := newChecks(), new(events)
			c.set("b:1", errCheck)
			resolver := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
			cfg := balancer.Config{
				Resolver: resolver, Wrap: ok200, Observe: seen.observe,
				Health: balancer.HealthConfig{Check: c.check, Interval: time.Hour},
			}
			b := newBalancer(t, cfg)
			pickOf(t, b)
			resolver.Set(
				balancer.Endpoint{Addr: "a:1"},
				balancer.Endpoint{Addr: "b:1"},
				balancer.Endpoint{Addr: "c:1"},
			)
			time.Sleep(time.Second)
			require.ElementsMatch(
				t,
				[]string{"b:1 down, health_check", "c:1 healthy, health_check"},
				changes(seen),
			)
			resolver.Set(balancer.Endpoint{Addr: "b:1"})
			synctest.Wait()
			require.Len(t, seen.of(balancer.PanicChanged), 1, "the only one left is down, not pending")
			cfg.Health = balancer.HealthConfig{}
			require.NoError(t, b.Reload(cfg))
			time.Sleep(time.Second)
			require.Contains(t, changes(seen), "b:1 healthy, no_health_checks")
		})
	})
	t.Run("warm-up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			net, seen := newMemNet(t), new(events)
			net.serve("a:1", http.NotFoundHandler())
			net.serve("b:1", http.NotFoundHandler())
			resolver := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
			b := newBalancer(t, balancer.Config{
				Resolver:  resolver,
				Transport: net.transport(),
				Observe:   seen.observe,
				Warm:      1,
			})
			pickOf(t, b)
			resolver.Set(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "b:1"})
			time.Sleep(time.Second)
			require.Equal(t, []string{"b:1 healthy, warm_up"}, changes(seen))
		})
	})
	// If most endpoints of a set fail their first check, the target is in panic mode at once, not
	// at the next interval.
	t.Run("panic", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, seen := newChecks(), new(events)
			for _, a := range []string{"b:1", "c:1", "d:1"} {
				c.set(a, errCheck)
			}
			resolver := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
			b := newBalancer(t, balancer.Config{
				Resolver: resolver, Wrap: ok200, Observe: seen.observe,
				Health: balancer.HealthConfig{
					Check:    c.check,
					Interval: time.Hour,
				}, Outlier: balancer.OutlierConfig{Interval: time.Hour},
			})
			pickOf(t, b)
			resolver.Set(
				balancer.Endpoint{Addr: "a:1"},
				balancer.Endpoint{Addr: "b:1"},
				balancer.Endpoint{Addr: "c:1"},
				balancer.Endpoint{Addr: "d:1"},
			)
			time.Sleep(time.Second)
			require.Len(t, seen.of(balancer.PanicChanged), 1)
		})
	})
}

// Checks of an endpoint go on when the resolver that has named it has returned.
func TestChecksOutliveTheirResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		b := newBalancer(t, balancer.Config{
			Resolver: brief{}, Wrap: ok200,
			Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
		})
		pickOf(t, b)
		synctest.Wait()
		n := len(c.times("a:1"))
		time.Sleep(10 * time.Second)
		require.GreaterOrEqual(t, len(c.times("a:1")), n+9)
		c.set("a:1", errCheck)
		time.Sleep(10 * time.Second)
		require.Equal(t, balancer.Down, statusOf(t, b, "a:1").State)
	})
}

// A brief resolver names an endpoint and returns.
type brief struct{}

func (brief) Resolve(
	_ context.Context, _ *url.URL, _ <-chan struct{}, update func([]balancer.Endpoint, error),
) {
	update([]balancer.Endpoint{{Addr: "a:1"}}, nil)
}
