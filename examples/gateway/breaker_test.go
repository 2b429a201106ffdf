package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
	"github.com/trivet-go/trivet/internal/backend"
)

// guarded is a configuration of the upstream app with breakers that open soon and stay open.
func guarded(breaker string, hosts ...string) string {
	list := ""
	for _, h := range hosts {
		list += fmt.Sprintf("%q, ", h)
	}
	return fmt.Sprintf("upstreams: {app: {hosts: [%s], breaker: %s}}\n"+
		"routes: [{upstream: app}]", list, breaker)
}

// breakers returns what GET /breakers shows of the upstream app.
func breakers(t *testing.T, g *live) map[string]breaker.KeyStats {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost/breakers", nil)
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	var shown map[string]breaker.Stats
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &shown))
	return shown["app"].Keys
}

func reloadText(t *testing.T, g *live, text string) {
	t.Helper()
	cfg, err := parseConfig("f", []byte(text))
	require.NoError(t, err)
	require.NoError(t, g.reload(cfg))
}

func TestAnOpenBreakerAnswersAndOutlivesReloads(t *testing.T) {
	a := backend.Start(t, backend.Config{Name: "a", Behaviour: backend.Behaviour{Status: 500}})
	b := backend.Start(t, backend.Config{Name: "b"})
	const settings = "{min_requests: 5, open_for: 10m, max_open: 10m}"
	g := start(t, guarded(settings, a.Addr))
	c := client(t)
	for i := range 5 {
		resp, _ := get(t, c, g.url)
		require.Equal(t, 500, resp.StatusCode, "request %d", i)
	}
	require.Equal(t, breaker.Open, breakers(t, g)[a.Addr].State)
	asked := a.Requests()
	resp, _ := get(t, c, g.url)
	require.Equal(t, 503, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	require.Equal(t, asked, a.Requests(), "the host was asked")

	// A host more: the breaker of the other stays open.
	reloadText(t, g, guarded(settings, a.Addr, b.Addr))
	require.Eventually(t, func() bool {
		resp, _ := get(t, c, g.url)
		return resp.StatusCode == 200
	}, time.Minute, time.Millisecond)
	require.Equal(t, breaker.Open, breakers(t, g)[a.Addr].State)
	require.Equal(t, asked, a.Requests())

	// Two reloads in a row, without a request between them.
	reloadText(t, g, guarded(settings, a.Addr))
	reloadText(t, g, guarded(settings, a.Addr, b.Addr))
	require.Equal(t, breaker.Open, breakers(t, g)[a.Addr].State)
	require.Equal(t, asked, a.Requests())

	// Other settings are other breakers.
	reloadText(t, g, guarded("{min_requests: 6, open_for: 10m, max_open: 10m}", a.Addr, b.Addr))
	require.NotContains(t, breakers(t, g), a.Addr)
	// None at all.
	reloadText(t, g, simple("", a.Addr))
	require.Empty(t, breakers(t, g))
}

func TestReloadsLeaveNoBreakerOfARemovedHost(t *testing.T) {
	a := backend.Start(t, backend.Config{Name: "a"})
	g := start(t, guarded("{}", a.Addr))
	c := client(t)
	for i := range 100 {
		other := backend.Start(t, backend.Config{Name: "other"})
		reloadText(t, g, guarded("{}", a.Addr, other.Addr))
		for range 4 {
			resp, _ := get(t, c, g.url)
			require.Equal(t, 200, resp.StatusCode, "reload %d", i)
		}
		reloadText(t, g, guarded("{}", a.Addr))
	}
	require.Eventually(t, func() bool {
		get(t, c, g.url)
		keys := breakers(t, g)
		_, kept := keys[a.Addr]
		return kept && len(keys) == 1
	}, time.Minute, time.Millisecond)
}

func TestFaultsOfABreakerAreNamed(t *testing.T) {
	_, err := parseConfig("f", []byte(guarded("{failure_ratio: 2, probes: -3}", "127.0.0.1:1")))
	require.EqualError(t, err, "f:1: upstreams.app.breaker.failure_ratio: "+
		"must be a share such as 0.25, more than 0 and at most 1, not `2`\n"+
		"f:1: upstreams.app.breaker.probes: -3 is negative")
	_, err = parseConfig("f", []byte(guarded("{open_for: -1s}", "127.0.0.1:1")))
	require.EqualError(t, err, "f:1: upstreams.app.breaker.open_for: must be positive")
	_, err = parseConfig("f", []byte(guarded("{probes: -3, open_for: 2m, max_open: 1m}", "127.0.0.1:1")))
	require.EqualError(t, err, "f:1: upstreams.app.breaker.max_open: 1m0s is less than OpenFor, 2m0s\n"+
		"f:1: upstreams.app.breaker.probes: -3 is negative")
}
