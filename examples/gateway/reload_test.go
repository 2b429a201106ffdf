package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

func TestG18_ReloadIsWholeOrNotAtAll(t *testing.T) {
	a := backend.Start(t, backend.Config{Name: "a"})
	b := backend.Start(t, backend.Config{Name: "b"})
	g := start(t, simple("", a.Addr))
	c := client(t)
	answered := func() string {
		_, body := get(t, c, g.url)
		return strings.TrimSpace(body)
	}
	require.Equal(t, "a", answered())
	before := g.current.Load()

	t.Run("a file with a fault", func(t *testing.T) {
		_, err := parseConfig("f", []byte(simple("  - {upstream: none, path: /x}", b.Addr)))
		require.Error(t, err) // so reload is not called
	})
	t.Run("a field that needs a restart", func(t *testing.T) {
		text := simple("server: {listen: \"127.0.0.1:1\", max_header_bytes: 1KiB}", b.Addr)
		cfg, err := parseConfig("f", []byte(text))
		require.NoError(t, err)
		require.EqualError(t, g.reload(cfg),
			"needs a restart to change: server.listen, server.max_header_bytes")
	})
	t.Run("an upstream that balancer refuses", func(t *testing.T) {
		cfg, err := parseConfig("f", []byte(simple("", b.Addr)))
		require.NoError(t, err)
		bad := cfg.Upstreams["app"]
		bad.Health.Path = "no slash" // withDefaults would refuse it
		cfg.Upstreams["bad"] = bad
		require.ErrorContains(t, g.reload(cfg), "upstreams.bad: balancer: Config.Health.Path")
	})
	require.Same(t, before, g.current.Load())
	require.Equal(t, "a", answered(), "nothing of the refused configurations is in force")

	t.Run("a good one", func(t *testing.T) {
		cfg, err := parseConfig("f", []byte(simple("", b.Addr)))
		require.NoError(t, err)
		require.NoError(t, g.reload(cfg))
		require.Eventually(t, func() bool { return answered() == "b" }, time.Minute, time.Millisecond)
		old, now := before.upstreams["app"].balancer, g.current.Load().upstreams["app"].balancer
		require.Same(t, old, now, "the upstream keeps its balancer")
	})
}

func TestReloadUnderLoadLosesNoRequest(t *testing.T) {
	a := backend.Start(t, backend.Config{Name: "a", Behaviour: backend.Behaviour{Delay: time.Millisecond}})
	b := backend.Start(t, backend.Config{Name: "b", Behaviour: backend.Behaviour{Delay: time.Millisecond}})
	texts := []string{
		simple("", a.Addr),
		simple("", a.Addr, b.Addr),
		simple("", b.Addr),
		fmt.Sprintf("upstreams:\n  other: {hosts: [%s]}\nroutes: [{upstream: other}]", a.Addr),
		fmt.Sprintf("upstreams:\n  app: {hosts: [%s], connect_timeout: 1s}\n"+
			"routes: [{upstream: app}]", a.Addr),
	}
	g := start(t, texts[0])
	c := client(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	failures := make(chan string, 1000)
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := c.Post(g.url, "text/plain", strings.NewReader("x")) // nothing repeats a POST
				if err != nil {
					failures <- err.Error()
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					failures <- fmt.Sprint(resp.StatusCode, string(body), err)
				}
			}
		})
	}
	for i := range 100 {
		cfg, err := parseConfig("f", []byte(texts[(i+1)%len(texts)]))
		require.NoError(t, err)
		require.NoError(t, g.reload(cfg))
		n := a.Requests() + b.Requests()
		require.Eventually(t, func() bool { return a.Requests()+b.Requests() > n+20 },
			time.Minute, time.Millisecond)
	}
	close(stop)
	wg.Wait()
	close(failures)
	for f := range failures {
		t.Error(f)
	}
}

func TestGenerationsInUseAreNotIdle(t *testing.T) {
	g := start(t, simple("", "127.0.0.1:1"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				gen := g.acquire()
				select {
				case <-gen.idle:
					t.Error("an idle generation, whose upstreams may be closed, was acquired")
					gen.release()
					return
				case <-stop:
					gen.release()
					return
				default:
				}
				gen.release()
			}
		})
	}
	registered := len(g.unregister)
	require.NotZero(t, registered)
	for i := range 300 {
		cfg, err := parseConfig("f", []byte(simple("", "127.0.0.1:1", fmt.Sprint("127.0.0.1:", 2+i%2))))
		require.NoError(t, err)
		require.NoError(t, g.reload(cfg))
	}
	close(stop)
	wg.Wait()
	require.Len(t, g.unregister, registered, "a reload must not register statistics once more")
}

// A request of the first generation may still need the balancer when the second generation, which
// shares it, has ended.
func TestBalancersOutliveEveryGenerationThatUsesThem(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, simple("", b.Addr))
	first := g.acquire()
	defer first.release()
	reload := func(text string) {
		cfg, err := parseConfig("f", []byte(text))
		require.NoError(t, err)
		require.NoError(t, g.reload(cfg))
	}
	reload(simple("", b.Addr, "127.0.0.1:1"))
	second := g.current.Load()
	require.Same(t, first.upstreams["app"].balancer, second.upstreams["app"].balancer)
	reload(fmt.Sprintf("upstreams: {other: {hosts: [%s]}}\nroutes: [{upstream: other}]", b.Addr))
	<-second.idle
	for range 200 { // long enough for a faulty reload to close the balancer
		w := httptest.NewRecorder()
		first.routes.ServeHTTP(w, httptest.NewRequest("GET", "http://a/", nil))
		require.Equal(t, 200, w.Code)
	}
}

// Each setting of an upstream is in force after a reload: what depends on it is made anew, and
// nothing else.
func TestWhatAReloadMakesAnewOfAnUpstream(t *testing.T) {
	const connections, breakers, retrier = "connections", "breakers", "retrier"
	for _, tt := range []struct{ key, value, anew string }{
		{"connect_timeout", "1s", connections}, {"response_timeout", "1s", connections},
		{"idle_timeout", "1s", connections}, {"h2c", "true", connections},
		{"breaker", "{min_requests: 6}", breakers}, {"retry", "{attempts: 3}", retrier},
		{"hedge", "{ratio: 0.2}", retrier}, {"max_conns", "11", ""},
		{"policy", "round_robin", ""}, {"health", "{path: /healthz}", ""},
	} {
		t.Run(tt.key, func(t *testing.T) {
			text := func(key, value string) string {
				keys := map[string]string{
					"breaker": "{min_requests: 5}", "retry": "{attempts: 2}", "hedge": "{ratio: 0.1}",
				}
				keys[key] = value
				var list []string
				for key, value := range keys {
					list = append(list, key+": "+value)
				}
				return upstreamOf("127.0.0.1:1", strings.Join(list, ", "))
			}
			g := start(t, text("max_conns", "10"))
			old := g.current.Load().upstreams["app"]
			reloadText(t, g, text(tt.key, tt.value))
			u := g.current.Load().upstreams["app"]
			require.NotSame(t, old, u)
			require.Same(t, old.balancer, u.balancer)
			require.Equal(t, tt.anew == connections, old.settings.Transport != u.settings.Transport)
			require.Equal(t, tt.anew == breakers, old.breaker != u.breaker)
			require.Equal(t, tt.anew == retrier, old.retrier != u.retrier)
		})
	}
}

// Connections that were made for another name are not used after a reload.
func TestAReloadWithAnotherServerNameMakesNewConnections(t *testing.T) {
	text := func(name string) string {
		return upstreamOf("127.0.0.1:1", "url: https://app.test, tls: {server_name: "+name+"}")
	}
	g := start(t, text("a.test"))
	old := g.current.Load().upstreams["app"]
	reloadText(t, g, text("b.test"))
	require.NotSame(t, old.settings.Transport, g.current.Load().upstreams["app"].settings.Transport)
}

// A route keeps its limits and its cache over a reload as long as nothing that they depend on
// changes.
func TestWhatAReloadMakesAnewOfARoute(t *testing.T) {
	g := start(t, simple("", "127.0.0.1:1"))
	limited := Limit{By: "all", Rate: Rate{Limit: 1, Window: time.Minute}}
	settings := gateSettings{label: "/", names: []string{"a"}, limits: []Limit{limited}, concurrency: 1}
	first, err := newGate(settings, nil, g.counts, trust{}, g.observer.tel, discardLog)
	require.NoError(t, err)
	for name, change := range map[string]func(s *gateSettings){
		"nothing":     func(*gateSettings) {},
		"concurrency": func(s *gateSettings) { s.concurrency = 2 },
		"no bound":    func(s *gateSettings) { s.concurrency = 0 },
		"rate":        func(s *gateSettings) { s.limits = []Limit{{By: "all", Rate: Rate{2, time.Minute}}} },
		"names":       func(s *gateSettings) { s.names = []string{"b"} },
	} {
		s := settings
		change(&s)
		again, err := newGate(s, first, g.counts, trust{}, g.observer.tel, discardLog)
		require.NoError(t, err, name)
		require.Equal(t, name == "nothing", again == first, name)
	}

	route := Route{Path: "/", Cache: &RouteCache{TTL: Duration(time.Minute)}}
	cached, err := newRouteCache(route, nil, g.store, g.observer.tel)
	require.NoError(t, err)
	for name, change := range map[string]func(r *Route){
		"nothing": func(*Route) {},
		"ttl":     func(r *Route) { r.Cache = &RouteCache{TTL: Duration(time.Hour)} },
		"version": func(r *Route) { r.Versions = &Versions{} },
		"arm":     func(r *Route) { r.Rollout = &Rollout{Apart: true} },
	} {
		r := route
		change(&r)
		again, err := newRouteCache(r, cached, g.store, g.observer.tel)
		require.NoError(t, err, name)
		require.Equal(t, name == "nothing", again == cached, name)
	}
}

// A configuration that is refused for one of its upstreams leaves those alone that it has kept.
func TestARefusedReloadClosesNothingThatIsInUse(t *testing.T) {
	b := backend.Start(t, backend.Config{Name: "b"})
	g := start(t, simple("", b.Addr))
	cfg, err := parseConfig("f", []byte(simple("", b.Addr)))
	require.NoError(t, err)
	bad := cfg.Upstreams["app"]
	bad.Health.Path = "no slash"
	cfg.Upstreams["bad"] = bad
	require.ErrorContains(t, g.reload(cfg), "upstreams.bad: ")
	resp, body := get(t, client(t), g.url)
	require.Equal(t, 200, resp.StatusCode, body)
}

// TestATunnelKeepsNoBalancerThatItDoesNotUse: one of the first generation may outlive many reloads.
func TestATunnelKeepsNoBalancerThatItDoesNotUse(t *testing.T) {
	var begun atomic.Int64
	end := make(chan struct{})
	a, b := holdingBackend(t, &begun, end), backend.Start(t, backend.Config{})
	text := func(more string) string {
		return fmt.Sprintf("upstreams: {app: {hosts: [%q]}%s}\nroutes: [{upstream: app}]", a.Addr, more)
	}
	g := start(t, text(""))
	first := g.current.Load().upstreams["app"]
	status := later(t, t.Context(), client(t), g.url)
	require.Eventually(t, func() bool { return begun.Load() == 1 }, eventually, tick)
	reloadText(t, g, text(fmt.Sprintf(", more: {hosts: [%q]}", b.Addr)))
	more := g.current.Load().upstreams["more"]
	reloadText(t, g, text(""))
	closed := func(u *upstream) bool {
		req := httptest.NewRequest("GET", u.target.String(), nil)
		req.RequestURI = ""
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := u.balancer.RoundTrip(req.WithContext(ctx))
		return errors.Is(err, balancer.ErrClosed)
	}
	require.Eventually(t, func() bool { return closed(more) }, eventually, tick)
	require.False(t, closed(first))
	reloadText(t, g, strings.ReplaceAll(text(""), "app", "other"))
	require.False(t, closed(first), "the request still has it")
	close(end)
	require.Equal(t, 200, <-status)
	require.Eventually(t, func() bool { return closed(first) }, eventually, tick)
}
