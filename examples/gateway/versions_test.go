package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/versioning"
)

// versioned is a configuration with the upstreams v1 and v2 of a route that has versions with more
// keys.
func versioned(v1, v2, list, more string) string {
	return fmt.Sprintf("upstreams: {v1: {hosts: [%q]}, v2: {hosts: [%q]}}\n"+
		"routes: [{versions: {list: [%s], %s}}]", v1, v2, list, more)
}

const twoVersions = `{version: "1", upstream: v1}, {version: "2", upstream: v2}`

// shownVersions returns what GET /versions shows of the route /.
func shownVersions(t *testing.T, g *live) versioning.Report {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost/versions", nil)
	newAdmin(g.gateway).Handler.ServeHTTP(w, r)
	var shown map[string]versioning.Report
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &shown))
	return shown["/"]
}

// places starts an upstream that answers with its name and the request's path.
func places(t *testing.T, name string) *backend.Backend {
	return backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " ", r.URL.RequestURI()) })})
}

func TestTheVersionDecidesTheUpstream(t *testing.T) {
	v1, v2 := places(t, "v1"), places(t, "v2")
	g := start(t, versioned(v1.Addr, v2.Addr, twoVersions,
		"sources: {path: /v, header: Api-Version, media_type: version, vendor_type: application/vnd.x.v, "+
			"query: api}, echo: Spoken, default: oldest"))
	for _, tt := range []struct {
		path, field, value string
		status             int
		want               string
	}{
		{"/v1/a%2fb?q=1", "", "", 200, "v1 /a%2fb?q=1"},
		{"/v2/a", "", "", 200, "v2 /a"},
		{"/a", "Api-Version", "2", 200, "v2 /a"},
		{"/a", "Accept", "application/json;version=2", 200, "v2 /a"},
		{"/a", "Accept", "application/vnd.x.v2+json", 200, "v2 /a"},
		{"/a?api=2", "", "", 200, "v2 /a?api=2"},
		{"/a", "", "", 200, "v1 /a"},
		{"/v2/a", "Api-Version", "1", 400, ""},
		{"/v3/a", "", "", 404, ""},
		{"/a", "Api-Version", "3", 400, ""},
	} {
		t.Run(tt.path+" "+tt.value, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodGet, g.url+tt.path, nil)
			require.NoError(t, err)
			if tt.field != "" {
				req.Header.Set(tt.field, tt.value)
			}
			resp, body := do(t, client(t), req)
			require.Equal(t, tt.status, resp.StatusCode, body)
			require.Contains(t, resp.Header["Vary"], "Api-Version, Accept")
			if tt.status != 200 {
				require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
				return
			}
			require.Equal(t, tt.want, body)
			require.Equal(t, tt.want[1:2], resp.Header.Get("Spoken"))
		})
	}
}

func TestVersionsSayUntilWhenTheyAreSpoken(t *testing.T) {
	v1, v2 := places(t, "v1"), places(t, "v2")
	list := `{version: "2020-01-01", upstream: v1, deprecated: 2020-06-01, sunset: 2021-01-01T12:00:00Z, ` +
		`successor: "https://x.test/new"}, {version: "2021-01-01", upstream: v1, deprecated: 2022-01-01, ` +
		`sunset: 2999-12-31}, {version: "2022-01-01", upstream: v2}`
	g := start(t, versioned(v1.Addr, v2.Addr, list, "sources: {header: Api-Version}, match: floor"))
	ask := func(version string) (*http.Response, string) {
		req, err := http.NewRequest(http.MethodGet, g.url, nil)
		require.NoError(t, err)
		if version != "" {
			req.Header.Set("Api-Version", version)
		}
		return do(t, client(t), req)
	}
	resp, body := ask("2020-03-01")
	require.Equal(t, 410, resp.StatusCode)
	require.Contains(t, body, "https://x.test/new")
	require.Equal(t, "Fri, 01 Jan 2021 12:00:00 GMT", resp.Header.Get("Sunset"))

	resp, body = ask("2021-05-05")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "v1 /", body)
	require.Equal(t, "@1640995200", resp.Header.Get("Deprecation"))
	require.Equal(t, "Tue, 31 Dec 2999 00:00:00 GMT", resp.Header.Get("Sunset"))

	resp, body = ask("2023-01-01")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "v2 /", body)
	require.Empty(t, resp.Header.Get("Deprecation"))

	resp, _ = ask("")
	require.Equal(t, 400, resp.StatusCode, "a request must name a version by default")
}

func TestTheUseOfVersionsOutlivesReloads(t *testing.T) {
	v1, v2 := places(t, "v1"), places(t, "v2")
	const sources = "sources: {path: /v}, client: X-Client"
	g := start(t, versioned(v1.Addr, v2.Addr, twoVersions, sources))
	ask := func(want string) {
		req, err := http.NewRequest(http.MethodGet, g.url+"/v1/a", nil)
		require.NoError(t, err)
		req.Header.Set("X-Client", "shop")
		_, body := do(t, client(t), req)
		require.Equal(t, want, body)
	}
	used := func(n int) {
		t.Helper()
		report := shownVersions(t, g)
		require.Equal(t, []string{"shop"}, report.Versions[0].Clients)
		require.EqualValues(t, n, report.Versions[0].Requests)
		require.Zero(t, report.Versions[1].Requests)
	}
	// Requests find the hosts of a reload once they are resolved.
	awaitHost := func(addr string) {
		require.Eventually(t, func() bool {
			hosts := g.current.Load().upstreams["v1"].hosts()
			return len(hosts) == 1 && hosts[0].Addr == addr
		}, 20*time.Second, time.Millisecond)
	}
	ask("v1 /a")
	used(1)

	// Another upstream of a version.
	reloadText(t, g, versioned(v2.Addr, v2.Addr, twoVersions, sources))
	awaitHost(v2.Addr)
	ask("v2 /a")
	used(2)

	// Other dates, and a further version.
	more := `{version: "1", upstream: v1, deprecated: 2022-01-01}, {version: "2", upstream: v2}, ` +
		`{version: "3", upstream: v2}`
	reloadText(t, g, versioned(v1.Addr, v2.Addr, more, sources))
	used(2)
	awaitHost(v1.Addr)
	ask("v1 /a")
	used(3)
	require.Len(t, shownVersions(t, g).Versions, 3)

	// A file with a fault changes nothing.
	_, err := parseConfig("f", []byte(versioned(v1.Addr, v2.Addr, `{version: "1"}`, sources)))
	require.Error(t, err)
	ask("v1 /a")
	used(4)
}

// A route's limits count requests that are refused for their version, and its concurrency does not.
func TestLimitsStandBeforeVersions(t *testing.T) {
	v1 := places(t, "v1")
	g := start(t, fmt.Sprintf("limits: {l: {rate: 2/h, burst: 2, by: all}}\nupstreams: {v1: {hosts: [%q]}}\n"+
		"routes: [{limits: [l], concurrency: 1, versions: {list: [{version: \"1\", upstream: v1}], "+
		"sources: {path: /v}}}]", v1.Addr))
	var got []int
	for range 3 {
		resp, _ := get(t, client(t), g.url+"/v7/a")
		got = append(got, resp.StatusCode)
	}
	require.Equal(t, []int{404, 404, 429}, got)
}

func TestFaultsOfVersionsAreNamed(t *testing.T) {
	for _, tt := range []struct{ list, more, want string }{
		{"", "default: oldest", `list: there are none`},
		{`{version: "1", upstream: v3}`, "sources: {path: /v}",
			`list[0].upstream: "v3" is not one of the upstreams: v1, v2`},
		{`{version: "1 2", upstream: v1}`, "sources: {path: /v}",
			`list[0].version: "1 2" is not 1 to 64 letters`},
		{`{version: "1", upstream: v1, deprecated: 2026-02-01, sunset: 2026-01-01}`, "sources: {path: /v}",
			`list[0].sunset: is before Deprecated`},
		{`{version: "1", upstream: v1, sunset: soon}`, "sources: {path: /v}",
			"list[0].sunset: must be a date such as 2026-12-31 or 2026-12-31T18:00:00Z, not `soon`"},
		{twoVersions, "sources: {path: /v}, default: newest", `default: "newest" is not one of Versions`},
		{twoVersions, "sources: {path: v}", `sources.path: the prefix "v" is not a slash`},
		{twoVersions, "sources: {header: a b}", `sources.header: "a b" is not the name of a field`},
		{twoVersions, "sources: {path: /v}, match: nearest", `match: "nearest" is none of ["exact" "floor"]`},
		{twoVersions, "sources: {path: /v}, client: a b", `client: "a b" is not the name of a header field`},
		{twoVersions, "sources: {path: /v}, echo: a b", `echo: "a b" is not the name of a field`},
		{twoVersions, "echo: A", `default: is required, since there are no sources`},
	} {
		_, err := parseConfig("f", []byte(versioned("127.0.0.1:1", "127.0.0.1:2", tt.list, tt.more)))
		require.ErrorContains(t, err, "f:2: routes[0].versions."+tt.want, tt.list+tt.more)
	}
	text := "upstreams: {v1: {hosts: [\"127.0.0.1:1\"]}}\nroutes: [{path: /a/, upstream: v1, versions: " +
		"{list: [{version: \"1\", upstream: v1}], sources: {path: /v}}}]"
	_, err := parseConfig("f", []byte(text))
	require.EqualError(t, err, "f:2: routes[0].upstream: each version has an upstream of its own\n"+
		"f:2: routes[0].versions.sources.path: needs a route whose path is /, since the version is the "+
		"first segment of the path")
}
