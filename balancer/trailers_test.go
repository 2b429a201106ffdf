//go:build unix

package balancer_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// forbiddenTrailers must not go on in a trailer section, whoever sends them.
var forbiddenTrailers = []string{
	"X-Forwarded-For", "X-Forwarded-Anything", "X_forwarded_for", "X-Real-Ip", "Forwarded",
	"Cf-Connecting-Ip",
	"Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "X-Auth-User", "Www-Authenticate",
	"Proxy-Authorization", "Host", "Content-Length", "Content-Type", "Content-Encoding", "Content-Range",
	"Content_length", "Transfer-Encoding", "Te", "Trailer", "Connection", "Keep-Alive", "Upgrade", "Expect",
	"If-Match", "If-None-Match", "Range", "Max-Forwards", "Cache-Control", "Pragma", "X-Request-Id",
	"X_request_id", "X-Correlation-Id", "Traceparent", "Tracestate", "Baggage", "B3", "X-B3-Traceid", "Date",
	"Location", "Vary", "Via", "X-Http-Method-Override", "Sec-Fetch-Site", "Trivet-Load", "Named", "Said",
}

var allowedTrailers = []string{"Grpc-Status", "Grpc-Message", "Sum", "Server-Timing", "Content-Digest",
	"X-Any"}

// trailersOf sends a request with trailers, and returns what the server gets of them.
func trailersOf(t *testing.T, names []string, announced bool, cfg balancer.HandlerConfig) string {
	t.Helper()
	p := newTap(t)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(p.addr)})
	f := newFront(t, false, b, cfg, nil)
	raw := "POST / HTTP/1.1\r\nHost: a\r\nSaid: header\r\nConnection: close, Named\r\n"
	if announced {
		raw += "Trailer: " + strings.Join(names, ", ") + "\r\n"
	}
	raw += "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"
	for _, name := range names {
		raw += name + ": trailed\r\n"
	}
	_ = exchange(t, f.Listener.Addr().String(), raw+"\r\n")
	sent, _ := p.take()
	return sent
}

func TestL47_TrailersOfRequestsPassTheRulesOfFields(t *testing.T) {
	for name, cfg := range map[string]balancer.HandlerConfig{
		"a stranger's": {},
		"a proxy's": {TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
			Rewrite: func(r *httputil.ProxyRequest) { r.Out.Header.Set("X-Any-Other", "1") }},
	} {
		t.Run(name, func(t *testing.T) {
			for _, field := range forbiddenTrailers {
				// net/http refuses the whole request for some.
				sent := trailersOf(t, []string{"Sum", field}, !slices.Contains(
					[]string{"Content-Length", "Transfer-Encoding", "Trailer"}, field), cfg)
				require.NotContains(t, sent, "\r\n"+field+": trailed", field)
				require.NotContains(t, sent, "Trailer: "+field)
			}
			sent := trailersOf(t, allowedTrailers, true, cfg)
			for _, field := range allowedTrailers {
				require.Contains(t, sent, "\r\n"+field+": trailed\r\n", field)
			}
			require.NotContains(t, trailersOf(t, allowedTrailers, false, cfg), "trailed", "unannounced")
		})
	}
	t.Run("what the header says is said", func(t *testing.T) {
		sent := trailersOf(t, []string{"Sum", "User", "X_Role"}, true, balancer.HandlerConfig{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.Header.Set("User", "anonymous")
				r.Out.Header.Set("X-Role", "none")
			},
		})
		require.Contains(t, sent, "Sum: trailed")
		require.NotContains(t, sent, "User: trailed")
		require.NotContains(t, sent, "X_role: trailed", "in another spelling")
	})
}

func TestL47_TrailersOfResponsesPassTheRulesOfFields(t *testing.T) {
	for _, announced := range []bool{true, false} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("announced=%v/h2=%v", announced, h2), func(t *testing.T) {
				addr := serveRaw(t, func(c net.Conn) {
					if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
						return
					}
					all := append(slices.Clone(allowedTrailers), forbiddenTrailers...)
					head := "HTTP/1.1 200 OK\r\nConnection: Named\r\nTransfer-Encoding: chunked\r\n"
					if announced {
						for _, name := range all {
							if name != "Content-Length" && name != "Transfer-Encoding" && name != "Trailer" {
								head += "Trailer: " + name + "\r\n"
							}
						}
					}
					_, _ = io.WriteString(c, head+"\r\n2\r\nhi\r\n0\r\n")
					for _, name := range all {
						_, _ = io.WriteString(c, name+": trailed\r\n")
					}
					_, _ = io.WriteString(c, "\r\n")
				})
				b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
				f := newFront(t, h2, b, balancer.HandlerConfig{}, nil)
				resp, err := f.client.Get(f.URL)
				require.NoError(t, err)
				require.Equal(t, "hi", readAll(t, resp))
				for _, name := range allowedTrailers {
					require.Equal(t, []string{"trailed"}, resp.Trailer[name], name)
				}
				for name := range resp.Trailer {
					if name != "Said" { // the response has no such field
						require.Contains(t, allowedTrailers, name)
					}
				}
			})
		}
	}
}

// Trailers take a length away from HTTP/1.1 clients only. HTTP/1.0 clients get no trailers, and
// know by the length alone whether they have got everything.
func TestL47_TrailersBesideALength(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
	cfg := balancer.HandlerConfig{Transport: func(http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := answer(200)
			resp.Header = http.Header{"Content-Length": {"2"}}
			resp.ContentLength, resp.Body = 2, io.NopCloser(strings.NewReader("hi"))
			resp.Trailer = http.Header{"Sum": {"42"}}
			return resp, nil
		})
	}}
	f := newFront(t, false, b, cfg, nil)
	got := exchange(t, f.Listener.Addr().String(), "GET / HTTP/1.0\r\nHost: a\r\n\r\n")
	require.Contains(t, got, "\r\nContent-Length: 2\r\n")
	require.NotContains(t, got, "Trailer")
	require.NotContains(t, got, "Sum")
	require.True(t, strings.HasSuffix(got, "\r\n\r\nhi"), got)
	resp, err := f.client.Get(f.URL)
	require.NoError(t, err)
	require.Equal(t, "hi", readAll(t, resp))
	require.Equal(t, http.Header{"Sum": {"42"}}, resp.Trailer)
	require.EqualValues(t, -1, resp.ContentLength)
	f = newFront(t, true, b, cfg, nil)
	resp, err = f.client.Get(f.URL)
	require.NoError(t, err)
	require.Equal(t, "hi", readAll(t, resp))
	require.Equal(t, http.Header{"Sum": {"42"}}, resp.Trailer)
	require.EqualValues(t, 2, resp.ContentLength)
}

// A request with trailers has ended with them: its connection is used again.
func TestL47_ConnectionsOutliveTrailers(t *testing.T) {
	p := newTap(t)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(p.addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	c, err := net.Dial("tcp", addrOf(f.Server))
	require.NoError(t, err)
	defer c.Close()
	buf := bufio.NewReader(c)
	for range 3 {
		_, err = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTrailer: Sum\r\n"+
			"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nSum: 42\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(buf, nil)
		require.NoError(t, err)
		require.False(t, resp.Close)
		readAll(t, resp)
		sent, _ := p.take()
		require.Contains(t, sent, "Sum: 42")
	}
}

// A server announces one trailer and sends two.
func TestL47_TrailersThatWereNotAllAnnounced(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTrailer: Sum\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"2\r\nhi\r\n0\r\nSum: 42\r\nX-Any: 1\r\n\r\n")
	})
	for _, h2 := range []bool{false, true} {
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
		f := newFront(t, h2, b, balancer.HandlerConfig{}, nil)
		resp, err := f.client.Get(f.URL)
		require.NoError(t, err)
		require.Equal(t, "hi", readAll(t, resp))
		require.Equal(t, http.Header{"Sum": {"42"}, "X-Any": {"1"}}, resp.Trailer)
	}
}
