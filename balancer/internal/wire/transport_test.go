package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// direct returns a Transport to s that is closed with the test.
func direct(t testing.TB, s *rawServer) *Transport {
	w := New(s.base())
	t.Cleanup(w.CloseIdleConnections)
	return w
}

func read(t testing.TB, w *Transport, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := w.RoundTrip(r)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp, string(body)
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, ok("hello"))
	s.set(2, answer{text: "HTTP/1.1 204 No Content\r\n\r\n"})
	s.set(3, answer{text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n" +
		"3\r\nabc\r\n0\r\nT: end\r\n\r\n"})
	for range 3 {
		_, body := read(t, w, s.request(t, "GET", 1, nil))
		require.Equal(t, "hello", body)
		resp, _ := read(t, w, s.request(t, "POST", 2, strings.NewReader("given")))
		require.Equal(t, 204, resp.StatusCode)
		require.Equal(t, "given", s.body(2))
		resp, body = read(t, w, s.request(t, "GET", 3, nil))
		require.Equal(t, "abc", body)
		require.Equal(t, "end", resp.Trailer.Get("T"))
	}
	require.Equal(t, 1, s.conns)
}

// What has arrived since a response is never an answer to the next request.
func TestL18_NobodyGetsWhatCameAfterAResponse(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	const foreign = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"
	for name, first := range map[string]answer{
		"with the response": {text: ok("a").text + foreign},
		"after no body":     {text: "HTTP/1.1 204 No Content\r\n\r\n" + foreign},
		"one byte":          {text: ok("a").text + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(1, first)
			s.set(2, ok("mine"))
			read(t, w, s.request(t, "GET", 1, nil))
			_, body := read(t, w, s.request(t, "POST", 2, strings.NewReader("x")))
			require.Equal(t, "mine", body)
		})
	}
	t.Run("later", func(t *testing.T) {
		s.set(1, ok("a"))
		s.set(2, ok("mine"))
		read(t, w, s.request(t, "GET", 1, nil))
		sent := 0
		s.mu.Lock()
		for conn := range s.open { // earlier ones may be about to be closed
			if _, err := io.WriteString(conn, foreign); err == nil {
				sent++
			}
		}
		s.mu.Unlock()
		require.NotZero(t, sent)
		require.Eventually(t, func() bool {
			c := w.take()
			defer w.keep(c)
			return !c.peek.quiet()
		}, time.Minute, time.Millisecond)
		_, body := read(t, w, s.request(t, "POST", 2, strings.NewReader("x")))
		require.Equal(t, "mine", body)
	})
}

// A server that closes an idle connection fails no request, not even one that may not be repeated.
func TestL14_ClosedIdleConnectionsAreNoticed(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, answer{text: ok("a").text, end: true})
	s.set(2, ok("b"))
	read(t, w, s.request(t, "GET", 1, nil))
	require.Eventually(t, func() bool {
		c := w.take()
		defer w.keep(c)
		return !c.peek.quiet()
	}, time.Minute, time.Millisecond)
	_, body := read(t, w, s.request(t, "POST", 2, strings.NewReader("x")))
	require.Equal(t, "b", body)
	require.Equal(t, 1, s.requests(2))
}

// A connection that ends with a request on it: the request is sent again if it may be.
func TestRequestsAreRepeatedAsNetHTTPDoes(t *testing.T) {
	for _, tt := range []struct {
		method, key string
		body        io.Reader
		again       bool
	}{
		{"GET", "", nil, true}, {"HEAD", "", nil, true}, {"OPTIONS", "", nil, true},
		{"POST", "", strings.NewReader("x"), false}, {"DELETE", "", nil, false},
		{"POST", "k", strings.NewReader("x"), true},
	} {
		t.Run(tt.method+tt.key, func(t *testing.T) {
			s := startRaw(t)
			w := direct(t, s)
			s.set(1, ok("a"))
			s.set(2, answer{end: true}) // whatever comes on this connection is not answered
			read(t, w, s.request(t, "GET", 1, nil))
			r := s.request(t, tt.method, 2, tt.body)
			if tt.key != "" {
				r.Header.Set("Idempotency-Key", tt.key)
			}
			_, err := w.RoundTrip(r) // fails at last: a new connection is not repeated on
			require.ErrorIs(t, err, io.EOF)
			want := 1
			if tt.again {
				want = 2
			}
			require.Equal(t, want, s.requests(2))
			if tt.body != nil {
				require.Equal(t, "x", s.body(2))
			}
		})
	}
}

func TestCancellationAtEveryMoment(t *testing.T) {
	leaves := errors.New("the caller leaves")
	for name, a := range map[string]answer{
		"before the header": {hang: 0},
		"in the header":     {text: "HTTP/1.1 200 OK\r\nA: "},
		"in the body":       {text: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startRaw(t)
			w := direct(t, s)
			s.set(1, a)
			s.set(2, ok("b"))
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				for s.requests(1) == 0 {
					time.Sleep(time.Millisecond)
				}
				if !strings.Contains(name, "body") {
					cancel(leaves)
				}
			}()
			resp, err := w.RoundTrip(s.request(t, "GET", 1, nil).WithContext(ctx))
			if err == nil {
				_, err = io.ReadFull(resp.Body, make([]byte, 3))
				require.NoError(t, err)
				cancel(leaves)
				_, err = resp.Body.Read(make([]byte, 1))
				resp.Body.Close()
			}
			require.ErrorIs(t, err, leaves)
			_, body := read(t, w, s.request(t, "GET", 2, nil))
			require.Equal(t, "b", body)
			cancel(nil)
		})
	}
	s := startRaw(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := direct(t, s).RoundTrip(s.request(t, "GET", 1, nil).WithContext(ctx))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, s.conns)
}

// A context that ends after the response ends nobody else's request.
func TestEndsOfContextsTouchNoOtherRequest(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, answer{text: "HTTP/1.1 204 No Content\r\n\r\n"})
	s.set(2, ok("body"))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 500 {
				ctx, cancel := context.WithCancel(t.Context())
				resp, err := w.RoundTrip(s.request(t, "GET", 1+i%2, nil).WithContext(ctx))
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				cancel()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestTheHeaderHasALimitAndATimeout(t *testing.T) {
	s := startRaw(t)
	base := s.base()
	base.MaxResponseHeaderBytes, base.ResponseHeaderTimeout = 1000, 500*time.Millisecond
	w := New(base)
	t.Cleanup(w.CloseIdleConnections)
	long := strings.Repeat("a", 700)
	s.set(1, answer{text: "HTTP/1.1 200 OK\r\nA: " + long + "\r\nB: " + long + "\r\n\r\n"})
	s.set(2, answer{text: "HTTP/1.1 103 Early Hints\r\nA: " + long + "\r\n\r\n" +
		strings.Replace(ok("b").text, "\r\n\r\n", "\r\nA: "+long+"\r\n\r\n", 1)})
	s.set(3, answer{hang: 2 * time.Second})
	s.set(4, ok(strings.Repeat("b", 100_000)))
	_, err := w.RoundTrip(s.request(t, "GET", 1, nil))
	require.ErrorIs(t, err, errLargeHeader)
	_, err = w.RoundTrip(s.request(t, "GET", 2, nil))
	require.ErrorIs(t, err, errLargeHeader, "informational headers count, too")
	var told int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error { told = code; return nil },
	})
	resp, err := w.RoundTrip(s.request(t, "GET", 2, nil).WithContext(ctx))
	require.NoError(t, err, "unless somebody looks at each")
	resp.Body.Close()
	require.Equal(t, 103, told)

	_, err = w.RoundTrip(s.request(t, "GET", 3, nil))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
	_, body := read(t, w, s.request(t, "GET", 4, nil))
	require.Len(t, body, 100_000, "neither holds for the body")

	// A request that timed out on a connection that had been idle is not sent again.
	s.set(5, answer{hang: 2 * time.Second})
	_, err = w.RoundTrip(s.request(t, "GET", 5, nil))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 1, s.requests(5))
}

func TestIdleConnectionsEnd(t *testing.T) {
	s := startRaw(t)
	base := s.base()
	base.IdleConnTimeout, base.MaxIdleConnsPerHost = 50*time.Millisecond, 2
	w := New(base)
	t.Cleanup(w.CloseIdleConnections)
	s.set(1, ok("a"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			resp, err := w.RoundTrip(s.request(t, "GET", 1, nil))
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
			}
		})
	}
	wg.Wait()
	idle := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.idle)
	}
	require.LessOrEqual(t, idle(), 2)
	require.Eventually(t, func() bool { return idle() == 0 }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.open) == 0
	}, time.Minute, time.Millisecond)

	// What falls idle after CloseIdleConnections is closed, until there is another request.
	resp, err := w.RoundTrip(s.request(t, "GET", 1, nil))
	require.NoError(t, err)
	w.CloseIdleConnections()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.Zero(t, idle())
	read(t, w, s.request(t, "GET", 1, nil))
	require.Equal(t, 1, idle())
}

// What is not simple goes the old way, and what is simple never does.
func TestWhatIsSimple(t *testing.T) {
	body := func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 1 }
	for name, change := range map[string]func(*http.Request){
		"https":        func(r *http.Request) { r.URL.Scheme = "https" },
		"close":        func(r *http.Request) { r.Close = true },
		"connect":      func(r *http.Request) { r.Method = "CONNECT" },
		"method":       func(r *http.Request) { r.Method = "G ET" },
		"upgrade":      func(r *http.Request) { r.Header.Set("Upgrade", "x") },
		"expect":       func(r *http.Request) { r.Header.Set("Expect", "100-continue") },
		"trailer":      func(r *http.Request) { r.Trailer = http.Header{"A": nil} },
		"chunked":      func(r *http.Request) { body(r); r.ContentLength = -1 },
		"stream":       body,
		"large":        func(r *http.Request) { body(r); r.ContentLength = maxBody + 1 },
		"field name":   func(r *http.Request) { r.Header["a b"] = []string{""} },
		"empty name":   func(r *http.Request) { r.Header[""] = []string{""} },
		"field value":  func(r *http.Request) { r.Header.Set("A", "b\nc") },
		"DEL":          func(r *http.Request) { r.Header.Set("A", "\x7f") },
		"no host":      func(r *http.Request) { r.URL.Host = "" },
		"no header":    func(r *http.Request) { r.Header = nil },
		"te":           func(r *http.Request) { r.Header.Set("Te", "trailers") },
		"connection":   func(r *http.Request) { r.Header.Set("Connection", "x") },
		"transfer enc": func(r *http.Request) { r.Header.Set("Transfer-Encoding", "x") },
	} {
		r, err := http.NewRequest("GET", "http://a.test/", nil)
		require.NoError(t, err)
		r.Header.Set("A", "\t ä")
		require.True(t, simple(r))
		change(r)
		require.False(t, simple(r), name)
	}
	for _, b := range []io.Reader{strings.NewReader("x"), http.NoBody, nil} {
		r, err := http.NewRequest("POST", "http://a.test/", b)
		require.NoError(t, err)
		require.True(t, simple(r))
	}
}

// Connections that nobody can look into, as those of tests in memory, are net/http's.
func TestConnectionsInMemoryAreLeftToNetHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialled := 0
		base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			dialled++
			a, b := net.Pipe()
			go func() {
				defer b.Close()
				buf := make([]byte, 1000)
				for {
					if _, err := b.Read(buf); err != nil {
						return
					}
					if _, err := io.WriteString(b, ok("hi").text); err != nil {
						return
					}
				}
			}()
			return a, nil
		}}
		w := New(base)
		defer w.CloseIdleConnections()
		for range 3 {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://a.test/", nil)
			require.NoError(t, err)
			_, body := read(t, w, r)
			require.Equal(t, "hi", body)
		}
		require.True(t, w.off.Load())
		require.Equal(t, 1, dialled)
	})
}

func TestGzipIsAsNetHTTPsIs(t *testing.T) {
	s := startRaw(t)
	base := s.base()
	base.DisableCompression = false
	w := New(base)
	t.Cleanup(w.CloseIdleConnections)
	zipped := zip("a long text")
	s.set(1, answer{text: strings.Replace(ok(zipped).text, "\r\n", "\r\nContent-Encoding: gzip\r\n", 1)})
	for range 2 {
		resp, body := read(t, w, s.request(t, "GET", 1, nil))
		require.Equal(t, "a long text", body)
		require.True(t, resp.Uncompressed)
		require.EqualValues(t, -1, resp.ContentLength)
		require.NotContains(t, resp.Header, "Content-Encoding")
		require.NotContains(t, resp.Header, "Content-Length")
	}
	require.Equal(t, 1, s.conns)
	r := s.request(t, "GET", 1, nil)
	r.Header.Set("Accept-Encoding", "gzip")
	resp, body := read(t, w, r)
	require.Equal(t, zipped, body, "who asks for it gets it")
	require.False(t, resp.Uncompressed)
}

func TestHooksOfTheTrace(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, ok("a"))
	var calls []string
	note := func(s string) { calls = append(calls, s) }
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GetConn: func(addr string) { note("get " + strings.TrimPrefix(addr, s.addr)) },
		GotConn: func(i httptrace.GotConnInfo) {
			note(map[bool]string{true: "reused", false: "new"}[i.Reused])
		},
		WroteHeaders:         func() { note("headers") },
		WroteRequest:         func(httptrace.WroteRequestInfo) { note("request") },
		GotFirstResponseByte: func() { note("first byte") },
		PutIdleConn:          func(err error) { note("idle") },
		ConnectDone:          func(_, _ string, _ error) { note("connected") },
	})
	for range 2 {
		read(t, w, s.request(t, "GET", 1, nil).WithContext(ctx))
	}
	require.Equal(t, []string{
		"get ", "connected", "new", "headers", "request", "first byte", "idle",
		"get ", "reused", "headers", "request", "first byte", "idle",
	}, calls)
}

// A body that is closed during a read fails that read and closes the connection.
func TestABodyIsClosedDuringARead(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, answer{text: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"})
	resp, err := w.RoundTrip(s.request(t, "GET", 1, nil))
	require.NoError(t, err)
	_, err = io.ReadFull(resp.Body, make([]byte, 3))
	require.NoError(t, err)
	failed := make(chan error)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		failed <- err
	}()
	require.NoError(t, resp.Body.Close())
	require.ErrorIs(t, <-failed, errClosed)
	_, err = resp.Body.Read(make([]byte, 1))
	require.ErrorIs(t, err, errClosed)
}

// A hook may close the body at whose end it is called.
func TestHooksMayCloseTheBody(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, ok("a"))
	var resp *http.Response
	idle := false
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{PutIdleConn: func(error) {
		idle = true
		resp.Body.Close()
	}})
	resp, err := w.RoundTrip(s.request(t, "GET", 1, nil).WithContext(ctx))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.True(t, idle)
	read(t, w, s.request(t, "GET", 1, nil))
	require.Equal(t, 1, s.conns)
}
