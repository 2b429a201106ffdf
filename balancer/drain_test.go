package balancer_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// A drained endpoint gets nothing new, whatever the policy, and comes back slowly.
func TestDrainedEndpointsGetNothing(t *testing.T) {
	for name, policy := range map[string]balancer.Policy{
		"adaptive": balancer.Adaptive(), "least request": balancer.LeastRequest(2),
		"round robin": balancer.RoundRobin(),
		"hash": balancer.Hash(balancer.HashConfig{
			Key: func(r *http.Request) (string, bool) { return r.URL.Path, true },
		}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var states []balancer.State
				set := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"},
					balancer.Endpoint{Addr: "b:1", Drain: true})
				b := newBalancer(t, balancer.Config{
					Resolver: set, Wrap: ok200, IdleTimeout: -1, Policy: policy,
					Observe: func(_ context.Context, e balancer.Event) {
						if e.Kind == balancer.EndpointChanged {
							states = append(states, e.State)
						}
					},
				})
				require.Equal(t, 1.0, shareOf(t, b, "a:", 50), "from the first set on")
				status := b.Endpoints("http://users.internal")
				require.Len(t, status, 2)
				require.Equal(t, []balancer.State{balancer.Healthy, balancer.Draining},
					[]balancer.State{status[0].State, status[1].State})
				require.Equal(t, 1, b.Stats().Available)

				set.Set(balancer.Endpoint{Addr: "a:1", Drain: true}, balancer.Endpoint{Addr: "b:1"})
				synctest.Wait()
				require.Equal(t, 1.0, shareOf(t, b, "b:", 50))
				require.ElementsMatch(t, []balancer.State{balancer.Draining, balancer.Healthy}, states)
				status = b.Endpoints("http://users.internal")
				require.Less(t, status[1].Share, 1.0, "it starts slowly")
			})
		})
	}
}

// Neither panic mode nor another priority brings a request to a drained endpoint.
func TestDrainedEndpointsStayOutOfPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.NewPushed(balancer.Endpoint{Addr: "a:1"},
				balancer.Endpoint{Addr: "b:1", Drain: true},
				balancer.Endpoint{Addr: "c:1", Priority: 1, Drain: true}),
			Wrap: ok200, IdleTimeout: -1,
			Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
		})
		pickOf(t, b)
		c.set("a:1", errCheck)
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, b.Stats().Panicking)
		require.Equal(t, 1.0, shareOf(t, b, "a:", 50))
	})
}

func TestEveryEndpointDrainedIsNoEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
		b := newBalancer(t, balancer.Config{Resolver: set, Wrap: ok200, IdleTimeout: -1})
		pickOf(t, b)
		set.Set(balancer.Endpoint{Addr: "a:1", Drain: true})
		synctest.Wait()
		req, err := http.NewRequest("GET", "http://users.internal/", nil)
		require.NoError(t, err)
		_, err = b.RoundTrip(req)
		require.True(t, errors.Is(err, balancer.ErrNoEndpoints), err)
		require.Zero(t, b.Stats().Panicking)
		set.Set(balancer.Endpoint{Addr: "a:1"})
		synctest.Wait()
		pickOf(t, b)
	})
}

// A request in flight ends as it would, and the endpoint is checked on, so that it comes back at
// once.
func TestDrainedEndpointsFinishAndAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		release := make(chan struct{})
		set := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
		b := newBalancer(t, balancer.Config{
			Resolver: set, IdleTimeout: -1,
			Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
			Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
				quick := ok200(e, next)
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					<-release
					return quick.RoundTrip(r)
				})
			},
		})
		done := make(chan error)
		go func() {
			req, _ := http.NewRequest("GET", "http://users.internal/", nil)
			resp, err := b.RoundTrip(req)
			if err == nil {
				resp.Body.Close()
			}
			done <- err
		}()
		synctest.Wait()
		set.Set(balancer.Endpoint{Addr: "a:1", Drain: true})
		synctest.Wait()
		require.Equal(t, 1, b.Endpoints("http://users.internal")[0].InFlight)
		close(release)
		require.NoError(t, <-done)
		c.set("a:1", errCheck)
		time.Sleep(5 * time.Second)
		set.Set(balancer.Endpoint{Addr: "a:1"})
		synctest.Wait()
		require.Equal(t, balancer.Down, statusOf(t, b, "a:1").State, "it is known what checks found")
	})
}

// A cookie does not keep a client at an endpoint that is drained.
func TestDrainedEndpointsLoseTheirClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
		b := newBalancer(t, balancer.Config{
			Resolver: set, IdleTimeout: -1,
			Policy: balancer.Sticky(balancer.StickyConfig{Secret: make([]byte, 16)}),
			Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
				resp := answer(200)
				resp.Header.Set("From", e.Addr)
				return resp, nil
			}).wrap,
		})
		send := func(cookie *http.Cookie) (string, []*http.Cookie) {
			req, err := http.NewRequest("GET", "http://users.internal/", nil)
			require.NoError(t, err)
			if cookie != nil {
				req.AddCookie(cookie)
			}
			resp, err := b.RoundTrip(req)
			require.NoError(t, err)
			return resp.Header.Get("From"), resp.Cookies()
		}
		_, cookies := send(nil)
		set.Set(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "b:1"})
		synctest.Wait()
		for range 5 {
			from, _ := send(cookies[0])
			require.Equal(t, "a:1", from)
		}
		set.Set(balancer.Endpoint{Addr: "a:1", Drain: true}, balancer.Endpoint{Addr: "b:1"})
		synctest.Wait()
		from, moved := send(cookies[0])
		require.Equal(t, "b:1", from)
		require.Len(t, moved, 1)
	})
}

func TestHostOfHealthChecks(t *testing.T) {
	for host, want := range map[string]string{"": "users.internal", "b.internal:81": "b.internal:81"} {
		synctest.Test(t, func(t *testing.T) {
			hosts := make(chan string, 100)
			n := newMemNet(t)
			stop := n.serve("a:1", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/up" {
					hosts <- r.Host
				}
			}))
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1"), Transport: n.transport(), Warm: 1, IdleTimeout: -1,
				Health: balancer.HealthConfig{Path: "/up", Host: host, Interval: time.Minute},
			})
			defer stop()
			_, err := get(t.Context(), b)
			require.NoError(t, err)
			synctest.Wait()
			require.NoError(t, b.Close(t.Context()))
			require.Len(t, hosts, 2, "a warm-up and a check")
			require.Equal(t, []string{want, want}, []string{<-hosts, <-hosts})
		})
	}
}
