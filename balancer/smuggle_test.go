//go:build unix

package balancer_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// A tap is an upstream that keeps every byte that it got.
type tap struct {
	addr string
	mu   sync.Mutex // guards the fields below
	raw  bytes.Buffer
	seen []string // method, target and body of each request, as a server reads them
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.raw.Write(b)
}

func (p *tap) take() (raw string, seen []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	raw, seen = p.raw.String(), p.seen
	p.raw.Reset()
	p.seen = nil
	return raw, seen
}

func newTap(t *testing.T) *tap {
	t.Helper()
	p := &tap{}
	p.addr = serveRaw(t, func(c net.Conn) {
		buf := bufio.NewReader(io.TeeReader(c, p))
		for {
			req, err := http.ReadRequest(buf)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			p.mu.Lock()
			p.seen = append(p.seen, req.Method+" "+req.RequestURI+" "+string(body))
			p.mu.Unlock()
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
		}
	})
	return p
}

// exchange sends raw and returns the first answer, and if the server closes the connection then,
// what follows it.
func exchange(t *testing.T, addr, raw string) string {
	t.Helper()
	return exchangeWithin(t, addr, raw, 20*time.Second)
}

func exchangeWithin(t *testing.T, addr, raw string, d time.Duration) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, raw)
	require.NoError(t, err)
	var answer bytes.Buffer
	require.NoError(t, c.SetReadDeadline(time.Now().Add(d)))
	buf := bufio.NewReader(io.TeeReader(c, &answer))
	resp, err := http.ReadResponse(buf, nil)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	if err != nil || resp.Close {
		_, _ = io.Copy(io.Discard, buf)
	}
	return answer.String()
}

var wellFormed = regexp.MustCompile("^[A-Z]+ [^ \r\n]+ HTTP/1\\.1\r\n" +
	"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\x00]*\r\n)+$")

// requireCanonical checks what went upstream: whoever reads it, and however leniently, reads the
// same.
func requireCanonical(t *testing.T, raw string) {
	t.Helper()
	for raw != "" {
		head, rest, ok := strings.Cut(raw, "\r\n\r\n")
		require.True(t, ok, "%q", raw)
		require.Regexp(t, wellFormed, head+"\r\n")
		lower := strings.ToLower(head)
		lengths := strings.Count(lower, "\r\ncontent-length: ")
		codings := strings.Count(lower, "\r\ntransfer-encoding: ")
		require.LessOrEqual(t, lengths+codings, 1, "one framing: %q", head)
		require.Equal(t, codings, strings.Count(lower+"\r\n", "\r\ntransfer-encoding: chunked\r\n"))
		switch {
		case lengths == 1:
			var n int
			_, err := fmt.Sscanf(lower[strings.Index(lower, "\r\ncontent-length: "):],
				"\r\ncontent-length: %d", &n)
			require.NoError(t, err)
			if n > len(rest) { // the client broke off
				return
			}
			raw = rest[n:]
		case codings == 1:
			end := strings.Index(rest, "0\r\n\r\n")
			if end < 0 {
				return
			}
			raw = rest[end+5:]
		default:
			raw = rest
		}
	}
}

// Framing that two servers could read in two ways is refused, or written anew in the one way there
// is.
func TestL22_AmbiguousFramingReachesNobody(t *testing.T) {
	post := "POST /first HTTP/1.1\r\nHost: a\r\n"
	for name, tt := range map[string]struct {
		raw  string
		want string // the status of the first answer
	}{
		"two lengths":        {post + "Content-Length: 0\r\nContent-Length: 35\r\n\r\n" + smuggled, "400"},
		"two lengths in one": {post + "Content-Length: 0, 36\r\n\r\n" + smuggled, "400"},
		"plus":               {post + "Content-Length: +5\r\n\r\nhello", "400"},
		"minus":              {post + "Content-Length: -5\r\n\r\nhello", "400"},
		"hexadecimal":        {post + "Content-Length: 0x5\r\n\r\nhello", "400"},
		"empty length":       {post + "Content-Length: \r\n\r\n" + smuggled, "400"},
		"huge length":        {post + "Content-Length: 99999999999999999999\r\n\r\nhello", "400"},
		"space in length":    {post + "Content-Length: 1 0\r\n\r\nhello", "400"},
		"space before colon": {post + "Content-Length : 5\r\n\r\nhello", "400"},
		"tab before colon":   {post + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", "400"},
		"folded field": {post +
			"X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello", ""},
		"folded first field": {"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"},
		"unknown coding": {post + "Transfer-Encoding: xchunked\r\nContent-Length: 35\r\n\r\n" +
			smuggled, "501"},
		"coding after chunked": {post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + smuggled,
			"501"},
		"two codings": {post +
			"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "501"},
		"quoted coding": {post + "Transfer-Encoding: \"chunked\"\r\nContent-Length: 35\r\n\r\n" +
			smuggled, "501"},
		"control in coding": {post + "Transfer-Encoding: \x0bchunked\r\nContent-Length: 35\r\n\r\n" +
			smuggled, "400"},
		"coding and length": {post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			""},
		"coding in 1.0": {"POST /first HTTP/1.0\r\nHost: a\r\nContent-Length: 35\r\n" +
			"Transfer-Encoding: chunked\r\n\r\n" + smuggled, ""},
		"bare LF in a chunk": {post + "Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", ""},
		"chunk size overflows": {post +
			"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", "400"},
		"chunk size with 0x": {post + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
			"400"},
		"LF in an extension": {post +
			"Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n4c\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", ""},
		"chunk without end": {post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", "400"},
		"framing in a trailer": {post +
			"Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 35\r\n" +
			"\r\n", ""},
		"no name":         {post + ": x\r\n\r\n", "400"},
		"NUL in a name":   {post + "X\x00Y: x\r\n\r\n", "400"},
		"CR in a value":   {post + "X: a\rTransfer-Encoding: chunked\r\n\r\n", "400"},
		"two hosts":       {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
		"no host":         {"GET / HTTP/1.1\r\n\r\n", "400"},
		"space in target": {"GET /a HTTP/1.1 x HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		"body of a GET": {"GET /first HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n" + smuggled,
			"200"},
		"length named as a hop": {post + "Connection: Content-Length\r\nContent-Length: 35\r\n\r\n" +
			smuggled, "200"},
		"coding named as a hop": {post +
			"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n23\r\n" + smuggled +
			"\r\n0\r\n\r\n", "200"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTap(t)
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(p.addr)})
			var mu sync.Mutex
			var handled []string // what the front has taken for requests
			f := newFront(t, false, b, balancer.HandlerConfig{}, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					handled = append(handled, r.Method+" "+r.RequestURI)
					mu.Unlock()
					next.ServeHTTP(w, r)
				})
			})
			patience := 20 * time.Second
			if tt.want == "" {
				patience = 300 * time.Millisecond // it may wait for a body that does not come
			}
			answer := exchangeWithin(t, f.Listener.Addr().String(), tt.raw, patience)
			require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, time.Minute,
				time.Millisecond)
			raw, seen := p.take()
			mu.Lock()
			got := handled
			mu.Unlock()
			if tt.want != "" {
				require.Regexp(t, `^HTTP/1\.[01] `+tt.want+" ", answer)
			}
			requireCanonical(t, raw)
			require.LessOrEqual(t, len(seen), len(got), "never more requests than the front has seen: %q",
				seen)
			for _, s := range seen {
				require.False(t, strings.Contains(strings.SplitN(s, " ", 3)[1], "smuggled"), "%q", seen)
			}
			// The next one is read as what it is.
			require.Contains(t, exchange(t, f.Listener.Addr().String(),
				"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), "HTTP/1.1 200 ")
			_, seen = p.take()
			require.Contains(t, seen, "GET /next ") // one that broke off may be noted late
			require.NotContains(t, strings.Join(seen, "|"), "GET /smuggled")
		})
	}
}

// The same from HTTP/2, which has other ways to say it.
func TestL22_HTTP2FieldsDoNotBecomeFraming(t *testing.T) {
	p := newTap(t)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(p.addr)})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app.test"}, balancer.HandlerConfig{})
	require.NoError(t, err)
	// As a front: HTTP/2 in clear is easiest to write by hand.
	be := backend.Start(t, backend.Config{Protocol: backend.H2C, Handler: h})
	for name, fields := range map[string][]hpack.HeaderField{
		"transfer-encoding": {{Name: "transfer-encoding", Value: "chunked"}},
		"connection":        {{Name: "connection", Value: "x-own"}},
		"length too short":  {{Name: "content-length", Value: "0"}},
		"two lengths":       {{Name: "content-length", Value: "35"}, {Name: "content-length", Value: "0"}},
		"CRLF in a value":   {{Name: "x-evil", Value: "a\r\ntransfer-encoding: chunked"}},
		"LF in a value":     {{Name: "x-evil", Value: "a\ntransfer-encoding: chunked"}},
		"colon in a name":   {{Name: "x-evil: a\r\ntransfer-encoding", Value: "chunked"}},
		"upper case name":   {{Name: "Content-Length", Value: "0"}},
		"CRLF in :path":     {{Name: ":path", Value: "/ HTTP/1.1\r\nHost: b\r\n\r\nGET /smuggled"}},
		"space in :method":  {{Name: ":method", Value: "GET /smuggled HTTP/1.1\r\nX: "}},
		"CRLF in authority": {{Name: ":authority", Value: "a\r\nX: y"}},
		"none of these":     nil,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", be.Addr)
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
			pseudo := map[string]string{
				":method": "POST", ":path": "/first", ":scheme": "http", ":authority": "a",
			}
			for _, f := range fields {
				if _, ok := pseudo[f.Name]; ok {
					pseudo[f.Name] = f.Value
				}
			}
			for _, name := range []string{":method", ":path", ":scheme", ":authority"} {
				require.NoError(t, enc.WriteField(hpack.HeaderField{Name: name, Value: pseudo[name]}))
			}
			for _, f := range fields {
				if f.Name[0] != ':' {
					require.NoError(t, enc.WriteField(f))
				}
			}
			require.NoError(t, fr.WriteHeaders(http2.HeadersFrameParam{
				StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true,
			}))
			require.NoError(t, fr.WriteData(1, true, []byte(smuggled)))
			status := ""
			dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
				if f.Name == ":status" {
					status = f.Value
				}
			})
		reading:
			for {
				frame, err := fr.ReadFrame()
				if err != nil {
					status = "closed"
					break
				}
				switch frame := frame.(type) {
				case *http2.HeadersFrame:
					_, err := dec.Write(frame.HeaderBlockFragment())
					require.NoError(t, err)
					break reading
				case *http2.RSTStreamFrame, *http2.GoAwayFrame:
					status = "reset"
					break reading
				}
			}
			c.Close()
			require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, time.Minute,
				time.Millisecond)
			raw, seen := p.take()
			requireCanonical(t, raw)
			require.LessOrEqual(t, len(seen), 1)
			if name == "none of these" {
				require.Equal(t, "200", status)
				require.Equal(t, []string{"POST /first " + smuggled}, seen)
				return
			}
			for _, s := range seen {
				require.True(t, strings.HasPrefix(s, "POST /first "), "%q", s)
			}
			if len(seen) == 0 {
				require.NotEqual(t, "200", status)
			}
		})
	}
}

// Whatever gets into a field on either side, no other field, and no other response, comes of it.
func TestL23_NoFieldBecomesTwo(t *testing.T) {
	var mu sync.Mutex
	var value string
	p := newTap(t)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(p.addr)})
	fields := []string{"Location", "Set-Cookie", "X-Request-Id", "Etag"}
	f := newFront(t, false, b, balancer.HandlerConfig{
		Rewrite: func(r *httputil.ProxyRequest) {
			mu.Lock()
			defer mu.Unlock()
			if r.In.URL.Path == "/request" {
				r.Out.Header.Set("X-Request-Id", value)
			}
		},
		ModifyResponse: func(r *http.Response) error {
			mu.Lock()
			defer mu.Unlock()
			if r.Request.URL.Path == "/response" {
				for _, name := range fields {
					r.Header.Set(name, value)
				}
			}
			return nil
		},
	}, nil)
	rapid.Check(t, func(rt *rapid.T) {
		mu.Lock()
		value = strings.Join(rapid.SliceOf(rapid.SampledFrom([]string{
			"a", "\r", "\n", "\r\n", "\r\nInjected: 1", "\nInjected: 1\n",
			"\r\n\r\nHTTP/1.1 200 OK\r\n", "\x00", " ", "é", "\u010d\u010a",
		})).Draw(rt, "parts"), "")
		mu.Unlock()
		answer := exchange(t, f.Listener.Addr().String(),
			"GET /response HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		head, body, _ := strings.Cut(answer, "\r\n\r\n")
		require.Equal(t, "ok", body, "one response")
		lines := strings.FieldsFunc(head, func(r rune) bool { return r == '\r' || r == '\n' })
		for _, line := range lines[1:] {
			name, _, _ := strings.Cut(line, ":")
			require.Contains(t,
				append([]string{"Content-Length", "Content-Type", "Date", "Connection"}, fields...), name)
		}
		p.take()
		_ = exchange(t, f.Listener.Addr().String(),
			"GET /request HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		raw, _ := p.take()
		requireCanonical(t, raw)
		require.NotRegexp(t, `(?m)^Injected`, raw)
	})
}

// What a policy before the upstream has seen of the query is all that gets there.
func TestL24_QueriesAreReadAlike(t *testing.T) {
	p := newTap(t)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(p.addr)})
	var mu sync.Mutex
	var policy url.Values
	f := newFront(t, false, b, balancer.HandlerConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			policy = r.URL.Query()
			mu.Unlock()
			next.ServeHTTP(w, r)
		})
	})
	check := func(t require.TestingT, query string) {
		p.take()
		c, err := net.Dial("tcp", f.Listener.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "GET /?"+query+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		answer, _ := io.ReadAll(c)
		_, seen := p.take()
		if len(seen) == 0 {
			require.Contains(t, string(answer), "HTTP/1.1 400 ", "%q", query)
			return
		}
		_, sent, _ := strings.Cut(strings.Fields(seen[0])[1], "?")
		mu.Lock()
		defer mu.Unlock()
		// A lenient server splits at semicolons too, and takes what cannot be decoded as it is.
		n := 0
		for pair := range strings.FieldsFuncSeq(sent, func(r rune) bool { return r == '&' || r == ';' }) {
			name, _, _ := strings.Cut(pair, "=")
			key, err := url.QueryUnescape(name)
			require.NoError(t, err, "%q became %q", query, sent)
			require.Contains(t, policy, key, "%q became %q", query, sent)
			n++
		}
		all := 0
		for _, v := range policy {
			all += len(v)
		}
		require.Equal(t, all, n, "%q became %q", query, sent)
	}
	for _, query := range []string{"a=1;b=2", "a=1&b=2;c=3", "a=%zz&b=1", "a=%", "%=1&b=1", "a=1&a=2", "a;=1",
		"a=1&%3Bb=2", "=1&b=2",
		strings.Repeat("x=1&", 10_001) + "admin=1"} {
		check(t, query)
	}
	rapid.Check(t, func(rt *rapid.T) {
		parts := []string{"a", "b", "=", "&", ";", "%", "%3B", "%26", "%zz", "+", "1", "%00"}
		check(rt, strings.Join(rapid.SliceOf(rapid.SampledFrom(parts)).Draw(rt, "parts"), ""))
	})
}
