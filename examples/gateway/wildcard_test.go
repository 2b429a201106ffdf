package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

func TestWildcardHosts(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	named := func(host, path, name string) string {
		return fmt.Sprintf("  - {upstream: app, host: %q, path: %s, "+
			"headers: {response: {set: {Route: %s}}}}\n", host, path, name)
	}
	text := "\n" + named("", "/", "any") + named("*.example.com", "/", "star") +
		named("*.b.example.com", "/", "longer") + named("*.b.example.com", "/deep/", "deep") +
		named("*.example.com", "/deep/er/", "deeper") +
		named("a.example.com", "/", "name") + named("only.example.com", "/one", "one") +
		named("*.c.test", "/two", "two")
	g := start(t, inFlow(b.Addr, text))
	c := client(t)
	route := func(host, path string) (int, string) {
		req := request(t, "GET", g.url+path)
		req.Host = host
		resp, _ := do(t, c, req)
		return resp.StatusCode, resp.Header.Get("Route")
	}
	for _, tt := range []struct{ host, path, want string }{
		{"example.com", "/", "any"}, // a label or more
		{"x.example.com", "/", "star"},
		{"X.Example.com.:8080", "/", "star"},
		{"x.y.example.com", "/", "star"},
		{"a.example.com", "/", "name"},
		{"x.a.example.com", "/", "star"},
		{"b.example.com", "/", "star"},
		{"x.b.example.com", "/", "longer"},
		{"x.b.example.com", "/deep/x", "deep"},
		{"x.y.b.example.com", "/deep/", "deep"},
		{"x.example.com", "/deep/x", "star"},
		{"x.example.com", "/deep/er/x", "deeper"},
		{"x.b.example.com", "/deep/er/x", "deep"},
		{"only.example.com", "/one", "one"},
		{"only.example.com", "/other", "star"}, // as a host without such a path goes on to any
		{"xexample.com", "/", "any"},
		{".example.com", "/", "any"},
		{"x.example.com.evil.test", "/", "any"},
		{"x.c.test", "/two", "two"},
		{"x.c.test", "/", "any"},
		{"*.example.com", "/", "star"},
		{strings.Repeat("a.", 5000) + "example.com", "/", "star"},
	} {
		status, got := route(tt.host, tt.path)
		require.Equal(t, 200, status)
		require.Equal(t, tt.want, got, tt.host+tt.path)
	}
	// What two readings of a path lead to is compared among routes with a star, too.
	for path, want := range map[string]int{
		"/x/../deep/a": 307, "/deep//a": 200, "/deep;a/b": 400, "/deep": 307,
		"/deep/er//a": 200, // the longer name decides before the longer path
	} {
		status, _ := route("x.b.example.com", path)
		require.Equal(t, want, status, path)
	}

	reloadText(t, g, inFlow(b.Addr, "\n"+named("*.other.test", "/", "new")))
	status, _ := route("x.example.com", "/")
	require.Equal(t, http.StatusNotFound, status)
	_, got := route("x.other.test", "/")
	require.Equal(t, "new", got)
}
