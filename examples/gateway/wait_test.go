package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// waiting is a configuration whose upstream notices at once that its host is down or up.
func waiting(addr, keys string) string {
	return upstreamOf(addr, "health: {path: /healthz, interval: 5ms, timeout: 3s, rise: 1, fall: 1}, "+keys)
}

// standbyOf returns the standby of the upstream app.
func standbyOf(g *live) *standby { return g.current.Load().upstreams["app"].standby }

// later sends a GET and returns where its status, or 0 for an error, will be.
func later(t *testing.T, ctx context.Context, c *http.Client, url string) <-chan int {
	status := make(chan int, 1)
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	require.NoError(t, err)
	go func() {
		resp, err := c.Do(req)
		if err != nil {
			status <- 0
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	return status
}

func TestRequestsWaitForAHost(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, waiting(b.Addr, "wait: 1h"))
	c := client(t)
	down := func(is bool) {
		b.Set(backend.Behaviour{Unhealthy: is})
		require.Eventually(t, func() bool { return standbyOf(g).down.Load() == is }, eventually, tick)
	}
	waits := func(n int64) {
		t.Helper()
		require.Eventually(t, func() bool { return standbyOf(g).waiting.Load() == n }, eventually, tick)
	}
	resp, _ := get(t, c, g.url)
	require.Equal(t, 200, resp.StatusCode)

	t.Run("until one is up", func(t *testing.T) {
		down(true)
		before := b.Requests()
		one, two := later(t, t.Context(), c, g.url), later(t, t.Context(), c, g.url)
		waits(2)
		require.Equal(t, before, b.Requests())
		b.Set(backend.Behaviour{})
		require.Equal(t, []int{200, 200}, []int{<-one, <-two})
		waits(0)
	})
	t.Run("and no longer than their client", func(t *testing.T) {
		down(true)
		ctx, leave := context.WithCancel(t.Context())
		status := later(t, ctx, c, g.url)
		waits(1)
		leave()
		require.Zero(t, <-status)
		waits(0)
		down(false)
	})
	t.Run("over a reload", func(t *testing.T) {
		down(true)
		status := later(t, t.Context(), c, g.url)
		waits(1)
		reloadText(t, g, waiting(b.Addr, "connect_timeout: 1s"))
		resp, _ := get(t, c, g.url)
		require.Equal(t, 200, resp.StatusCode, "without the key nothing waits: all hosts down are tried")
		require.EqualValues(t, 1, standbyOf(g).waiting.Load())
		b.Set(backend.Behaviour{})
		require.Equal(t, 200, <-status, "the one of before is woken")
		reloadText(t, g, waiting(b.Addr, "wait: 1h"))
		down(true)
		status = later(t, t.Context(), c, g.url)
		waits(1)
		down(false)
		require.Equal(t, 200, <-status)
	})
	t.Run("not beyond the route's timeout", func(t *testing.T) {
		reloadText(t, g, strings.Replace(waiting(b.Addr, "wait: 1h"),
			"upstream: app}", "upstream: app, timeout: 50ms}", 1))
		down(true)
		resp, _ := get(t, c, g.url)
		require.Equal(t, 504, resp.StatusCode)
		waits(0)
	})
}

// A request whose timeout has passed while it waited reaches no host, so it says nothing about one.
func TestRequestsThatHaveWaitedTooLongBlameNoHost(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	b.Set(backend.Behaviour{Unhealthy: true})
	g := start(t, strings.Replace(waiting(b.Addr, "wait: 1h, retry: {}, breaker: {min_requests: 2}"),
		"upstream: app}", "upstream: app, timeout: 10ms}", 1))
	require.Eventually(t, func() bool { return standbyOf(g).down.Load() }, eventually, tick)
	for range 10 {
		resp, _ := get(t, client(t), g.url)
		require.Equal(t, 504, resp.StatusCode)
	}
	host := g.current.Load().upstreams["app"].hosts()[0]
	require.Zero(t, host.Failures)
	require.Empty(t, g.current.Load().upstreams["app"].breaker.Stats().Keys)
}

func TestRequestsThatHaveWaitedInVain(t *testing.T) {
	g := start(t, waiting("127.0.0.1:1", "wait: 100ms"))
	require.Eventually(t, func() bool { return standbyOf(g).down.Load() }, eventually, tick)
	begun := time.Now()
	resp, _ := get(t, client(t), g.url)
	require.Equal(t, 503, resp.StatusCode)
	require.GreaterOrEqual(t, time.Since(begun), 100*time.Millisecond)
}

func TestStandby(t *testing.T) {
	hosts := func(states ...balancer.State) func() []balancer.EndpointStatus {
		var all []balancer.EndpointStatus
		for _, s := range states {
			all = append(all, balancer.EndpointStatus{State: s})
		}
		return func() []balancer.EndpointStatus { return all }
	}
	synctest.Test(t, func(t *testing.T) {
		s := new(standby)
		r := request(t, "GET", "http://a/")
		waited := func() time.Duration {
			begun := time.Now()
			s.wait(r, Duration(time.Minute))
			return time.Since(begun)
		}
		require.Zero(t, waited(), "nothing is known")
		s.observe(hosts(balancer.Down, balancer.Healthy))
		require.Zero(t, waited())
		for _, state := range []balancer.State{
			balancer.Down, balancer.Ejected, balancer.Pending, balancer.Draining,
		} {
			s.observe(hosts(state, balancer.Down))
			require.Equal(t, time.Minute, waited(), state)
		}
		s.observe(hosts())
		require.Equal(t, time.Minute, waited(), "no host at all")
		s.wait(r, 0)

		s.waiting.Store(maxWaiting - 1)
		go func() {
			time.Sleep(time.Second)
			require.Zero(t, waited(), "one more than may wait")
			s.observe(hosts(balancer.Healthy))
		}()
		require.Equal(t, time.Second, waited(), "the last one that may")
		require.EqualValues(t, maxWaiting-1, s.waiting.Load())
		s.observe(hosts(balancer.Healthy))
		s.observe(hosts(balancer.Down))
		s.observe(hosts(balancer.Down))
		go func() {
			time.Sleep(time.Second)
			s.observe(hosts(balancer.Healthy))
		}()
		require.Equal(t, time.Second, waited(), "down twice, up once")
	})
}

// A host of weight 0 gets nothing new, and what it has ends there.
func TestHostsOfWeightZero(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	a := backend.Start(t, backend.Config{Name: "a", Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				begun <- struct{}{}
				<-release
			}
		})})
	b := backend.Start(t, backend.Config{Name: "b"})
	text := func(weightA, weightB string) string {
		return upstreamOf(fmt.Sprintf("{addr: %q, weight: %s}, {addr: %q, weight: %s}",
			a.Addr, weightA, b.Addr, weightB), "sticky: {insecure: true}")
	}
	g := start(t, text("1", "0"))
	c := client(t)
	all := func(want string, cookies ...*http.Cookie) *http.Response {
		t.Helper()
		var resp *http.Response
		for range 20 {
			req := request(t, "GET", g.url)
			for _, cookie := range cookies {
				req.AddCookie(cookie)
			}
			resp, _ = do(t, c, req)
			require.Equal(t, want, resp.Header.Get("Backend"))
		}
		return resp
	}
	cookie := all("a").Cookies()[0]
	slow := later(t, t.Context(), c, g.url+"/slow")
	<-begun
	reloadText(t, g, text("0x0", "3"))
	require.Eventually(t, func() bool {
		for _, h := range g.current.Load().upstreams["app"].hosts() {
			if h.Addr == a.Addr {
				return h.State == balancer.Draining
			}
		}
		return false
	}, eventually, tick)
	all("b", cookie)
	close(release)
	require.Equal(t, 200, <-slow)
	reloadText(t, g, text("0", "0"))
	require.Eventually(t, func() bool {
		resp, _ := get(t, c, g.url)
		return resp.StatusCode == 503
	}, eventually, tick)
	reloadText(t, g, text("2", "0"))
	require.Eventually(t, func() bool {
		resp, _ := get(t, c, g.url)
		return resp.StatusCode == 200
	}, eventually, tick)
	all("a")
}
