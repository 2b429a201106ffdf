package telemetry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
)

// The server side of the HTTP conventions, attribute by attribute: each span and each series
// as a whole, so that one too many fails as one too few does.
func TestServerConventions(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	tests := []struct {
		name    string
		cfg     telemetry.Config
		request func(r *http.Request)
		method  string
		target  string
		pattern string
		handler http.HandlerFunc
		span    string
		attrs   string
		series  string
		status  codes.Code
	}{{
		name: "plain", target: "/users/7", pattern: "GET /users/{id}", handler: status(204),
		span: "GET /users/{id}",
		attrs: "client.address=192.0.2.1 http.request.method=GET http.response.status_code=204 " +
			"http.route=/users/{id} network.peer.address=192.0.2.1 network.peer.port=1234 " +
			"network.protocol.version=1.1 server.address=example.com server.port=80 url.path=/users/7 " +
			"url.scheme=http",
		series: "http.request.method=GET http.response.status_code=204 http.route=/users/{id} " +
			"network.protocol.version=1.1 url.scheme=http",
	}, {
		name: "a handler that writes nothing answers 200", target: "/", pattern: "/",
		handler: func(http.ResponseWriter, *http.Request) {},
		span:    "GET /",
		attrs: "client.address=192.0.2.1 http.request.method=GET http.response.status_code=200 " +
			"http.route=/ network.peer.address=192.0.2.1 network.peer.port=1234 " +
			"network.protocol.version=1.1 server.address=example.com server.port=80 url.path=/ " +
			"url.scheme=http",
		series: "http.request.method=GET http.response.status_code=200 http.route=/ " +
			"network.protocol.version=1.1 url.scheme=http",
	}, {
		name:   "https, query, user agent, port, HTTP/2",
		target: "https://shop.test:8443/search?q=shoes&token=s3cr3t", pattern: "shop.test/search",
		handler: status(200),
		cfg:     telemetry.Config{Query: []string{"q"}},
		request: func(r *http.Request) {
			r.Header.Set("User-Agent", "curl/8")
			r.ProtoMajor, r.ProtoMinor = 2, 0
		},
		span: "GET /search",
		attrs: "client.address=192.0.2.1 http.request.method=GET http.response.status_code=200 " +
			"http.route=/search network.peer.address=192.0.2.1 network.peer.port=1234 " +
			"network.protocol.version=2 server.address=shop.test server.port=8443 url.path=/search " +
			"url.query=q=shoes&token=REDACTED url.scheme=https user_agent.original=curl/8",
		series: "http.request.method=GET http.response.status_code=200 http.route=/search " +
			"network.protocol.version=2 url.scheme=https",
	}, {
		name: "404 is no server error and has no route", target: "/nowhere", pattern: "/users/",
		handler: status(200),
		span:    "GET",
		attrs: "client.address=192.0.2.1 http.request.method=GET http.response.status_code=404 " +
			"network.peer.address=192.0.2.1 network.peer.port=1234 network.protocol.version=1.1 " +
			"server.address=example.com server.port=80 url.path=/nowhere url.scheme=http",
		series: "http.request.method=GET http.response.status_code=404 network.protocol.version=1.1 " +
			"url.scheme=http",
	}, {
		name: "500 is an error", target: "/x", pattern: "/x", handler: status(503),
		span: "GET /x",
		attrs: "client.address=192.0.2.1 error.type=503 http.request.method=GET " +
			"http.response.status_code=503 http.route=/x network.peer.address=192.0.2.1 " +
			"network.peer.port=1234 network.protocol.version=1.1 server.address=example.com server.port=80 " +
			"url.path=/x url.scheme=http",
		series: "error.type=503 http.request.method=GET http.response.status_code=503 http.route=/x " +
			"network.protocol.version=1.1 url.scheme=http",
		status: codes.Error,
	}, {
		name: "unknown method", method: "BREW", target: "/x", pattern: "/x", handler: status(200),
		span: "HTTP /x",
		attrs: "client.address=192.0.2.1 http.request.method=_OTHER http.request.method_original=BREW " +
			"http.response.status_code=200 http.route=/x network.peer.address=192.0.2.1 " +
			"network.peer.port=1234 network.protocol.version=1.1 server.address=example.com server.port=80 " +
			"url.path=/x url.scheme=http",
		series: "http.request.method=_OTHER http.response.status_code=200 http.route=/x " +
			"network.protocol.version=1.1 url.scheme=http",
	}, {
		name: "methods are case-sensitive", method: "get", target: "/x", pattern: "/x", handler: status(200),
		span: "HTTP /x",
		attrs: "client.address=192.0.2.1 http.request.method=_OTHER http.request.method_original=get " +
			"http.response.status_code=200 http.route=/x network.peer.address=192.0.2.1 " +
			"network.peer.port=1234 network.protocol.version=1.1 server.address=example.com server.port=80 " +
			"url.path=/x url.scheme=http",
		series: "http.request.method=_OTHER http.response.status_code=200 http.route=/x " +
			"network.protocol.version=1.1 url.scheme=http",
	}, {
		name: "own method and host", method: "BREW", target: "/x", pattern: "/x", handler: status(200),
		cfg:  telemetry.Config{Methods: []string{"BREW"}, Hosts: []string{"Example.com"}},
		span: "BREW /x",
		attrs: "client.address=192.0.2.1 http.request.method=BREW http.response.status_code=200 " +
			"http.route=/x network.peer.address=192.0.2.1 network.peer.port=1234 " +
			"network.protocol.version=1.1 server.address=example.com server.port=80 url.path=/x " +
			"url.scheme=http",
		series: "http.request.method=BREW http.response.status_code=200 http.route=/x " +
			"network.protocol.version=1.1 server.address=example.com url.scheme=http",
	}, {
		name: "behind trusted proxies", target: "/x", pattern: "/x", handler: status(200),
		cfg: telemetry.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"),
			netip.MustParsePrefix("10.0.0.0/8")}},
		request: func(r *http.Request) {
			r.Header["X-Forwarded-For"] = []string{"6.6.6.6", "203.0.113.9:4711, 10.1.1.1"}
			r.Header.Set("X-Forwarded-Proto", "https")
		},
		span: "GET /x",
		attrs: "client.address=203.0.113.9 http.request.method=GET http.response.status_code=200 " +
			"http.route=/x network.peer.address=192.0.2.1 network.peer.port=1234 " +
			"network.protocol.version=1.1 server.address=example.com server.port=443 url.path=/x " +
			"url.scheme=https",
		series: "http.request.method=GET http.response.status_code=200 http.route=/x " +
			"network.protocol.version=1.1 url.scheme=https",
	}, {
		name: "forwarding fields of strangers mean nothing", target: "/x", pattern: "/x",
		handler: status(200),
		request: func(r *http.Request) {
			r.Header.Set("X-Forwarded-For", "6.6.6.6")
			r.Header.Set("X-Forwarded-Proto", "https")
		},
		span: "GET /x",
		attrs: "client.address=192.0.2.1 http.request.method=GET http.response.status_code=200 " +
			"http.route=/x network.peer.address=192.0.2.1 network.peer.port=1234 " +
			"network.protocol.version=1.1 server.address=example.com server.port=80 url.path=/x " +
			"url.scheme=http",
		series: "http.request.method=GET http.response.status_code=200 http.route=/x " +
			"network.protocol.version=1.1 url.scheme=http",
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, tt.cfg)
			mux := http.NewServeMux()
			mux.HandleFunc(tt.pattern, tt.handler)
			if tt.method == "" {
				tt.method = http.MethodGet
			}
			r := httptest.NewRequest(tt.method, tt.target, nil)
			if tt.request != nil {
				tt.request(r)
			}
			serve(b.Middleware(mux), r)
			s := b.span(t)
			require.Equal(t, tt.span, s.Name())
			require.Equal(t, tt.attrs, text(s.Attributes()))
			require.Equal(t, trace.SpanKindServer, s.SpanKind())
			require.Equal(t, tt.status, s.Status().Code)
			require.Empty(t, s.Status().Description)
			require.Empty(t, s.Events())
			require.Equal(t, "github.com/trivet-go/trivet/telemetry", s.InstrumentationScope().Name)
			require.Equal(t, "https://opentelemetry.io/schemas/1.43.0", s.InstrumentationScope().SchemaURL)
			require.Equal(t, []string{tt.series + " = 1"}, b.points(t, "http.server.request.duration"))
			require.Len(t, b.metrics(t), 1, "what is in development is off by default")
		})
	}
}

func TestServerInstruments(t *testing.T) {
	b := newBench(t, telemetry.Config{ActiveRequests: true, BodySizes: true})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /x", func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, []string{"http.request.method=POST url.scheme=http = 1"},
			b.points(t, "http.server.active_requests"))
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "four")
	})
	serve(b.Middleware(mux), httptest.NewRequest("POST", "/x", strings.NewReader("sixty")))
	const series = "http.request.method=POST http.response.status_code=200 http.route=/x " +
		"network.protocol.version=1.1 url.scheme=http"
	require.Equal(t, []string{"http.request.method=POST url.scheme=http = 0"},
		b.points(t, "http.server.active_requests"))
	require.Equal(t, []string{series + " = 5"}, b.points(t, "http.server.request.body.size"))
	require.Equal(t, []string{series + " = 4"}, b.points(t, "http.server.response.body.size"))

	m := b.metrics(t)
	h := m["http.server.request.duration"]
	require.Equal(t, "s", h.Unit)
	require.Equal(t, "Duration of HTTP server requests.", h.Description)
	require.Equal(t, []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10},
		h.Data.(metricdata.Histogram[float64]).DataPoints[0].Bounds)
	require.Equal(t, "{request}", m["http.server.active_requests"].Unit)
	require.Equal(t, "By", m["http.server.request.body.size"].Unit)
	require.Len(t, m, 4)
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The client side, likewise. Without a connection there is no network.peer.address:
// TestClientOverNetwork has it.
func TestClientConventions(t *testing.T) {
	answer := func(code int) roundTripFunc {
		return func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody}, nil
		}
	}
	fail := func(err error) roundTripFunc {
		return func(*http.Request) (*http.Response, error) { return nil, err }
	}
	tests := []struct {
		name   string
		cfg    telemetry.Config
		method string
		url    string
		ctx    func(context.Context) context.Context
		next   roundTripFunc
		span   string
		attrs  string
		series string
		status codes.Code
	}{{
		name: "plain", url: "http://api.test/users/7", next: answer(200),
		span: "GET",
		attrs: "http.request.method=GET http.response.status_code=200 network.protocol.version=1.1 " +
			"server.address=api.test server.port=80 url.full=http://api.test/users/7",
		series: "http.request.method=GET http.response.status_code=200 network.protocol.version=1.1 " +
			"server.address=api.test server.port=80 url.scheme=http",
	}, {
		name: "secrets in the URL", url: "https://bob:pw@[2001:db8::1]:8443/x?q=1&sig=abc#frag",
		next: answer(200), cfg: telemetry.Config{Query: []string{"q"}},
		span: "GET",
		attrs: "http.request.method=GET http.response.status_code=200 network.protocol.version=1.1 " +
			"server.address=2001:db8::1 server.port=8443 " +
			"url.full=https://REDACTED:REDACTED@[2001:db8::1]:8443/x?q=1&sig=REDACTED",
		series: "http.request.method=GET http.response.status_code=200 network.protocol.version=1.1 " +
			"server.address=2001:db8::1 server.port=8443 url.scheme=https",
	}, {
		name: "4xx is an error to a client", url: "http://api.test/", next: answer(404),
		span: "GET",
		attrs: "error.type=404 http.request.method=GET http.response.status_code=404 " +
			"network.protocol.version=1.1 server.address=api.test server.port=80 url.full=http://api.test/",
		series: "error.type=404 http.request.method=GET http.response.status_code=404 " +
			"network.protocol.version=1.1 server.address=api.test server.port=80 url.scheme=http",
		status: codes.Error,
	}, {
		name: "resent, with a template, by an unknown method", method: "BREW", url: "http://api.test/users/7",
		next: answer(200),
		cfg:  telemetry.Config{ResendCount: func(context.Context) int { return 2 }},
		ctx: func(ctx context.Context) context.Context {
			return telemetry.WithURLTemplate(ctx,
				"/users/{id}")
		},
		span: "HTTP /users/{id}",
		attrs: "http.request.method=_OTHER http.request.method_original=BREW http.request.resend_count=2 " +
			"http.response.status_code=200 network.protocol.version=1.1 server.address=api.test " +
			"server.port=80 url.full=http://api.test/users/7 url.template=/users/{id}",
		series: "http.request.method=_OTHER http.response.status_code=200 network.protocol.version=1.1 " +
			"server.address=api.test server.port=80 url.scheme=http url.template=/users/{id}",
	}, {
		name: "no address", url: "http://api.test/",
		next: fail(&net.DNSError{Err: "no such host", IsNotFound: true}),
		span: "GET",
		attrs: "error.type=dns http.request.method=GET server.address=api.test server.port=80 " +
			"url.full=http://api.test/",
		series: "error.type=dns http.request.method=GET server.address=api.test server.port=80 " +
			"url.scheme=http",
		status: codes.Error,
	}, {
		name: "refused connection", url: "http://api.test/",
		next: fail(&net.OpError{Op: "dial", Err: errors.New("refused")}),
		span: "GET",
		attrs: "error.type=connect http.request.method=GET server.address=api.test server.port=80 " +
			"url.full=http://api.test/",
		series: "error.type=connect http.request.method=GET server.address=api.test server.port=80 " +
			"url.scheme=http",
		status: codes.Error,
	}, {
		name: "timeout", url: "http://api.test/", next: fail(context.DeadlineExceeded),
		span: "GET",
		attrs: "error.type=timeout http.request.method=GET server.address=api.test server.port=80 " +
			"url.full=http://api.test/",
		series: "error.type=timeout http.request.method=GET server.address=api.test server.port=80 " +
			"url.scheme=http",
		status: codes.Error,
	}, {
		name: "refused by a wrapper", url: "http://api.test/", next: fail(notSent{}),
		span: "GET",
		attrs: "error.type=not_sent http.request.method=GET server.address=api.test server.port=80 " +
			"url.full=http://api.test/",
		series: "error.type=not_sent http.request.method=GET server.address=api.test server.port=80 " +
			"url.scheme=http",
		status: codes.Error,
	}, {
		name: "error of no known kind", url: "http://api.test/", next: fail(errors.New("secret")),
		span: "GET",
		attrs: "error.type=_OTHER http.request.method=GET server.address=api.test server.port=80 " +
			"url.full=http://api.test/",
		series: "error.type=_OTHER http.request.method=GET server.address=api.test server.port=80 " +
			"url.scheme=http",
		status: codes.Error,
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, tt.cfg)
			ctx := context.Background()
			if tt.ctx != nil {
				ctx = tt.ctx(ctx)
			}
			req, err := http.NewRequestWithContext(ctx, tt.method, tt.url, nil)
			require.NoError(t, err)
			var sent http.Header
			resp, err := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
				sent = r.Header
				return tt.next(r)
			})).RoundTrip(req)
			if err == nil {
				resp.Body.Close()
			}
			s := b.span(t)
			require.Equal(t, tt.span, s.Name())
			require.Equal(t, tt.attrs, text(s.Attributes()))
			require.Equal(t, trace.SpanKindClient, s.SpanKind())
			require.Equal(t, tt.status, s.Status().Code)
			require.Equal(t, []string{tt.series + " = 1"}, b.points(t, "http.client.request.duration"))
			require.Len(t, b.metrics(t), 1)
			require.Contains(t, sent.Get("Traceparent"), s.SpanContext().SpanID().String())
			require.Empty(t, req.Header, "the caller's request must not change")
		})
	}
}

type notSent struct{}

func (notSent) Error() string { return "open" }
func (notSent) NotSent() bool { return true }

func TestClientInstruments(t *testing.T) {
	b := newBench(t, telemetry.Config{ActiveRequests: true, BodySizes: true})
	req, err := http.NewRequest("POST", "https://api.test/x", strings.NewReader("sixty"))
	require.NoError(t, err)
	resp, err := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
		require.Equal(t, []string{"http.request.method=POST server.address=api.test server.port=443 " +
			"url.scheme=https = 1"}, b.points(t, "http.client.active_requests"))
		io.Copy(io.Discard, r.Body)
		return &http.Response{StatusCode: 200, ProtoMajor: 2, Body: io.NopCloser(strings.NewReader("four"))},
			nil
	})).RoundTrip(req)
	require.NoError(t, err)
	require.Empty(t, b.spans.Ended(), "a request ends with its body")
	io.Copy(io.Discard, resp.Body)
	b.span(t)
	require.NoError(t, resp.Body.Close())
	const series = "http.request.method=POST http.response.status_code=200 network.protocol.version=2 " +
		"server.address=api.test server.port=443 url.scheme=https"
	require.Equal(t, []string{"http.request.method=POST server.address=api.test server.port=443 " +
		"url.scheme=https = 0"}, b.points(t, "http.client.active_requests"))
	require.Equal(t, []string{series + " = 5"}, b.points(t, "http.client.request.body.size"))
	require.Equal(t, []string{series + " = 4"}, b.points(t, "http.client.response.body.size"))
	require.Equal(t, []string{series + " = 1"}, b.points(t, "http.client.request.duration"))
}

// Redirects are resends, and each hop is a span (conventions, "HTTP request retries and
// redirects").
func TestClientOverNetwork(t *testing.T) {
	protocols(t, func(t *testing.T, h2 bool) {
		b := newBench(t, telemetry.Config{})
		srv := server(t, h2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/a" {
				http.Redirect(w, r, "/b", http.StatusFound)
			}
		}))
		c := srv.Client()
		c.Transport = b.Transport(c.Transport)
		get(t, c, srv.URL+"/a")
		spans := b.spans.Ended()
		require.Len(t, spans, 2)
		proto, scheme := "1.1", "http"
		if h2 {
			proto, scheme = "2", "https"
		}
		host, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
		at := " network.peer.address=" + host + " network.peer.port=" + port + " network.protocol.version=" +
			proto + " server.address=" + host + " server.port=" + port + " url.full=" + scheme + "://" +
			host + ":" + port
		require.Equal(t, "http.request.method=GET http.response.status_code=302"+at+"/a",
			text(spans[0].Attributes()))
		require.Equal(t, "http.request.method=GET http.request.resend_count=1 "+
			"http.response.status_code=200"+at+"/b", text(spans[1].Attributes()))
	})
}
