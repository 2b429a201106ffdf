package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// upstreamOf is a configuration of one upstream with more keys, and of one route.
func upstreamOf(host, keys string) string {
	return "upstreams: {app: {hosts: [" + host + "], " + keys + "}}\nroutes: [{upstream: app}]\n"
}

func TestHostAndPathThatAnUpstreamGets(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: mirror})
	g := start(t, upstreamOf(b.Addr, "host: in.test:81, path: /base, strip_prefix: /api/"))
	c := client(t)
	for target, want := range map[string]string{
		"/":                  "/base/",
		"/x?a=b":             "/base/x?a=b",
		"/api":               "/base/",
		"/api?a":             "/base/?a",
		"/api/":              "/base/",
		"/api/x/y?a=b":       "/base/x/y?a=b",
		"/api/x%2Fy/%C3%A4":  "/base/x%2Fy/%C3%A4",
		"/%61pi/x":           "/base/x",
		"/apix":              "/base/apix",
		"/api%2Fx":           "/base/api%2Fx", // an encoded slash is no separator
		"/ap":                "/base/ap",
		"/x/api/y":           "/base/x/api/y",
		"/api/api/y":         "/base/api/y",
		"/api//y":            "/base//y",
		"/x/../api/y":        "/base/y",
		"/api/../x":          "/base/x",
		"/api/../../x":       "/base/x",
		"/api/a/./../../b":   "/base/b",
		"/api/https://x.y/z": "/base/https://x.y/z",
	} {
		req := request(t, "GET", g.url+target)
		req.Host = "out.test"
		_, got := mirrorOf(t, c, req)
		require.Equal(t, want, got.Target, target)
		require.Equal(t, "in.test:81", got.Host)
		require.Equal(t, "out.test", got.Header.Get("X-Forwarded-Host"))
	}
	// A reload changes each of them, on the balancer that there is.
	before := g.current.Load().upstreams["app"].balancer
	for keys, want := range map[string]string{
		"path: /other":                         "out.test /other/api/x",
		"strip_prefix: /api":                   "out.test /x",
		"host: new.test":                       "new.test /api/x",
		"host: new.test, strip_prefix: /api/x": "new.test /",
		"connect_timeout: 1s":                  "out.test /api/x",
	} {
		g.reloadText(t, upstreamOf(b.Addr, keys))
		req := request(t, "GET", g.url+"/api/x")
		req.Host = "out.test"
		_, got := mirrorOf(t, c, req)
		require.Equal(t, want, got.Host+" "+got.Target, keys)
		require.Same(t, before, g.current.Load().upstreams["app"].balancer)
	}
}

// Health checks ask for the same host, and for their own path as it is.
func TestChecksHaveTheHostOfTheUpstream(t *testing.T) {
	checks := make(chan string, 100)
	b := backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			select {
			case checks <- r.Host + r.URL.Path:
			default:
			}
		})})
	g := start(t, upstreamOf(b.Addr, "host: in.test, path: /base, health: {path: /up, interval: 10ms}"))
	require.Equal(t, "in.test/up", <-checks)
	g.reloadText(t, upstreamOf(b.Addr, "health: {path: /up, interval: 10ms}"))
	require.Eventually(t, func() bool { return <-checks == "app/up" }, eventually, tick)
}

func TestFaultsOfUpstreamKeys(t *testing.T) {
	for _, tt := range []struct{ keys, want string }{
		{"host: \"http://a\"", `host: "http://a" is not a host such as users.internal, with or without a port`},
		{"host: \"unix:/a\"", `host: "unix:/a" is not a host such as users.internal, with or without a port`},
		{"host: \"a b\"", `host: "a b" is not a host such as users.internal, with or without a port`},
		{"path: base", `path: "base" is not a clean path that begins with a slash`},
		{"path: /a//b", `path: "/a//b" is not a clean path that begins with a slash`},
		{"path: /a/../b", `path: "/a/../b" is not a clean path that begins with a slash`},
		{"path: /a?b", `path: "/a?b" is not a clean path that begins with a slash`},
		{"path: /", `path: changes nothing: leave it out`},
		{"strip_prefix: /a%20b", `strip_prefix: "/a%20b" is not a clean path that begins with a slash`},
		{"strip_prefix: /", `strip_prefix: changes nothing: leave it out`},
		{"idle_timeout: -1s", `idle_timeout: must be positive`},
		{"idle_timeout: 5", "idle_timeout: must be a duration such as 500ms, 5s or 1m30s, not `5`"},
		{"wait: 5s", `wait: needs health.path: nothing else says that a host is back`},
		{"wait: -5s, health: {path: /}", `wait: must be positive`},
		{"policy: fastest", `policy: "fastest" is not one of: adaptive, hash_path, least_request, round_robin`},
		{"sticky: {cookie: a b}", `sticky.cookie: "a b" is not the name of a cookie`},
		{"sticky: {max_age: 1500ms}", `sticky.max_age: is not in whole seconds, which is what a cookie can say`},
		{"sticky: {max_age: -1s}", `sticky.max_age: must be positive`},
		{"sticky: {name: a}",
			`sticky.name: unknown key: the keys here are cookie, insecure, max_age, secret_env`},
		{"srv: http", `srv: has no meaning with hosts`},
		{"polcy: a", `polcy: unknown key: did you mean policy? the keys here are breaker, connect_timeout, ` +
			`h2c, health, hedge, host, hosts, idle_timeout, max_conns, path, policy, response_timeout, retry, ` +
			`srv, sticky, strip_prefix, tls, url, wait`},
	} {
		t.Run(tt.keys, func(t *testing.T) {
			_, err := parseConfig("f", []byte(upstreamOf("a", tt.keys)))
			require.EqualError(t, err, "f:1: upstreams.app."+tt.want)
		})
	}
	for url, want := range map[string]string{
		"http://a:80":      `srv: says which port, so the url must have none`,
		"http://127.0.0.1": `srv: needs a name in the url`,
	} {
		_, err := parseConfig("f", []byte("upstreams: {a: {url: \""+url+"\", srv: http}}\nroutes: [{upstream: a}]"))
		require.EqualError(t, err, "f:1: upstreams.a."+want)
	}
	_, err := parseConfig("f", []byte("upstreams: {a: {url: \"http://a\", srv: _http._tcp}}\n"+
		"routes: [{upstream: a}]"))
	require.EqualError(t, err, `f:1: upstreams.a.srv: "_http._tcp" is not the name of a service such as http, `+
		`without underscores`)
}
