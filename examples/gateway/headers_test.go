package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// mirror answers with the request's host, target and header as JSON.
var mirror = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "old")
	w.Header().Set("X-Powered-By", "php")
	w.Header().Set("X-Kept", "kept")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"host": r.Host, "target": r.RequestURI, "header": r.Header,
	})
})

// A mirrored is what mirror says.
type mirrored struct {
	Host, Target string
	Header       http.Header
}

// mirrorOf sends a request and returns what mirror says of it.
func mirrorOf(t *testing.T, c *http.Client, req *http.Request) (*http.Response, mirrored) {
	t.Helper()
	resp, body := do(t, c, req)
	require.Equal(t, 200, resp.StatusCode, body)
	var e mirrored
	require.NoError(t, json.Unmarshal([]byte(body), &e))
	return resp, e
}

func request(t *testing.T, method, url string, fields ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		req.Header[fields[i]] = append(req.Header[fields[i]], fields[i+1])
	}
	return req
}

// A zero means what it says, though it is an error as the value of a key.
func TestValuesOfFieldsThatAreNoStringsInYAML(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: mirror})
	g := start(t, inFlow(b.Addr, "[{upstream: app, headers: {request: {set: {X-Zero: 0, X-Hex: 0x0}}, "+
		"response: {set: {X-XSS-Protection: 0, X-Half: 0.50, X-On: true, X-Day: 2026-11-30}}}}]"))
	resp, got := mirrorOf(t, client(t), request(t, "GET", g.url))
	require.Equal(t, "0", got.Header.Get("X-Zero"))
	require.Equal(t, "0x0", got.Header.Get("X-Hex"))
	for name, want := range map[string]string{
		"X-XSS-Protection": "0", "X-Half": "0.50", "X-On": "true", "X-Day": "2026-11-30",
	} {
		require.Equal(t, want, resp.Header.Get(name))
	}
}

const edits = `{request: {set: {x-tenant: "42", X-Empty: ""}, remove: [x-debug, User-Agent]},
    response: {set: {X-Frame-Options: DENY, server: trivet}, remove: [x-powered-by, Date]}}`

func TestHeadersOfARoute(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: mirror})
	g := start(t, inFlow(b.Addr, "[{upstream: app, headers: "+edits+"}, {upstream: app, path: /plain}]"))
	c := client(t)
	resp, got := mirrorOf(t, c, request(t, "GET", g.url+"/",
		"X-Tenant", "1", "X-Tenant", "2", "X_Tenant", "3", "X-Debug", "1", "X.debug", "2", "X-Other", "kept",
		"Connection", "X-Tenant, X-Other2", "X-Other2", "gone"))
	require.Equal(t, []string{"42"}, got.Header["X-Tenant"],
		"a client can neither add to it nor remove it by its Connection field")
	require.Equal(t, []string{""}, got.Header["X-Empty"])
	for _, name := range []string{"X_tenant", "X_Tenant", "X-Debug", "X.debug", "User-Agent", "X-Other2"} {
		require.NotContains(t, got.Header, name)
	}
	require.Equal(t, []string{"kept"}, got.Header["X-Other"])
	require.Equal(t, []string{"DENY"}, resp.Header["X-Frame-Options"])
	require.Equal(t, []string{"trivet"}, resp.Header["Server"])
	require.Equal(t, "kept", resp.Header.Get("X-Kept"))
	require.NotContains(t, resp.Header, "X-Powered-By")
	require.NotContains(t, resp.Header, "Date")

	resp, got = mirrorOf(t, c, request(t, "GET", g.url+"/plain", "X-Debug", "1"))
	require.Equal(t, "1", got.Header.Get("X-Debug"), "another route is left alone")
	require.Equal(t, "old", resp.Header.Get("Server"))
}

// Each upstream of a route gets what it sets, copies too, and the client's own field decides
// before.
func TestHeadersReachEveryUpstreamOfARoute(t *testing.T) {
	shadowed := make(chan string, 10)
	candidate := backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { shadowed <- r.Header.Get("X-Tenant") })})
	b := backend.Start(t, backend.Config{Handler: mirror})
	g := start(t, fmt.Sprintf(`
upstreams: {app: {hosts: [%s]}, copy: {hosts: [%s]}}
limits: {key: {rate: 1/h, burst: 1, by: header, header: X-Tenant, missing: skip}}
routes:
  - {upstream: app, limits: [key], shadow: {upstream: copy, credentials: strip}, headers: %s}
  - {path: /v/, host: v.test, headers: %s, versions: {list: [{version: a, upstream: app}], default: current}}
`, b.Addr, candidate.Addr, edits, edits))
	c := client(t)
	_, got := mirrorOf(t, c, request(t, "GET", g.url, "X-Tenant", "1"))
	require.Equal(t, "42", got.Header.Get("X-Tenant"))
	require.Equal(t, "42", <-shadowed)
	_, _ = mirrorOf(t, c, request(t, "GET", g.url, "X-Tenant", "2"))
	resp, _ := do(t, c, request(t, "GET", g.url, "X-Tenant", "1"))
	require.Equal(t, 429, resp.StatusCode, "the limit counts what the client has sent")
	require.Equal(t, "DENY", resp.Header.Get("X-Frame-Options"), "refusals of the route get them, too")

	req := request(t, "GET", g.url+"/v/")
	req.Host = "v.test"
	_, got = mirrorOf(t, c, req)
	require.Equal(t, "42", got.Header.Get("X-Tenant"))
}

func TestHeadersOfRefusals(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err == nil {
				defer conn.Close()
				_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nServer: old\r\n" + upgrade)
				_ = rw.Flush()
				_, _ = rw.ReadString('\n')
			}
		})})
	g := start(t, fmt.Sprintf(`
upstreams: {app: {hosts: [%s]}, gone: {hosts: ["127.0.0.1:1"]}}
routes:
  - {upstream: gone, path: /gone, headers: %s}
  - {upstream: app, path: /socket, headers: %s}
`, b.Addr, edits, edits))
	c := client(t)
	resp, _ := get(t, c, g.url+"/gone")
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "DENY", resp.Header.Get("X-Frame-Options"))
	resp, _ = get(t, c, g.url+"/nowhere")
	require.Equal(t, 404, resp.StatusCode)
	require.NotContains(t, resp.Header, "X-Frame-Options", "no route, nothing of it")

	conn, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "GET /socket HTTP/1.1\r\nHost: a\r\n"+upgrade)
	resp, err = http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	require.Equal(t, "old", resp.Header.Get("Server"), "a 101 is left alone")
	_, _ = io.WriteString(conn, "end\n")
}

func TestHeadersOfARouteChangeWithAReload(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Tenant", r.Header.Get("X-Tenant"))
			w.Header().Set("Cache-Control", "max-age=100")
		})})
	text := func(headers string) string {
		return inFlow(b.Addr, "[{upstream: app, cache: {}, headers: "+headers+"}]")
	}
	g := start(t, text(edits))
	c := client(t)
	resp, _ := get(t, c, g.url+"/a")
	require.Equal(t, "42", resp.Header.Get("Tenant"))
	require.Equal(t, "DENY", resp.Header.Get("X-Frame-Options"))
	reloadText(t, g, text("{request: {set: {X-Tenant: new}}, response: {set: {X-New: new}}}"))
	resp, _ = get(t, c, g.url+"/a")
	require.Equal(t, "42", resp.Header.Get("Tenant"), "this one is stored")
	require.NotContains(t, resp.Header, "X-Frame-Options", "what is stored has nothing of the changes")
	require.Equal(t, "new", resp.Header.Get("X-New"))
	resp, _ = get(t, c, g.url+"/b")
	require.Equal(t, "new", resp.Header.Get("Tenant"))
	reloadText(t, g, text("{}"))
	resp, _ = get(t, c, g.url+"/a")
	require.NotContains(t, resp.Header, "X-New")
	require.EqualValues(t, 2, b.Requests())
}

func TestFaultsOfHeaders(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`request: {set: {connection: a}}`,
			`request.set.connection: "connection" is a field of the connection`},
		{`request: {remove: [TE]}`, `request.remove[0]: "TE" is a field of the connection`},
		{`response: {set: {Transfer_Encoding: a}}`,
			`response.set.Transfer_Encoding: "Transfer_Encoding" is a field of the connection`},
		{`response: {remove: [Content-Length]}`,
			`response.remove[0]: "Content-Length" is a field of the message's framing or routing`},
		{`request: {set: {Host: a}}`,
			`request.set.Host: "Host" is a field of the message's framing or routing`},
		{`request: {set: {X-Forwarded-Prefix: /a}}`,
			`request.set.X-Forwarded-Prefix: "X-Forwarded-Prefix" is a field by which proxies tell of each ` +
				`other`},
		{`response: {remove: [forwarded]}`,
			`response.remove[0]: "forwarded" is a field by which proxies tell of each other`},
		{`request: {set: {X_Request.Id: a}}`,
			`request.set.X_Request.Id: "X_Request.Id" is a field that the gateway sets itself`},
		{`request: {remove: [traceparent]}`,
			`request.remove[0]: "traceparent" is a field that the gateway sets itself`},
		{`request: {remove: [Deadline-Ms]}`,
			`request.remove[0]: "Deadline-Ms" is a field that the gateway sets itself`},
		{`response: {set: {Hint: a}}`, `response.set.Hint: "Hint" is a field that the gateway sets itself`},
		{`request: {set: {a b: c}}`, `request.set.a b: "a b" is not the name of a header field`},
		{`request: {remove: [""]}`, `request.remove[0]: "" is not the name of a header field`},
		{`request: {set: {A: "b\nc"}}`, `request.set.A: has control characters, or blanks around it`},
		{`request: {set: {A: " b"}}`, `request.set.A: has control characters, or blanks around it`},
		{`request: {set: {X-A: b}, remove: [x_a]}`, `request.set.X-A: "X-A" stands here twice`},
		{`request: {remove: [A, a]}`, `request.remove[1]: "a" stands here twice`},
		{`request: {add: {A: b}}`, `request.add: unknown key: the keys here are remove, set`},
	} {
		t.Run(tt.text, func(t *testing.T) {
			_, err := parseConfig("f", []byte(minimalConfig+"    headers: {"+tt.text+"}\n"+
				"server: {deadline_field: Deadline-Ms, hint_field: Hint}"))
			require.EqualError(t, err, "f:6: routes[0].headers."+tt.want)
		})
	}
	_, err := parseConfig("f", []byte(minimalConfig+`
    headers:
      request:
        set: {A: b, Upgrade: c}
        remove: [Te]
      response: {set: {Date: ""}, remove: [Keep-Alive]}`))
	require.Equal(t, strings.Join([]string{
		`f:9: routes[0].headers.request.set.Upgrade: "Upgrade" is a field of the connection`,
		`f:10: routes[0].headers.request.remove[0]: "Te" is a field of the connection`,
		`f:11: routes[0].headers.response.remove[0]: "Keep-Alive" is a field of the connection`,
	}, "\n"), err.Error(), "all in one pass")
}
