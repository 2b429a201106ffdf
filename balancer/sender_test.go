//go:build unix

package balancer_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// A writesListener returns connections that keep what is written to them, write by write.
type writesListener struct {
	net.Listener
	mu     sync.Mutex // guards the field below
	writes []string
}

func (l *writesListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return writesConn{c, l}, err
}

func (l *writesListener) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.writes
	l.writes = nil
	return taken
}

type writesConn struct {
	net.Conn
	l *writesListener
}

func (c writesConn) Write(p []byte) (int, error) {
	c.l.mu.Lock()
	c.l.writes = append(c.l.writes, string(p))
	c.l.mu.Unlock()
	return c.Conn.Write(p)
}

// slowBody is a body whose pieces come one by one: each after its pause.
type slowBody struct {
	pieces []string
	pause  []time.Duration
	eof    bool // comes with the last piece
}

func (b *slowBody) Read(p []byte) (int, error) {
	if len(b.pieces) == 0 {
		return 0, io.EOF
	}
	if d := b.pause[0]; d > 0 {
		time.Sleep(d) // inside a bubble
	}
	n := copy(p, b.pieces[0])
	b.pieces, b.pause = b.pieces[1:], b.pause[1:]
	if len(b.pieces) == 0 && b.eof {
		return n, io.EOF
	}
	return n, nil
}

func (b *slowBody) Close() error { return nil }

// A logWriter notes what is done to it, and when.
type logWriter struct {
	*httptest.ResponseRecorder
	begun time.Time
	log   []string
}

func (w *logWriter) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%v ", time.Since(w.begun))+fmt.Sprintf(format, args...))
}

func (w *logWriter) WriteHeader(code int) { w.note("header %d", code) }

func (w *logWriter) Write(p []byte) (int, error) {
	w.note("write %s", p)
	return len(p), nil
}

func (w *logWriter) Flush() { w.note("flush") }

// sendTo returns what is done to the ResponseWriter for a response with that body.
func sendTo(t *testing.T, resp *http.Response) []string {
	t.Helper()
	b, err := balancer.New(balancer.Config{Resolver: balancer.Static("a:1"), Wrap: upstream(
		func(balancer.Endpoint, *http.Request) (*http.Response, error) { return resp, nil }).wrap})
	require.NoError(t, err)
	defer b.Close(t.Context())
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "x"}, balancer.HandlerConfig{})
	require.NoError(t, err)
	w := &logWriter{ResponseRecorder: httptest.NewRecorder(), begun: time.Now()}
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return w.log
}

func TestResponsesAreFlushedWhenTheyNeedIt(t *testing.T) {
	const ms = time.Millisecond
	for name, tt := range map[string]struct {
		length int64
		ctype  string
		body   slowBody
		want   []string
	}{
		"a body that is there": {
			length: 5, body: slowBody{pieces: []string{"hello"}, pause: []time.Duration{0}, eof: true},
			want: []string{"0s header 200", "0s write hello"}},
		"a body that is there, its end behind it": {
			length: 5, body: slowBody{pieces: []string{"hello"}, pause: []time.Duration{0}},
			want: []string{"0s header 200", "0s write hello"}},
		"a late body": {
			length: 5, body: slowBody{pieces: []string{"hello"}, pause: []time.Duration{10 * ms}, eof: true},
			want: []string{"0s header 200", "2ms flush", "10ms write hello"}},
		"a body that trickles": {
			length: 3,
			body: slowBody{pieces: []string{"a", "b", "c"}, pause: []time.Duration{0, ms, 10 * ms},
				eof: true},
			want: []string{"0s header 200", "0s write a", "1ms write b", "2ms flush", "11ms write c"}},
		"a body that trickles on": {
			length: 9,
			body: slowBody{pieces: []string{"a", "b", "c", "d"}, pause: []time.Duration{3 * ms, 0,
				3 * ms, 10 * ms}},
			want: []string{"0s header 200", "2ms flush", "3ms write a", "3ms write b", "5ms flush",
				"6ms write c", "8ms flush", "16ms write d"}},
		"of unknown length": {
			length: -1, body: slowBody{pieces: []string{"a", "b"}, pause: []time.Duration{0, 0}},
			want: []string{"0s header 200", "0s write a", "0s flush", "0s write b", "0s flush"}},
		"of unknown length, whole": {
			length: -1, body: slowBody{pieces: []string{"a"}, pause: []time.Duration{0}, eof: true},
			want: []string{"0s header 200", "0s write a"}},
		"of unknown length, late": {
			length: -1, body: slowBody{pieces: []string{"a"}, pause: []time.Duration{5 * ms}},
			want: []string{"0s header 200", "2ms flush", "5ms write a", "5ms flush"}},
		"events": {
			length: 2, ctype: "text/event-stream; charset=utf-8",
			body: slowBody{pieces: []string{"a", "b"}, pause: []time.Duration{0, 0}},
			want: []string{"0s header 200", "0s write a", "0s flush", "0s write b", "0s flush"}},
		"no events": {
			length: 2, ctype: "text/event-streams",
			body: slowBody{pieces: []string{"a", "b"}, pause: []time.Duration{0, 0}},
			want: []string{"0s header 200", "0s write a", "0s write b"}},
		"gRPC": {
			length: 2, ctype: "application/grpc+proto",
			body: slowBody{pieces: []string{"a", "b"}, pause: []time.Duration{0, 0}},
			want: []string{"0s header 200", "0s write a", "0s flush", "0s write b", "0s flush"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := http.Header{}
				if tt.ctype != "" {
					h.Set("Content-Type", tt.ctype)
				}
				body := tt.body
				require.Equal(t, tt.want, sendTo(t, &http.Response{
					StatusCode: 200, Header: h, ContentLength: tt.length, Body: &body,
				}))
			})
		})
	}
}

// An answer of known length leaves together with its header, in one write.
func TestShortAnswersLeaveInOneWrite(t *testing.T) {
	for _, size := range []int{0, 1, 1000, 2048, 3000} {
		for _, framing := range []string{"length", "chunked"} {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if framing == "length" {
					w.Header().Set("Content-Length", fmt.Sprint(size))
				}
				_, _ = io.WriteString(w, strings.Repeat("x", size))
				if framing == "chunked" {
					_ = http.NewResponseController(w).Flush()
				}
			}))
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addrOf(s))})
			h, err := b.Handler(&url.URL{Scheme: "http", Host: "x"}, balancer.HandlerConfig{})
			require.NoError(t, err)
			f := httptest.NewUnstartedServer(h)
			l := &writesListener{Listener: f.Listener}
			f.Listener = l
			f.Start()
			one := 0
			for range 20 { // a busy machine may be late with a body
				resp, err := f.Client().Get(f.URL)
				require.NoError(t, err)
				require.Len(t, readAll(t, resp), size)
				if writes := l.take(); len(writes) == 1 {
					one++
				} else if framing == "length" {
					require.LessOrEqual(t, len(writes), 3, "%q", writes)
				}
			}
			if framing == "length" {
				require.NotZero(t, one, "%d bytes", size)
			}
			f.Close()
			s.Close()
		}
	}
}

// Whoever reads late gets all, in order, and so does whoever shares a buffer with somebody else.
func TestSendersAreUsedAgain(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 50 {
			_, _ = io.WriteString(w, strings.Repeat(r.URL.RawQuery, 1000))
			_ = http.NewResponseController(w).Flush()
		}
	}))
	defer s.Close()
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addrOf(s))})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				resp, err := f.client.Get(fmt.Sprint(f.URL, "/?", i))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(bufio.NewReader(resp.Body))
				resp.Body.Close()
				if err != nil || string(body) != strings.Repeat(fmt.Sprint(i), 50_000) {
					t.Errorf("%d bytes, %v", len(body), err)
				}
			}
		})
	}
	wg.Wait()
}

// A keepingWriter fails, and reads what it was given later, as net/http's does on a stream that an
// HTTP/2 client has reset.
type keepingWriter struct {
	*httptest.ResponseRecorder
	given []byte
}

func (w *keepingWriter) Write(p []byte) (int, error) {
	w.given = p
	return 0, io.ErrClosedPipe
}

func TestWhatAFailedWriteMayStillReadIsNotWrittenOver(t *testing.T) {
	tr := roundTripper(func(r *http.Request) (*http.Response, error) {
		resp := answer(http.StatusOK)
		resp.ContentLength = 1000
		resp.Body = io.NopCloser(strings.NewReader(strings.Repeat(r.URL.Query().Get("q"), 1000)))
		return resp, nil
	})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static("127.0.0.1:1")})
	h, err := b.Handler(&url.URL{Scheme: "http", Host: "app.test"}, balancer.HandlerConfig{
		Transport: func(http.RoundTripper) http.RoundTripper { return tr },
	})
	require.NoError(t, err)
	for range 20 {
		w := &keepingWriter{ResponseRecorder: httptest.NewRecorder()}
		h.ServeHTTP(w, httptest.NewRequest("GET", "/?q=a", nil))
		other := httptest.NewRecorder()
		h.ServeHTTP(other, httptest.NewRequest("GET", "/?q=b", nil))
		require.Equal(t, strings.Repeat("b", 1000), other.Body.String())
		require.Equal(t, strings.Repeat("a", 1000), string(w.given))
	}
}
