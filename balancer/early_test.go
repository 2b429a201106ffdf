//go:build unix

package balancer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// flushDelay is how long Handler keeps a header back for its body.
const flushDelay = 2 * time.Millisecond

// uploadTo sends a request with a body of size to addr, whatever is answered meanwhile, and then
// reads the answer. The head ends with an empty line.
func uploadTo(t *testing.T, addr, head string, size int) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(c, head)
	require.NoError(t, err)
	piece := make([]byte, 64<<10)
	for sent := 0; sent < size; sent += len(piece) {
		if _, err := c.Write(piece[:min(len(piece), size-sent)]); err != nil {
			return "reset: " + err.Error()
		}
	}
	all, err := io.ReadAll(c)
	if err != nil {
		return "reset: " + err.Error()
	}
	return string(all)
}

func TestL36_AnswersBeforeTheUploadHasEndedArrive(t *testing.T) {
	const size = 12 << 20 // more than sockets hold
	refuse := func(framing, body string) string {
		return serveRaw(t, func(c net.Conn) {
			buf := bufio.NewReader(c)
			if _, err := http.ReadRequest(buf); err != nil {
				return
			}
			_, _ = io.WriteString(c,
				"HTTP/1.1 413 Content Too Large\r\n"+framing+"Connection: close\r\n\r\n"+body)
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, buf)
		})
	}
	addrs := map[string]string{
		"length":    refuse("Content-Length: 5\r\n", "large"),
		"chunked":   refuse("Transfer-Encoding: chunked\r\n", "5\r\nlarge\r\n0\r\n\r\n"),
		"no body":   refuse("Content-Length: 0\r\n", ""),
		"until end": refuse("", "large"),
		"down":      "127.0.0.1:1",
	}
	for name, addr := range addrs {
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr), SlowStart: -1})
		f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
		limit := newFront(t, false, b, balancer.HandlerConfig{}, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				// Given w itself, it would set fields of w when the limit is hit, on a goroutine
				// of the transport, while an early answer is written.
				r.Body = http.MaxBytesReader(struct{ http.ResponseWriter }{w}, r.Body, 1<<20)
				next.ServeHTTP(w, r)
			})
		})
		want := "413 "
		if name == "down" {
			want = "503 "
		}
		for _, front := range []*front{f, limit} {
			for _, head := range []string{
				"POST / HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
				"POST / HTTP/1.0\r\n", "POST /%2e%2e HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
			} {
				got := uploadTo(t, front.Listener.Addr().String(),
					head+fmt.Sprintf("Content-Length: %d\r\n\r\n", size), size)
				require.Regexp(t, `^HTTP/1\.[01] (400|`+want+`)`, got, "%s: %q", name, head)
				if strings.HasPrefix(got[9:], "413") && name != "no body" && front == f {
					require.Contains(t, got, "large", "%s: %q", name, head)
				}
				require.NotContains(t, got[1:], "HTTP/1.", "one answer")
			}
		}
	}
	t.Run("of a handler in front", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			balancer.Refuse(w, r, func(w http.ResponseWriter) {
				http.Error(w, "no",
					http.StatusUnauthorized)
			})
		}))
		defer s.Close()
		for _, field := range []string{"", "Connection: close\r\n"} {
			got := uploadTo(t, addrOf(s), "POST / HTTP/1.1\r\nHost: a\r\n"+field+
				fmt.Sprintf("Content-Length: %d\r\n\r\n", size), size)
			require.Contains(t, got, "HTTP/1.1 401 ")
			require.Contains(t, got, "\r\nContent-Length: 3\r\n")
		}
	})
	t.Run("of a server, broken off by the upload's end", func(t *testing.T) {
		// A transport closes the connection when it cannot read the body, also under an answer.
		tr := roundTripper(func(r *http.Request) (*http.Response, error) {
			_, err := io.Copy(io.Discard, r.Body)
			return &http.Response{
				StatusCode: http.StatusTeapot, Header: http.Header{"X-Server": {"1"}}, Request: r,
				Body:          io.NopCloser(io.MultiReader(strings.NewReader("par"), iotest.ErrReader(err))),
				ContentLength: -1,
			}, nil
		})
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static("127.0.0.1:1")})
		f := newFront(t, false, b, balancer.HandlerConfig{
			Transport: func(http.RoundTripper) http.RoundTripper { return tr },
		}, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Ours", "1")
				r.Body = http.MaxBytesReader(struct{ http.ResponseWriter }{w}, r.Body, 1<<20)
				next.ServeHTTP(w, r)
			})
		})
		got := uploadTo(t, f.Listener.Addr().String(),
			fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size), size)
		require.Contains(t, got, "HTTP/1.1 413 ")
		require.Contains(t, got, "\r\nX-Ours: 1\r\n")
		require.NotContains(t, got, "X-Server")
		require.NotContains(t, got, "par")
	})
	t.Run("a small body costs no connection", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static("127.0.0.1:1"), SlowStart: -1})
		f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
		c, err := net.Dial("tcp", f.Listener.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		buf := bufio.NewReader(c)
		for range 3 {
			_, err = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
			require.NoError(t, err)
			resp, err := http.ReadResponse(buf, nil)
			require.NoError(t, err)
			require.Equal(t, 503, resp.StatusCode)
			require.False(t, resp.Close)
			_, _ = io.Copy(io.Discard, resp.Body)
		}
	})
}

// A server answers 200 and reads on. Both directions go on, over HTTP/1.1 too.
func TestL45_BothDirectionsStream(t *testing.T) {
	overProtocols(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			_, _ = io.WriteString(w, "heard "+line)
			_ = rc.Flush()
			if err != nil {
				return
			}
		}
	}), func(t *testing.T, f *front) {
		body, say := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL, body)
		require.NoError(t, err)
		go func() { _, _ = io.WriteString(say, "0\n") }()
		resp, err := f.client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for i := range 20 {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("heard %d\n", i), line)
			_, err = fmt.Fprintf(say, "%d\n", i+1)
			require.NoError(t, err)
		}
		require.NoError(t, say.Close())
		rest, err := io.ReadAll(lines)
		require.NoError(t, err)
		require.Equal(t, "heard 20\nheard ", string(rest))
	})
}

func TestL37_WhoIsRefusedIsNotInvited(t *testing.T) {
	server := func(first string) string {
		return serveRaw(t, func(c net.Conn) {
			buf := bufio.NewReader(c)
			for {
				r, err := http.ReadRequest(buf)
				if err != nil {
					return
				}
				if first != "" {
					_, _ = io.WriteString(c, first)
				}
				if strings.Contains(first, " 100 ") {
					body, _ := io.ReadAll(r.Body)
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
					continue
				}
				_, _ = io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return
				}
			}
		})
	}
	const head = "PUT /f HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
	for _, wait := range []time.Duration{0, time.Second} { // the transport's own patience
		tr := backend.Transport(backend.HTTP1)
		tr.ExpectContinueTimeout = wait
		slow := balancer.HandlerConfig{ModifyResponse: func(*http.Response) error {
			<-time.After(time.Millisecond) // in which the transport would read the body
			return nil
		}}
		first := func(c net.Conn) string {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
			_, err := io.WriteString(c, head)
			require.NoError(t, err)
			line := make([]byte, len("HTTP/1.1 401"))
			_, err = io.ReadFull(c, line)
			require.NoError(t, err)
			return string(line)
		}
		for name, addr := range map[string]string{
			"at once": server(""), "after hints": server("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
		} {
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr), Transport: tr})
			f := newFront(t, false, b, slow, nil)
			for range 10 {
				c, err := net.Dial("tcp", f.Listener.Addr().String())
				require.NoError(t, err)
				got := first(c)
				rest, err := io.ReadAll(c) // the connection is closed behind the answer
				require.NoError(t, err)
				c.Close()
				require.NotContains(t, got+string(rest), "HTTP/1.1 100", name)
				require.Contains(t, got+string(rest), "HTTP/1.1 401", name)
				require.Contains(t, string(rest), "\r\n\r\nno", name)
			}
		}
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(server("HTTP/1.1 100 Continue\r\n\r\n")), Transport: tr,
		})
		f := newFront(t, false, b, slow, nil)
		c, err := net.Dial("tcp", f.Listener.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		require.Equal(t, "HTTP/1.1 100", first(c), "whoever is not refused is invited")
		_, err = io.WriteString(c, "0123456789")
		require.NoError(t, err)
		buf := bufio.NewReader(io.MultiReader(strings.NewReader("HTTP/1.1 100"), c))
		resp, err := http.ReadResponse(buf, nil)
		require.NoError(t, err)
		require.Equal(t, 100, resp.StatusCode)
		resp, err = http.ReadResponse(buf, nil)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode, "once")
		require.Equal(t, "0123456789", readAll(t, resp))
	}
	t.Run("nobody answers: 503 and no invitation", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static("127.0.0.1:1")})
		f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
		require.Regexp(t, "^HTTP/1.1 503 ", exchange(t, f.Listener.Addr().String(), head))
	})
}

// A server that says nothing gets the body after a second.
func TestExpectationsDoNotWaitForEver(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		body, _ := io.ReadAll(r.Body) // without a 100, as some servers do
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	req, err := http.NewRequest("PUT", f.URL, strings.NewReader("hello"))
	require.NoError(t, err)
	req.Header.Set("Expect", "100-continue")
	resp, err := f.client.Do(req)
	require.NoError(t, err)
	require.Equal(t, "hello", readAll(t, resp))
}

// A panic, an impossible status or a broken hook between header and body leaves nothing in flight.
func TestL40_BooksBalance(t *testing.T) {
	raw := func(status string) string {
		return serveRaw(t, func(c net.Conn) {
			buf := bufio.NewReader(c)
			for {
				r, err := http.ReadRequest(buf)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Length: 100000\r\n\r\n", status)
				if strings.Contains(status, "Pause") {
					<-time.After(20 * flushDelay) // the header is flushed meanwhile
				}
				_, _ = io.WriteString(c, strings.Repeat("x", 100_000))
			}
		})
	}
	for name, tt := range map[string]struct {
		status   string
		modify   func(*http.Response) error
		wrap     func(http.ResponseWriter) http.ResponseWriter
		want     string
		failures uint64
	}{
		"status 099":            {status: "099 Low", want: "502", failures: 5},
		"status 000":            {status: "000 None", want: "502", failures: 5},
		"ModifyResponse panics": {modify: func(*http.Response) error { panic("a bug") }},
		"ModifyResponse fails": {modify: func(*http.Response) error { return errors.New("no") },
			want: "502"},
		"ModifyResponse makes it impossible": {
			modify: func(r *http.Response) error { r.StatusCode = 42; return nil }},
		"WriteHeader panics": {wrap: func(w http.ResponseWriter) http.ResponseWriter { return noHeader{w} }},
		"Write panics":       {wrap: func(w http.ResponseWriter) http.ResponseWriter { return noWrite{w} }},
		"Flush panics, on the timer's goroutine": {
			status: "200 OK\r\nPause: 1", // see raw
			wrap:   func(w http.ResponseWriter) http.ResponseWriter { return noFlush{w} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.status == "" {
				tt.status = "200 OK"
			}
			b, err := balancer.New(balancer.Config{Resolver: balancer.Static(raw(tt.status)), SlowStart: -1})
			require.NoError(t, err)
			f := newFront(t, false, b, balancer.HandlerConfig{ModifyResponse: tt.modify},
				func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if tt.wrap != nil {
							w = tt.wrap(w)
						}
						next.ServeHTTP(w, r)
					})
				})
			for range 5 {
				got := exchange(t, f.Listener.Addr().String(),
					"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
				if tt.want == "" {
					require.NotRegexp(t, "x$", got, "the client is cut off")
				} else {
					require.Regexp(t, "^HTTP/1.1 "+tt.want, got)
				}
			}
			f.Close()
			require.Zero(t, b.Stats().InFlight)
			require.Equal(t, tt.failures, b.Stats().Failures)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			require.NoError(t, b.Close(ctx))
		})
	}
}

type noHeader struct{ http.ResponseWriter }

func (noHeader) WriteHeader(int) { panic("WriteHeader") }

type noWrite struct{ http.ResponseWriter }

func (noWrite) Write([]byte) (int, error) { panic("Write") }

type noFlush struct{ http.ResponseWriter }

func (noFlush) Flush() { panic("Flush") }

// A refusal that ends with its connection needs the connection until the server closes it. If
// net/http took the rest of a small upload away, the transport would close it before.
func TestL36_ARefusalWithoutALengthIsNotCut(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn) {
		buf := bufio.NewReader(c)
		req, err := http.ReadRequest(buf)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\n\r\n"+strings.Repeat("x", 600))
		_, _ = io.Copy(io.Discard, req.Body)
	})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr), Transport: &http.Transport{}})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	for range 100 {
		resp, err := f.client.Post(f.URL, "text/plain", strings.NewReader(strings.Repeat("y", 3000)))
		require.NoError(t, err)
		require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
		require.Len(t, readAll(t, resp), 600)
	}
}
