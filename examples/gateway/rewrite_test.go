package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/telemetry"
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
		reloadText(t, g, upstreamOf(b.Addr, keys))
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
	reloadText(t, g, upstreamOf(b.Addr, "health: {path: /up, interval: 10ms}"))
	require.Eventually(t, func() bool { return <-checks == "app/up" }, eventually, tick)
}

// An upstream learns what its paths have lost, for its own links and redirects: from a trusted
// proxy, which may have removed a part itself, and never from a stranger.
func TestUpstreamsLearnThePrefixThatIsStripped(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: mirror})
	c := client(t)
	for _, tt := range []struct{ server, keys, target, said, want string }{
		{"", "strip_prefix: /api", "/api/x", "", "/api"},
		{"", "strip_prefix: /api/, path: /base", "/api", "", "/api"},
		{"", "strip_prefix: /api", "/apix", "", ""},
		{"", "strip_prefix: /a/ü", "/a/%C3%BC/x", "", "/a/%C3%BC"},
		{"", "strip_prefix: /api", "/api/x", "/evil", "/api"},
		{"", "strip_prefix: /api", "/x", "/evil", ""},
		{"", "path: /base", "/x", "/evil", ""},
		{"trusted_proxies: [127.0.0.1]", "strip_prefix: /api", "/api/x", "/outer/", "/outer/api"},
		{"trusted_proxies: [127.0.0.1]", "strip_prefix: /api", "/x", "/outer", "/outer"},
		{"trusted_proxies: [127.0.0.1]", "path: /base", "/x", "/outer", "/outer"},
	} {
		g := start(t, "server: {"+tt.server+"}\n"+upstreamOf(b.Addr, tt.keys))
		req := request(t, "GET", g.url+tt.target)
		if tt.said != "" {
			req.Header.Set("X-Forwarded-Prefix", tt.said)
		}
		_, got := mirrorOf(t, c, req)
		require.Equal(t, tt.want, strings.Join(got.Header["X-Forwarded-Prefix"], ","), "%+v", tt)
	}
}

// An upstream gets the gateway's own request id, and no other spelling of a client's.
func TestRequestIDsInOtherSpellings(t *testing.T) {
	in := httptest.NewRequest("GET", "/", nil)
	out := httptest.NewRequest("GET", "/", nil)
	for _, name := range []string{
		"X_request_id", "X-Request_id", "X.Request.Id", "X-Request-Id", "X-Request-Idx",
	} {
		out.Header[name] = []string{"the client's"}
	}
	new(upstream).rewrite(&httputil.ProxyRequest{In: in, Out: out})
	require.Equal(t, http.Header{
		"X-Request-Id": {telemetry.RequestID(in.Context())}, "X-Request-Idx": {"the client's"},
	}, out.Header)
}
