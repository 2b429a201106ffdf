package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/telemetry"
)

func TestMain(m *testing.M) {
	backend.Main()
	logging.Disable() // of go-redis: tests take servers away
	goleak.VerifyTestMain(m)
}

var discardLog = slog.New(slog.DiscardHandler)

// A live gateway runs in the process of the test.
type live struct {
	*gateway
	addr, url string
}

// start runs a gateway with the configuration text, without its admin server.
func start(t testing.TB, text string) *live {
	t.Helper()
	return startLogged(t, text, io.Discard)
}

// startLogged is start with a destination for the access log.
func startLogged(t testing.TB, text string, accessLog io.Writer) *live {
	t.Helper()
	cfg, err := parseConfig("test", []byte(text))
	require.NoError(t, err)
	return startConfigLogged(t, cfg, accessLog)
}

// startConfig is start with a configuration that has been read.
func startConfig(t testing.TB, cfg Config) *live {
	t.Helper()
	return startConfigLogged(t, cfg, io.Discard)
}

func startConfigLogged(t testing.TB, cfg Config, accessLog io.Writer) *live {
	t.Helper()
	g, err := newGateway(cfg, discardLog, accessLog, io.Discard)
	require.NoError(t, err)
	g.start()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := startServer(g, cfg.Server, ln)
	t.Cleanup(func() {
		s.close()
		<-s.served
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		g.close(ctx)
	})
	return &live{g, ln.Addr().String(), "http://" + ln.Addr().String()}
}

// client returns a client with connections of its own, which follows no redirects.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: tr, Timeout: 30 * time.Second, CheckRedirect: stay}
}

// do returns the response to a request, and its body.
func do(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	return do(t, c, req)
}

// simple is a configuration of one upstream with hosts and one route, followed by more.
func simple(more string, hosts ...string) string {
	return fmt.Sprintf("upstreams:\n  app: {hosts: [%s]}\nroutes:\n  - upstream: app\n%s",
		strings.Join(hosts, ", "), more)
}

// upgrade is the end of a request for a websocket, and of the answer that grants it.
const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

// inFlow is a configuration of the upstream app with one host, and of routes in YAML's flow style.
func inFlow(host, routes string) string {
	return fmt.Sprintf("upstreams: {app: {hosts: [%s]}}\nroutes: %s", host, routes)
}

func TestRoutes(t *testing.T) {
	a := backend.Start(t, backend.Config{Name: "a"})
	b := backend.Start(t, backend.Config{Name: "b"})
	g := start(t, fmt.Sprintf(`
upstreams:
  a: {hosts: [%s]}
  b: {hosts: [%s]}
routes:
  - {upstream: a, path: /}
  - {upstream: b, path: /b/}
  - {upstream: b, path: /exact}
  - {upstream: b, host: b.test}
  - {upstream: a, host: b.test, path: /a/}
  - {upstream: a, path: /methods, methods: [GET, PUT]}
  - {upstream: b, path: /methods, methods: [POST]}
  - {upstream: a, path: /other, methods: [POST]}
  - {upstream: b, path: /other}
`, a.Addr, b.Addr))
	c := client(t)
	tests := []struct {
		method, host, path string
		status             int
		backend            string // name of the one that answers, if any
	}{
		{"GET", "", "/", 200, "a"},
		{"GET", "", "/anything/else", 200, "a"},
		{"GET", "", "/b/x", 200, "b"},
		{"GET", "", "/b/", 200, "b"},
		{"GET", "", "/exact", 200, "b"},
		{"GET", "", "/exact/not", 200, "a"},
		{"GET", "b.test", "/", 200, "b"},
		{"GET", "B.Test.:8080", "/x", 200, "b"},
		{"GET", "b.test", "/a/x", 200, "a"},
		{"GET", "c.b.test", "/", 200, "a"},
		{"GET", "", "/methods", 200, "a"},
		{"HEAD", "", "/methods", 200, "a"},
		{"PUT", "", "/methods", 200, "a"},
		{"POST", "", "/methods", 200, "b"},
		{"DELETE", "", "/methods", 405, ""},
		{"POST", "", "/other", 200, "a"},
		{"DELETE", "", "/other", 200, "b"},
		{"GET", "", "/b/../exact", 307, ""},
		{"GET", "", "//b/x", 307, ""},
		{"GET", "", "/c%2fx", 200, "a"}, // an encoded slash is no separator
		// A server that decodes the path before it resolves dots would see a path of another route.
		{"GET", "", "/b/%2e%2e/exact", 400, ""},
		{"GET", "", "/b/%2E./exact", 400, ""},
		{"GET", "", "/b%2f..%2fexact", 400, ""},
		{"GET", "", "/b/%2e", 400, ""},
		{"GET", "", "/b/...%2e", 200, "b"},
		{"GET", "", "/b/./%2e%2e/exact", 400, ""},
		{"GET", "", "/b/..;/exact", 400, ""},
		{"GET", "", "/b/%2e%2e;a=b/exact", 400, ""},
		{"GET", "", "/b/..%3bexact", 400, ""},
		{"GET", "", "/b/..%5cexact", 400, ""},
		{"GET", "", "/b/x%5C%2e%2e%5Cexact", 400, ""},
		{"GET", "", "/b/%252e%252e/exact", 400, ""},
		{"GET", "", "/b/%c0%ae%c0%ae/exact", 400, ""},
		{"GET", "", "/b/x;a=..", 200, "b"},
		{"GET", "", "/b/..x%5cy;z", 200, "b"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.host+tt.path, func(t *testing.T) {
			req, err := http.NewRequest(tt.method, g.url+tt.path, nil)
			require.NoError(t, err)
			req.Host = tt.host
			resp, body := do(t, c, req)
			require.Equal(t, tt.status, resp.StatusCode, body)
			require.Equal(t, tt.backend, resp.Header.Get("Backend"))
			if tt.status == 405 {
				require.Equal(t, "GET, HEAD, POST, PUT", resp.Header.Get("Allow"))
				require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			}
		})
	}
}

func TestRedirectsToTheCleanPathKeepItsEncoding(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, inFlow(b.Addr, "[{upstream: app, path: /a/}]"))
	c := client(t)
	for target, want := range map[string]string{
		"//a/b%20c?d=%20e": "/a/b%20c?d=%20e",
		"/x/./../a/b%2Fc":  "/a/b%2Fc",
		"/x/../a//%25/":    "/a/%25/",
		"//a/%C3%A4":       "/a/%C3%A4",
		"/a?b":             "/a/?b",
		"//c":              "", // no route
		"//c/%252e./d":     "bad",
	} {
		resp, _ := get(t, c, g.url+target)
		if want == "bad" { // before a route is looked for
			require.Equal(t, 400, resp.StatusCode, target)
			continue
		}
		require.Equal(t, want, resp.Header.Get("Location"), target)
		require.Equal(t, map[bool]int{false: 307, true: 404}[want == ""], resp.StatusCode, target)
	}
}

func TestG07_PathsThatReadAsAnotherRoutesAreRefused(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, simple("  - {upstream: app, path: /users/}\n  - {upstream: app, path: /one}", b.Addr))
	for target, want := range map[string]int{
		"/users/a%2Fb":       200, // every reading is a path of the same route
		"/users/a;b=c/d":     200,
		"/users/a%5Cb":       200,
		"/a%2fb":             200,
		"/a;users/":          200,
		"/%75sers/a":         200,
		"/one%20":            200,
		"/users%2fa":         400,
		"/%2Fusers%2fa":      400,
		"/x/%2f%2fa":         200,
		"/users%5ca":         400,
		"/users\\a":          400,
		"/users;a=b/c":       400,
		"/users;a":           400,
		"/users/;a":          200,
		"/one;a":             400,
		"/one%3Ba":           400,
		"/users%252fa":       200, // only a server that decodes twice sees a slash
		"//users%2fa":        400,
		"/%2f%2fusers%2f%2f": 400,
	} {
		t.Run(target, func(t *testing.T) {
			conn, err := net.Dial("tcp", g.addr)
			require.NoError(t, err)
			defer conn.Close()
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", target)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, want, resp.StatusCode)
		})
	}
}

func TestTargetsInEveryForm(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, inFlow(b.Addr, "[{upstream: app, host: a.test}]"))
	for line, want := range map[string]int{
		"GET http://A.test:1/x":   200, // RFC 9112, section 3.2.2: the target's host counts
		"GET http://a.test":       200,
		"GET http://b.test/x":     404,
		"GET http://b@a.test/x":   200,
		"GET a.test:80":           400,
		"GET http:a.test":         400,
		"GET *":                   400,
		"CONNECT a.test:80":       405,
		"CONNECT http://a.test/x": 405,
	} {
		t.Run(line, func(t *testing.T) {
			conn, err := net.Dial("tcp", g.addr)
			require.NoError(t, err)
			defer conn.Close()
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: c.test\r\n\r\n", line)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, want, resp.StatusCode)
		})
	}
}

func TestHosts(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, inFlow(b.Addr, "[{upstream: app, path: /any}, {upstream: app, host: a.test, path: /a}]"))
	for head, want := range map[string]int{
		"GET /a HTTP/1.1\r\nHost: A.test.:80":         200,
		"GET /a HTTP/1.1\r\nHost: a.test:":            200,
		"GET /any HTTP/1.1\r\nHost: a.test":           200,
		"GET /any HTTP/1.1\r\nHost: [::1]":            200,
		"GET /any HTTP/1.1\r\nHost: [::1]:80":         200,
		"GET /any HTTP/1.1\r\nHost: b_c,d":            200,
		"GET /any HTTP/1.1\r\nHost:":                  200,
		"GET /any HTTP/1.0":                           200,
		"GET /any HTTP/1.1":                           400,
		"GET /any HTTP/1.1\r\nHost: a\r\nHost: a":     400,
		"GET /any HTTP/1.1\r\nHost: b@a.test":         400,
		"GET /any HTTP/1.1\r\nHost: a.test:80:80":     400,
		"GET /any HTTP/1.1\r\nHost: a.test:x":         400,
		"GET /any HTTP/1.1\r\nHost: a.test:+80":       400,
		"GET /any HTTP/1.1\r\nHost: a.test:65536":     400,
		"GET /any HTTP/1.1\r\nHost: :80":              400,
		"GET /any HTTP/1.1\r\nHost: ::1":              400,
		"GET /any HTTP/1.1\r\nHost: [::1":             400,
		"GET /any HTTP/1.1\r\nHost: [::1]80":          400,
		"GET /any HTTP/1.1\r\nHost: [::1%25a]":        400,
		"GET /a HTTP/1.1\r\nHost: [a.test]:80":        400,
		"GET /any HTTP/1.1\r\nHost: a]:80":            400,
		"GET http:///any HTTP/1.1\r\nHost: a.test":    400,
		"GET http://a:b/any HTTP/1.1\r\nHost: a.test": 400,
	} {
		t.Run(head, func(t *testing.T) {
			conn, err := net.Dial("tcp", g.addr)
			require.NoError(t, err)
			defer conn.Close()
			fmt.Fprintf(conn, "%s\r\n\r\n", head)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, want, resp.StatusCode)
		})
	}
}

func TestRefusals(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, fmt.Sprintf(`
upstreams:
  app: {hosts: [%s]}
  gone: {hosts: ["127.0.0.1:1"]}
routes:
  - {upstream: app, host: app.test, timeout: 50ms}
  - {upstream: gone, host: gone.test}
`, b.Addr))
	c := client(t)
	for _, tt := range []struct {
		name, host string
		behaviour  backend.Behaviour
		status     int
	}{
		{"no route", "other.test", backend.Behaviour{}, 404},
		{"no host up", "gone.test", backend.Behaviour{}, 503},
		{"too slow", "app.test", backend.Behaviour{Hang: true}, 504},
		{"cut", "app.test", backend.Behaviour{Abort: true}, 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.Set(tt.behaviour)
			req, err := http.NewRequest("POST", g.url, strings.NewReader("x"))
			require.NoError(t, err)
			req.Host = tt.host
			resp, body := do(t, c, req)
			require.Equal(t, tt.status, resp.StatusCode, body)
			require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			require.NotContains(t, body, "127.0.0.1", "internals stay inside")
			if tt.status == 503 {
				require.NotEmpty(t, resp.Header.Get("Retry-After"))
			}
		})
	}
	t.Run("CONNECT", func(t *testing.T) {
		conn, err := net.Dial("tcp", g.addr)
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 405, resp.StatusCode)
		require.Equal(t, []string{""}, resp.Header["Allow"])
	})
}

// The gateway's own wrappers let streams, early hints, trailers, aborts and upgrades through.
func TestStreamsPassThrough(t *testing.T) {
	read := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			<-read
		}
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(103)
		w.Header().Set("Trailer", "Sum")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("Sum", "42")
	})
	mux.HandleFunc("/abort", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n" + upgrade)
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString("echo " + line)
		_ = rw.Flush()
	})
	b := backend.Start(t, backend.Config{Handler: mux})
	g := start(t, simple("", b.Addr))
	c := client(t)

	t.Run("events arrive as they are written", func(t *testing.T) {
		resp, err := c.Get(g.url + "/events")
		require.NoError(t, err)
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("data: %d\n", i), line)
			_, _ = lines.ReadString('\n')
			read <- struct{}{} // lets the handler write the next event
		}
	})
	t.Run("early hints, body and trailer", func(t *testing.T) {
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, h.Get("Link")))
				return nil
			},
		})
		chunked := io.MultiReader(strings.NewReader("chunked"))
		req, err := http.NewRequestWithContext(ctx, "POST", g.url+"/hints", chunked)
		require.NoError(t, err)
		resp, body := do(t, c, req)
		require.Equal(t, []string{"103</a.css>"}, hints)
		require.Equal(t, "chunked", body)
		require.Equal(t, "42", resp.Trailer.Get("Sum"))
	})
	t.Run("a cut response is cut", func(t *testing.T) {
		resp, err := c.Get(g.url + "/abort")
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, "half", string(body))
	})
	t.Run("websocket", func(t *testing.T) {
		conn, err := net.Dial("tcp", g.addr)
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprint(conn, "GET /socket HTTP/1.1\r\nHost: a\r\n"+upgrade)
		buf := bufio.NewReader(conn)
		resp, err := http.ReadResponse(buf, nil)
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		fmt.Fprintf(conn, "hello\n")
		line, err := buf.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "echo hello\n", line)
	})
}

func TestG20_NilAndZeroValuesAreRefusedWhenBuilt(t *testing.T) {
	_, faults := Config{}.withDefaults()
	require.Len(t, faults, 2, "routes and upstreams are required")

	tel, err := telemetry.New(telemetry.Config{})
	require.NoError(t, err)
	_, err = newUpstream("u", Upstream{URL: "http://a", Hosts: []Host{{}}}, trust{}, Server{},
		stickiness{}, tel, discardLog)
	require.ErrorContains(t, err, "endpoint 0 has no address")

	var pushed *balancer.Pushed
	for name, cfg := range map[string]balancer.Config{
		"zero":                {},
		"typed nil resolver":  {Resolver: pushed},
		"subset of nil":       {Resolver: balancer.Subset(nil, "k", 3)},
		"subset of typed nil": {Resolver: balancer.Subset(pushed, "k", 3)},
		"typed nil policy":    {Resolver: balancer.Static("a:1"), Policy: (*nilPolicy)(nil)},
		"negative health": {
			Resolver: balancer.Static("a:1"), Health: balancer.HealthConfig{Interval: -1},
		},
		"negative connections": {Resolver: balancer.Static("a:1"), Conns: -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := balancer.New(cfg)
			require.ErrorContains(t, err, "balancer: Config.")
		})
	}
	b, err := balancer.New(balancer.Config{Resolver: balancer.Static("a:1")})
	require.NoError(t, err)
	_, err = b.Handler(nil, balancer.HandlerConfig{})
	require.Error(t, err)
}

type nilPolicy struct{ balancer.Policy }
