package telemetry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/trace"
)

var quiet = log.New(io.Discard, "", 0)

// O16: a RouteFunc that panics takes the route with it and nothing else.
func TestO16_RouteFuncThatPanicsHidesNoFailure(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{})
	b := newBench(t, telemetry.Config{AccessLog: l, RouteFunc: func(*http.Request) string { panic("route") }})
	mux := http.NewServeMux()
	mux.HandleFunc("/x", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	serve(b.Middleware(mux), httptest.NewRequest("GET", "/x", nil))
	require.Contains(t, b.points(t, "http.server.request.duration")[0],
		"error.type=503 http.request.method=GET http.response.status_code=503 http.route=/x")
	require.EqualValues(t, 1, b.Stats().Failures)
	require.Equal(t, "ERROR", out.all(t)[0]["level"])
}

// O16: a histogram that panics leaves no request in flight.
func TestO16_InstrumentThatPanicsLeavesNothingInFlight(t *testing.T) {
	m := &countingMeter{}
	b := newBench(t, telemetry.Config{ActiveRequests: true, MeterProvider: countingProvider{m: m}})
	serve(b.Middleware(http.NotFoundHandler()), httptest.NewRequest("GET", "/", nil))
	resp, err := b.Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})).RoundTrip(httptest.NewRequest("GET", "http://api.test/", nil))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Zero(t, m.active)
	require.NotZero(t, b.Stats().Faults)
}

// countingMeter has histograms that panic and counters that add up.
type countingMeter struct {
	metricnoop.Meter
	active int64
}

type countingProvider struct {
	metricnoop.MeterProvider
	m *countingMeter
}

func (p countingProvider) Meter(string, ...metric.MeterOption) metric.Meter { return p.m }

func (m *countingMeter) Float64Histogram(string, ...metric.Float64HistogramOption) (metric.Float64Histogram,
	error) {
	return panicHistogram{}, nil
}
func (m *countingMeter) Int64UpDownCounter(string, ...metric.Int64UpDownCounterOption) (
	metric.Int64UpDownCounter, error) {
	return activeCounter{m: m}, nil
}

type panicHistogram struct{ metricnoop.Float64Histogram }

func (panicHistogram) Enabled(context.Context) bool                            { return true }
func (panicHistogram) Record(context.Context, float64, ...metric.RecordOption) { panic("record") }

type activeCounter struct {
	metricnoop.Int64UpDownCounter
	m *countingMeter
}

func (c activeCounter) Add(_ context.Context, n int64, _ ...metric.AddOption) { c.m.active += n }

// Hooks that panic at each request do not fill the error log, and what they say is scrubbed.
func TestO16_FaultsAreReportedSparsely(t *testing.T) {
	var mu sync.Mutex
	var reports []string
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, err.Error())
	}))
	// As at the start of the process. What otel.GetErrorHandler returns cannot be set: it is otel's
	// own delegator, which would have to call itself.
	defer otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Print(err) }))
	b := newBench(t, telemetry.Config{
		RouteFunc: func(*http.Request) string { panic("token=hunter2\nforged") },
	})
	h := b.Middleware(http.NotFoundHandler())
	for range 1000 {
		serve(h, httptest.NewRequest("GET", "/", nil))
	}
	require.EqualValues(t, 1000, b.Stats().Faults)
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, reports)
	require.Less(t, len(reports), 20)
	require.NotContains(t, reports[0], "hunter2")
	require.NotContains(t, reports[0], "\n")
}

// A proxied server that repeats the request id, as ours do, does not make it two.
func TestRequestIDIsOneFieldBehindAProxy(t *testing.T) {
	const field = "X-Request-Id"
	backend := server(t, false, newBench(t, telemetry.Config{RequestID: field}).Middleware(
		http.NotFoundHandler()))
	target, _ := url.Parse(backend.URL)
	b := newBench(t, telemetry.Config{RequestID: field})
	front := server(t, false, b.Middleware(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: b.Transport(&http.Transport{DisableKeepAlives: true}),
	}))
	req, _ := http.NewRequest("GET", front.URL, nil)
	req.Header.Set(field, "abc")
	resp, err := front.Client().Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, []string{"abc"}, resp.Header.Values(field))
}

// A handler that writes nothing has timings all the same.
func TestServerTimingOfAnEmptyResponse(t *testing.T) {
	protocols(t, func(t *testing.T, h2 bool) {
		srv := server(t, h2, newBench(t, telemetry.Config{ServerTiming: true}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				telemetry.Measure(r.Context(), "db")()
			})))
		resp, _ := get(t, srv.Client(), srv.URL)
		require.Regexp(t, `^total;dur=\d+\.\d, db;dur=\d+\.\d$`, resp.Header.Get("Server-Timing"))
	})
}

// OTLP is protobuf, whose strings are UTF-8: one invalid attribute loses its exporter the whole
// batch.
func TestSpanTextsAreValidAndBounded(t *testing.T) {
	b := newBench(t, telemetry.Config{Query: []string{"q"},
		RouteFunc: func(*http.Request) string { return "/\xff" }})
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := telemetry.WithURLTemplate(r.Context(), "/\xff")
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://api.test/", nil)
		req.URL.RawQuery = "q=\xff"
		_, err := b.Transport(roundTripFunc(func(*http.Request) (*http.Response,
			error) {
			return nil, errors.New("no")
		})).RoundTrip(req)
		require.Error(t, err)
		panic("bad \xff text")
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.URL.Path = "/\xff" + strings.Repeat("x", 100_000)
	r.URL.RawQuery = "q=\xff&\xff=1&" + strings.Repeat("a=b&", 10_000)
	r.Header.Set("User-Agent", "\xff"+strings.Repeat("x", 100_000))
	r.Host = "\xff" + strings.Repeat("x", 100_000)
	require.Panics(t, func() { serve(h, r) })
	require.Len(t, b.spans.Ended(), 2)
	check := func(what string) {
		require.True(t, utf8.ValidString(what), "%q", what)
		require.LessOrEqual(t, len(what), 20<<10)
	}
	for _, s := range b.spans.Ended() {
		check(s.Name())
		for _, a := range s.Attributes() {
			check(a.Value.String())
		}
		for _, e := range s.Events() {
			for _, a := range e.Attributes {
				check(a.Value.String())
			}
		}
	}
	for name := range b.metrics(t) {
		for _, p := range b.points(t, name) {
			check(p)
		}
	}
}

// The conventions: http.route must be there at the start of the span if it is known by then.
func TestRouteKnownAtTheStartReachesTheSampler(t *testing.T) {
	s := &spySampler{}
	b := newBench(t, telemetry.Config{TracerProvider: trace.NewTracerProvider(trace.WithSampler(s))})
	mux := http.NewServeMux()
	mux.Handle("GET /users/{id}", b.Middleware(http.NotFoundHandler()))
	serve(mux, httptest.NewRequest("GET", "/users/7", nil))
	require.Equal(t, "GET /users/{id}", s.name)
	require.Contains(t, s.attrs, "http.route=/users/{id}")
	serve(b.Middleware(mux), httptest.NewRequest("GET", "/", nil))
	require.Equal(t, "GET", s.name)
	require.NotContains(t, s.attrs, "http.route")
}

type spySampler struct{ name, attrs string }

func (s *spySampler) Description() string { return "spy" }
func (s *spySampler) ShouldSample(p trace.SamplingParameters) trace.SamplingResult {
	s.name, s.attrs = p.Name, text(p.Attributes)
	return trace.SamplingResult{Decision: trace.RecordAndSample}
}

// A route has all static segments (conventions, http.route), also where a prefix was stripped on
// the way.
func TestRouteHasTheStrippedPrefix(t *testing.T) {
	users := http.NewServeMux()
	users.HandleFunc("GET /users/{id}", func(http.ResponseWriter, *http.Request) {})
	mount := func(pattern string, strip func(http.Handler) http.Handler) *http.ServeMux {
		outer := http.NewServeMux()
		outer.Handle(pattern, strip(telemetry.Route(users)))
		return outer
	}
	strip := func(prefix string) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler { return http.StripPrefix(prefix, h) }
	}
	tests := []struct {
		name, target, route string
		h                   http.Handler
	}{
		{"stripped", "/api/users/7", "/api/users/{id}", mount("/api/", strip("/api"))},
		{"with a Route around", "/api/users/7", "/api/users/{id}",
			withValue(telemetry.Route(mount("/api/", strip("/api"))))},
		{"prefix with a wildcard", "/t/42/users/7", "/t/{tenant}/users/{id}",
			mount("/t/{tenant}/", strip("/t/42"))},
		{"not stripped", "/users/7", "/users/{id}",
			telemetry.Route(mount("/", func(h http.Handler) http.Handler { return h }))},
		{"stripped further than the pattern says", "/api/42/users/7", "/users/{id}",
			mount("/api/", strip("/api/42"))},
		{"prefix that no pattern names", "/x/users/7", "/users/{id}",
			withValue(http.StripPrefix("/x", telemetry.Route(users)))},
		{"two levels", "/v1/api/users/7", "/v1/api/users/{id}", func() http.Handler {
			outer := http.NewServeMux()
			outer.Handle("/v1/", http.StripPrefix("/v1", telemetry.Route(mount("/api/", strip("/api")))))
			return outer
		}()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, telemetry.Config{})
			require.Equal(t, 200, serve(b.Middleware(tt.h), httptest.NewRequest("GET", tt.target, nil)).Code)
			require.Equal(t, "GET "+tt.route, b.span(t).Name())
		})
	}
}

// O03: texts of errors and panics, in the forms in which real ones quote secrets.
func TestO03_ScrubbedTexts(t *testing.T) {
	const secret = "hunter2hunter2"
	b := newBench(t, telemetry.Config{Panics: telemetry.Answer500})
	for _, format := range []string{
		"Authorization: Bearer %s", "authorization: ApiKey %s", `{"client_secret":"%s"}`, "id_token=%s",
		"db_password=%s sslmode=off", "AWS_SECRET_ACCESS_KEY=%s",
		"Cookie: theme=dark; session=%s", "Set-Cookie: a=1; Path=/; b=%s", "X-Auth-Token: %s",
		"root:%s@tcp(127.0.0.1:3306)/app",
		"redis://:%s@db:6379", "https://bob:%s@api.test/", "https://api.test/?sig=%s", "password: '%s'",
		"bad token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.%s",
		`Get "https://u:%[1]s@h/a?t=%[1]s": context canceled`, "passphrase=%s",
		`Authorization: Digest username="bob", response="%s"`, `{"authorization":"Basic %s"}`,
		"x-api-key: %s", "signature=%s",
	} {
		message := fmt.Sprintf(format, secret)
		serve(b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(message) })),
			httptest.NewRequest("GET", "/", nil))
		spans := b.spans.Ended()
		event := text(spans[len(spans)-1].Events()[0].Attributes)
		require.NotContains(t, event, secret, "%s", message)
		require.Contains(t, event, "REDACTED", "%s", message)
	}
	for _, harmless := range []string{"dial tcp 127.0.0.1:80: connect: connection refused",
		"token bucket is empty", "unexpected token '}' at 7", "10.0.0.1:80 -> 10.0.0.2:81"} {
		serve(b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(harmless) })),
			httptest.NewRequest("GET", "/", nil))
		spans := b.spans.Ended()
		require.Contains(t, text(spans[len(spans)-1].Events()[0].Attributes),
			"exception.message="+harmless+" ")
	}
}

// O03: an allowed header may quote a URL with secrets, and a header that holds credentials is none
// to allow.
func TestO03_HeaderValuesAreScrubbed(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{RequestHeaders: []string{"Referer"},
		ResponseHeaders: []string{"Location"}})
	b := newBench(t, telemetry.Config{AccessLog: l, Query: []string{"q"}})
	r := httptest.NewRequest("GET", "/?q=1;token=hunter2", nil)
	r.Header.Set("Referer", "https://u:hunter2@shop.test/reset?token=hunter2")
	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://idp.test/cb?code=hunter2", http.StatusFound)
	})), r)
	require.NotContains(t, out.b.String(), "hunter2")
	require.Contains(t, out.b.String(), "https://idp.test/cb?REDACTED")
	for _, name := range []string{"X-Auth-Token", "X-Amz-Security-Token", "X-Csrf-Token", "X-Client-Secret",
		"Apikey"} {
		_, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{RequestHeaders: []string{name}})
		require.ErrorContains(t, err, name+" holds credentials")
	}
}

// The conventions: server.address is what the client asked for, as a proxy passed it on if it is a
// trusted one.
func TestForwardedHost(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for _, tt := range []struct {
		name    string
		proxies []netip.Prefix
		fields  []string
		want    string
	}{
		{"trusted", proxies, []string{"shop.test:8443"}, "server.address=shop.test server.port=8443"},
		{"the nearest proxy's word", proxies, []string{"evil.test", "evil.test, shop.test"},
			"server.address=shop.test server.port=80"},
		{"stranger", nil, []string{"shop.test"}, "server.address=example.com server.port=80"},
		{"none", proxies, nil, "server.address=example.com server.port=80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, out := logTo(t, telemetry.AccessLogConfig{})
			b := newBench(t, telemetry.Config{TrustedProxies: tt.proxies,
				Hosts: []string{"shop.test", "example.com"}, AccessLog: l})
			r := httptest.NewRequest("GET", "/", nil)
			r.Header["X-Forwarded-Host"] = tt.fields
			serve(b.Middleware(http.NotFoundHandler()), r)
			require.Contains(t, text(b.span(t).Attributes()), tt.want)
			address, _, _ := strings.Cut(tt.want, " ")
			require.Contains(t, b.points(t, "http.server.request.duration")[0], address+" ")
			require.Equal(t, address, "server.address="+out.all(t)[0]["server.address"].(string))
		})
	}
}

// What could never match is a mistake of the configuration.
func TestNewRefusesHostsWithPorts(t *testing.T) {
	for _, host := range []string{"example.com:8080", "[::1]", "[::1]:80"} {
		_, err := telemetry.New(telemetry.Config{Hosts: []string{host}})
		require.ErrorContains(t, err, "telemetry: Config.Hosts: ", host)
	}
	_, err := telemetry.New(telemetry.Config{Hosts: []string{"::1", "example.com"}})
	require.NoError(t, err)
	_, err = telemetry.NewSLO(telemetry.SLOConfig{Name: "a", Availability: 0.9,
		Selector: "job=\"x\"\nforged: 1"})
	require.ErrorContains(t, err, "telemetry: SLOConfig.Selector: ")
}

// The document that answers for a panic is described by nothing that described another body.
func TestPanicAnswerHasNoStaleFields(t *testing.T) {
	b := newBench(t, telemetry.Config{Panics: telemetry.Answer500})
	w := serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Content-Digest", "Repr-Digest", "Digest", "Content-Md5",
			"Content-Disposition", "Content-Language", "Content-Location", "Accept-Ranges"} {
			w.Header().Set(name, "x")
		}
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		panic("boom")
	})), httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 500, w.Code)
	for name := range w.Header() {
		require.Contains(t, []string{"Content-Type", "Cache-Control", "X-Content-Type-Options",
			"Content-Security-Policy"}, name)
	}
	require.NotEmpty(t, w.Header().Get("Content-Security-Policy"))
}

// An admin page shows burn rates: they are in the JSON.
func TestBurnAsJSON(t *testing.T) {
	s := newSLO(t, telemetry.SLOConfig{Name: "a", Availability: 0.5})
	b := newBench(t, telemetry.Config{SLOs: []*telemetry.SLO{s}})
	traffic(b.Middleware(trafficMux()), 1, "/500")
	traffic(b.Middleware(trafficMux()), 1, "/ok")
	body, err := json.Marshal(s.Burn()[0])
	require.NoError(t, err)
	require.JSONEq(t, `{
		"objective":"availability", "severity":"ticket", "long_ns":259200000000000, "short_ns":21600000000000,
		"factor":1, "long_rate":1, "short_rate":1, "total":2, "bad":1, "firing":false
	}`, string(body))
}
