package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// holdingBackend is a backend whose answers wait for end.
func holdingBackend(t *testing.T, begun *atomic.Int64, end <-chan struct{}) *backend.Backend {
	return backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			begun.Add(1)
			select {
			case <-end:
			case <-r.Context().Done():
			}
		})})
}

func TestL51_RequestsAreBounded(t *testing.T) {
	var begun atomic.Int64
	end := make(chan struct{})
	g := start(t, simple("server: {max_requests: 2}", holdingBackend(t, &begun, end).Addr))
	c := client(t)
	answers := make(chan int, 2)
	for range 2 {
		go func() {
			resp, err := c.Get(g.url)
			if err != nil {
				answers <- 0
				return
			}
			resp.Body.Close()
			answers <- resp.StatusCode
		}()
	}
	require.Eventually(t, func() bool { return begun.Load() == 2 }, 30*time.Second, time.Millisecond)
	resp, body := get(t, c, g.url)
	require.Equal(t, 503, resp.StatusCode, body)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	close(end)
	require.Equal(t, 200, <-answers)
	require.Equal(t, 200, <-answers)
	none := func() bool { return g.requests.open.Load() == 0 }
	require.Eventually(t, none, 30*time.Second, time.Millisecond)
	resp, _ = get(t, c, g.url)
	require.Equal(t, 200, resp.StatusCode)
	require.EqualValues(t, 1, g.requests.refused.Load())

	text, err := json.Marshal(g.requests.status())
	require.NoError(t, err)
	require.JSONEq(t, `{"open": 0, "refused": 1}`, string(text))
}

// What the balancer's Handler does not upgrade is a request like others.
func TestL51_OnlyUpgradesThatArePassedOnAreTunnels(t *testing.T) {
	var begun atomic.Int64
	end := make(chan struct{})
	defer close(end)
	g := start(t, simple("server: {max_requests: 1}", holdingBackend(t, &begun, end).Addr))
	conn, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.Eventually(t, func() bool { return begun.Load() == 1 }, 30*time.Second, time.Millisecond)
	for _, head := range []string{
		"HTTP/1.1\r\nUpgrade: websocket\r\n",
		"HTTP/1.1\r\nUpgrade: websocket\r\nConnection: close\r\n",
		"HTTP/1.1\r\nUpgrade: websocket\r\nUpgrade: h2c\r\nConnection: upgrade\r\n",
		"HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
	} {
		conn, err := net.Dial("tcp", g.addr)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		fmt.Fprint(conn, "GET / "+head+"Host: a\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, head)
		require.Equal(t, 503, resp.StatusCode, head)
		require.NoError(t, conn.Close())
	}
	require.EqualValues(t, 1, begun.Load())
}

// A reload changes the bound and keeps the count.
func TestL51_RequestsAreCountedAcrossReloads(t *testing.T) {
	var begun atomic.Int64
	end := make(chan struct{})
	b := holdingBackend(t, &begun, end)
	g := start(t, simple("server: {max_requests: off}", b.Addr))
	done := make(chan error, 1)
	go func() {
		resp, err := client(t).Get(g.url)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	require.Eventually(t, func() bool { return begun.Load() == 1 }, 30*time.Second, time.Millisecond)
	cfg, err := parseConfig("test", []byte(simple("server: {max_requests: 1}", b.Addr)))
	require.NoError(t, err)
	require.NoError(t, g.reload(cfg))
	resp, _ := get(t, client(t), g.url)
	require.Equal(t, 503, resp.StatusCode)
	close(end)
	require.NoError(t, <-done)
}

func TestL51_UpstreamsAreBounded(t *testing.T) {
	var begun atomic.Int64
	end := make(chan struct{})
	b := holdingBackend(t, &begun, end)
	g := start(t, fmt.Sprintf("upstreams: {app: {hosts: [%s], max_conns: 3}}\nroutes: [{upstream: app}]",
		b.Addr))
	c := client(t)
	const clients = 12
	answers := make(chan *http.Response, clients)
	for range clients {
		go func() {
			resp, err := c.Get(g.url)
			if err != nil {
				t.Error(err)
				resp = &http.Response{Body: http.NoBody}
			}
			resp.Body.Close()
			answers <- resp
		}()
	}
	for range clients - 3 {
		resp := <-answers
		require.Equal(t, 503, resp.StatusCode)
		require.Equal(t, "1", resp.Header.Get("Retry-After"))
	}
	require.EqualValues(t, 3, begun.Load())
	close(end)
	for range 3 {
		require.Equal(t, 200, (<-answers).StatusCode)
	}
}

// raw sends a request as it is, and returns the status of the answer and its body.
func raw(t *testing.T, addr, head string) (int, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "%s\r\n\r\n", head)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// telling answers with the host and the target that it got.
var telling = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s", r.Host, r.RequestURI)
})

// Segments may be empty: a path that holds a URL, keys of a store. They go on as they came if every
// reading leads to the same route.
func TestPathsGoOnAsTheyCame(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: telling})
	g := start(t, inFlow(b.Addr, "[{upstream: app}, {upstream: app, path: /a/}, {upstream: app, path: /a/b},"+
		" {upstream: app, host: b.test, path: /x/}]"))
	for target, want := range map[string]string{
		"/fetch/https://example.com/a.png": "",
		"/bucket/k//b?c=//d":               "",
		"//x":                              "",
		"/x//":                             "",
		"/a//x":                            "",
		"/a/x//y%20z":                      "",
		"/./x":                             "/x", // dots are resolved, here or by the balancer
		"/a//b":                            "/a/b",
		"//a/x":                            "/a/x",
		"/x//../a/y":                       "/a/y", // to some servers /x/a/y
		"/x/..//a/y":                       "/a/y",
		"/a/x/../../y":                     "/y",
	} {
		t.Run(target, func(t *testing.T) {
			status, body := raw(t, g.addr, "GET "+target+" HTTP/1.1\r\nHost: a")
			switch {
			case want == "":
				require.Equal(t, 200, status)
				require.Equal(t, "a "+target, body)
			case status == 200:
				require.Contains(t, []string{"a " + target, "a " + want}, body)
				require.Equal(t, "/./x", target)
			default:
				require.Equal(t, 307, status)
				require.Contains(t, body, want)
			}
		})
	}
	status, body := raw(t, g.addr, "GET /x//y HTTP/1.1\r\nHost: b.test")
	require.Equal(t, 200, status)
	require.Equal(t, "b.test /x//y", body)
	status, _ = raw(t, g.addr, "GET //x/y HTTP/1.1\r\nHost: b.test")
	require.Equal(t, 307, status, "the route of any host would take it")
}

// A Host is one name for route and upstream.
func TestL50_HostsAreOneName(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: telling})
	g := start(t, inFlow(b.Addr, "[{upstream: app}]"))
	for host, want := range map[string]string{
		"a.test":        "a.test",
		"A.Test.":       "a.test",
		"A.test.:8080":  "a.test:8080",
		"[FD00::1]:80":  "[fd00::1]:80",
		"a%2etest":      "",
		"a.test%2f":     "",
		"%61.test:80":   "",
		"a.test%00.b":   "",
		"[fe80::1%251]": "",
	} {
		status, body := raw(t, g.addr, "GET / HTTP/1.1\r\nHost: "+host)
		if want == "" {
			require.Equal(t, 400, status, host)
			continue
		}
		require.Equal(t, want+" /", body, host)
	}
}

// net/http's server lets any :authority of HTTP/2 through.
func TestL48_AuthoritiesThatAreNoNames(t *testing.T) {
	for _, host := range []string{
		"a.test/x", "a.test?x", "a.test#x", "a .test", " a.test", "a.test\t", "ä.test", "a\\b", "<a>", "a@b",
		"a.test:80/x", "a\x00b", "a%62", "\"a\"", "a|b", "[::1]x", "[::1]/", "a\xff",
	} {
		require.False(t, validAuthority(host), "%q", host)
	}
	for _, host := range []string{
		"", "a.test", "A-b_c.test.:80", "b_c,d", "[::1]", "[::1]:443", "10.0.0.1:",
	} {
		require.True(t, validAuthority(host), "%q", host)
	}
	b := backend.Start(t, backend.Config{Handler: telling})
	folder := t.TempDir()
	writeCertificate(t, folder, "one", 1, "one.test")
	g := start(t, stalling(20*time.Second, folder, b))
	c := secureClient(t, "one.test", true)
	for host, want := range map[string]int{"a.test": 200, "a.test%2f": 400, "[a.test]": 400} {
		req, err := http.NewRequest("GET", "https://"+g.addr, nil)
		require.NoError(t, err)
		req.Host = host
		resp, err := c.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 2, resp.ProtoMajor)
		require.Equal(t, want, resp.StatusCode, host)
	}
}

func TestPathsWithControlsAreRefused(t *testing.T) {
	b := backend.Start(t, backend.Config{Handler: telling})
	g := start(t, inFlow(b.Addr, "[{upstream: app}]"))
	for path, want := range map[string]int{
		"/a%00.png": 400, "/a%0d%0ab": 400, "/%7f": 400, "/%1F": 400, "/%c2%85": 400,
		"/%20": 200, "/%2500": 200, "/%c3%a4": 200, "/?%00": 200,
	} {
		status, _ := raw(t, g.addr, "GET "+path+" HTTP/1.1\r\nHost: a")
		require.Equal(t, want, status, path)
	}
}
