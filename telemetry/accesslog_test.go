package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// logTo returns an access log that writes JSON lines to a buffer.
func logTo(t testing.TB, cfg telemetry.AccessLogConfig) (*telemetry.AccessLog, *lines) {
	out := new(lines)
	cfg.Handler = slog.NewJSONHandler(out, nil)
	l, err := telemetry.NewAccessLog(cfg)
	require.NoError(t, err)
	return l, out
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) all(t testing.TB) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []map[string]any
	for line := range strings.Lines(l.b.String()) {
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &m), line)
		all = append(all, m)
	}
	return all
}

func TestAccessLogLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, out := logTo(t, telemetry.AccessLogConfig{RequestHeaders: []string{"accept"},
			ResponseHeaders: []string{"Content-Type"}})
		b := newBench(t, telemetry.Config{AccessLog: l, RequestID: "X-Request-Id", Query: []string{"q"}})
		mux := http.NewServeMux()
		mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Set-Cookie", "session=s3cr3t")
			time.Sleep(15 * time.Millisecond)
			io.WriteString(w, "hello")
		})
		r := httptest.NewRequest("GET", "/users/7?q=shoes&token=s3cr3t&s3cr3t", nil)
		r.Header.Set("Accept", "text/*")
		r.Header.Set("Authorization", "Bearer s3cr3t")
		r.Header.Set("Cookie", "session=s3cr3t")
		r.Header.Set("User-Agent", "curl/8")
		r.Header.Set("X-Request-Id", "abc")
		r.Header.Set("Traceparent", parent)
		serve(b.Middleware(mux), r)
		all := out.all(t)
		require.Len(t, all, 1)
		delete(all[0], "time")
		require.Equal(t, map[string]any{
			"level":                     "INFO",
			"msg":                       "request",
			"http.request.method":       "GET",
			"url.path":                  "/users/7",
			"url.query":                 "q=shoes&token=REDACTED&REDACTED",
			"http.route":                "/users/{id}",
			"http.response.status_code": 200.0,
			"duration":                  float64(15 * time.Millisecond),
			"http.response.body.size":   5.0,
			"server.address":            "example.com",
			"network.protocol.version":  "1.1",
			"client.address":            "192.0.2.0/24",
			"user_agent.original":       "curl/8",
			"request_id":                "abc",
			"trace_id":                  "0af7651916cd43dd8448eb211c80319c",
			"span_id":                   b.spans.Ended()[0].SpanContext().SpanID().String(),
			"http.request.header":       map[string]any{"accept": "text/*"},
			"http.response.header":      map[string]any{"content-type": "text/plain"},
		}, all[0])
		require.NotContains(t, out.b.String(), "s3cr3t")
	})
}

func TestAccessLogSampling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, out := logTo(t, telemetry.AccessLogConfig{SampleEvery: 10, Slow: time.Second})
		b := newBench(t, telemetry.Config{AccessLog: l, TracerProvider: noop.NewTracerProvider()})
		mux := http.NewServeMux()
		mux.HandleFunc("/ok", func(http.ResponseWriter, *http.Request) {})
		mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
		mux.HandleFunc("/slow", func(http.ResponseWriter, *http.Request) { time.Sleep(time.Second) })
		mux.HandleFunc("/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		h := b.Middleware(mux)
		const n = 2000
		for range n {
			serve(h, httptest.NewRequest("GET", "/ok", nil))
		}
		for range 20 {
			serve(h, httptest.NewRequest("GET", "/bad", nil))
			serve(h, httptest.NewRequest("GET", "/slow", nil))
			require.Panics(t, func() { serve(h, httptest.NewRequest("GET", "/abort", nil)) })
		}
		count := map[string]int{}
		for _, line := range out.all(t) {
			path := line["url.path"].(string)
			count[path]++
			if path == "/ok" {
				require.Equal(t, 10.0, line["sample_every"])
			} else {
				require.NotContains(t, line, "sample_every")
			}
			require.Equal(t, map[string]string{"/ok": "INFO", "/slow": "INFO", "/bad": "ERROR",
				"/abort": "ERROR"}[path], line["level"])
		}
		require.Equal(t, 20, count["/bad"])
		require.Equal(t, 20, count["/slow"])
		require.Equal(t, 20, count["/abort"])
		require.InDelta(t, n/10, count["/ok"], 80) // six standard deviations
		require.EqualValues(t, n-count["/ok"], b.Stats().LogSkipped)
	})
	t.Run("none of the ordinary ones", func(t *testing.T) {
		l, out := logTo(t, telemetry.AccessLogConfig{SampleEvery: -1, Slow: -1})
		b := newBench(t, telemetry.Config{AccessLog: l})
		serve(b.Middleware(http.NotFoundHandler()), httptest.NewRequest("GET", "/", nil))
		require.Empty(t, out.all(t))
	})
}

func TestAccessLogClient(t *testing.T) {
	tests := []struct {
		policy       telemetry.ClientDetail
		remote, want string
	}{
		{telemetry.ClientNetwork, "198.51.100.77:1", "198.51.100.0/24"},
		{telemetry.ClientNetwork, "[2001:db8:1:2:3::4%eth0]:1", "2001:db8:1::/48"},
		{telemetry.ClientNetwork, "[::ffff:198.51.100.77]:1", "198.51.100.0/24"},
		{telemetry.ClientNetwork, "@", ""},
		{telemetry.ClientFull, "198.51.100.77:1", "198.51.100.77"},
		{telemetry.ClientNone, "198.51.100.77:1", ""},
	}
	for _, tt := range tests {
		l, out := logTo(t, telemetry.AccessLogConfig{Client: tt.policy})
		b := newBench(t, telemetry.Config{AccessLog: l})
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = tt.remote
		serve(b.Middleware(http.NotFoundHandler()), r)
		if tt.want == "" {
			require.NotContains(t, out.all(t)[0], "client.address")
		} else {
			require.Equal(t, tt.want, out.all(t)[0]["client.address"])
		}
	}
}

func TestForwardedForIsReadFromTheRight(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	tests := []struct {
		name, peer string
		field      []string
		want       string
	}{
		{"stranger's own claim", "203.0.113.1:1", []string{"1.1.1.1"}, "203.0.113.1"},
		{"one proxy", "10.0.0.1:1", []string{"203.0.113.1"}, "203.0.113.1"},
		{"client prepends a lie", "10.0.0.1:1", []string{"1.1.1.1, 203.0.113.1"}, "203.0.113.1"},
		{"chain over lines", "10.0.0.1:1", []string{"1.1.1.1", "203.0.113.1, 10.0.0.2"}, "203.0.113.1"},
		{"mapped and with ports", "[::ffff:10.0.0.1]:1", []string{"[2001:db8::1]:99"}, "2001:db8::1"},
		{"garbage stops the search", "10.0.0.1:1", []string{"203.0.113.1, nonsense, 10.0.0.2"}, "10.0.0.2"},
		{"all trusted", "[fd00::1]:1", []string{"10.0.0.9"}, "10.0.0.9"},
		{"no field", "10.0.0.1:1", nil, "10.0.0.1"},
		{"flood", "10.0.0.1:1", []string{"203.0.113.9," + strings.Repeat("10.0.0.3,", 10000) + "10.0.0.2"},
			"10.0.0.3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, out := logTo(t, telemetry.AccessLogConfig{Client: telemetry.ClientFull})
			b := newBench(t, telemetry.Config{AccessLog: l, TrustedProxies: proxies})
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = tt.peer
			r.Header["X-Forwarded-For"] = tt.field
			serve(b.Middleware(http.NotFoundHandler()), r)
			require.Equal(t, tt.want, out.all(t)[0]["client.address"])
		})
	}
}

// O02: whatever bytes a client sends, a request is one line without control characters, even if the
// handler that writes it escapes nothing.
func TestO02_LogInjection(t *testing.T) {
	raw := &rawHandler{}
	l, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{Handler: raw, RequestHeaders: []string{"X-A"},
		Client: telemetry.ClientFull})
	require.NoError(t, err)
	b := newBench(t, telemetry.Config{AccessLog: l, Query: []string{"q"}, RequestID: "X-Request-Id",
		Panics: telemetry.Answer500})
	observe := telemetry.Observer[pick](b.Telemetry, "balancer")
	evil := "a\r\nlevel=ERROR msg=forged \x1b[31m\u2028\u2029\u202e\x00\x7f\xff\u0085"
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		observe(r.Context(), pick{Backend: "b1", Err: errors.New(evil)})
		panic(evil)
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.URL.Path, r.URL.RawQuery, r.Host, r.Method = "/"+evil, "q="+evil, evil, evil
	r.Header["X-A"], r.Header["User-Agent"], r.Header["X-Request-Id"] = []string{evil}, []string{evil},
		[]string{evil}
	serve(h, r)
	require.Len(t, raw.lines, 1)
	requirePlain(t, raw.lines[0])
	require.Contains(t, raw.lines[0], `\x0d\x0alevel=ERROR`)
}

// requirePlain fails on characters that steer a terminal, end a line, or reorder text.
func requirePlain(t testing.TB, line string) {
	if !utf8.ValidString(line) {
		t.Fatalf("invalid UTF-8: %q", line)
	}
	for _, r := range line {
		// The stack of a panic is ours and has lines.
		if !unicode.IsPrint(r) {
			t.Fatalf("%U in %q", r, line)
		}
	}
}

// rawHandler writes attributes as they are.
type rawHandler struct{ lines []string }

func (h *rawHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *rawHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *rawHandler) WithGroup(string) slog.Handler            { return h }
func (h *rawHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "exception.stacktrace" {
			fmt.Fprintf(&b, "%s=%v ", a.Key, a.Value)
		}
		return true
	})
	h.lines = append(h.lines, b.String())
	return nil
}

func FuzzAccessLogLine(f *testing.F) {
	f.Add("/a\r\nb", "q=1&token=2", "host", "agent\x1b[0m", "error\u2028")
	f.Add("/\xff\xfe", "&&=&;%0a", "", "", "http://u:p@h/?x")
	f.Fuzz(func(t *testing.T, path, query, host, agent, errText string) {
		raw := &rawHandler{}
		l, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{Handler: raw})
		require.NoError(t, err)
		b := newBench(t, telemetry.Config{AccessLog: l, TracerProvider: noop.NewTracerProvider()})
		observe := telemetry.Observer[pick](b.Telemetry, "balancer")
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path, r.URL.RawQuery, r.Host = path, query, host
		r.Header["User-Agent"] = []string{agent}
		serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			observe(r.Context(), pick{Backend: "b1", Err: errors.New(errText)})
		})), r)
		if len(raw.lines) != 1 {
			t.Fatalf("%d lines", len(raw.lines))
		}
		requirePlain(t, raw.lines[0])
		if len(raw.lines[0]) > 64<<10 {
			t.Fatalf("%d bytes", len(raw.lines[0]))
		}
	})
}

// O03: secrets in the usual places show up nowhere: spans, metrics, log, problem documents.
func TestO03_SecretsShowNowhere(t *testing.T) {
	const secret = "hunter2"
	l, out := logTo(t, telemetry.AccessLogConfig{RequestHeaders: []string{"Accept"}})
	b := newBench(t, telemetry.Config{AccessLog: l, Panics: telemetry.Answer500, Query: []string{"q"},
		BodySizes: true})
	observe := telemetry.Observer[pick](b.Telemetry, "balancer")
	client := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("Get %q: refused", r.URL)
	}))
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), "GET",
			"https://admin:"+secret+"@api.test/?api_key="+secret+"#access_token="+secret, nil)
		_, err := client.RoundTrip(req)
		observe(r.Context(), pick{Backend: "b1", Err: err})
		w.Header().Set("Set-Cookie", "session="+secret)
		observe(r.Context(), pick{Backend: "b2",
			Err: errors.New(`WRONGPASS redis://:` + secret + `@db:6379, Authorization: Bearer ` + secret +
				`, password="` + secret + `" Cookie: a=` + secret)})
		panic("token=" + secret + " postgres://u:" + secret + "@db/x?sslpassword=" + secret + " Bearer " +
			secret + secret)
	}))
	r := httptest.NewRequest("GET", "/?q=1&token="+secret+"&"+secret+"&sig="+secret, nil)
	r.Header.Set("Authorization", "Bearer "+secret)
	r.Header.Set("Proxy-Authorization", "Basic "+secret)
	r.Header.Set("Cookie", "session="+secret)
	r.Header.Set("Idempotency-Key", secret)
	w := serve(h, r)
	require.NotContains(t, w.Body.String(), secret)
	require.Contains(t, out.b.String(), "REDACTED")
	require.NotContains(t, out.b.String(), secret)
	for _, s := range b.spans.Ended() {
		require.NotContains(t, text(s.Attributes())+s.Status().Description, secret)
		for _, e := range s.Events() {
			require.NotContains(t, text(e.Attributes), secret)
		}
	}
	require.Len(t, b.spans.Ended(), 2)
	for name := range b.metrics(t) {
		if name != "trivet.telemetry.pick.duration" {
			require.NotContains(t, strings.Join(b.points(t, name), "\n"), secret)
		}
	}

	_, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{RequestHeaders: []string{"authorization",
		"Cookie", "Idempotency-Key", "Bad Name"}, ResponseHeaders: []string{"Set-Cookie"}, Client: 9})
	for _, want := range []string{"Handler: is required", "RequestHeaders: authorization holds credentials",
		"RequestHeaders: Cookie", "RequestHeaders: Idempotency-Key", `"Bad Name"`,
		"ResponseHeaders: Set-Cookie", "Client: 9"} {
		require.ErrorContains(t, err, want)
	}
}

// O16: whatever fails around a request, the request does not notice.
func TestO16_TelemetryThatPanicsHarmsNoRequest(t *testing.T) {
	l, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{Handler: panicHandler{}})
	require.NoError(t, err)
	boom := func() { panic("telemetry") }
	b := newBench(t, telemetry.Config{
		AccessLog:      l,
		TracerProvider: trace.NewTracerProvider(trace.WithSpanProcessor(panicProcessor{})),
		Skip:           func(*http.Request) bool { boom(); return true },
		RouteFunc:      func(*http.Request) string { boom(); return "" },
		ResendCount:    func(context.Context) int { boom(); return 0 },
	})
	observe := telemetry.Observer[badEvent](b.Telemetry, "bad")
	client := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("x"))}, nil
	}))
	h := b.Middleware(telemetry.Route(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		observe(r.Context(), badEvent{})
		req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://api.test/", nil)
		resp, err := client.RoundTrip(req)
		require.NoError(t, err)
		io.Copy(w, resp.Body)
		resp.Body.Close()
	})))
	w := serve(h, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 200, w.Code)
	require.Equal(t, "x", w.Body.String())
	require.NotZero(t, b.Stats().Faults)
	require.Zero(t, b.Stats().InFlight)
	require.Zero(t, b.Stats().Panics, "the handler's panics only")
	require.NotEmpty(t, b.points(t, "http.server.request.duration"), "what works goes on")
}

type panicHandler struct{}

func (panicHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (panicHandler) Handle(context.Context, slog.Record) error { panic("handler") }
func (h panicHandler) WithAttrs([]slog.Attr) slog.Handler      { return h }
func (h panicHandler) WithGroup(string) slog.Handler           { return h }

type panicProcessor struct{}

func (panicProcessor) OnStart(context.Context, trace.ReadWriteSpan) { panic("start") }
func (panicProcessor) OnEnd(trace.ReadOnlySpan)                     { panic("end") }
func (panicProcessor) Shutdown(context.Context) error               { return nil }
func (panicProcessor) ForceFlush(context.Context) error             { return nil }

type badEvent struct{}

func (badEvent) LogValue() slog.Value { panic("event") }

// contextHandler notes whether the context of a line had ended.
type contextHandler struct {
	slog.Handler
	err error
	id  string
}

func (h *contextHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *contextHandler) Handle(ctx context.Context, _ slog.Record) error {
	_, limited := ctx.Deadline()
	if h.err, h.id = ctx.Err(), telemetry.RequestID(ctx); ctx.Done() != nil || limited {
		h.err = errors.Join(h.err, errors.New("the context can end"))
	}
	return nil
}

// TestR32_LinesOfClientsWhoLeft: a log handler that heeds contexts does not lose them.
func TestR32_LinesOfClientsWhoLeft(t *testing.T) {
	h := new(contextHandler)
	lines, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{Handler: h})
	require.NoError(t, err)
	b := newBench(t, telemetry.Config{AccessLog: lines, RequestID: "X-Request-Id"})
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequest("GET", "/", nil).WithContext(ctx)
	serve(b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel() })), r)
	require.NoError(t, h.err)
	require.NotEmpty(t, h.id)
}

// TestO20_FieldsAreReadAsWhatTheyAre: references in header fields lose what may be secret.
func TestO20_FieldsAreReadAsWhatTheyAre(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{
		RequestHeaders: []string{"Referer"}, ResponseHeaders: []string{"Location", "Link"},
	})
	b := newBench(t, telemetry.Config{AccessLog: l, Query: []string{"q"}})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", `/next?q=1&code="hunter2"#hunter2`)
		w.Header().Add("Link", "<//a.test/?hunter2>; rel=next")
		w.Header().Add("Link", `</x>; title="two"`)
	}))
	r := httptest.NewRequest("GET", "/?hunter2==&q=https%3A%2F%2Fa.test%2F%3Fk%3Dhunter2", nil)
	r.Header.Set("Referer", "https://u:hunter2@a.test/x?y=hunter2")
	serve(h, r)
	line := out.all(t)[0]
	require.Equal(t, "REDACTED&q=REDACTED", line["url.query"])
	require.Equal(t, map[string]any{"referer": "https://REDACTED:REDACTED@a.test/x?REDACTED"},
		line["http.request.header"])
	require.Equal(t, map[string]any{
		"location": "/next?REDACTED#REDACTED",
		"link":     `<//a.test/?REDACTED>; rel=next, </x>; title="two"`,
	}, line["http.response.header"])
}
