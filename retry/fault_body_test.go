package retry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/retry"
)

// A body that cannot be read again is sent once, and closed once; the answer or error is the first
// one.
func TestT07_BodyThatCannotBeSentAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, tt := range []struct {
			size, length int64
			sent         int
		}{
			{100, -1, 2}, {100, 100, 2}, {100, 0, 2}, {0, 0, 2}, {0, -1, 2},
			{101, -1, 1}, {101, 101, 1}, {101, 0, 1},
		} {
			b := newBody(strings.Repeat("x", int(tt.size)))
			req := request(t, "PUT", nil)
			req.Body, req.ContentLength = b, tt.length
			s := serve(io.ErrUnexpectedEOF)
			r := newRetrier(t, retry.Config{MaxBody: 100, MaxAttempts: 2})
			_, _, err := send(t, r.Transport(s), req)
			require.Equal(t, io.ErrUnexpectedEOF, err)
			require.Equal(t, tt.sent, s.count(), "%d bytes, length %d", tt.size, tt.length)
			require.EqualValues(t, 1, b.closes.Load())
			for _, a := range s.all() {
				require.Len(t, a.body, int(tt.size))
			}
			if tt.sent == 1 {
				require.Equal(t, uint64(1), r.Stats().GaveUp["body"])
				require.Equal(t, 10.0, r.Stats().Budget["a.test"])
			}
		}
		// What cannot be got is not sent, and what was answered before is not lost.
		req := request(t, "PUT", strings.NewReader("x"))
		req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		r := newRetrier(t, retry.Config{})
		status, text, err := send(t, r.Transport(serve(503)), req)
		require.NoError(t, err)
		require.Equal(t, 503, status)
		require.Equal(t, "Service Unavailable", text)
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
		// A body that breaks is its sender's fault.
		b := &body{
			Reader: io.MultiReader(
				strings.NewReader("abc"),
				readerFunc(func([]byte) (int, error) { return 0, errors.New("broken") }),
			),
		}
		req = request(t, "PUT", nil)
		req.Body = b
		s := serve(io.EOF)
		send(t, r.Transport(s), req)
		require.Equal(t, 1, s.count())
		require.EqualValues(t, 1, b.closes.Load())
		// Nothing is kept where nothing may be: only what was not begun, and what is empty, is sent
		// again.
		r = newRetrier(t, retry.Config{MaxBody: -1})
		for text, sent := range map[string]int{"x": 1, "": 3} {
			s = serve(503)
			send(t, r.Transport(s), request(t, "PUT", stream(text)))
			require.Equal(t, sent, s.count(), "%q", text)
		}
	})
}

// A dial that fails closes the body of its attempt, and the next one has a body of its own.
func TestT08_FreshBodyAfterAFailedDial(t *testing.T) {
	b := backend.Start(
		t,
		backend.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got, _ := io.ReadAll(r.Body)
			w.Write(got)
		})},
	)
	for _, kind := range []string{"GetBody", "stream", "long stream"} {
		text := "abc"
		if kind == "long stream" {
			text = strings.Repeat("abc", 50_000)
		}
		tr := testTransport(t, backend.HTTP1)
		var dials atomic.Int32
		tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1) < 3 {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		body := newBody(text)
		req := requestTo(t, b, "POST", nil)
		req.Body, req.ContentLength = body, int64(len(text))
		if kind == "GetBody" {
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
		}
		status, got, err := send(t, newRetrier(t, quick(retry.Config{})).Transport(tr), req)
		require.NoError(t, err, kind)
		require.Equal(t, 200, status)
		require.True(t, text == got, kind)
		require.EqualValues(t, 1, body.closes.Load(), kind)
	}
}

// Ten gigabytes are passed on, not kept.
func TestT09_EndlessBody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const size = int64(10 << 30)
		for _, length := range []int64{-1, size} {
			req := request(t, "PUT", nil)
			zero := make([]byte, 1<<20)
			left := int64(size)
			req.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
				n := min(int64(len(p)), left)
				if left -= n; n == 0 {
					return 0, io.EOF
				}
				return int(n), nil
			}))
			req.ContentLength = length
			var sent int64
			s := roundTripper(func(req *http.Request) (*http.Response, error) {
				for {
					n, err := req.Body.Read(zero)
					sent += int64(n)
					if err != nil {
						break
					}
					if kept := retry.Buffered(0); kept > 128<<10 {
						t.Fatalf("%d bytes kept", kept)
					}
				}
				req.Body.Close()
				return answer(503), nil
			})
			status, _, err := send(t, newRetrier(t, retry.Config{}).Transport(s), req)
			require.NoError(t, err)
			require.Equal(t, 503, status)
			require.EqualValues(t, size, sent)
			require.Zero(t, retry.Buffered(0))
		}
	})
}

// Bodies of failed answers are read a little, whether they end or not, and closed.
func TestT10_FailedAnswersAreDrainedAndClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		short := newBody("short")
		exact := newBody(strings.Repeat("x", 4096))
		long := newBody(strings.Repeat("x", 1<<20))
		stalled := &stall{closed: make(chan struct{})}
		var s *server
		reply := func(b io.ReadCloser, length int64) *http.Response {
			return &http.Response{StatusCode: 503, Header: http.Header{}, Body: b, ContentLength: length}
		}
		s = serve(
			reply(short, 5),
			reply(exact, -1),
			reply(long, 1<<20),
			reply(long, -1),
			reply(stalled, -1),
			200,
		)
		start := time.Now()
		status, _, err := send(
			t,
			newRetrier(t, retry.Config{MaxAttempts: 10, Backoff: 1, MaxBackoff: 1}).Transport(s),
			request(t, "GET", nil),
		)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.True(t, short.eof.Load() && exact.eof.Load(), "to the end, so that the connection is free")
		require.False(t, long.eof.Load())
		require.EqualValues(t, 1, short.closes.Load())
		require.EqualValues(t, 1, exact.closes.Load())
		require.EqualValues(t, 2, long.closes.Load())
		<-stalled.closed
		require.LessOrEqual(
			t,
			time.Since(start),
			110*time.Millisecond,
			"a body that stalls is not waited for",
		)
	})
}

type stall struct {
	once   sync.Once
	closed chan struct{}
}

func (s *stall) Read([]byte) (int, error) {
	<-s.closed
	return 0, io.ErrClosedPipe
}

func (s *stall) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// A body stays readable for as long as it takes, after retries and hedges.
func TestT13_WinningBodyStaysReadable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		slow := func(req *http.Request) (*http.Response, error) {
			resp := answer(200)
			n := 0
			resp.Body = io.NopCloser(
				readerFunc(func(p []byte) (int, error) { // as net/http: it ends with its context
					time.Sleep(time.Second)
					if err := req.Context().Err(); err != nil {
						return 0, err
					}
					if n++; n > 60 {
						return 0, io.EOF
					}
					p[0] = 'x'
					return 1, nil
				}),
			)
			return resp, nil
		}
		for _, s := range []*server{serve(slow), serve(503, slow), serve(after(time.Hour, 200), slow)} {
			_, text, err := send(t, r.Transport(s), request(t, "GET", nil))
			require.NoError(t, err)
			require.Len(t, text, 60)
		}
	})
}

// An answer that breaks off has been given: its reader learns of it.
func TestT26_BrokenBodyIsNotRetried(t *testing.T) {
	b := backend.Start(
		t,
		backend.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Write(bytes.Repeat([]byte("x"), 10_000))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})},
	)
	r := newRetrier(t, retry.Config{})
	status, _, err := send(t, r.Transport(testTransport(t, backend.HTTP1)), requestTo(t, b, "GET", nil))
	require.Equal(t, 200, status)
	require.Error(t, err)
	require.Equal(t, uint64(1), r.Stats().Attempts)
}

// However much may be kept of a body, a short one is.
func TestT07_TheLargestLimitOfABody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := serve(503, 200)
		r := newRetrier(t, retry.Config{MaxBody: 64 << 20})
		status, _, err := send(t, r.Transport(s), request(t, "PUT", stream("abc")))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, "abc", s.all()[1].body)
	})
}
