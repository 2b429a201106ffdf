package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// location returns the status and Location that the gateway answers to a request of HTTP/1.1 with.
func location(t *testing.T, g *live, method, target string) (int, string) {
	t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: a.test\r\n\r\n", method, target)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Len(t, resp.Header["Location"], 1, target)
	return resp.StatusCode, resp.Header.Get("Location")
}

func TestRedirects(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, inFlow(b.Addr, `
  - {path: /one, redirect: {to: "https://b.test/two"}}
  - {path: /own, redirect: {to: "/two?a=b#c", status: 301}}
  - {path: /below/, redirect: {to: "https://b.test:8443/x/*", status: 308}}
  - {path: /post, methods: [POST], redirect: {to: "/two", status: 303}}
  - {path: /frag/, redirect: {to: "/two/*", status: 302}}
  - {path: /, host: a.test, redirect: {to: "/app/*"}}
  - {path: /app/, upstream: app}
  - {path: /app/, host: a.test, upstream: app}
  - {path: /root/, host: a.test, redirect: {to: "/*"}}`))
	for _, tt := range []struct {
		target string
		status int
		want   string
	}{
		{"/one", 307, "/app/one"}, // the host's own routes go first
		{"/root/x", 307, "/x"},
		{"/root/", 307, "/"},
		{"/root", 307, "/root/"},
		{"/root//evil.test/x", 307, "/evil.test/x"},
		{"/root///evil.test", 307, "/evil.test"},
		{"/root/\\evil.test", 307, "/%5Cevil.test"},
		{"/root/%2Fevil.test", 307, "/%2Fevil.test"},
		{"/root/%5Cevil.test", 307, "/%5Cevil.test"},
		{"/root/a%20b/%C3%A4?q=%20&\"<#>", 307, "/a%20b/%C3%A4?q=%20&%22%3C%23%3E"},
		{"/root/https://evil.test/", 307, "/https://evil.test/"},
		{"/root/a/../b", 307, "/b"},
		{"/%72oot/b", 307, "/b"},
	} {
		status, got := location(t, g, "GET", tt.target)
		require.Equal(t, tt.want, got, tt.target)
		require.Equal(t, tt.status, status, tt.target)
	}
	c := client(t)
	for target, want := range map[string]string{
		"/one":            "307 https://b.test/two",
		"/one?x=y":        "307 https://b.test/two?x=y",
		"/own?x=y":        "301 /two?a=b#c",
		"/below/":         "308 https://b.test:8443/x/",
		"/below/y/z?x=y":  "308 https://b.test:8443/x/y/z?x=y",
		"/below//@evil":   "308 https://b.test:8443/x/@evil",
		"/below/a/../..b": "308 https://b.test:8443/x/..b",
		"/frag/a?":        "302 /two/a",
	} {
		resp, _ := get(t, c, g.url+target)
		require.Equal(t, want, fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Location")), target)
	}
	resp, _ := do(t, c, request(t, "POST", g.url+"/post"))
	require.Equal(t, 303, resp.StatusCode)
	resp, _ = get(t, c, g.url+"/post")
	require.Equal(t, 405, resp.StatusCode)
	require.Zero(t, b.Requests())
}

// A redirect is a route like others: its limits and headers count, and a reload changes it.
func TestRedirectsHaveWhatRoutesHave(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	text := func(to string) string {
		return "limits: {one: {rate: 2/h, burst: 2, by: all}}\n" +
			inFlow(b.Addr, "[{redirect: "+to+", limits: [one], headers: {response: {set: {A: b}}}}]")
	}
	g := start(t, text("{to: https://b.test/}"))
	c := client(t)
	resp, _ := get(t, c, g.url)
	require.Equal(t, "https://b.test/", resp.Header.Get("Location"))
	require.Equal(t, "b", resp.Header.Get("A"))
	reloadText(t, g, text("{to: https://c.test/, status: 308}"))
	resp, _ = get(t, c, g.url)
	require.Equal(t, 308, resp.StatusCode)
	require.Equal(t, "https://c.test/", resp.Header.Get("Location"))
	resp, _ = get(t, c, g.url)
	require.Equal(t, 429, resp.StatusCode, "the limit has kept its counts")
	reloadText(t, g, inFlow(b.Addr, "[{upstream: app}]"))
	resp, _ = get(t, c, g.url)
	require.Equal(t, 200, resp.StatusCode)
}

func TestFaultsOfRedirects(t *testing.T) {
	const neither = " is neither a URL such as https://example.com/ nor a path that begins with one slash, " +
		"encoded as in a URL"
	for _, tt := range []struct{ route, want string }{
		{"redirect: {}", `redirect.to: ""` + neither},
		{"redirect: {to: //evil.test/}", `redirect.to: "//evil.test/"` + neither},
		{`path: /x/, redirect: {to: '/\evil.test/'}`, `redirect.to: "/\\evil.test/"` + neither},
		{"redirect: {to: b.test}", `redirect.to: "b.test"` + neither},
		{"redirect: {to: 'javascript:alert(1)'}", `redirect.to: "javascript:alert(1)"` + neither},
		{"redirect: {to: 'ftp://b.test/'}", `redirect.to: "ftp://b.test/"` + neither},
		{"redirect: {to: 'https:///x'}", `redirect.to: "https:///x"` + neither},
		{"redirect: {to: 'https://b.test*'}", `redirect.to: "https://b.test*"` + neither},
		{"redirect: {to: 'https://me:secret@b.test/'}", `redirect.to: what stands here` + neither},
		{"path: /x/, redirect: {to: '/a b'}", `redirect.to: "/a b"` + neither},
		{"path: /x/, redirect: {to: '/*/b'}", `redirect.to: may have a star only at its end, after a slash`},
		{"path: /x/, redirect: {to: '/b*'}", `redirect.to: may have a star only at its end, after a slash`},
		{"path: /x, redirect: {to: '/b/*'}",
			`redirect.to: has a star, but the route's path is only that path: nothing follows it`},
		{"path: /x/, redirect: {to: /b, status: 200}",
			`redirect.status: 200 is not one of: 301, 302, 303, 307, 308`},
		{"path: /x/, redirect: {to: /b, status: 304}",
			`redirect.status: 304 is not one of: 301, 302, 303, 307, 308`},
		{"redirect: {to: /b}", `redirect.to: leads back to this route`},
		{"path: /x/, redirect: {to: '/x/*'}", `redirect.to: leads back to this route`},
		{"path: /x, upstream: app, redirect: {to: /b}", `upstream: has no meaning beside redirect`},
		{"path: /x, timeout: 1s, redirect: {to: /b}", `timeout: has no meaning beside redirect`},
		{"path: /x, cache: {}, redirect: {to: /b}", `cache: has no meaning beside redirect`},
		{"path: /x, headers: {request: {remove: [A]}}, redirect: {to: /b}",
			`headers.request: has no meaning beside redirect`},
		{"redirect: {two: /b}", `redirect.two: unknown key: did you mean to? the keys here are status, to`},
	} {
		t.Run(tt.route, func(t *testing.T) {
			_, err := parseConfig("f", []byte("upstreams: {app: {hosts: [a]}}\nroutes:\n"+
				"  - {host: a.test, "+tt.route+"}"))
			require.EqualError(t, err, "f:3: routes[0]."+tt.want)
		})
	}
	_, err := parseConfig("f", []byte("upstreams: {app: {hosts: [a]}}\nroutes: [{redirect: {to: /b}}, "+
		"{path: /b, upstream: app}]"))
	require.NoError(t, err, "a more specific route takes it")
	require.NotContains(t, strings.Join(Route{Redirect: &Redirect{}}.upstreams(), ""), "app")
}
