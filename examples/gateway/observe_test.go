package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// echo starts a backend that answers with the header of each request.
func echo(t *testing.T) *backend.Backend {
	answer := func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Host", r.Host)
		w.Header().Set("X-Request-Id", "of the upstream")
		_ = json.NewEncoder(w).Encode(r.Header)
	}
	return backend.Start(t, backend.Config{Handler: http.HandlerFunc(answer)})
}

// echoed sends a request with header to url and returns the header that the echo behind it got.
func echoed(t *testing.T, url string, header http.Header) (http.Header, *http.Response) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	require.NoError(t, err)
	req.Header = header
	req.Host = "shop.test"
	resp, body := do(t, client(t), req)
	require.Equal(t, 200, resp.StatusCode)
	var got http.Header
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	return got, resp
}

func TestG03_ForwardedFieldsOfStrangersAreReplaced(t *testing.T) {
	b := echo(t)
	forged := func() http.Header {
		return http.Header{
			"X-Forwarded-For":     {"203.0.113.9"},
			"X-Forwarded-Host":    {"evil.test"},
			"X-Forwarded-Proto":   {"https"},
			"X-Forwarded-Port":    {"444"},
			"X-Forwarded-Prefix":  {"/evil"},
			"X-Forwarded-Uri":     {"/evil"},
			"X-Real-Ip":           {"203.0.113.9"},
			"X_forwarded_for":     {"203.0.113.9"},
			"X-Forwarded_host":    {"evil.test"},
			"X_real_ip":           {"203.0.113.9"},
			"X-Original-Url":      {"/admin"},
			"X-Rewrite-Url":       {"/admin"},
			"Forwarded":           {"for=203.0.113.9;host=evil.test"},
			"X.forwarded.for":     {"203.0.113.9"},
			"X-Forwarded":         {"203.0.113.9"},
			"Cf-Connecting-Ip":    {"203.0.113.9"},
			"X-Cluster_client~ip": {"203.0.113.9"},
			"X_request_id":        {"forged"},
			"Proxy":               {"http://evil.test"},
			"X-Other":             {"stays"},
		}
	}
	t.Run("without trusted proxies", func(t *testing.T) {
		got, _ := echoed(t, start(t, simple("", b.Addr)).url, forged())
		for _, name := range []string{"User-Agent", "Accept-Encoding", "X-Request-Id"} {
			got.Del(name)
		}
		require.Equal(t, http.Header{
			"Host":              {"shop.test"},
			"X-Forwarded-For":   {"127.0.0.1"},
			"X-Forwarded-Host":  {"shop.test"},
			"X-Forwarded-Proto": {"http"},
			"X-Other":           {"stays"},
		}, got)
	})
	t.Run("of a trusted proxy", func(t *testing.T) {
		got, _ := echoed(t, start(t, simple("server: {trusted_proxies: [127.0.0.1]}", b.Addr)).url, forged())
		for name, want := range map[string]string{
			"X-Forwarded-For":   "203.0.113.9, 127.0.0.1",
			"X-Forwarded-Host":  "evil.test",
			"X-Forwarded-Proto": "https",
			"X-Forwarded-Port":  "444",
			"X-Real-Ip":         "203.0.113.9",
			"Forwarded":         "",
			"Host":              "shop.test",
		} {
			require.Equal(t, want, strings.Join(got[name], ", "), name)
		}
		for _, name := range []string{
			"X_forwarded_for", "X-Forwarded_host", "X_real_ip", "X.forwarded.for", "X_request_id", "Proxy",
		} {
			require.NotContains(t, got, name, "no proxy spells it so")
		}
	})
	t.Run("of a peer that is no trusted proxy", func(t *testing.T) {
		got, _ := echoed(t, start(t, simple("server: {trusted_proxies: [10.0.0.0/8]}", b.Addr)).url, forged())
		require.Equal(t, []string{"127.0.0.1"}, got["X-Forwarded-For"])
		require.NotContains(t, got, "X-Forwarded-Port")
		for _, name := range []string{"User-Agent", "Accept-Encoding", "X-Request-Id"} {
			got.Del(name)
		}
		require.Equal(t, http.Header{
			"Host":              {"shop.test"},
			"X-Forwarded-For":   {"127.0.0.1"},
			"X-Forwarded-Host":  {"shop.test"},
			"X-Forwarded-Proto": {"http"},
			"X-Other":           {"stays"},
		}, got, "that there are proxies does not make him one")
	})
}

func TestRequestIDAndTraceBeginHere(t *testing.T) {
	b := echo(t)
	const foreign = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	strange := func() http.Header {
		return http.Header{
			"Traceparent":  {foreign},
			"Tracestate":   {"a=b"},
			"Baggage":      {"user=1"},
			"X-Request-Id": {"mine-1"},
		}
	}
	collector := newCollector(t)
	for name, more := range map[string]string{
		"without a collector": "",
		"with a collector":    "telemetry: {otlp: {endpoint: \"" + collector.url + "\", sample: 1}}",
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, simple(more, b.Addr))
			got, resp := echoed(t, g.url, strange())
			require.NotContains(t, got, "Baggage")
			require.NotContains(t, got, "Tracestate")
			require.NotContains(t, got.Get("Traceparent"), "0af7651916cd43dd8448eb211c80319c")
			require.Equal(t, more != "", got.Get("Traceparent") != "")
			require.Equal(t, []string{"mine-1"}, got["X-Request-Id"], "a harmless id goes on")
			require.Equal(t, []string{"mine-1"}, resp.Header["X-Request-Id"],
				"the client gets it back, not the upstream's")

			h := strange()
			h["X-Request-Id"] = []string{"../../etc/passwd\t%0a"}
			got, resp = echoed(t, g.url, h)
			require.Len(t, got["X-Request-Id"], 1)
			require.NotContains(t, got.Get("X-Request-Id"), "passwd")
			require.Equal(t, got["X-Request-Id"], resp.Header["X-Request-Id"])
		})
	}
}

// A collector counts the bytes that OpenTelemetry exporters send, by path.
type collector struct {
	url  string
	mu   sync.Mutex // guards the fields below
	size map[string]int
}

func newCollector(t *testing.T) *collector {
	c := &collector{size: map[string]int{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.size[r.URL.Path] += len(body)
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func TestTracesAndMetricsReachACollector(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	collector := newCollector(t)
	p, _ := launchWith(t, simple(
		"telemetry: {otlp: {endpoint: \""+collector.url+"/\", sample: 1, interval: 1h}}", b.Addr))
	require.Equal(t, map[int]int{200: 10}, statuses(t, client(t), "http://"+p.addr, 10, nil))
	p.await(t, p.stdout, `"trace_id":"[0-9a-f]{32}","span_id":"[0-9a-f]{16}"`)
	require.Zero(t, p.stop(t), p.stderr)
	collector.mu.Lock()
	defer collector.mu.Unlock()
	require.NotZero(t, collector.size["/v1/traces"], "the gateway sends the rest before it ends")
	require.NotZero(t, collector.size["/v1/metrics"])
}

func TestO12_HungCollectorHoldsNothingUp(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	hung, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts connections, nothing answers
	require.NoError(t, err)
	defer hung.Close()
	p, _ := launchWith(t, simple(fmt.Sprintf(`server: {drain_delay: 100ms}
telemetry: {otlp: {endpoint: "http://%s", sample: 1, interval: 100ms}}
`, hung.Addr()), b.Addr))
	require.Equal(t, map[int]int{200: 1500}, statuses(t, client(t), "http://"+p.addr, 1500, nil),
		"two spans a request are more than the queue of 2048 holds")
	begin := time.Now()
	require.Zero(t, p.stop(t))
	require.Less(t, time.Since(begin), 15*time.Second)
	require.Contains(t, p.stderr.String(), "telemetry has not been sent whole")
}

// lines collects an access log.
type lines struct {
	mu   sync.Mutex // guards the field below
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take waits for the next n lines and returns them.
func (l *lines) take(t *testing.T, n int) (all []map[string]any) {
	t.Helper()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return bytes.Count(l.text.Bytes(), []byte("\n")) >= n
	}, time.Minute, time.Millisecond)
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		text, err := l.text.ReadBytes('\n')
		require.NoError(t, err)
		var line map[string]any
		require.NoError(t, json.Unmarshal(text, &line))
		all = append(all, line)
	}
	return all
}

func TestAccessLog(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	log := &lines{}
	text := fmt.Sprintf(`
telemetry:
  access_log:
    {sample_every: 1000000, slow: 300ms, client: full, request_headers: [X-Shown], query: [page]}
limits: {l: {rate: 1/h, burst: 6, by: address}}
upstreams: {app: {hosts: [%s]}, gone: {hosts: ["127.0.0.1:1"]}}
routes:
  - {upstream: app, limits: [l]}
  - {upstream: app, host: Other.test, path: /b/}
  - {upstream: gone, path: /gone}
`, b.Addr)
	g := startLogged(t, text, log)
	c := client(t)
	// Neither of these fails or is slow, so they get no line.
	require.Equal(t, map[int]int{200: 2}, statuses(t, c, g.url, 2, nil))

	b.Set(backend.Behaviour{Status: 500})
	req, err := http.NewRequest("GET", g.url+"/a?page=2&token=secret", nil)
	require.NoError(t, err)
	req.Header.Set("X-Shown", "yes")
	req.Header.Set("Authorization", "Bearer secret")
	resp, _ := do(t, c, req)
	require.Equal(t, 500, resp.StatusCode)
	line := log.take(t, 1)[0]
	require.Equal(t, "ERROR", line["level"])
	require.Equal(t, "/", line["http.route"])
	require.Equal(t, 500.0, line["http.response.status_code"])
	require.Equal(t, "page=2&token=REDACTED", line["url.query"])
	require.Equal(t, "127.0.0.1", line["client.address"])
	require.Equal(t, map[string]any{"x-shown": "yes"}, line["http.request.header"])
	require.Equal(t, resp.Header.Get("X-Request-Id"), line["request_id"])
	// The events of balancer and ratelimit stand in the same line, under upstream and route.
	attempt := line["app"].(map[string]any)["attempt"].(map[string]any)
	require.Equal(t, "failure", attempt["outcome"])
	require.Equal(t, b.Addr, attempt["detail"].(map[string]any)["endpoint"])
	require.Equal(t, "admitted", line["/"].(map[string]any)["decision"].(map[string]any)["outcome"])
	require.NotContains(t, fmt.Sprint(line), "secret")

	b.Set(backend.Behaviour{Delay: 400 * time.Millisecond})
	req, err = http.NewRequest("GET", g.url+"/b/c", nil)
	require.NoError(t, err)
	req.Host = "other.test"
	do(t, c, req)
	line = log.take(t, 1)[0]
	require.Equal(t, "INFO", line["level"])
	require.Equal(t, "other.test/b/", line["http.route"], "another host may have the same path")

	resp, _ = get(t, c, g.url+"/gone")
	require.Equal(t, 503, resp.StatusCode)
	line = log.take(t, 1)[0]
	require.Equal(t, "ERROR", line["level"])
	require.Equal(t, "503", line["error.type"])
}

func TestG16_OperatorsPagesAreOnTheAdminListenerOnly(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	p, _ := launchWith(t, simple("objectives: {site: {availability: 0.99}}", b.Addr))
	c := client(t)
	pages := []string{"/", "/healthz", "/readyz", "/upstreams", "/limits", "/objectives", "/metrics"}
	for _, path := range pages {
		_, body := get(t, c, "http://"+p.addr+path)
		require.Contains(t, []string{"backend\n", ""}, body, "the upstream answers, not the admin server")
		resp, body := get(t, c, "http://"+p.admin+path)
		require.Equal(t, 200, resp.StatusCode)
		require.NotEmpty(t, body)
		req, err := http.NewRequest("GET", "http://"+p.admin+path, nil)
		require.NoError(t, err)
		req.Host = "attacker.example:8081" // a name that resolves to 127.0.0.1
		resp, _ = do(t, c, req)
		require.Equal(t, 403, resp.StatusCode)
	}
	_, body := get(t, c, "http://"+p.admin+"/")
	for _, path := range pages[1:] {
		require.Contains(t, body, path)
	}
	_, body = get(t, c, "http://"+p.admin+"/objectives")
	require.Contains(t, body, `"availability page": false`)
	_, body = get(t, c, "http://"+p.admin+"/metrics")
	require.Contains(t, body, `http_server_request_duration_seconds_count{http_request_method="GET",`+
		`http_response_status_code="200",http_route="/",network_protocol_version="1.1",url_scheme="http"} `)
}
