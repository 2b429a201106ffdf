package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/retry"
)

// repeating is a configuration of the upstream app with more keys of that upstream.
func repeating(more string, hosts ...string) string {
	list := ""
	for _, h := range hosts {
		list += fmt.Sprintf("%q, ", h)
	}
	return fmt.Sprintf("upstreams: {app: {hosts: [%s], %s}}\nroutes: [{upstream: app}]", list, more)
}

// retries returns what GET /retries shows of the upstream app.
func retries(t *testing.T, g *live) retry.Stats {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost/retries", nil)
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	var shown struct{ Upstreams map[string]retry.Stats }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &shown))
	return shown.Upstreams["app"]
}

func TestRetriesHideABrokenHost(t *testing.T) {
	a := backend.Start(t, backend.Config{Name: "a", Behaviour: backend.Behaviour{Status: 503}})
	b := backend.Start(t, backend.Config{Name: "b"})
	g := start(t, repeating("retry: {backoff: 1ms, max_backoff: 1ms}", a.Addr, b.Addr))
	c := client(t)
	for range 30 {
		resp, _ := get(t, c, g.url)
		require.Equal(t, 200, resp.StatusCode)
	}
	require.NotZero(t, a.Requests(), "the broken host was never asked")
	require.NotEmpty(t, retries(t, g).Retries)

	// A POST that has reached a server is not repeated.
	a.Set(backend.Behaviour{Abort: true})
	b.Set(backend.Behaviour{Abort: true})
	before := a.Requests() + b.Requests()
	req, err := http.NewRequest(http.MethodPost, g.url, nil)
	require.NoError(t, err)
	resp, _ := do(t, c, req)
	require.Equal(t, 502, resp.StatusCode)
	require.Equal(t, before+1, a.Requests()+b.Requests())
}

func TestARetryBudgetOutlivesReloads(t *testing.T) {
	a := backend.Start(t, backend.Config{Name: "a", Behaviour: backend.Behaviour{Status: 503}})
	const settings = "retry: {backoff: 1ms, max_backoff: 1ms, reserve: 3}"
	g := start(t, repeating(settings, a.Addr))
	c := client(t)
	for range 10 {
		resp, _ := get(t, c, g.url)
		require.Equal(t, 503, resp.StatusCode)
	}
	require.EqualValues(t, 13, a.Requests(), "ten requests, and the three retries of the reserve")

	b := backend.Start(t, backend.Config{Name: "b", Behaviour: backend.Behaviour{Status: 503}})
	reloadText(t, g, repeating(settings, a.Addr, b.Addr))
	for range 10 {
		get(t, c, g.url)
	}
	require.EqualValues(t, 23, a.Requests()+b.Requests(), "a reload has filled the budget")

	reloadText(t, g, repeating("retry: {backoff: 1ms, max_backoff: 1ms, reserve: 2}", a.Addr, b.Addr))
	for range 10 {
		get(t, c, g.url)
	}
	require.EqualValues(t, 35, a.Requests()+b.Requests(), "other settings are another budget")
}

func TestDeadlinesOfTrustedPeersArePassedOn(t *testing.T) {
	b := echo(t)
	text := "server: {deadline_field: x-deadline-ms, trusted_proxies: [%s]}\n" +
		"upstreams: {app: {hosts: [%q], retry: {}}}\nroutes: [{upstream: app, timeout: 1m}]"
	for _, tt := range []struct {
		trusted string
		sent    string
		status  int
		least   float64
		most    float64
	}{
		{"127.0.0.0/8", "20000", 200, 1, 20_000},
		{"127.0.0.0/8", "soon", 400, 0, 0},
		{"127.0.0.0/8", "9000000", 200, 20_001, 60_000}, // more than the route's timeout
		{"10.0.0.0/8", "20000", 200, 20_001, 60_000},    // a stranger's
		{"10.0.0.0/8", "soon", 200, 20_001, 60_000},
	} {
		t.Run(tt.trusted+" "+tt.sent, func(t *testing.T) {
			g := start(t, fmt.Sprintf(text, tt.trusted, b.Addr))
			req, err := http.NewRequest(http.MethodGet, g.url, nil)
			require.NoError(t, err)
			req.Header.Set("X-Deadline-Ms", tt.sent)
			resp, body := do(t, client(t), req)
			require.Equal(t, tt.status, resp.StatusCode, body)
			if tt.status != 200 {
				return
			}
			var got http.Header
			require.NoError(t, json.Unmarshal([]byte(body), &got))
			require.Len(t, got["X-Deadline-Ms"], 1)
			var left float64
			require.NoError(t, json.Unmarshal([]byte(got.Get("X-Deadline-Ms")), &left))
			require.GreaterOrEqual(t, left, tt.least)
			require.LessOrEqual(t, left, tt.most)
		})
	}
}

// Tiers tell each other by a field that retrying is done. What clients send in it reaches nobody
// unless they are trusted.
func TestTiersAreToldThatRetryingIsDone(t *testing.T) {
	text := "server: {hint_field: x-retry, trusted_proxies: [%s]}\n" +
		"upstreams: {app: {hosts: [%q], retry: {ratio: 1, reserve: 100, backoff: 1ms}}}\n" +
		"routes: [{upstream: app}]"
	for _, tt := range []struct {
		trusted, hint string // of the server behind the gateway
		requests      int32
		seen          string // of what the client sends in the field
	}{
		{"127.0.0.0/8", "", 3, "no"},
		{"127.0.0.0/8", "false", 1, "no"},
		{"10.0.0.0/8", "", 3, ""},
	} {
		var requests atomic.Int32
		var seen atomic.Value
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			seen.Store(r.Header.Get("X-Retry"))
			if tt.hint != "" {
				w.Header().Set("X-Retry", tt.hint)
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		g := start(t, fmt.Sprintf(text, tt.trusted, server.Listener.Addr().String()))
		req, err := http.NewRequest(http.MethodGet, g.url, nil)
		require.NoError(t, err)
		req.Header.Set("X-Retry", "no")
		resp, _ := do(t, client(t), req)
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		require.Equal(t, "false", resp.Header.Get("X-Retry"))
		require.Equal(t, tt.requests, requests.Load())
		require.Equal(t, tt.seen, seen.Load())
		server.Close()
	}
}

func TestFaultsOfRetriesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"retry: {attempts: -1}": "f:1: upstreams.app.retry.attempts: -1 is negative",
		"retry: {backoff: 2s, max_backoff: 1s}": "f:1: upstreams.app.retry.backoff: " +
			"2s is more than MaxBackoff, 1s",
		"retry: {reserve: -1}":     "f:1: upstreams.app.retry.reserve: must be positive",
		"retry: {max_body: 65MiB}": "f:1: upstreams.app.retry.max_body: 68157440 is more than 67108864",
		"retry: {per_try: -1s}":    "f:1: upstreams.app.retry.per_try: must be positive",
		"hedge: {min_delay: -1s}":  "f:1: upstreams.app.hedge.min_delay: must be positive",
		"hedge: {ratio: 3}": "f:1: upstreams.app.hedge.ratio: must be a share such as 0.25, " +
			"more than 0 and at most 1, not `3`",
	} {
		_, err := parseConfig("f", []byte(repeating(text, "127.0.0.1:1")))
		require.EqualError(t, err, want)
	}
	_, err := parseConfig("f", []byte(simple("server: {deadline_field: \"a b\"}", "127.0.0.1:1")))
	require.EqualError(t, err, `f:5: server.deadline_field: "a b" is not the name of a header field`)
}

// A request that takes longer than most is sent to another host, too.
func TestHedgesPassASlowHostBy(t *testing.T) {
	a := backend.Start(t, backend.Config{Name: "a"})
	b := backend.Start(t, backend.Config{Name: "b"})
	c := client(t)
	passed := func() bool {
		a.Set(backend.Behaviour{})
		g := start(t, repeating("hedge: {ratio: 1}, retry: {ratio: 1, reserve: 100}", a.Addr, b.Addr))
		for range 200 { // what is usual is learned from these
			resp, _ := get(t, c, g.url)
			require.Equal(t, 200, resp.StatusCode)
		}
		a.Set(backend.Behaviour{Delay: time.Hour})
		for range 20 {
			resp, err := c.Get(g.url)
			if err != nil {
				return false
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			require.NoError(t, err)
			require.Equal(t, 200, resp.StatusCode)
			require.Contains(t, string(body), "b")
		}
		return true
	}
	// When everything becomes slow nothing is hedged, so a busy machine gets more than one chance.
	for tries := 0; !passed(); tries++ {
		require.Less(t, tries, 5)
	}
}

// One of two real servers becomes 200 ms slower, and nothing checks them. Requests come at their
// own pace, whatever becomes of those before. With TRIVET_SOAK=1 they are 60,000, 1,000 a second.
func TestHedgesHideASlowServer(t *testing.T) {
	n, pause := 300, 5*time.Millisecond
	soak := os.Getenv("TRIVET_SOAK") == "1"
	if soak {
		n, pause = 60_000, time.Millisecond
	}
	a := backend.StartProcess(t, backend.Config{Name: "a"})
	b := backend.StartProcess(t, backend.Config{Name: "b"})
	p, _ := launchWith(t, "admin: {listen: \"127.0.0.1:0\"}\n"+
		"upstreams: {app: {hosts: [\""+a.Addr+"\", \""+b.Addr+"\"], hedge: {}}}\nroutes: [{upstream: app}]")
	c := client(t)
	c.Transport.(*http.Transport).MaxIdleConnsPerHost = 1000
	send := func(n int) []time.Duration {
		took, errs := make([]time.Duration, n), make([]error, n)
		var wg sync.WaitGroup
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := range n {
			<-tick.C
			wg.Go(func() {
				began := time.Now()
				resp, err := c.Get("http://" + p.addr)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err == nil && resp.StatusCode != 200 {
						err = errors.New(resp.Status)
					}
				}
				took[i], errs[i] = time.Since(began), err
			})
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		slices.Sort(took)
		return took
	}
	before := send(n / 5)
	b.Set(backend.Behaviour{Delay: 200 * time.Millisecond})
	after := send(n)
	at := func(sorted []time.Duration, q float64) time.Duration {
		return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
	}
	t.Logf("before: p50 %v, p99 %v, p99.9 %v", at(before, .5), at(before, .99), at(before, .999))
	t.Logf("after:  p50 %v, p99 %v, p99.9 %v, max %v", at(after, .5), at(after, .99), at(after, .999),
		after[len(after)-1])
	if soak {
		require.Less(t, at(after, .999)-at(before, .999), 100*time.Millisecond, "the slow server is seen")
	}
}
