package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/internal/program"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// statuses counts the answers to n requests by status. change, if not nil, may change each request.
func statuses(
	t *testing.T, c *http.Client, url string, n int, change func(i int, r *http.Request),
) map[int]int {
	t.Helper()
	count := map[int]int{}
	for i := range n {
		req, err := http.NewRequest("GET", url, nil)
		require.NoError(t, err)
		if change != nil {
			change(i, req)
		}
		resp, _ := do(t, c, req)
		count[resp.StatusCode]++
	}
	return count
}

// page reads an admin page into into.
func page(t *testing.T, g *live, path string, into any) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "http://127.0.0.1"+path, nil)
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	require.Equal(t, 200, w.Code, w.Body)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), into))
}

type limitsPage struct {
	Routes map[string]struct {
		Limits      *ratelimit.Stats
		Concurrency *ratelimit.ConcurrencyStats
	}
	Redis *redislimit.Stats
}

func TestLimitsRefuseWith429(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, simple("    limits: [per-address]\n"+
		"limits: {per-address: {rate: 3/h, burst: 3, by: address}}", b.Addr))
	c := client(t)
	require.Equal(t, map[int]int{200: 3}, statuses(t, c, g.url, 3, nil))
	resp, body := get(t, c, g.url)
	require.Equal(t, 429, resp.StatusCode)
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	require.Contains(t, body, "quota-exceeded")
	require.Contains(t, body, `"violated-policies":["per-address"]`)
	require.Equal(t, `"per-address";q=3;w=3600`, resp.Header.Get("RateLimit-Policy"))
	require.Contains(t, resp.Header.Get("RateLimit"), `"per-address";r=0;t=`)
	wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	require.NoError(t, err)
	require.InDelta(t, 1200, wait, 5)
	require.Equal(t, 3, b.Requests(), "a refused request does not reach the upstream")

	var p limitsPage
	page(t, g, "/limits", &p)
	require.Equal(t, uint64(3), p.Routes["/"].Limits.Admitted)
	require.Equal(t, map[string]uint64{"per-address": 1}, p.Routes["/"].Limits.Refused)
	require.Nil(t, p.Redis)
}

func TestLimitsByAddressBelieveTrustedProxiesOnly(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	limited := "    limits: [l]\nlimits: {l: {rate: 1/h, burst: 2, by: address}}\n"
	forged := func(i int, r *http.Request) { r.Header.Set("X-Forwarded-For", fmt.Sprintf("203.0.113.%d", i)) }
	c := client(t)

	g := start(t, simple(limited, b.Addr))
	require.Equal(t, map[int]int{200: 2, 429: 4}, statuses(t, c, g.url, 6, forged),
		"one client that calls itself another one each time")

	g = start(t, simple(limited+"server: {trusted_proxies: [127.0.0.0/8]}", b.Addr))
	require.Equal(t, map[int]int{200: 6}, statuses(t, c, g.url, 6, forged),
		"six clients that the proxy names")
	// The client made up the entry that stands left of the proxy's own.
	require.Equal(t, map[int]int{200: 1, 429: 5}, statuses(t, c, g.url, 6, func(i int, r *http.Request) {
		r.Header.Set("X-Forwarded-For", fmt.Sprintf("198.51.100.%d, 203.0.113.1", i))
	}))
	require.Equal(t, map[int]int{200: 2, 429: 4}, statuses(t, c, g.url, 6, func(i int, r *http.Request) {
		r.Header.Set("X-Forwarded-For", fmt.Sprintf("2001:db8::%d", i)) // all in the network of one client
	}))
}

func TestPeersOfUnixSocketsAreTrustedIfAsked(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	for list, want := range map[string]struct {
		statuses map[int]int
		client   string // in the access log
	}{
		"unix":                {map[int]int{200: 6}, "203.0.113.5"},
		`"0.0.0.0/0", "::/0"`: {map[int]int{200: 2, 429: 4}, ""},
	} {
		t.Run(list, func(t *testing.T) {
			var out writes
			g := startLogged(t, simple(`    limits: [l]
limits: {l: {rate: 1/h, burst: 2, by: address}}
telemetry: {access_log: {client: full}}
server: {trusted_proxies: [`+list+"]}", b.Addr), &out)
			got := map[int]int{}
			for i := range 6 {
				r := httptest.NewRequest(http.MethodGet, "http://shop.test/", nil)
				r.RemoteAddr = "@"
				r.Header.Set("X-Forwarded-For", fmt.Sprintf("203.0.113.%d", i))
				w := httptest.NewRecorder()
				g.gateway.ServeHTTP(w, r)
				got[w.Code]++
			}
			require.Equal(t, want.statuses, got)
			var all []string // lines are written a little later
			require.Eventually(t, func() bool {
				all = strings.Split(strings.TrimSpace(strings.Join(out.taken(), "")), "\n")
				return len(all) == 6
			}, time.Minute, time.Millisecond)
			var last map[string]any
			require.NoError(t, json.Unmarshal([]byte(all[len(all)-1]), &last))
			address, _ := last["client.address"].(string)
			require.Equal(t, want.client, address)
		})
	}
}

func TestLimitsByHeader(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, fmt.Sprintf(`
limits:
  rejects: {rate: 1/h, burst: 2, by: header, header: x-api-key, missing: reject}
  skips: {rate: 1/h, burst: 2, by: header, header: x-api-key, missing: skip}
  shares: {rate: 1/h, burst: 2, by: header, header: x-api-key, missing: shared}
upstreams: {u: {hosts: [%s]}}
routes:
  - {upstream: u, path: /rejects, limits: [rejects]}
  - {upstream: u, path: /skips, limits: [skips]}
  - {upstream: u, path: /shares, limits: [shares]}
`, b.Addr))
	c := client(t)
	for _, path := range []string{"/rejects", "/skips", "/shares"} {
		key := func(k string) func(int, *http.Request) {
			return func(_ int, r *http.Request) { r.Header.Set("X-Api-Key", k) }
		}
		require.Equal(t, map[int]int{200: 2, 429: 3}, statuses(t, c, g.url+path, 5, key("a")), path)
		require.Equal(t, map[int]int{200: 2, 429: 3}, statuses(t, c, g.url+path, 5, key("b")), path)
	}
	require.Equal(t, map[int]int{400: 4}, statuses(t, c, g.url+"/rejects", 4, nil))
	require.Equal(t, map[int]int{200: 4}, statuses(t, c, g.url+"/skips", 4, nil))
	require.Equal(t, map[int]int{200: 2, 429: 2}, statuses(t, c, g.url+"/shares", 4, nil))
}

func TestRoutesShareLimitsUnlessEachCountsForItself(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, fmt.Sprintf(`
limits:
  shared: {rate: 1/h, burst: 3, by: address}
  each: {rate: 1/h, burst: 3, by: address, per_route: true}
  all: {rate: 1/h, burst: 5, by: all}
upstreams: {u: {hosts: [%s]}}
routes:
  - {upstream: u, path: /a, limits: [shared]}
  - {upstream: u, path: /b, limits: [shared]}
  - {upstream: u, path: /c, limits: [each]}
  - {upstream: u, path: /d, limits: [each, all]}
  - {upstream: u, path: /e, limits: [all]}
  - {upstream: u, path: /free}
`, b.Addr))
	c := client(t)
	get := func(path string, n int) map[int]int { return statuses(t, c, g.url+path, n, nil) }
	require.Equal(t, map[int]int{200: 2}, get("/a", 2))
	require.Equal(t, map[int]int{200: 1, 429: 1}, get("/b", 2))
	require.Equal(t, map[int]int{200: 3, 429: 1}, get("/c", 4))
	// A request that "each" refuses costs nothing of "all".
	require.Equal(t, map[int]int{200: 3, 429: 7}, get("/d", 10))
	require.Equal(t, map[int]int{200: 2, 429: 1}, get("/e", 3))
	require.Equal(t, map[int]int{200: 20}, get("/free", 20))
}

func TestConcurrencyOfARoute(t *testing.T) {
	release := make(chan struct{})
	slow := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
	})
	b := backend.Start(t, backend.Config{Handler: slow})
	g := start(t, inFlow(b.Addr, "[{upstream: app, path: /slow, concurrency: 2}, {upstream: app}]"))
	c := client(t)
	done := make(chan int, 2)
	for range 2 {
		go func() {
			resp, err := c.Get(g.url + "/slow")
			if err != nil {
				done <- 0
				return
			}
			resp.Body.Close()
			done <- resp.StatusCode
		}()
	}
	require.Eventually(t, func() bool {
		var p limitsPage
		page(t, g, "/limits", &p)
		return p.Routes["/slow"].Concurrency.InFlight == 2
	}, time.Minute, time.Millisecond)
	resp, body := get(t, c, g.url+"/slow")
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	require.Contains(t, body, "too many requests are in flight")
	require.Equal(t, map[int]int{200: 3}, statuses(t, c, g.url+"/", 3, nil), "other routes are not limited")
	close(release)
	require.Equal(t, 200, <-done)
	require.Equal(t, 200, <-done)
	require.Equal(t, map[int]int{200: 3}, statuses(t, c, g.url+"/slow", 3, nil))
}

func TestReloadGrantsNoFreshBurst(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	text := func(rate, more string) string {
		return simple("    limits: [l]\n    concurrency: 5\n"+more+
			"limits: {l: {rate: "+rate+", by: address}}", b.Addr)
	}
	g := start(t, text("3/h, burst: 3", ""))
	c := client(t)
	reload := func(text string) {
		t.Helper()
		cfg, err := parseConfig("f", []byte(text))
		require.NoError(t, err)
		require.NoError(t, g.reload(cfg))
	}
	require.Equal(t, map[int]int{200: 3, 429: 1}, statuses(t, c, g.url, 4, nil))
	before := g.current.Load().parts["/"].gate

	reload(text("3/h, burst: 3", "    timeout: 5s\n"))
	require.Same(t, before, g.current.Load().parts["/"].gate, "the gate stays, and its statistics go on")
	require.Equal(t, map[int]int{429: 3}, statuses(t, c, g.url, 3, nil))

	reload(text("3/h, burst: 3", "  - {upstream: app, path: /new, limits: [l]}\n"))
	require.Equal(t, map[int]int{429: 2}, statuses(t, c, g.url+"/new", 2, nil))

	// A client that had used up its burst has used up the new one, too.
	reload(text("6/h, burst: 6", ""))
	require.NotSame(t, before, g.current.Load().parts["/"].gate)
	require.Equal(t, map[int]int{429: 3}, statuses(t, c, g.url, 3, nil))

	cfg, err := parseConfig("f", []byte(text("6/h, sliding: true", "")))
	require.NoError(t, err)
	require.ErrorContains(t, g.reload(cfg), "restart or give it another name")
	require.Equal(t, map[int]int{429: 1}, statuses(t, c, g.url, 1, nil))

	cfg, err = parseConfig("f", []byte(text("6/h", "")+"\nredis: {addr: a}"))
	require.NoError(t, err)
	require.EqualError(t, g.reload(cfg), "needs a restart to change: redis")
}

func TestLimitsThatAReloadRemovesFreeTheirMemory(t *testing.T) {
	text := func(i int) string {
		return simple(fmt.Sprintf(`    limits: [all]
  - {upstream: app, path: /x, limits: [l%[1]d]}
limits:
  all: {rate: 1/h, burst: 1, by: all}
  l%[1]d: {rate: 1/h, burst: 1, by: all}
`, i), "127.0.0.1:1")
	}
	g := start(t, text(0))
	before := g.counts.memory.Stats().Bytes
	for i := range 20 {
		cfg, err := parseConfig("f", []byte(text(i)))
		require.NoError(t, err)
		bad := cfg
		// withDefaults would refuse this path.
		bad.Upstreams = map[string]Upstream{"app": {URL: "http://a", Health: Health{Path: "no slash"}}}
		require.Error(t, g.reload(bad))
		require.NoError(t, g.reload(cfg))
		require.Equal(t, before, g.counts.memory.Stats().Bytes)
	}
	c := client(t)
	require.Equal(t, map[int]int{503: 1, 429: 1}, statuses(t, c, g.url, 2, nil))
	require.Equal(t, map[int]int{503: 1, 429: 1}, statuses(t, c, g.url+"/x", 2, nil))
}

func TestWhatIsLeftForAllIsToldToNobody(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, simple("    limits: [l]\nlimits: {l: {rate: 1/h, burst: 1, by: all}}", b.Addr))
	c := client(t)
	for _, want := range []int{200, 429} {
		resp, _ := get(t, c, g.url)
		require.Equal(t, want, resp.StatusCode)
		require.Empty(t, resp.Header.Get("RateLimit"))
		require.Empty(t, resp.Header.Get("RateLimit-Policy"))
	}
}

func TestRedisThatHangsDelaysByItsTimeoutOnly(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts connections, nothing answers
	require.NoError(t, err)
	defer ln.Close()
	g := start(t, simple(fmt.Sprintf(`    limits: [l]
redis: {addr: %q}
limits: {l: {rate: 10/h, by: all, store: redis, burst: 10}}
`, ln.Addr()), b.Addr))
	c := client(t)
	begin := time.Now()
	require.Equal(t, map[int]int{200: 10, 429: 2}, statuses(t, c, g.url, 12, nil))
	require.Less(t, time.Since(begin), 2*time.Second)
}

func TestGatewaysShareLimitsInRedisAndOutliveIt(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	redis := program.Redis(t)
	text := fmt.Sprintf(`
redis: {addr: "%s", timeout: 1s}
limits:
  shared: {rate: 1/h, burst: 6, by: address, store: redis, share: 0.5}
  open: {rate: 1/h, burst: 2, by: address, store: redis, on_error: open}
  closed: {rate: 1/h, burst: 1000, by: address, store: redis, on_error: closed}
upstreams: {u: {hosts: [%s]}}
routes:
  - {upstream: u, path: /shared, limits: [shared]}
  - {upstream: u, path: /fresh, limits: [shared]}
  - {upstream: u, path: /open, limits: [open]}
  - {upstream: u, path: /closed, limits: [closed]}
`, redis.Addr, b.Addr)
	one, two := start(t, text), start(t, text)
	c := client(t)
	require.Equal(t, map[int]int{200: 3}, statuses(t, c, one.url+"/shared", 3, nil))
	require.Equal(t, map[int]int{200: 3, 429: 1}, statuses(t, c, two.url+"/shared", 4, nil))
	require.Equal(t, map[int]int{429: 1}, statuses(t, c, one.url+"/shared", 1, nil))
	require.Equal(t, map[int]int{200: 1}, statuses(t, c, one.url+"/closed", 1, nil))
	require.Equal(t, map[int]int{200: 2, 429: 1}, statuses(t, c, one.url+"/open", 3, nil))
	var p limitsPage
	page(t, one, "/limits", &p)
	require.True(t, p.Routes["/shared"].Limits.StoreUp)
	require.NotZero(t, p.Redis.Calls)
	require.Zero(t, p.Redis.Failures)

	redis.Kill()
	require.Equal(t, map[int]int{503: 5}, statuses(t, c, one.url+"/closed", 5, nil))
	// The second gateway has no denial of this limit cached, the first has one of the shared limit.
	require.Equal(t, map[int]int{200: 5}, statuses(t, c, two.url+"/open", 5, nil))
	require.Equal(t, map[int]int{429: 5}, statuses(t, c, one.url+"/shared", 5, nil),
		"a failure grants no fresh burst")
	page(t, one, "/limits", &p)
	require.False(t, p.Routes["/closed"].Limits.StoreUp)
	require.NotZero(t, p.Redis.Failures)

	// A gateway without Redis is still ready.
	w := httptest.NewRecorder()
	newAdmin(one.gateway).Handler.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1/readyz", nil))
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), `{"name":"redis","ok":false,"optional":true}`)
}
