package balancer_test

import (
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// A socket is an upgraded connection without a network.
type socket struct{ io.ReadWriteCloser }

func (socket) Close() error { return nil }

// handshake answers every request with an upgrade, some endpoints later than others.
func handshake(takes map[string]time.Duration) upstream {
	return func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
		time.Sleep(takes[e.Addr])
		resp := answer(http.StatusSwitchingProtocols)
		resp.Header.Set("Upgrade", "websocket")
		resp.Body = socket{}
		return resp, nil
	}
}

func openSocket(t *testing.T, b *balancer.Balancer) io.Closer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://users.internal/", nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	resp, err := b.RoundTrip(req)
	require.NoError(t, err)
	return resp.Body
}

// perEndpoint returns how many requests each endpoint has in flight, the fewest first.
func perEndpoint(b *balancer.Balancer) []int {
	var n []int
	for _, e := range b.Endpoints("http://users.internal") {
		n = append(n, e.InFlight)
	}
	slices.Sort(n)
	return n
}

// Connections that are open for hours are spread by what is open, not by how long a handshake
// takes.
func TestL39_OpenConnectionsAreLoad(t *testing.T) {
	fast, even := addrs(3), map[string]time.Duration{}
	for _, addr := range fast {
		even[addr] = time.Millisecond
	}
	uneven := map[string]time.Duration{fast[1]: 2 * time.Millisecond, fast[2]: 2 * time.Millisecond}
	failing := balancer.HashConfig{Key: func(*http.Request) (string, bool) { return "", false }}
	for name, policy := range map[string]balancer.Policy{
		"adaptive":        nil,
		"least request":   balancer.LeastRequest(0),
		"two choices":     balancer.LeastRequest(2),
		"round robin":     balancer.RoundRobin(),
		"hash, no key":    balancer.Hash(failing),
		"probing, silent": balancer.Probing(balancer.ProbingConfig{}),
	} {
		for load, takes := range map[string]map[string]time.Duration{"even": even, "uneven": uneven} {
			t.Run(name+"/"+load, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBalancer(t, balancer.Config{
						Resolver: balancer.Static(fast...), Policy: policy, Wrap: handshake(takes).wrap,
						Transport: newMemNet(t).transport(), // where nobody answers a probe
					})
					var open []io.Closer
					for range 90 {
						open = append(open, openSocket(t, b))
						time.Sleep(10 * time.Millisecond)
					}
					n := perEndpoint(b)
					require.Equal(t, 90, n[0]+n[1]+n[2])
					require.LessOrEqual(t, n[2], 40, "%v", n)
					require.Equal(t, 90, b.Stats().Streams)
					for _, c := range open {
						require.NoError(t, c.Close())
						_ = c.Close()
					}
					require.Equal(t, []int{0, 0, 0}, perEndpoint(b))
					require.Zero(t, b.Stats().Streams)
				})
			})
		}
	}
}

// An endpoint that joins late gets the newcomers until it has as many open as the others, also
// after a Reload.
func TestL39_LateEndpointsCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := addrs(3)
		set := balancer.NewPushed(balancer.Endpoint{Addr: all[0]}, balancer.Endpoint{Addr: all[1]})
		cfg := balancer.Config{
			Resolver: set, Policy: balancer.LeastRequest(0), SlowStart: -1, Wrap: handshake(nil).wrap,
		}
		b := newBalancer(t, cfg)
		var open []io.Closer
		for range 60 {
			open = append(open, openSocket(t, b))
		}
		require.Equal(t, []int{30, 30}, perEndpoint(b))
		var endpoints []balancer.Endpoint
		for _, addr := range all {
			endpoints = append(endpoints, balancer.Endpoint{Addr: addr})
		}
		cfg.Resolver = balancer.NewPushed(endpoints...)
		require.NoError(t, b.Reload(cfg))
		synctest.Wait()
		for i := range 30 {
			require.Equal(t, []int{i, 30, 30}, perEndpoint(b))
			open = append(open, openSocket(t, b))
		}
		for range 9 {
			open = append(open, openSocket(t, b))
		}
		require.Equal(t, []int{33, 33, 33}, perEndpoint(b))
		for _, c := range open {
			require.NoError(t, c.Close())
		}
	})
}

// An endpoint that fails handshakes fast must not look idle.
func TestUpgradesAvoidEndpointsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := addrs(3)
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(all...),
			Outlier:  balancer.OutlierConfig{Consecutive: -1, Deviations: -1},
			Wrap: upstream(func(e balancer.Endpoint, r *http.Request) (*http.Response, error) {
				if e.Addr == all[0] {
					return answer(http.StatusInternalServerError), nil
				}
				return handshake(nil)(e, r)
			}).wrap,
		})
		for range 60 {
			defer openSocket(t, b).Close()
			time.Sleep(10 * time.Millisecond)
		}
		require.LessOrEqual(t, b.Stats().EndpointFailures[all[0]], uint64(8))
	})
}

// An endpoint that has left stays, as draining, until its last connection has ended.
func TestOpenConnectionsOfEndpointsThatLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := addrs(2)
		set := balancer.NewPushed(balancer.Endpoint{Addr: all[0]})
		b := newBalancer(t, balancer.Config{Resolver: set, Wrap: handshake(nil).wrap})
		open := openSocket(t, b)
		set.Set(balancer.Endpoint{Addr: all[1]})
		time.Sleep(time.Minute)
		left := b.Endpoints("http://users.internal")[1]
		require.Equal(t, all[0], left.Addr)
		require.Equal(t, balancer.Draining, left.State)
		require.Equal(t, 1, left.InFlight)
		require.NoError(t, open.Close())
		time.Sleep(time.Minute)
		require.Len(t, b.Endpoints("http://users.internal"), 1)
	})
}
