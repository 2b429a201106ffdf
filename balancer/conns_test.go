package balancer_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// A connCounter counts the connections that it passes on.
type connCounter struct {
	addr string
	mu   sync.Mutex // guards n
	n    int
}

func countConns(t *testing.T, target string) *connCounter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &connCounter{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			down, err := ln.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.n++
			c.mu.Unlock()
			wg.Go(func() {
				defer down.Close()
				up, err := net.DialTimeout("tcp", target, 5*time.Second)
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(up, down)
					up.Close()
				}()
				_, _ = io.Copy(down, up)
			})
		}
	})
	return c
}

func (c *connCounter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// An HTTP/2 transport that was set up elsewhere has one pool of connections, by the URL's endpoint:
// endpoints would get each other's requests.
func TestTemplatesDoNotShareConnections(t *testing.T) {
	var addrs []string
	for range 2 {
		addrs = append(addrs, backend.Start(t, backend.Config{Protocol: backend.HTTP2}).Addr)
	}
	roots := backend.Transport(backend.HTTP2).TLSClientConfig
	used := &http.Transport{TLSClientConfig: roots.Clone(), ForceAttemptHTTP2: true}
	template := &http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{
		"h2": func(string, *tls.Conn) http.RoundTripper { return nil },
	}}
	_, err := balancer.New(balancer.Config{Resolver: balancer.Static(addrs...), Transport: template})
	require.ErrorContains(t, err, "Config.Transport: TLSNextProto")

	resp, err := (&http.Client{Transport: used}).Get("https://" + addrs[0])
	require.NoError(t, err)
	readAll(t, resp)
	used.CloseIdleConnections()
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(addrs...), Transport: used, Policy: balancer.RoundRobin(),
	})
	for range 4 {
		var pick balancer.Event
		req, err := http.NewRequestWithContext(
			withPick(t.Context(), &pick),
			http.MethodGet,
			"https://users.test/",
			nil,
		)
		require.NoError(t, err)
		var at string
		req = req.WithContext(
			httptrace.WithClientTrace(
				req.Context(),
				&httptrace.ClientTrace{
					GotConn: func(c httptrace.GotConnInfo) { at = c.Conn.RemoteAddr().String() },
				},
			),
		)
		resp, err := b.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, 2, resp.ProtoMajor)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, pick.Endpoint.Addr, at)
	}
}

// A server without TLS, or with a certificate of another name, has not seen the request.
func TestFailedHandshakesAreNotSent(t *testing.T) {
	for name, err := range map[string]error{
		"no connection": errors.New("http2: client conn could not be established"),
		"certificate":   &tls.CertificateVerificationError{Err: errors.New("expired")},
		"not TLS": tls.RecordHeaderError{
			Msg:  "first record does not look like a TLS handshake",
			Conn: new(net.TCPConn),
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("bad:1", "good:1"), Policy: first{}, SlowStart: -1,
				Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
					if e.Addr == "bad:1" {
						return nil, err
					}
					return answer(200), nil
				}).wrap,
			})
			status, err := get(t.Context(), b)
			require.NoError(t, err)
			require.Equal(t, 200, status)
			require.Equal(t, uint64(1), b.Stats().EndpointFailures["bad:1"])
		})
	}
}

// A malformed TLS record may also come after the request. The server that sent it may have acted on
// what it read.
func TestTLSBrokenAfterTheRequestIsNotSentAgain(t *testing.T) {
	ts := httptest.NewTLSServer(http.NotFoundHandler())
	defer ts.Close()
	var requests atomic.Int32
	var addrs []string
	for range 2 {
		addrs = append(addrs, serveRaw(t, func(c net.Conn) {
			s := tls.Server(c, ts.TLS.Clone())
			req, err := http.ReadRequest(bufio.NewReader(s))
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err == nil {
				requests.Add(1)
			}
			_, _ = io.WriteString(c, "HTTP/1.1 500 of the process without TLS\r\n\r\n")
			_, _ = io.Copy(io.Discard, c) // a reset might overtake it
		}))
	}
	template := ts.Client().Transport.(*http.Transport).Clone()
	template.Protocols = new(http.Protocols)
	template.Protocols.SetHTTP1(true)
	template.TLSNextProto = nil
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addrs...), Transport: template})
	req, err := http.NewRequestWithContext(
		t.Context(),
		http.MethodPost,
		"https://example.com/",
		strings.NewReader("once"),
	)
	require.NoError(t, err)
	_, err = b.RoundTrip(req)
	var record tls.RecordHeaderError
	require.ErrorAs(t, err, &record)
	require.EqualValues(t, 1, requests.Load())
}

// rather picks the endpoint with its address while it may.
type rather string

func (p rather) Pick(v *balancer.View, r *http.Request) int {
	for i := range v.Len() {
		if v.Endpoint(i).Addr == string(p) && !v.Avoided(i) {
			return i
		}
	}
	return first{}.Pick(v, r)
}

// A server that accepts connections and then says nothing, as one with hung processes does, has not
// seen the request either.
func TestHandshakesThatHangAreNotSent(t *testing.T) {
	hanging := serveRaw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	good := backend.Start(t, backend.Config{Name: "good", Protocol: backend.HTTP2})
	template := backend.Transport(backend.HTTP2).Clone()
	template.TLSHandshakeTimeout = 100 * time.Millisecond
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(hanging, good.Addr), Policy: rather(hanging), Transport: template,
		Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
			if e.Addr == good.Addr { // only the other one's handshake may be late
				return backend.Transport(backend.HTTP2)
			}
			return next
		},
	})
	req, err := http.NewRequestWithContext(
		t.Context(),
		http.MethodPost,
		"https://"+good.Addr+"/",
		io.NopCloser(strings.NewReader("once")),
	)
	require.NoError(t, err)
	resp, err := b.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, "good\n", readAll(t, resp))
	require.Equal(t, uint64(1), b.Stats().EndpointFailures[hanging])
}

// A check that is cut off must not break a request: they share no connection.
func TestChecksAndRequestsShareNoConnection(t *testing.T) {
	for _, proto := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		t.Run("protocol="+string(proto), func(t *testing.T) {
			var mu sync.Mutex // guards the field below
			paths := map[string]map[string]bool{}
			be := backend.Start(t, backend.Config{Protocol: proto, Handler: http.HandlerFunc(
				func(_ http.ResponseWriter, r *http.Request) {
					mu.Lock()
					defer mu.Unlock()
					if paths[r.RemoteAddr] == nil {
						paths[r.RemoteAddr] = map[string]bool{}
					}
					paths[r.RemoteAddr][r.URL.Path] = true
				})})
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static(be.Addr), Transport: backend.Transport(proto),
				Health: balancer.HealthConfig{Path: "/check", Interval: time.Millisecond},
			})
			checked := func() bool {
				mu.Lock()
				defer mu.Unlock()
				for _, p := range paths {
					if p["/check"] {
						return true
					}
				}
				return false
			}
			for n := 0; n < 50 || !checked(); n++ {
				req, err := http.NewRequest(http.MethodGet, be.URL.Scheme+"://users.test/", nil)
				require.NoError(t, err)
				resp, err := b.RoundTrip(req)
				require.NoError(t, err)
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			for addr, p := range paths {
				require.Len(t, p, 1, "%s", addr)
			}
		})
	}
}
