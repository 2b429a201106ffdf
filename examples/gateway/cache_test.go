package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// counting starts an upstream whose answers have a number, and these fields.
func counting(t *testing.T, fields ...string) *backend.Backend {
	var n atomic.Int64
	return backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(fields); i += 2 {
				w.Header().Set(fields[i], fields[i+1])
			}
			fmt.Fprint(w, "answer ", n.Add(1))
		})})
}

// cached is a configuration whose route / has a cache with more keys.
func cached(more, addr string) string {
	return fmt.Sprintf("cache: {size: 1MiB}\nupstreams: {app: {hosts: [%q]}}\n"+
		"routes: [{upstream: app, cache: {%s}}]", addr, more)
}

// act posts body to the admin server, and returns the status and answer.
func act(g *live, path, token, body string) (int, string) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "http://localhost"+path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestRoutesHaveCaches(t *testing.T) {
	silent, fresh := counting(t), counting(t, "Cache-Control", "max-age=60")
	c := client(t)
	for _, tt := range []struct {
		name, more, addr, second string
		want                     string // of the third request, which differs by a parameter
	}{
		{"a response that says nothing is not stored", "", silent.Addr, "answer 2", "answer 3"},
		{"but with a ttl", "ttl: 1m", silent.Addr, "answer 4", "answer 5"},
		{"parameters that make no difference", "ttl: 1m, ignore_query: [utm_*]", silent.Addr, "answer 6",
			"answer 6"},
		{"what says that it is fresh is stored", "", fresh.Addr, "answer 1", "answer 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := start(t, cached(tt.more, tt.addr))
			get(t, c, g.url+"/a")
			_, second := get(t, c, g.url+"/a")
			require.Equal(t, tt.second, second)
			_, third := get(t, c, g.url+"/a?utm_source=x")
			require.Equal(t, tt.want, third)
		})
	}
}

func TestTheCacheOutlivesReloadsAndCanBePurged(t *testing.T) {
	b := counting(t, "Cache-Control", "max-age=60", "Surrogate-Key", "red blue", "Cache-Groups", `"g"`)
	g := start(t, cached("", b.Addr))
	c := client(t)
	ask := func() string {
		_, body := get(t, c, g.url+"/a/b")
		return strings.TrimPrefix(body, "answer ")
	}
	require.Equal(t, "1", ask())
	reloadText(t, g, cached("ttl: 1m", b.Addr)) // other settings
	require.Equal(t, "1", ask(), "the contents are gone")

	host := "http://" + strings.TrimPrefix(g.url, "http://")
	n := 1
	for _, body := range []string{
		fmt.Sprintf(`{"url": %q, "hard": true}`, host+"/a/b"),
		fmt.Sprintf(`{"prefix": %q, "hard": true}`, host+"/a/"),
		`{"tag": "blue", "hard": true}`,
		fmt.Sprintf(`{"group": "g", "origin": %q, "hard": true}`, host),
		`{"tag": "red"}`,
	} {
		status, text := act(g, "/purge", g.gateway.token, body)
		require.Equal(t, http.StatusNoContent, status, text)
		n++
		require.Equal(t, fmt.Sprint(n), ask(), body)
		require.Equal(t, fmt.Sprint(n), ask(), body)
	}

	for body, field := range map[string]string{
		``:                               "the body must be",
		`{"tag": "red"} {}`:              "more than one value",
		`{"tag": "red"}}`:                "more than one value",
		`{"tags": "red"}`:                "tags",
		`{}`:                             "exactly one",
		`{"tag": "red", "url": "/"}`:     "exactly one",
		`{"url": "/a"}`:                  "url: ",
		`{"prefix": "a"}`:                "prefix: ",
		`{"group": "g"}`:                 "origin: is required",
		`{"tag": "red", "origin": "a"}`:  "origin: has a meaning only with group",
		`{"hard": 1, "tag": "red"}`:      "hard",
		`{"group": "g", "origin": "::"}`: "group: ",
	} {
		status, text := act(g, "/purge", g.gateway.token, body)
		require.Equal(t, http.StatusBadRequest, status, body)
		require.Contains(t, text, field, body)
	}
	require.Equal(t, fmt.Sprint(n), ask(), "a purge with a fault changes nothing")
}

// A URL can be purged with the parameters that its route ignores, which an operator copies with it.
func TestAURLIsPurgedAsItsRouteKnowsIt(t *testing.T) {
	b := counting(t, "Cache-Control", "max-age=60")
	g := start(t, cached("ignore_query: [utm_*]", b.Addr))
	c := client(t)
	get(t, c, g.url+"/a?utm_source=x")
	for i, query := range []string{"?utm_source=x", "?utm_medium=y", ""} {
		purge := fmt.Sprintf(`{"url": %q, "hard": true}`, g.url+"/a"+query)
		status, text := act(g, "/purge", g.gateway.token, purge)
		require.Equal(t, http.StatusNoContent, status, text)
		_, body := get(t, c, g.url+"/a")
		require.Equal(t, fmt.Sprint("answer ", i+2), body)
	}
}

// Nobody purges without the token, and no page in the operator's browser does.
func TestG16_ActionsNeedTheToken(t *testing.T) {
	b := counting(t, "Cache-Control", "max-age=60")
	g := start(t, cached("", b.Addr))
	c := client(t)
	get(t, c, g.url+"/a")
	body := fmt.Sprintf(`{"url": %q, "hard": true}`, g.url+"/a")
	for _, token := range []string{"", "x", g.gateway.token + "x"} {
		status, text := act(g, "/purge", token, body)
		require.Equal(t, http.StatusUnauthorized, status)
		require.NotContains(t, text, g.gateway.token)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "http://localhost/purge", strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+g.gateway.token)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	require.Equal(t, http.StatusForbidden, w.Code)
	_, text := get(t, c, g.url+"/a")
	require.Equal(t, "answer 1", text)

	t.Setenv("GATEWAY_TEST_TOKEN", "short")
	_, err := adminToken("GATEWAY_TEST_TOKEN")
	require.EqualError(t, err,
		"admin.token_env: GATEWAY_TEST_TOKEN must hold a token of 16 characters or more")
	t.Setenv("GATEWAY_TEST_TOKEN", "0123456789abcdef")
	token, err := adminToken("GATEWAY_TEST_TOKEN")
	require.NoError(t, err)
	require.Equal(t, "0123456789abcdef", token)
}

func TestTheAdminServerShowsTheCaches(t *testing.T) {
	b := counting(t, "Cache-Control", "max-age=60")
	g := start(t, cached("", b.Addr))
	c := client(t)
	for range 4 {
		get(t, c, g.url+"/a")
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost/cache", nil)
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	var shown struct {
		Routes map[string]struct{ Requests map[string]int }
		Store  struct{ Entries int }
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &shown))
	require.Equal(t, 3, shown.Routes["/"].Requests["hit"], w.Body)
	require.Equal(t, 1, shown.Routes["/"].Requests["miss"])
	require.NotZero(t, shown.Store.Entries)
}

func TestFaultsOfCachesAreNamed(t *testing.T) {
	for more, want := range map[string]string{
		"ttl: -1s":                "f:3: routes[0].cache.ttl: must be positive",
		"override: true":          "f:3: routes[0].cache.override: needs a ttl",
		"ttl: 1m, stale: 1500us":  "f:3: routes[0].cache.stale: ",
		"ignore_query: [\"a*b\"]": "f:3: routes[0].cache.ignore_query: ",
		"ttl: 1m, max: -5s":       "f:3: routes[0].cache.max: must be positive",
		"stale_if_error: -1s":     "f:3: routes[0].cache.stale_if_error: must be positive",
	} {
		_, err := parseConfig("f", []byte(cached(more, "127.0.0.1:1")))
		require.ErrorContains(t, err, want, more)
	}
	_, err := parseConfig("f", []byte("cache: {size: 1KiB}\n"+minimalConfig))
	require.ErrorContains(t, err, "f:1: cache.size: must be at least 64KiB")
}
