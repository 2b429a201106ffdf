package breaker_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
)

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
