package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
	"github.com/trivet-go/trivet/internal/backend"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int) *http.Response {
	return &http.Response{
		StatusCode: status,
		Header:     http.Header{},
		Body:       io.NopCloser(strings.NewReader("body")),
	}
}

func request(ctx context.Context, url string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err)
	}
	return req
}

// send sends a request and reads its answer.
func send(rt http.RoundTripper, req *http.Request) (status int, err error) {
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, err
}

// An unsent is an error of something that has not sent the request.
type unsentError struct{}

func (unsentError) Error() string { return "not sent" }
func (unsentError) NotSent() bool { return true }

type timeoutError struct{}

func (timeoutError) Error() string { return "timeout" }
func (timeoutError) Timeout() bool { return true }

// verdict returns how a breaker counts what f, which sends one request, makes of it. It asks a
// half-open breaker, whose state tells all three apart.
func verdict(
	t *testing.T,
	cfg breaker.Config,
	next http.RoundTripper,
	f func(rt http.RoundTripper),
) breaker.Outcome {
	t.Helper()
	var got breaker.Outcome
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, cfg)
		trip(t, b, "up")
		time.Sleep(5 * time.Second)
		f(b.TransportFor("up", next))
		require.EqualValues(t, 1, b.Stats().Probes)
		switch stateOf(b, "up") {
		case breaker.Ramping:
			got = breaker.Success
		case breaker.Open:
			got = breaker.Failure
		case breaker.HalfOpen:
			got = breaker.Neutral
			done, err := b.Acquire(t.Context(), "up")
			require.NoError(t, err, "a neutral probe gives its place back")
			done(breaker.Neutral)
		}
	})
	return got
}

func TestTransportClassifies(t *testing.T) {
	for _, tt := range []struct {
		name string
		resp int
		err  error
		want breaker.Outcome
	}{
		{"200", 200, nil, breaker.Success},
		{"304", 304, nil, breaker.Success},
		{"400", 400, nil, breaker.Success},
		{"429", 429, nil, breaker.Success},
		{"499", 499, nil, breaker.Success},
		{"500", 500, nil, breaker.Failure},
		{"501", 501, nil, breaker.Success},
		{"502", 502, nil, breaker.Failure},
		{"503", 503, nil, breaker.Failure},
		{"504", 504, nil, breaker.Failure},
		{"599", 599, nil, breaker.Failure},
		{"connection refused", 0, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, breaker.Failure},
		{"reset", 0, fmt.Errorf("read: %w", syscall.ECONNRESET), breaker.Failure},
		{"EOF", 0, io.ErrUnexpectedEOF, breaker.Failure},
		{"timeout", 0, timeoutError{}, breaker.Failure},
		{"deadline of a wrapper", 0, context.DeadlineExceeded, breaker.Failure},
		{"canceled by a wrapper", 0, fmt.Errorf("hedge: %w", context.Canceled), breaker.Neutral},
		{"not sent", 0, fmt.Errorf("inner: %w", unsentError{}), breaker.Neutral},
		{"an inner breaker", 0, &breaker.OpenError{}, breaker.Neutral},
		{"an inner throttle", 0, &breaker.ThrottledError{}, breaker.Neutral},
		{"a request that cannot be sent", 0, errors.New(`net/http: invalid method "a b"`), breaker.Neutral},
		{"nothing", 0, nil, breaker.Failure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next := roundTripper(func(*http.Request) (*http.Response, error) {
				if tt.resp == 0 {
					return nil, tt.err
				}
				return answer(tt.resp), nil
			})
			require.Equal(t, tt.want, verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
				resp, err := rt.RoundTrip(request(context.Background(), "http://h/"))
				require.Equal(t, tt.err, err)
				if resp != nil {
					_, err := io.Copy(io.Discard, resp.Body)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
			}))
		})
	}
}

// TestB01: who cancels says nothing of whom he asked.
func TestB01_CancellationIsNeutral(t *testing.T) {
	next := roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	for _, tt := range []struct {
		name string
		ctx  func() (context.Context, context.CancelFunc)
		want breaker.Outcome
	}{
		{"canceled", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, breaker.Neutral},
		{"canceled for a reason", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(time.Second, func() { cancel(errors.New("no longer needed")) })
			return ctx, func() { cancel(nil) }
		}, breaker.Neutral},
		{"deadline", func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), time.Second)
		}, breaker.Failure},
		{"a deadline told by a cancellation", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(time.Second, func() { cancel(fmt.Errorf("try: %w", timeoutError{})) })
			return ctx, func() { cancel(nil) }
		}, breaker.Failure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
				ctx, cancel := tt.ctx()
				defer cancel()
				_, err := rt.RoundTrip(request(ctx, "http://h/"))
				require.Error(t, err)
			}))
		})
	}
	t.Run("a thousand of them do not open", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{})
			rt := b.Transport(next)
			for range 1000 {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Millisecond, cancel)
				_, err := rt.RoundTrip(request(ctx, "http://h/"))
				require.ErrorIs(t, err, context.Canceled)
			}
			require.Equal(t, breaker.Closed, stateOf(b, "h"))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := rt.RoundTrip(request(ctx, "http://other/"))
			require.ErrorIs(t, err, context.Canceled)
			require.NotContains(t, b.Stats().Keys, "other", "a request that is over is not asked for")
		})
	})
}

// The deprecated Cancel is the caller's too, unless http.Client has set it for its Timeout.
func TestB01_CancelChannelsAreNeutral(t *testing.T) {
	next := roundTripper(func(r *http.Request) (*http.Response, error) {
		select {
		//lint:ignore SA1019 as http.Transport does
		case <-r.Cancel:
			return nil, errors.New("net/http: request canceled")
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	})
	require.Equal(t, breaker.Neutral, verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
		req := request(context.Background(), "http://h/")
		cancel := make(chan struct{})
		//lint:ignore SA1019 it is what is tested
		req.Cancel = cancel
		time.AfterFunc(time.Second, func() { close(cancel) })
		_, err := rt.RoundTrip(req)
		require.Error(t, err)
	}))
	for range 20 { // the timer of the Client and that of the context are in no order
		require.Equal(t, breaker.Failure, verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
			_, err := (&http.Client{Transport: rt, Timeout: time.Second}).Get("http://h/")
			require.Error(t, err)
		}))
	}
}

func TestFailedIsAnOption(t *testing.T) {
	cfg := breaker.Config{Failed: func(status int) bool { return status == 429 || status >= 500 }}
	for status, want := range map[int]breaker.Outcome{
		429: breaker.Failure, 501: breaker.Failure, 404: breaker.Success,
	} {
		next := roundTripper(func(*http.Request) (*http.Response, error) { return answer(status), nil })
		require.Equal(t, want, verdict(t, cfg, next, func(rt http.RoundTripper) {
			_, err := send(rt, request(context.Background(), "http://h/"))
			require.NoError(t, err)
		}))
	}
}

// A brokenBody ends with err after some bytes.
type brokenBody struct {
	r   io.Reader
	err error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = b.err
	}
	return n, err
}
func (b *brokenBody) Close() error { return nil }

// TestB11: an answer counts when its body has ended, and how.
func TestB11_BodiesThatBreakCountAtTheirEnd(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind string
		err  error
		read func(t *testing.T, body io.ReadCloser)
		want breaker.Outcome
	}{
		{"whole", "", io.EOF, func(t *testing.T, body io.ReadCloser) {
			_, err := io.ReadAll(body)
			require.NoError(t, err)
		}, breaker.Success},
		{"broken", "", io.ErrUnexpectedEOF, func(t *testing.T, body io.ReadCloser) {
			_, err := io.ReadAll(body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.NoError(t, body.Close())
		}, breaker.Failure},
		{"closed early", "", io.ErrUnexpectedEOF, func(t *testing.T, body io.ReadCloser) {
			require.NoError(t, body.Close())
			_, err := io.ReadAll(body)
			require.Error(t, err)
		}, breaker.Success},
		{"read after close", "", http.ErrBodyReadAfterClose, func(t *testing.T, body io.ReadCloser) {
			_, err := io.ReadAll(body)
			require.Error(t, err)
			require.NoError(t, body.Close())
		}, breaker.Success},
		{"a stream that is cut", "text/event-stream; charset=utf-8", io.ErrUnexpectedEOF, func(
			t *testing.T, body io.ReadCloser,
		) {
			_, err := io.ReadAll(body)
			require.Error(t, err)
		}, breaker.Success},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next := roundTripper(func(*http.Request) (*http.Response, error) {
				resp := answer(200)
				resp.Header.Set("Content-Type", tt.kind)
				resp.Body = &brokenBody{r: strings.NewReader("some"), err: tt.err}
				return resp, nil
			})
			require.Equal(t, tt.want, verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
				resp, err := rt.RoundTrip(request(context.Background(), "http://h/"))
				require.NoError(t, err)
				tt.read(t, resp.Body)
			}))
		})
	}
	t.Run("nothing counts before the end", func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MinRequests: 1})
		rt := b.TransportFor("up", roundTripper(func(*http.Request) (*http.Response, error) {
			resp := answer(200)
			resp.Body = &brokenBody{r: strings.NewReader("some"), err: io.ErrUnexpectedEOF}
			return resp, nil
		}))
		resp, err := rt.RoundTrip(request(t.Context(), "http://h/"))
		require.NoError(t, err)
		one := make([]byte, 4)
		_, err = io.ReadFull(resp.Body, one)
		require.NoError(t, err)
		require.Equal(t, breaker.Closed, stateOf(b, "up"))
		_, err = resp.Body.Read(one)
		require.Error(t, err)
		require.Equal(t, breaker.Open, stateOf(b, "up"))
	})
	t.Run("canceled in the body", func(t *testing.T) {
		next := roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := answer(200)
			resp.Body = &brokenBody{r: strings.NewReader("some"), err: context.Canceled}
			return resp, nil
		})
		require.Equal(t, breaker.Neutral, verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
			ctx, cancel := context.WithCancel(context.Background())
			resp, err := rt.RoundTrip(request(ctx, "http://h/"))
			require.NoError(t, err)
			cancel()
			_, err = io.ReadAll(resp.Body)
			require.Error(t, err)
		}))
	})
	t.Run("without a body", func(t *testing.T) {
		for _, body := range []io.ReadCloser{nil, http.NoBody} {
			next := roundTripper(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 204, Body: body}, nil
			})
			require.Equal(t, breaker.Success, verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
				resp, err := rt.RoundTrip(request(context.Background(), "http://h/"))
				require.NoError(t, err)
				require.Equal(t, body, resp.Body)
			}))
		}
	})
}

// TestB09: a client of a proxy that reads slowly makes the proxy's deadline, or its upstream's, end
// the answer.
func TestB09_BodiesThatWaitForTheirReader(t *testing.T) {
	for _, tt := range []struct {
		name            string
		unread, reading time.Duration
		timeout         time.Duration
		err             error
		want            breaker.Outcome
	}{
		{"the upstream gives up on a slow reader", 2 * time.Second, 0, time.Hour,
			io.ErrUnexpectedEOF, breaker.Neutral},
		{"the deadline passes while nobody reads", 300 * time.Millisecond, 0, 300 * time.Millisecond,
			context.DeadlineExceeded, breaker.Neutral},
		{"the upstream stalls, then breaks", time.Second, 2 * time.Second, time.Hour,
			io.ErrUnexpectedEOF, breaker.Failure},
		{"the upstream stalls until the deadline", 100 * time.Millisecond, 200 * time.Millisecond,
			300 * time.Millisecond, context.DeadlineExceeded, breaker.Failure},
		{"it breaks at once, and the reader has work to do", 500 * time.Millisecond, 0, time.Hour,
			io.ErrUnexpectedEOF, breaker.Failure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next := roundTripper(func(*http.Request) (*http.Response, error) {
				resp := answer(200)
				resp.Body = &slowBody{pieces: 4, each: tt.reading / 4, err: tt.err}
				return resp, nil
			})
			require.Equal(t, tt.want, verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
				ctx, cancel := context.WithTimeout(context.Background(), tt.timeout)
				defer cancel()
				resp, err := rt.RoundTrip(request(ctx, "http://h/"))
				require.NoError(t, err)
				for err == nil {
					time.Sleep(tt.unread / 4)
					synctest.Wait() // for the deadline
					_, err = resp.Body.Read(make([]byte, 1))
				}
				require.ErrorIs(t, err, tt.err)
				require.NoError(t, resp.Body.Close())
			}))
		})
	}
}

// A slowBody has an error in place of its last piece.
type slowBody struct {
	pieces int
	each   time.Duration
	err    error
}

func (b *slowBody) Read([]byte) (int, error) {
	time.Sleep(b.each)
	b.pieces--
	if b.pieces == 0 {
		return 0, b.err
	}
	return 1, nil
}

func (b *slowBody) Close() error { return nil }

// A probe whose answer has begun in time is not lost: its reader may take as long as it likes.
func TestAProbeWithASlowReaderHasSucceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		rt := b.TransportFor(
			"up",
			roundTripper(func(*http.Request) (*http.Response, error) { return answer(200), nil }),
		)
		trip(t, b, "up")
		time.Sleep(5 * time.Second)
		resp, err := rt.RoundTrip(request(t.Context(), "http://h/"))
		require.NoError(t, err)
		time.Sleep(5*time.Second - 1)
		require.False(t, ask(b, "up", breaker.Neutral))
		require.Equal(t, breaker.HalfOpen, stateOf(b, "up"))
		time.Sleep(time.Nanosecond)
		ask(b, "up", breaker.Neutral)
		require.Equal(t, breaker.Ramping, stateOf(b, "up"))
		require.NoError(t, resp.Body.Close())
	})
}

// TestB12: what lasts because it is a stream is not slow.
func TestB12_StreamsAreNoLatencySamples(t *testing.T) {
	cfg := breaker.Config{SlowAfter: time.Second}
	for _, tt := range []struct {
		name       string
		status     int
		kind       string
		head, body time.Duration
		want       breaker.Outcome
	}{
		{"quick", 200, "text/html", time.Second, 0, breaker.Success},
		{"slow", 200, "text/html", time.Second + 1, 0, breaker.Failure},
		{"slow and failing", 500, "text/html", 2 * time.Second, 0, breaker.Failure},
		{"a long body", 200, "video/mp4", 0, time.Hour, breaker.Success},
		{"events", 200, "Text/Event-Stream", time.Hour, time.Hour, breaker.Success},
		{"an upgrade", 101, "", time.Hour, time.Hour, breaker.Success},
	} {
		t.Run(tt.name, func(t *testing.T) {
			next := roundTripper(func(*http.Request) (*http.Response, error) {
				time.Sleep(tt.head)
				resp := answer(tt.status)
				resp.Header.Set("Content-Type", tt.kind)
				return resp, nil
			})
			require.Equal(t, tt.want, verdict(t, cfg, next, func(rt http.RoundTripper) {
				resp, err := rt.RoundTrip(request(context.Background(), "http://h/"))
				require.NoError(t, err)
				time.Sleep(min(tt.body, 4*time.Second)) // a probe's time ends otherwise
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}))
		})
	}
}

// TestB07: a panic is a failure, and passes.
func TestB07_PanicsOfTransportsCountAndPass(t *testing.T) {
	for _, value := range []any{"boom", http.ErrAbortHandler} {
		next := roundTripper(func(*http.Request) (*http.Response, error) { panic(value) })
		require.Equal(t, breaker.Failure, verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
			require.PanicsWithValue(t, value,
				func() { _, _ = rt.RoundTrip(request(context.Background(), "http://h/")) })
		}))
	}
}

type writableBody struct {
	io.ReadCloser
	written strings.Builder
}

func (b *writableBody) Write(p []byte) (int, error) { return b.written.Write(p) }

func TestBodiesKeepTheirWriter(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	for _, status := range []int{101, 200} {
		body := &writableBody{ReadCloser: io.NopCloser(strings.NewReader("hello"))}
		rt := b.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Body: body}, nil
		}))
		resp, err := rt.RoundTrip(request(t.Context(), "http://h/"))
		require.NoError(t, err)
		rw, ok := resp.Body.(io.ReadWriteCloser)
		require.True(t, ok)
		_, err = rw.Write([]byte("x"))
		require.NoError(t, err)
		require.Equal(t, "x", body.written.String())
		got, err := io.ReadAll(rw)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		require.NoError(t, rw.Close())
	}
}

// TestB09: what strangers can cause at will does not open the breaker for everyone.
func TestB09_StrangersDoNotOpenIt(t *testing.T) {
	t.Run("4xx", func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		rt := b.Transport(
			roundTripper(func(*http.Request) (*http.Response, error) { return answer(404), nil }),
		)
		for range 1000 {
			status, err := send(rt, request(t.Context(), "http://h/"))
			require.NoError(t, err)
			require.Equal(t, 404, status)
		}
	})
	t.Run("uploads that are broken off", func(t *testing.T) {
		for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
			t.Run("protocol="+string(p), func(t *testing.T) {
				up := backend.Start(t, backend.Config{Protocol: p})
				next := backend.Transport(p)
				defer next.CloseIdleConnections()
				b := newBreaker(t, breaker.Config{MinRequests: 1})
				rt := b.Transport(next)
				for range 5 {
					req := request(t.Context(), up.URL.String())
					req.Method = http.MethodPost
					req.Body = &brokenBody{
						r:   strings.NewReader("half of it"),
						err: errors.New("the client has left"),
					}
					_, err := send(rt, req)
					require.Error(t, err)
				}
				require.Zero(t, b.Stats().Open)
			})
		}
	})
	t.Run("requests that cannot be sent", func(t *testing.T) {
		up := backend.Start(t, backend.Config{})
		next := backend.Transport(backend.HTTP1)
		defer next.CloseIdleConnections()
		b := newBreaker(t, breaker.Config{MinRequests: 1})
		rt := b.TransportFor("up", next)
		for _, spoil := range []func(*http.Request){
			func(r *http.Request) { r.Header["X"] = []string{"a\nb"} },
			func(r *http.Request) { r.Header["a b"] = []string{"c"} },
			func(r *http.Request) { r.Method = "a b" },
			func(r *http.Request) { r.URL.Scheme = "gopher" },
			func(r *http.Request) { r.URL.Host = "" },
			func(r *http.Request) { r.ContentLength, r.Body = 10, io.NopCloser(strings.NewReader("short")) },
		} {
			req := request(t.Context(), up.URL.String())
			spoil(req)
			_, err := send(rt, req)
			require.Error(t, err)
			require.Equal(t, breaker.Closed, stateOf(b, "up"), "%v", err)
		}
	})
}

func TestRequestOfTheAnswerIsTheCallers(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	var got *http.Request
	rt := b.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		got = r
		resp := answer(200)
		resp.Request = r
		return resp, nil
	}))
	req := request(t.Context(), "http://h/")
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	require.Same(t, req, resp.Request)
	require.Same(t, req, got, "a request without a body is passed on as it is")
	req.Body = http.NoBody
	_, err = rt.RoundTrip(req)
	require.NoError(t, err)
	require.Same(t, req, got)
	req.Body = io.NopCloser(strings.NewReader("x"))
	resp, err = rt.RoundTrip(req)
	require.NoError(t, err)
	require.Same(t, req, resp.Request)
	req.GetBody = func() (io.ReadCloser, error) { return nil, nil }
	_, err = rt.RoundTrip(req)
	require.NoError(t, err)
	require.Same(t, req, got, "nor is one whose body stands in memory")
}

type closeNoter struct {
	io.Reader
	closed int
}

func (c *closeNoter) Close() error { c.closed++; return nil }

func TestRefusedRequestsAreClosed(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	b.Isolate("h")
	rt := b.Transport(roundTripper(func(*http.Request) (*http.Response, error) { panic("sent") }))
	body := &closeNoter{Reader: strings.NewReader("x")}
	req := request(t.Context(), "http://h/")
	req.Body = body
	_, err := rt.RoundTrip(req)
	require.ErrorIs(t, err, breaker.ErrOpen)
	require.Equal(t, 1, body.closed)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	_, err = rt.RoundTrip(req.WithContext(ctx))
	require.Equal(t, gone, err)
	require.Equal(t, 2, body.closed)
}

func TestFallback(t *testing.T) {
	var give func(*http.Request, error) (*http.Response, error)
	b := newBreaker(
		t,
		breaker.Config{
			Fallback: func(req *http.Request, err error) (*http.Response, error) { return give(req, err) },
		},
	)
	b.Isolate("h")
	rt := b.Transport(roundTripper(func(*http.Request) (*http.Response, error) { panic("sent") }))
	body := &closeNoter{Reader: strings.NewReader("x")}
	req := request(t.Context(), "http://h/")
	req.Body = body

	give = func(r *http.Request, err error) (*http.Response, error) {
		require.Same(t, req, r)
		require.ErrorIs(t, err, breaker.ErrOpen)
		require.Zero(t, body.closed)
		return &http.Response{StatusCode: 203}, nil
	}
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 203, resp.StatusCode)
	require.Equal(t, http.NoBody, resp.Body)
	require.Same(t, req, resp.Request)
	require.Equal(t, 1, body.closed)

	own := answer(200)
	own.Request = request(t.Context(), "http://other/")
	give = func(*http.Request, error) (*http.Response, error) { return own, nil }
	resp, err = rt.RoundTrip(req)
	require.NoError(t, err)
	require.Same(t, own, resp)
	require.Equal(t, "other", resp.Request.URL.Host)

	give = func(*http.Request, error) (*http.Response, error) { return nil, nil }
	_, err = rt.RoundTrip(req)
	require.ErrorIs(t, err, breaker.ErrOpen, "a fallback without an answer")
	give = func(*http.Request, error) (*http.Response, error) { return nil, io.EOF }
	_, err = rt.RoundTrip(req)
	require.Equal(t, io.EOF, err)
	give = func(*http.Request, error) (*http.Response, error) { panic("fallback") }
	require.PanicsWithValue(t, "fallback", func() { _, _ = rt.RoundTrip(req) })
	require.Equal(t, 5, body.closed)

	// A failing answer is an answer: the fallback is for what was not sent.
	b.Reset("h")
	status := 500
	resp, err = b.Transport(answering(&status, nil)).RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 500, resp.StatusCode)
}

func TestKeysOfClients(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	rt := b.Transport(roundTripper(func(*http.Request) (*http.Response, error) { return answer(200), nil }))
	for _, url := range []string{
		"http://Example.test/a", "http://example.test:80/b", "https://example.test:443/c",
		"http://example.test./d",
		"http://user@EXAMPLE.TEST.:80/e", "http://example.test:/", "http://example.test:8080/",
		"http://x-1.test",
		"https://example.test:80/", "http://[2001:DB8::1]/", "http://[2001:db8::1]:80/",
		"http://[2001:db8::1]:81/",
	} {
		_, err := send(rt, request(t.Context(), url))
		require.NoError(t, err)
	}
	var keys []string
	for key := range b.Stats().Keys {
		keys = append(keys, key)
	}
	require.ElementsMatch(t,
		[]string{"x-1.test", "example.test",
			"example.test:8080", "example.test:80", "2001:db8::1", "[2001:db8::1]:81"},
		keys)
}

func TestKeyAndSkip(t *testing.T) {
	cfg := breaker.Config{
		Key: func(r *http.Request) (string, bool) {
			tenant := r.Header.Get("Tenant")
			return tenant, tenant != ""
		},
		Skip: func(r *http.Request) bool { return r.URL.Path == "/healthz" },
	}
	b := newBreaker(t, cfg)
	next := roundTripper(func(*http.Request) (*http.Response, error) { return answer(500), nil })
	for _, rt := range []http.RoundTripper{b.Transport(next), b.TransportFor("fixed", next)} {
		for range 100 {
			req := request(t.Context(), "http://h/healthz")
			req.Header.Set("Tenant", "a")
			_, err := send(rt, req)
			require.NoError(t, err)
		}
	}
	for range 100 {
		_, err := send(b.Transport(next), request(t.Context(), "http://h/"))
		require.NoError(t, err, "without a key it is unguarded")
	}
	require.Empty(t, b.Stats().Keys)
	req := request(t.Context(), "http://h/")
	req.Header.Set("Tenant", "a")
	_, _ = send(b.Transport(next), req)
	_, _ = send(b.TransportFor("fixed", next), req)
	require.Contains(t, b.Stats().Keys, "a")
	require.Contains(t, b.Stats().Keys, "fixed", "one key for all, whatever Key says")
}

func TestDryRunOfATransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		b := newBreaker(
			t,
			breaker.Config{
				DryRun:   true,
				Fallback: func(*http.Request, error) (*http.Response, error) { panic("fallback") },
			},
		)
		rt := b.Transport(
			roundTripper(func(*http.Request) (*http.Response, error) { sent++; return answer(500), nil }),
		)
		for range 50 {
			status, err := send(rt, request(t.Context(), "http://h/"))
			require.NoError(t, err)
			require.Equal(t, 500, status)
		}
		require.Equal(t, 50, sent)
		require.EqualValues(t, 30, b.Stats().Refusals)
	})
}

type idleCloser struct {
	http.RoundTripper
	closed atomic.Int32
}

func (c *idleCloser) CloseIdleConnections() { c.closed.Add(1) }

func TestCloseIdleConnectionsReachesNext(t *testing.T) {
	next := &idleCloser{}
	th, err := breaker.NewThrottle(breaker.ThrottleConfig{})
	require.NoError(t, err)
	(&http.Client{Transport: newBreaker(t, breaker.Config{}).Transport(next)}).CloseIdleConnections()
	(&http.Client{Transport: th.Transport(next)}).CloseIdleConnections()
	require.EqualValues(t, 2, next.closed.Load())
	(&http.Client{Transport: th.Transport(roundTripper(nil))}).CloseIdleConnections()
}

func TestNilTransportIsTheDefault(t *testing.T) {
	up := backend.Start(t, backend.Config{})
	b := newBreaker(t, breaker.Config{})
	th, err := breaker.NewThrottle(breaker.ThrottleConfig{})
	require.NoError(t, err)
	for _, rt := range []http.RoundTripper{b.Transport(nil), b.TransportFor("x", nil), th.Transport(nil)} {
		status, err := send(rt, request(t.Context(), up.URL.String()))
		require.NoError(t, err)
		require.Equal(t, 200, status)
	}
	http.DefaultClient.CloseIdleConnections()
}

// What becomes of such a probe afterwards is nothing to the probes that have taken its place.
func TestTheRestOfAnAnsweredProbeCountsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{Probes: 2})
		rt := b.TransportFor("up", roundTripper(func(*http.Request) (*http.Response, error) {
			resp := answer(200)
			resp.Body = &brokenBody{r: strings.NewReader("some"), err: io.ErrUnexpectedEOF}
			return resp, nil
		}))
		trip(t, b, "up")
		time.Sleep(5 * time.Second)
		resp, err := rt.RoundTrip(request(t.Context(), "http://h/"))
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		second, err := b.Acquire(t.Context(), "up")
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.Error(t, err)
		require.Equal(t, breaker.HalfOpen, stateOf(b, "up"))
		require.False(t, ask(b, "up", breaker.Success), "one has succeeded, one is under way")
		second(breaker.Success)
		require.Equal(t, breaker.Ramping, stateOf(b, "up"))
	})
}

// A transport that gives up closes the request's body under its own reader: that failure is not the
// caller's.
func TestUploadsThatTheTransportGivesUp(t *testing.T) {
	next := roundTripper(func(r *http.Request) (*http.Response, error) {
		_ = r.Body.Close()
		_, err := r.Body.Read(make([]byte, 1))
		return nil, fmt.Errorf("connection reset: %w", err)
	})
	got := verdict(t, breaker.Config{}, next, func(rt http.RoundTripper) {
		req := request(context.Background(), "http://h/")
		req.Body = &brokenBody{r: strings.NewReader(""), err: http.ErrBodyReadAfterClose}
		_, err := rt.RoundTrip(req)
		require.Error(t, err)
	})
	require.Equal(t, breaker.Failure, got)
}
