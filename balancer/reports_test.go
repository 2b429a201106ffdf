//go:build unix

package balancer_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// What users of other proxies ran into. Each test names the report.

// golang/go #81149: ModifyResponse replaces the body and says its length, but not in the field too.
func TestModifyResponseReplacesTheBody(t *testing.T) {
	be := backend.Start(t, serving(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "the old one")
	}))
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	for text, length := range map[string]int64{
		"new": 3, "a body that is longer than the old one": 38, "of unknown length": -1,
	} {
		for _, h2 := range []bool{false, true} {
			f := newFront(t, h2, b, balancer.HandlerConfig{ModifyResponse: func(r *http.Response) error {
				r.Body.Close()
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), length
				return nil
			}}, nil)
			resp, err := f.client.Get(f.URL)
			require.NoError(t, err)
			require.Equal(t, text, readAll(t, resp))
			require.Equal(t, length, resp.ContentLength)
		}
	}
}

// unkeyed/unkey #6091: ModifyResponse wraps every body, also that of a 101, which can then not be
// written to.
func TestModifyResponseWrapsAnUpgrade(t *testing.T) {
	be := backend.Start(t, backend.Config{Handler: websocketEcho(false)})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{ModifyResponse: func(r *http.Response) error {
		r.Body = io.NopCloser(io.TeeReader(r.Body, io.Discard))
		return nil
	}}, nil)
	c, err := net.Dial("tcp", addrOf(f.Server))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	fmt.Fprint(c, askForWebsocket)
	buf := bufio.NewReader(c)
	resp, err := http.ReadResponse(buf, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	fmt.Fprintln(c, "hello")
	line, err := buf.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "echo hello\n", line)
}

// elazarl/goproxy #11, openlitespeed #457: a HEAD loses the length; Docker then uploads all again.
// envoy #16545, #9274: a 304 gets one, or framing, and its server's stray body is taken for a
// response.
func TestResponsesWithoutBodiesKeepTheirLength(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn) {
		buf := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(buf)
			if err != nil {
				return
			}
			answer := "HTTP/1.1 200 OK\r\nContent-Length: 9757\r\n\r\n"
			switch r.URL.Path {
			case "/304":
				answer = "HTTP/1.1 304 Not Modified\r\nEtag: \"1\"\r\n\r\n"
			case "/stray":
				answer = "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nboo!"
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	})
	for _, h2 := range []bool{false, true} {
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
		f := newFront(t, h2, b, balancer.HandlerConfig{}, nil)
		for range 3 {
			resp, err := f.client.Head(f.URL)
			require.NoError(t, err)
			require.EqualValues(t, 9757, resp.ContentLength)
			for _, path := range []string{"/304", "/stray"} {
				resp, err = f.client.Get(f.URL + path)
				require.NoError(t, err)
				require.Equal(t, 304, resp.StatusCode)
				body, _ := io.ReadAll(resp.Body) // net/http misses such a body over HTTP/2
				resp.Body.Close()
				require.Empty(t, body)
				said := resp.Header["Content-Length"] != nil
				require.Equal(t, h2 && path == "/stray", said, "net/http's rule")
				require.Empty(t, resp.TransferEncoding)
			}
		}
	}
}

// yarp #437: the cookies of an HTTP/2 request, each in a field, are joined by commas.
// traefik #2895, #10110: gRPC servers miss "te: trailers". traefik #4181: a gRPC error whose status
// comes in the only HEADERS loses it.
func TestWhatGRPCAndBrowsersSendOverHTTP2(t *testing.T) {
	var got http.Header
	be := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.Header()["Grpc-Status"] = []string{"5"}
		w.Header()["Content-Type"] = []string{"application/grpc"}
	}))
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	h := newFront(t, false, b, balancer.HandlerConfig{}, nil).Config.Handler
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = s.Serve(ln) }()
	defer s.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, fr.WriteSettings())
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range []field{
		{":method", "POST"}, {":path", "/"}, {":scheme", "http"}, {":authority", "a"}, {"te", "trailers"},
		{"cookie", "a=1"}, {"cookie", "b=2"}, {"cookie", "c=3"},
	} {
		require.NoError(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	require.NoError(t, fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true,
	}))
	for {
		f, err := fr.ReadFrame()
		require.NoError(t, err)
		if f, ok := f.(*http2.MetaHeadersFrame); ok {
			require.Equal(t, "200", f.PseudoValue("status"))
			require.Contains(t, f.Fields, hpack.HeaderField{Name: "grpc-status", Value: "5"})
			require.True(t, f.StreamEnded(), "a header alone")
			break
		}
	}
	require.Equal(t, []string{"a=1; b=2; c=3"}, got["Cookie"])
	require.Equal(t, []string{"trailers"}, got["Te"])
}

// caddy #7845: the part of a broken response that has come is lost.
func TestTheBeginningOfABrokenResponseArrives(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nhalf of it")
	})
	for _, h2 := range []bool{false, true} {
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
		f := newFront(t, h2, b, balancer.HandlerConfig{}, nil)
		for range 20 {
			resp, err := f.client.Get(f.URL)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			require.Error(t, err)
			require.Equal(t, "half of it", string(body))
			require.Equal(t, 500, resp.StatusCode)
		}
	}
}

// yarp #1113: Max-Forwards, the bound of a loop of proxies, is not counted.
func TestMaxForwards(t *testing.T) {
	p := newTap(t)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(p.addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	for _, tt := range []struct{ method, value, answer, sent string }{
		{"OPTIONS", "0", "204", ""}, {"TRACE", "0", "405", ""},
		{"OPTIONS", "1", "200", "0"}, {"TRACE", "10", "200", "9"}, {"OPTIONS", "00", "204", ""},
		{"GET", "0", "200", "0"}, {"POST", "5", "200", "5"},
		{"OPTIONS", "x", "200", "x"}, {"OPTIONS", "-1", "200", "-1"},
		{"OPTIONS", "18446744073709551615", "200", "18446744073709551614"},
		{"OPTIONS", "99999999999999999999", "200", "99999999999999999999"},
	} {
		got := exchange(t, addrOf(f.Server), fmt.Sprintf(
			"%s / HTTP/1.1\r\nHost: a\r\nMax-Forwards: %s\r\nConnection: close\r\n\r\n", tt.method, tt.value))
		require.Equal(t, tt.answer, got[9:12], "%+v", tt)
		sent, _ := p.take()
		if tt.sent == "" {
			require.Empty(t, sent)
			require.Contains(t, got, "Allow: GET, ")
			continue
		}
		require.Contains(t, sent, "\r\nMax-Forwards: "+tt.sent+"\r\n")
	}
}

// vulcand/oxy #205, #63: a websocket's request has no forwarding fields.
func TestAWebsocketsRequestHasForwardingFields(t *testing.T) {
	var got http.Header
	be := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) { got = r.Header }))
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	ask := strings.Replace(askForWebsocket, "Connection: ", "Connection: close, ", 1)
	_ = exchange(t, addrOf(f.Server), ask)
	require.Equal(t, "websocket", got.Get("Upgrade"))
	require.Equal(t, []string{"127.0.0.1"}, got["X-Forwarded-For"])
	require.Equal(t, []string{"a"}, got["X-Forwarded-Host"])
	require.Equal(t, []string{"http"}, got["X-Forwarded-Proto"])
}
