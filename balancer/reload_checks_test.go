package balancer_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// TestReloadsInARowLeaveOneCheck: the settings of the last one hold for the endpoints that are
// there already, and none is checked twice.
func TestReloadsInARowLeaveOneCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		cfg := balancer.Config{
			Resolver: balancer.Static("a:1", "b:1"), Wrap: ok200,
			Health: balancer.HealthConfig{Check: c.check, Interval: time.Second, Rise: 1, Fall: 2},
		}
		b := newBalancer(t, cfg)
		pickOf(t, b)
		time.Sleep(10 * time.Second)
		for _, h := range []balancer.HealthConfig{
			{Check: c.check, Interval: time.Hour, Rise: 9, Fall: 9},
			{Check: c.check, Interval: time.Second, Rise: 9, Fall: 1},
			{Check: c.check, Interval: 10 * time.Second, Rise: 1, Fall: 3},
		} {
			cfg.Health = h
			require.NoError(t, b.Reload(observed(cfg)))
		}
		synctest.Wait()
		n := len(c.times("a:1"))
		time.Sleep(100 * time.Second)
		require.InDelta(t, 10, len(c.times("a:1"))-n, 3, "one every ten seconds")

		c.set("a:1", errCheck)
		n = len(c.times("a:1"))
		for statusOf(t, b, "a:1").State == balancer.Healthy {
			time.Sleep(10 * time.Millisecond)
		}
		require.Len(t, c.times("a:1"), n+3)
		c.set("a:1", nil)
		n = len(c.times("a:1"))
		for statusOf(t, b, "a:1").State == balancer.Down {
			time.Sleep(10 * time.Millisecond)
		}
		require.Len(t, c.times("a:1"), n+1)
	})
}

// TestAReloadWarmsNobodyWhoIsWarm: an endpoint that has had requests has its connections.
func TestAReloadWarmsNobodyWhoIsWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet(t)
		net.serve("a:1", after(10*time.Millisecond, 200))
		cfg := balancer.Config{Resolver: balancer.Static("a:1"), Transport: net.transport()}
		b := newBalancer(t, cfg)
		pickOf(t, b)
		require.Equal(t, 1, net.dialed("a:1"))
		cfg.Warm = 3
		require.NoError(t, b.Reload(observed(cfg)))
		time.Sleep(time.Minute)
		require.Equal(t, 1, net.dialed("a:1"))
	})
}

// TestProbationLastsUntilAReplyOrTenSeconds: who has not answered yet has one request, and after
// ten seconds as many as others.
func TestProbationLastsUntilAReplyOrTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		release := make(chan struct{})
		defer close(release)
		p := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
		b := newBalancer(t, balancer.Config{
			Resolver: p, Policy: balancer.RoundRobin(), SlowStart: -1,
			Wrap: upstream(func(e balancer.Endpoint, r *http.Request) (*http.Response, error) {
				if e.Addr == "mute:1" {
					asked.Add(1)
					<-release
				}
				return answer(200), nil
			}).wrap,
		})
		pickOf(t, b)
		p.Set(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "mute:1"})
		start := time.Now()
		for time.Since(start) < 10*time.Second {
			go get(t.Context(), b)
			time.Sleep(50 * time.Millisecond)
		}
		require.EqualValues(t, 1, asked.Load())
		for range 20 {
			go get(t.Context(), b)
			time.Sleep(50 * time.Millisecond)
		}
		require.Greater(t, asked.Load(), int64(5))
	})
}
