package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/program"
)

// fleet is a configuration whose cache is shared by way of a Redis.
func fleet(redis, upstream string) string {
	return strings.Replace(cached("", upstream), "cache: {size: 1MiB}",
		fmt.Sprintf("cache: {size: 1MiB, store: redis}\nredis: {addr: %q, timeout: 5s}", redis), 1)
}

// storeOf returns what GET /cache shows of the store.
func storeOf(t *testing.T, g *live) (store map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost/cache", nil)
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	var shown struct{ Store, Redis map[string]any }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &shown))
	require.NotNil(t, shown.Redis, "both tiers are shown")
	require.NotNil(t, shown.Store["near"])
	return shown.Store
}

// Two gateways on one Redis: what one has fetched both have, one fetches what both are asked for,
// and what one is told to purge both forget. Without Redis each goes on by itself.
func TestC63_GatewaysShareACache(t *testing.T) {
	redis := program.Redis(t)
	b := counting(t, "Cache-Control", "max-age=600", "Surrogate-Key", "red")
	gateways := []*live{start(t, fleet(redis.Addr, b.Addr)), start(t, fleet(redis.Addr, b.Addr))}
	c := client(t)
	ask := func(g *live, path string) string {
		req, err := http.NewRequest(http.MethodGet, g.url+path, nil)
		require.NoError(t, err)
		req.Host = "shop.test" // which both are
		resp, body := do(t, c, req)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		return body
	}
	for _, g := range gateways {
		require.Eventually(t, func() bool {
			s := storeOf(t, g)
			return s["connected"] == true && s["confirmed"] == true
		}, 20*time.Second, 5*time.Millisecond)
	}

	first := ask(gateways[0], "/a")
	require.Equal(t, first, ask(gateways[1], "/a"))

	// Who hears nothing of the other for two seconds fetches for itself, so a slow machine gets
	// more than one chance.
	once := func(path string) bool {
		var all sync.WaitGroup
		var bodies sync.Map
		for i := range 40 {
			all.Go(func() { bodies.Store(ask(gateways[i%2], path), true) })
		}
		all.Wait()
		n := 0
		for range bodies.Range {
			n++
		}
		require.LessOrEqual(t, n, 2, "each gateway fetches once at most")
		return n == 1
	}
	tries := 0
	for !once(fmt.Sprint("/b/", tries)) {
		tries++
		require.Less(t, tries, 10, "one fetch for all")
	}

	require.Eventually(t, func() bool { // one that takes Redis too long is 503, and must be repeated
		status, _ := act(gateways[0], "/purge", gateways[0].token, `{"tag": "red", "hard": true}`)
		return status == http.StatusNoContent
	}, eventually, tick)
	require.NotEqual(t, first, ask(gateways[0], "/a"))
	require.Eventually(t, func() bool { return ask(gateways[1], "/a") != first },
		time.Minute, time.Millisecond, "within near_ttl at the latest")

	redis.Kill()
	require.Contains(t, ask(gateways[0], "/c"), "answer")
	require.Contains(t, ask(gateways[1], "/c"), "answer")
	status, text := act(gateways[0], "/purge", gateways[0].token, `{"tag": "red"}`)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, text, "Repeat it")
}

func TestCacheStoresThatCannotBe(t *testing.T) {
	for keys, want := range map[string]string{
		"store: disk":  `f:1: cache.store: "disk" is not one of: redis, memory`,
		"store: redis": "f:1: cache.store: there is no redis.addr",
	} {
		_, err := parseConfig("f", []byte("cache: {"+keys+"}"+minimalConfig))
		require.EqualError(t, err, want)
	}
	_, err := parseConfig("f", []byte("redis: {addr: a}\ncache: {store: redis, snapshot: x}"+minimalConfig))
	require.EqualError(t, err,
		"f:2: cache.snapshot: has no meaning with store: redis, which outlives the gateway")
}
