//go:build unix

package balancer_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// A field of an HTTP/2 header block, as it goes over the wire.
type field [2]string

// askH2 sends one request over HTTP/2 in clear and returns the status of its answer: "closed" if
// the connection ends, "reset" if the stream does.
func askH2(t require.TestingT, addr string, fields []field, body string, end bool) (status string) {
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	fr := http2.NewFramer(c, c)
	fr.AllowIllegalWrites = true
	require.NoError(t, fr.WriteSettings())
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range fields {
		require.NoError(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end,
	})
	if !end {
		_ = fr.WriteData(1, true, []byte(body))
	}
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			status = f.Value
		}
	})
	for {
		frame, err := fr.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			if _, err := dec.Write(frame.HeaderBlockFragment()); err != nil {
				return "closed"
			}
			return status
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "closed"
		}
	}
}

func TestL48_HTTP2IsCheckedAsHTTP1Is(t *testing.T) {
	var got *http.Request
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("a:1"),
		Wrap: upstream(func(_ balancer.Endpoint, r *http.Request) (*http.Response, error) {
			got = r
			if r.Body != nil {
				_, _ = io.Copy(io.Discard, r.Body)
			}
			return answer(200), nil
		}).wrap,
	})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app.test"}, balancer.HandlerConfig{})
	require.NoError(t, err)
	be := backend.Start(t, backend.Config{Protocol: backend.H2C, Handler: h})
	ask := func(method, authority string, body string, end bool, more ...field) string {
		got = nil
		fields := []field{{":method", method}, {":path", "/"}, {":scheme", "http"}}
		if authority != "-" {
			fields = append(fields, field{":authority", authority})
		}
		return askH2(t, be.Addr, append(fields, more...), body, end)
	}
	for _, host := range []string{
		"a", "a.example:80", "a.example:", "[::1]", "[::1]:80", "127.0.0.1:8080", "A.Example.", "a_b", "a%41",
		"xn--bcher-kva.example",
	} {
		require.Equal(t, "200", ask("GET", host, "", true), host)
		require.Equal(t, host, got.Host, "as it came")
		require.Equal(t, []string{host}, got.Header["X-Forwarded-Host"])
	}
	require.Equal(t, "200", ask("GET", "-", "", true))
	require.Empty(t, got.Host, "the target's is sent")
	require.Empty(t, got.Header["X-Forwarded-Host"])
	for _, host := range []string{
		"api.example.com/x", "a b", " a", "a ", "b\u00fccher.example", "a\x00", "a\r\nX: y", "u@a", "a:b",
		"a:80:90",
		":80", "[::1", "[::1]x", "::1", "[fe80::1%25eth0]", "[1.2.3.4]", "a?b", "a#b", `a\b`, "a:123456",
		"http://a",
		"a\"", "a<b>", "a:+80",
	} {
		status := ask("GET", host, "", true)
		require.Contains(t, []string{"400", "reset", "closed"}, status, "%q", host)
		require.Nil(t, got, "%q", host)
	}
	for _, method := range []string{"G ET", "GET\t", "G(T", "GÉT", "GET /x HTTP/1.1\r\nX: "} {
		status := ask(method, "a", "", true)
		require.Contains(t, []string{"400", "reset", "closed"}, status, "%q", method)
		require.Nil(t, got, "%q", method)
	}
	require.Equal(t, "200", ask("QUERY-1", "a", "", true), "any token will do")
	for _, tt := range []struct {
		lengths []string
		body    string
		end     bool
		want    string
	}{
		{[]string{"5"}, "hello", false, "200"}, {[]string{"5", "5"}, "hello", false, "200"},
		{[]string{"0"}, "", true, "200"}, {nil, "hello", false, "200"},
		{[]string{"x"}, "hello", false, "400"}, {[]string{"+5"}, "hello", false, "400"},
		{[]string{"-5"}, "hello", false, "400"}, {[]string{""}, "hello", false, "400"},
		{[]string{"5", "6"}, "hello", false, "400"}, {[]string{"5, 5"}, "hello", false, "400"},
		{[]string{"0x5"}, "hello", false, "400"}, {[]string{"99999999999999999999"}, "hello", false, "400"},
		{[]string{"5"}, "", true, "400"}, {[]string{"x"}, "", true, "400"},
	} {
		var fields []field
		for _, n := range tt.lengths {
			fields = append(fields, field{"content-length", n})
		}
		status := ask("POST", "a", tt.body, tt.end, fields...)
		if tt.want == "200" {
			require.Equal(t, "200", status, "%q", tt)
			require.NotNil(t, got)
			continue
		}
		require.Contains(t, []string{"400", "reset"}, status, "%q", tt)
		require.Nil(t, got, "%q: the upstream gets no request", tt)
	}
	// The same over HTTP/1.1, as far as net/http leaves it to us.
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	for _, host := range []string{"u@a", "a:b", "[::1", "a%41", "a."} {
		got = nil
		want := "^HTTP/1.1 400 "
		if host == "a%41" || host == "a." {
			want = "^HTTP/1.1 200 "
		}
		require.Regexp(t, want, exchange(t, f.Listener.Addr().String(),
			"GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"), host)
	}
}

func TestL49_ClientsFaultsAreTheirs(t *testing.T) {
	be := backend.Start(t, backend.Config{Protocol: backend.H2C, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) },
	)})
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(be.Addr), Transport: backend.Transport(backend.H2C),
	})
	f := newFront(t, false, b, balancer.HandlerConfig{
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			status, _ := balancer.ErrorStatus(err)
			w.WriteHeader(status)
		},
	}, nil)
	s := httptest.NewUnstartedServer(f.Config.Handler)
	s.Config.MaxHeaderBytes = 4 << 20
	s.Start()
	defer s.Close()
	_, err := f.client.Get(f.URL) // the server's limit is known when its settings have come
	require.NoError(t, err)
	for name, tt := range map[string]struct{ raw, want string }{
		"a header that no server takes": {
			"GET / HTTP/1.1\r\nHost: a\r\nX-Large: " + strings.Repeat("x", 1_100_000) + "\r\n\r\n", "431"},
		"a broken body": {
			"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", "400"},
		"dots":  {"GET /%2e%2e/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		"query": {"GET /?a;b HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Regexp(t, "^HTTP/1.1 "+tt.want+" ", exchange(t, addrOf(s), tt.raw))
		})
	}
	require.Zero(t, b.Stats().Failures, "clients cannot have endpoints blamed")
}

// net/http drops a Transfer-Encoding from an HTTP/1.0 request. Where the next one begins is not
// known then.
func TestL48_ConnectionsEndAfterHTTP10RequestsWithBodies(t *testing.T) {
	p := newTap(t)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(p.addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	const alive = " / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n"
	for raw, closed := range map[string]bool{
		"GET" + alive + "\r\n":                                            false,
		"HEAD" + alive + "\r\n":                                           false,
		"POST" + alive + "Content-Length: 2\r\n\r\nhi":                    true,
		"GET" + alive + "Content-Length: 2\r\n\r\nhi":                     true,
		"POST" + alive + "Transfer-Encoding: chunked\r\n\r\n":             true,
		"PUT /%2e%2e" + alive[2:] + "Content-Length: 2\r\n\r\nhi":         true,
		"CONNECT a:80" + alive[2:] + "Transfer-Encoding: chunked\r\n\r\n": true,
	} {
		c, err := net.Dial("tcp", f.Listener.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, raw+"GET /second HTTP/1.0\r\nHost: a\r\n\r\n")
		require.NoError(t, err)
		all, err := io.ReadAll(c)
		require.NoError(t, err)
		want := 2
		if closed {
			want = 1
		}
		require.Equal(t, want, strings.Count(string(all), "HTTP/1.0 "), "%q: %q", raw, all)
	}
}

// Nothing is made up, on either side.
func TestL41_NoContentTypeIsMadeUp(t *testing.T) {
	body := "<html><script>alert(1)</script>" + strings.Repeat("x", 100_000)
	for _, framing := range []string{fmt.Sprintf("Content-Length: %d\r\n", len(body)), ""} {
		addr := serveRaw(t, func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				return
			}
			_, _ = io.WriteString(c,
				"HTTP/1.1 200 OK\r\nX-Content-Type-Options: nosniff\r\n"+framing+"\r\n"+body)
		})
		for _, h2 := range []bool{false, true} {
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
			f := newFront(t, h2, b, balancer.HandlerConfig{}, nil)
			for range 20 {
				resp, err := f.client.Get(f.URL)
				require.NoError(t, err)
				require.Equal(t, body, readAll(t, resp))
				require.NotContains(t, resp.Header, "Content-Type")
				require.NotContains(t, resp.Header, "Server")
			}
		}
	}
	t.Run("what handlers around have set is set", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1"), Wrap: upstream(
			func(balancer.Endpoint, *http.Request) (*http.Response, error) {
				resp := answer(200)
				resp.Header.Set("Location", "/server")
				return resp, nil
			}).wrap})
		h, err := b.Handler(&url.URL{Scheme: "http", Host: "x"}, balancer.HandlerConfig{})
		require.NoError(t, err)
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Location", "/outer")
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, []string{"text/plain"}, w.Header()["Content-Type"])
		require.Equal(t, []string{"/server"}, w.Header()["Location"], "of two the server's counts")
	})
}

// Over HTTP/2, what may not stand in an HTTP/1.1 request line (RFC 9112, section 3.2) may stand in
// a query.
func TestL48_QueriesThatWouldEndTheRequestLine(t *testing.T) {
	up := newTap(t)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(up.addr)})
	for _, lenient := range []bool{false, true} {
		h, err := b.Handler(
			&url.URL{Scheme: "http", Host: "app.test"}, balancer.HandlerConfig{LenientQuery: lenient},
		)
		require.NoError(t, err)
		be := backend.Start(t, backend.Config{Protocol: backend.H2C, Handler: h})
		ask := func(path string) string {
			return askH2(t, be.Addr, []field{
				{":method", "GET"}, {":path", path}, {":scheme", "http"}, {":authority", "a"},
			}, "", true)
		}
		for _, query := range []string{"x HTTP/1.0", " ", "x#y", "#", "a=\tb", "a\x7f", "a\r\nb: c"} {
			status := ask("/a?" + query)
			require.Contains(t, []string{"400", "reset", "closed"}, status, "%q", query)
			raw, _ := up.take()
			require.Empty(t, raw, "%q", query)
		}
		require.Equal(t, "200", ask("/a b?x=y"))
		_, seen := up.take()
		require.Equal(t, []string{"GET /a%20b?x=y "}, seen)
	}
}
