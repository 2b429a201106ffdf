package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/internal/faultproxy"
	"github.com/trivet-go/trivet/retry"
)

// A total outage: what arrives is what was asked for, and the reserve; also when a thousand clients
// of one process ask at a time.
func TestT01_TotalOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		ok := r.Transport(serve(200))
		for range 1000 {
			send(t, ok, request(t, "GET", nil)) // a long time of success saves no more than the reserve
		}
		s := serve(503)
		rt := r.Transport(s)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				for range 5 {
					send(t, rt, request(t, "GET", nil))
				}
			})
		}
		wg.Wait()
		require.Equal(t, 5010, s.count())
	})
}

// Three tiers that all retry: with the leaf dead it gets what was asked for and the reserves; with
// any share of failures at most a tenth more.
func TestT02_ThreeTiers(t *testing.T) {
	const requests = 2000
	chain := func(t *testing.T, hint string, leaf http.RoundTripper) (answered int) {
		rt := leaf
		for _, host := range []string{"c", "b", "a"} {
			below := rt
			retrying := newRetrier(
				t,
				retry.Config{Hint: hint, Key: func(*http.Request) (string, bool) { return host, true }},
			).Transport(below)
			rt = roundTripper(
				func(req *http.Request) (*http.Response, error) { return retrying.RoundTrip(req) },
			)
		}
		for range requests {
			status, _, err := send(t, rt, request(t, "GET", nil))
			require.NoError(t, err)
			if status == 200 {
				answered++
			}
		}
		return answered
	}
	for _, hint := range []string{"", "Should-Retry"} {
		for _, percent := range []int{0, 1, 5, 10, 20, 50, 100} {
			t.Run(fmt.Sprintf("hint=%q/failing=%d", hint, percent), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					n, x := 0, uint64(percent+1)
					leaf := roundTripper(func(*http.Request) (*http.Response, error) {
						n++
						x = x*6364136223846793005 + 1442695040888963407
						status := 200
						if int(x>>33%100) < percent {
							status = 503
						}
						return &http.Response{
							StatusCode: status,
							Header:     http.Header{},
							Body:       http.NoBody,
						}, nil
					})
					answered := chain(t, hint, leaf)
					t.Logf(
						"%.4f times, %.2f %% answered",
						float64(n)/requests,
						100*float64(answered)/requests,
					)
					switch {
					case percent == 100:
						require.LessOrEqual(t, n, requests+3*10, "1.00 times and the reserves")
					case hint != "":
						require.LessOrEqual(t, float64(n), 1.1*requests+3*10)
					default: // each tier earns a tenth of what the one above has seen succeed
						require.LessOrEqual(t, float64(n), 1.1*1.1*1.1*requests+3*10)
					}
				})
			})
		}
	}
}

// A POST whose answer is lost may have had its effect: it is sent once.
func TestT03_POSTIsNotRepeated(t *testing.T) {
	for _, method := range []string{"POST", "PATCH"} {
		var executed atomic.Int32
		b := backend.Start(
			t,
			backend.Config{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				executed.Add(1)
				panic(http.ErrAbortHandler)
			})},
		)
		_, _, err := send(
			t,
			newRetrier(t, quick(retry.Config{})).Transport(testTransport(t, backend.HTTP1)),
			requestTo(t, b, method, strings.NewReader("x")),
		)
		require.Error(t, err)
		require.EqualValues(t, 1, executed.Load())
	}
}

// net/http itself sends again on a connection that turns out to be dead. It is one attempt for us,
// and it works for bodies that only we can read again.
func TestT04_ReplaysOfNetHTTP(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	p := faultproxy.Start(t, b.Addr)
	tr := testTransport(t, backend.HTTP1)
	r := newRetrier(
		t,
		retry.Config{MaxAttempts: 2, Budget: retry.Budget{Ratio: -1, Reserve: -1}},
	) // pays for no retry of ours
	rt := r.Transport(tr)
	for i := range 20 {
		var body io.Reader
		method := "GET"
		if i%2 == 1 {
			method, body = "PUT", stream("abc")
		}
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.Addr, body)
		require.NoError(t, err)
		req.Header.Set("Idempotency-Key", strconv.Quote(strconv.Itoa(i)))
		status, _, err := send(t, rt, req)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		p.ResetAll() // the connection that is kept is dead now
	}
	require.Equal(t, uint64(20), r.Stats().Attempts)
	require.Empty(t, r.Stats().Retries)
}

// A stream above a GOAWAY's last one was not served, whatever its method; one below may have been.
func TestT05_GOAWAY(t *testing.T) {
	tests := []struct {
		name   string
		first  func(f *http2.Framer, id uint32)
		method string
		ok     bool
		arrive int32
	}{
		{
			"above the last stream",
			func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) },
			"POST",
			true,
			2,
		},
		{
			"up to the last stream",
			func(f *http2.Framer, id uint32) { _ = f.WriteGoAway(id, http2.ErrCodeNo, nil) },
			"POST",
			false,
			1,
		},
		{
			"up to the last stream, idempotent",
			func(f *http2.Framer, id uint32) { _ = f.WriteGoAway(id, http2.ErrCodeNo, nil) },
			"PUT",
			true,
			2,
		},
		{
			"stream refused",
			func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
			"POST",
			true,
			2,
		},
		{
			"stream reset",
			func(f *http2.Framer, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeInternal) },
			"POST",
			false,
			1,
		},
		{"connection lost", func(*http2.Framer, uint32) {}, "POST", false, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newHTTP2Server(t, tt.first)
			r := newRetrier(t, quick(retry.Config{}))
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+s.addr, stream("abc"))
			require.NoError(t, err)
			tr := testTransport(t, backend.H2C)
			status, _, err := send(t, r.Transport(tr), req)
			if tt.ok {
				require.NoError(t, err)
				require.Equal(t, 200, status)
			} else {
				require.Error(t, err)
			}
			require.Equal(t, tt.arrive, s.requests.Load())
			tr.CloseIdleConnections()
		})
	}
}

// The errors that net/http gives up with after its own replays say the same.
func TestT05_ErrorsOfUnservedStreams(t *testing.T) {
	tests := []struct {
		name string
		err  error
		sent int
	}{
		{"going away", errors.New("http2: Transport received Server's graceful shutdown GOAWAY"), 3},
		{
			"going away, wrapped",
			fmt.Errorf("lost: %w", errors.New("http2: Transport received Server's graceful shutdown GOAWAY")),
			3,
		},
		{"refused", http2.StreamError{StreamID: 3, Code: http2.ErrCodeRefusedStream}, 3},
		{"canceled stream", http2.StreamError{StreamID: 3, Code: http2.ErrCodeCancel}, 1},
		{"gone", gone(""), 1},
		{"said by the server", gone("http2: Transport received Server's graceful shutdown GOAWAY"), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := serve(asNetHTTP(tt.err))
				_, _, err := send(t, newRetrier(t, retry.Config{}).Transport(s), request(t, "POST", nil))
				require.Error(t, err)
				require.Equal(t, tt.sent, s.count())
			})
		})
	}
}

// gone is how net/http says that a connection was closed after a GOAWAY, with what the server says of it.
func gone(debug string) error {
	return fmt.Errorf(
		"http2: server sent GOAWAY and closed the connection; LastStreamID=0, "+
			"ErrCode=NO_ERROR, debug=%q", debug)
}

// asNetHTTP gives x/net's stream error the conversion that net/http's copy of it has.
func asNetHTTP(err error) error {
	if s, ok := err.(http2.StreamError); ok {
		return convertible{s}
	}
	return err
}

type convertible struct{ http2.StreamError }

func (c convertible) As(target any) bool {
	to := reflect.ValueOf(target).Elem()
	if to.Kind() != reflect.Struct || to.NumField() != 3 || to.Type().Field(0).Name != "StreamID" {
		return false
	}
	to.Field(0).SetUint(uint64(c.StreamID))
	to.Field(1).SetUint(uint64(c.Code))
	return true
}

func TestT06_QUERYIsReplayable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := serve(503, 200)
		status, _, err := send(
			t,
			newRetrier(t, retry.Config{}).Transport(s),
			request(t, "QUERY", strings.NewReader("select")),
		)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, "select", s.all()[1].body)
	})
}

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

func TestT11_RetryAfter(t *testing.T) {
	tests := []struct {
		name   string
		fields []string
		waits  time.Duration // at least; -1: the answer is returned at once
	}{
		{"seconds", []string{"3"}, 3 * time.Second},
		{"overflows nanoseconds", []string{"9223372037"}, -1},
		{"overflows everything", []string{strings.Repeat("9", 60)}, -1},
		{"negative", []string{"-1"}, 0},
		{"exponent", []string{"1e99"}, 0},
		{"words", []string{"soon"}, 0},
		{"empty", []string{""}, 0},
		{"past date", []string{"Fri, 31 Dec 1999 23:59:59 GMT"}, 0},
		{"far date", []string{"Fri, 31 Dec 9999 23:59:59 GMT"}, -1},
		{"the most", []string{"30"}, 30 * time.Second},
		{"more than the most", []string{"31"}, -1},
		{"two fields", []string{"2", "5"}, 5 * time.Second},
		{"two fields, one absurd", []string{"2", "99999"}, -1},
		{"two fields, one unreadable", []string{"soon", "4"}, 4 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				first := answer(503)
				first.Header["Retry-After"] = tt.fields
				s := serve(first, 200)
				start := time.Now()
				status, _, err := send(t, newRetrier(t, retry.Config{}).Transport(s), request(t, "GET", nil))
				require.NoError(t, err)
				if tt.waits < 0 {
					require.Equal(t, 503, status)
					require.Zero(t, time.Since(start))
					return
				}
				require.Equal(t, 200, status)
				require.GreaterOrEqual(t, time.Since(start), tt.waits)
				require.LessOrEqual(t, time.Since(start), tt.waits+tt.waits/10+50*time.Millisecond)
			})
		})
	}
	t.Run("over the deadline", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			start := time.Now()
			status, _, err := send(
				t,
				newRetrier(t, retry.Config{}).Transport(serve(answer(503, "Retry-After", "2"))),
				request(t, "GET", nil).WithContext(ctx),
			)
			require.NoError(t, err)
			require.Equal(t, 503, status)
			require.Zero(t, time.Since(start))
		})
	})
}

// Whatever Retry-After says, the request takes no longer than it may, and nothing overflows.
func TestT11_AnyRetryAfter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		value := rapid.OneOf(
			rapid.String(), rapid.StringMatching(`[-+]?[0-9]{0,25}`),
			rapid.Just("Fri, 31 Dec 9999 23:59:59 GMT"),
		).Draw(rt, "value")
		within := time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(rt, "within"))
		synctest.Test(t, func(t *testing.T) {
			first := answer(503)
			first.Header["Retry-After"] = []string{value}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			start := time.Now()
			_, _, err := send(
				t,
				newRetrier(t, retry.Config{}).Transport(serve(first, 200)),
				request(t, "GET", nil).WithContext(ctx),
			)
			require.NoError(t, err)
			require.Less(t, time.Since(start), min(within, 33*time.Second))
		})
	})
}

// A caller that leaves during the wait is let go at once, with nothing left behind.
func TestT12_CancelDuringBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		left := errors.New("the user has closed the page")
		r := newRetrier(t, retry.Config{})
		b := newBody("abc")
		req := request(t, "PUT", nil)
		req.Body = b
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(left) })
		start := time.Now()
		s := serve(answer(503, "Retry-After", "10"))
		_, _, err := send(t, r.Transport(s), req.WithContext(ctx))
		require.Equal(t, left, err)
		require.Equal(t, time.Second, time.Since(start))
		require.Equal(t, 1, s.count())
		require.EqualValues(t, 1, b.closes.Load())
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
		require.Equal(t, uint64(1), r.Stats().GaveUp["canceled"])
		synctest.Wait()
	})
}

// A caller may leave at any moment: it gets its error or an answer, soon, and everything is given
// back.
func TestT12_CancelAtEveryMoment(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		at := time.Duration(rapid.Int64Range(0, int64(300*time.Millisecond)).Draw(rt, "at"))
		hedge := rapid.Bool().Draw(rt, "hedge")
		synctest.Test(t, func(t *testing.T) {
			r := newRetrier(
				t,
				retry.Config{
					Hedge:  hedge,
					PerTry: 70 * time.Millisecond,
					Class:  func(*http.Request) string { return "" },
				},
			)
			warm(t, r, "GET")
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(at, cancel)
			b := newBody("abc")
			req := request(t, "QUERY", nil).WithContext(ctx)
			req.Body = b
			s := serve(
				after(40*time.Millisecond, 503),
				after(time.Hour, 200),
				after(50*time.Millisecond, 502),
				after(time.Hour, 200),
			)
			start := time.Now()
			resp, err := r.Transport(s).RoundTrip(req)
			if err == nil {
				resp.Body.Close()
			}
			require.LessOrEqual(t, time.Since(start), at+time.Nanosecond)
			time.Sleep(time.Hour)
			require.EqualValues(t, 1, b.closes.Load())
			require.Zero(t, retry.Buffered(0))
			for _, a := range s.all() {
				require.Error(t, a.req.Context().Err())
			}
			require.InDelta(
				t,
				10-float64(s.count()-1),
				r.Stats().Budget["a.test"],
				1e-6,
				"what was sent was paid for, and nothing else",
			)
		})
	})
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

// Nobody sleeps towards a deadline that will have passed.
func TestT14_DeadlineShorterThanBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Backoff: 4 * time.Second})
		r.SetRandom(func(n int64) int64 { return n - 1 })
		for _, a := range []any{503, io.EOF} {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			start := time.Now()
			status, _, err := send(t, r.Transport(serve(a)), request(t, "GET", nil).WithContext(ctx))
			require.Zero(t, time.Since(start))
			require.True(t, status == 503 || err == io.EOF)
		}
		require.Equal(t, uint64(2), r.Stats().GaveUp["deadline"])
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
	})
}

// Hedge and attempt may both reach servers: never for a request that must not, and never a third.
func TestT15_HedgesAreSafe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
			r := newRetrier(t, retry.Config{Hedge: true, Class: func(*http.Request) string { return "" }})
			warm(t, r, "GET")
			s := serve(after(time.Second, 200))
			send(t, r.Transport(s), request(t, method, nil))
			want := 1
			if method == "GET" {
				want = 2
			}
			require.Equal(t, want, s.count(), method)
			synctest.Wait()
			if want == 2 {
				require.Error(
					t,
					s.all()[1].req.Context().Err(),
					"both ended at the same time, or the hedge was canceled",
				)
			}
		}
	})
}

// A hedge goes where Scope sends it: all attempts of a request share its context, so that a
// balancer knows where they have been.
func TestT16_HedgeGoesElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type key struct{}
		r := newRetrier(t, retry.Config{Hedge: true, Scope: func(ctx context.Context) context.Context {
			return context.WithValue(ctx, key{}, new(atomic.Int32))
		}})
		delays := []time.Duration{time.Hour, usual} // of two endpoints
		s := roundTripper(func(req *http.Request) (*http.Response, error) {
			been := req.Context().Value(key{}).(*atomic.Int32).Add(1) - 1
			return after(delays[been], 200)(req)
		})
		warm(t, r, "GET")
		start := time.Now()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Less(t, time.Since(start), 3*usual)
	})
}

// When all of a host is slow, hedging stops; and what there is comes out of the one budget.
func TestT17_OverloadStopsHedges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		slow := serve(after(time.Second, 200))
		rt := r.Transport(slow)
		const requests = 2000
		var wg sync.WaitGroup
		for range requests {
			time.Sleep(time.Millisecond)
			wg.Go(func() { send(t, rt, request(t, "GET", nil)) })
		}
		wg.Wait()
		require.LessOrEqual(t, slow.count(), requests+10)

		// Attempts that never end neither hedge without end.
		r = newRetrier(t, retry.Config{Hedge: true, PerTry: time.Second, MaxAttempts: 3})
		warm(t, r, "GET")
		dead := serve(after(time.Hour, 200))
		rt = r.Transport(dead)
		for range requests {
			time.Sleep(time.Millisecond)
			wg.Go(func() { send(t, rt, request(t, "GET", nil)) })
		}
		wg.Wait()
		require.LessOrEqual(t, dead.count(), requests+10)
	})
}

// A loser that answers late touches nothing that the winner's caller has.
func TestT18_LateLoser(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, Hint: "Should-Retry"})
		warm(t, r, "GET")
		s := serve(after(5*usual, 200), func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Minute)
			return answer(500), nil
		})
		req := request(t, "GET", nil)
		resp, err := r.Transport(s).RoundTrip(req)
		require.NoError(t, err)
		req.Header.Set("Reused", "yes") // the request is the caller's again
		resp.Header.Set("Mine", "yes")
		time.Sleep(time.Hour)
		require.Equal(t, 200, resp.StatusCode)
		require.Same(t, req, resp.Request)
		resp.Body.Close()
	})
}

// Each attempt has a copy of the request: what a transport below changes does not add up.
func TestT19_AttemptsAreClones(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{MaxAttempts: 5})
		s := serve(503)
		rt := r.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			req.Header.Add("Via", "x")
			req.Header["Accept"][0] = "changed"
			req.URL.Path += "/more"
			req.URL.Host = "b.test"
			req.Host = "b.test"
			return s.RoundTrip(req)
		}))
		req := request(t, "GET", nil)
		req.Header.Set("Accept", "text/plain")
		before := req.Clone(t.Context())
		send(t, rt, req)
		for _, a := range s.all() {
			require.Equal(t, []string{"x"}, a.req.Header["Via"])
			require.Equal(t, "/path/more", a.req.URL.Path)
		}
		require.Equal(t, before.Header, req.Header)
		require.Equal(t, before.URL, req.URL)
		require.Equal(t, before.Host, req.Host)
	})
}

// Credentials go where the caller has sent them, at every attempt; after a redirect they are
// http.Client's affair, for which each hop is a request of its own.
func TestT20_CredentialsStayWithTheirHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		redirect := answer(307, "Location", "http://b.test/")
		s := serve(503, redirect, 503, 200)
		req := request(t, "GET", nil)
		req.Header.Set("Authorization", "Bearer secret")
		resp, err := (&http.Client{Transport: newRetrier(t, retry.Config{}).Transport(s)}).Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		for i, a := range s.all() {
			if i < 2 {
				require.Equal(t, "a.test", a.req.URL.Host)
				require.Equal(t, "Bearer secret", a.req.Header.Get("Authorization"))
			} else {
				require.Equal(t, "b.test", a.req.URL.Host)
				require.Empty(t, a.req.Header.Get("Authorization"))
			}
		}
	})
}

// No event says what may be secret.
func TestT21_EventsHoldNoSecrets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var said strings.Builder
		r := newRetrier(
			t,
			retry.Config{
				Observe: func(_ context.Context, e retry.Event) { said.WriteString(e.LogValue().String()) },
			},
		)
		req := request(t, "GET", nil)
		req.URL.User = url.UserPassword("user", "hunter2")
		req.URL.RawQuery = "token=hunter2"
		req.Header.Set("Authorization", "hunter2")
		send(t, r.Transport(serve(&url.Error{Op: "Get", URL: req.URL.String(), Err: io.EOF})), req)
		require.Contains(t, said.String(), "a.test")
		require.NotContains(t, said.String(), "hunter2")
		require.NotContains(t, said.String(), "user")
	})
}

// Clients that fail together do not come back together.
func TestT22_Spread(t *testing.T) {
	for _, field := range []string{"", "20"} {
		bubble(t, func(t *testing.T) {
			const clients = 5000
			s := serve(answer(503, "Retry-After", field))
			r := newRetrier(
				t,
				retry.Config{MaxAttempts: 2, Backoff: time.Second, Budget: retry.Budget{Reserve: clients}},
			)
			var wg sync.WaitGroup
			start := time.Now()
			for range clients {
				wg.Go(func() {
					req := request(t, "GET", nil)
					rt := r.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
						resp := answer(503)
						if field != "" {
							resp.Header.Set("Retry-After", field)
						}
						s.mu.Lock()
						s.seen = append(s.seen, seen{at: time.Now()})
						s.mu.Unlock()
						return resp, nil
					}))
					send(t, rt, req)
				})
			}
			wg.Wait()
			var slots [40]int // of 50 ms
			for _, a := range s.all() {
				if d := a.at.Sub(start); d > 0 {
					slots[min(int(d%(20*time.Second)/(50*time.Millisecond)), 39)]++
				}
			}
			peak, used, sum := 0, 0, 0
			for _, n := range slots {
				sum += n
				peak = max(peak, n)
				if n > 0 {
					used++
				}
			}
			require.Equal(t, clients, sum)
			require.GreaterOrEqual(t, used, 20)
			mean := float64(sum) / float64(used)
			require.Less(t, float64(peak)/mean, 2.0, "field %q: %v", field, slots)
		})
	}
}

// Which answers are retried.
func TestT23_Statuses(t *testing.T) {
	again := map[int]bool{408: true, 425: true, 429: true, 502: true, 503: true, 504: true}
	for status := 200; status < 600; status++ {
		bubble(t, func(t *testing.T) {
			s := serve(status)
			resp, err := newRetrier(
				t,
				retry.Config{MaxAttempts: 2},
			).Transport(s).
				RoundTrip(request(t, "GET", nil))
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, again[status], s.count() == 2, "%d", status)
		})
	}
}

// Errors arrive as they are.
func TestT24_ErrorsAreKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		op := &net.OpError{Op: "read", Err: &timeoutError{}}
		_, _, err := send(t, r.Transport(serve(op)), request(t, "GET", nil))
		require.Same(t, op, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err = send(
			t,
			r.Transport(serve(after(time.Hour, 200))),
			request(t, "GET", nil).WithContext(ctx),
		)
		require.ErrorIs(t, err, context.Canceled)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = (&http.Client{Transport: r.Transport(serve(after(time.Hour, 200)))}).Do(
			request(t, "GET", nil).WithContext(ctx),
		)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var e net.Error
		require.True(t, errors.As(err, &e) && e.Timeout())
	})
}

type timeoutError struct{}

func (*timeoutError) Error() string   { return "i/o timeout" }
func (*timeoutError) Timeout() bool   { return true }
func (*timeoutError) Temporary() bool { return true }

// However many attempts and however long the waits, nothing overflows.
func TestT25_BackoffDoesNotOverflow(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		base := time.Duration(rapid.Int64Range(1, int64(1<<62)).Draw(rt, "backoff"))
		most := time.Duration(rapid.Int64Range(int64(base), int64(1<<63-1)).Draw(rt, "most"))
		attempts := rapid.IntRange(1, 200).Draw(rt, "attempts")
		r := newRetrier(
			t,
			retry.Config{
				MaxAttempts: attempts,
				Backoff:     base,
				MaxBackoff:  most,
				Budget:      retry.Budget{Reserve: 1000},
			},
		)
		last := int64(0)
		r.SetRandom(func(n int64) int64 {
			if n <= 0 || n > int64(most) || n < last {
				rt.Fatalf("a wait of up to %d after one of up to %d", n, last)
			}
			last = n
			return 0
		})
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		if s.count() != attempts {
			rt.Fatalf("%d attempts of %d", s.count(), attempts)
		}
	})
	for _, most := range []int{0, -1} {
		_, err := retry.New(retry.Config{MaxAttempts: most})
		require.Equal(t, most < 0, err != nil)
	}
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

// TestR32_RequestsAreToldWithoutAnEnd: a caller that gives up is observed by a context that has not
// ended.
func TestR32_RequestsAreToldWithoutAnEnd(t *testing.T) {
	var told []error
	r := newRetrier(t, retry.Config{Observe: func(ctx context.Context, e retry.Event) {
		told = append(told, ctx.Err())
	}})
	ctx, cancel := context.WithCancel(t.Context())
	rt := r.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
		cancel()
		return nil, context.Canceled
	}))
	_, err := rt.RoundTrip(request(t, "GET", nil).WithContext(ctx))
	require.Error(t, err)
	require.Equal(t, []error{nil}, told)
}
