package retry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestScopeIsCalledOnceForEachRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type key struct{}
		calls := 0
		r := newRetrier(t, retry.Config{Scope: func(ctx context.Context) context.Context {
			calls++
			return context.WithValue(ctx, key{}, calls)
		}})
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 2, calls)
		for i, a := range s.all() {
			require.Equal(t, 1+i/3, a.req.Context().Value(key{}))
		}
	})
}

func TestAttempts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		require.Zero(t, retry.Attempts(t.Context()))
		s := serve(503, 503, 200)
		send(t, newRetrier(t, retry.Config{}).Transport(s), request(t, "GET", nil))
		for i, a := range s.all() {
			require.Equal(t, i, a.attempts)
		}
	})
}

func TestDeadlineFieldSaysWhatRemains(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{DeadlineField: "request-timeout"})
		s := serve(answer(503, "Retry-After", "2"), 200)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		req := request(t, "GET", nil).WithContext(ctx)
		req.Header.Set("Request-Timeout", "77")
		send(t, r.Transport(s), req)
		require.Equal(t, "5000", s.all()[0].req.Header.Get("Request-Timeout"))
		left, err := strconv.Atoi(s.all()[1].req.Header.Get("Request-Timeout"))
		require.NoError(t, err)
		require.LessOrEqual(t, left, 3000)
		require.Equal(t, "77", req.Header.Get("Request-Timeout"), "the caller's own header is not changed")

		s = serve(200)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.NotContains(t, s.all()[0].req.Header, "Request-Timeout", "without a deadline nothing is said")
	})
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{DeadlineField: "Request-Timeout", PerTry: 300 * time.Millisecond})
		s := serve(200)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(
			t,
			"300",
			s.all()[0].req.Header.Get("Request-Timeout"),
			"an attempt has no longer than PerTry",
		)
	})
}

// The caller's own trace goes on working beside ours.
func TestCallersTraceIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var conns []string
		ctx := httptrace.WithClientTrace(
			t.Context(),
			&httptrace.ClientTrace{GetConn: func(at string) { conns = append(conns, at) }},
		)
		lost := errors.New("lost")
		dialing := func(req *http.Request) (*http.Response, error) { // as net/http does
			httptrace.ContextClientTrace(req.Context()).GetConn("a.test:80")
			return nil, lost
		}
		r := newRetrier(t, retry.Config{})
		_, _, err := send(t, r.Transport(serve(dialing)), request(t, "POST", nil).WithContext(ctx))
		require.ErrorIs(t, err, lost)
		require.Equal(t, []string{"a.test:80", "a.test:80", "a.test:80"}, conns)
		require.Equal(t, uint64(2), r.Stats().Retries["unprocessed"])
	})
}

// Once net/http has had a connection there is no proof any more, whatever the error says.
func TestAConnectionIsNoProof(t *testing.T) {
	bubble(t, func(t *testing.T) {
		redial := func(req *http.Request) (*http.Response, error) {
			trace := httptrace.ContextClientTrace(req.Context())
			trace.GetConn("a.test:80")
			trace.GotConn(httptrace.GotConnInfo{})
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		s := serve(redial)
		r := newRetrier(t, retry.Config{})
		send(t, r.Transport(s), request(t, "POST", nil))
		require.Equal(t, 1, s.count())
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 4, s.count())
		require.Equal(t, 8.0, r.Stats().Budget["a.test"])
		require.Equal(t, uint64(4), r.Stats().Attempts)
	})
}

func TestResponseNamesTheCallersRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		req := request(t, "GET", nil)
		s := serve(503, func(r *http.Request) (*http.Response, error) {
			resp := answer(200)
			resp.Request = r
			return resp, nil
		})
		resp, err := newRetrier(t, retry.Config{}).Transport(s).RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Same(t, req, resp.Request)
	})
}

// A caller sets trailers while its body is read, and the attempts see them.
func TestTrailersThatAreSetWhileTheBodyIsRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		req := request(t, "PUT", nil)
		req.Trailer = http.Header{"Sum": nil}
		req.Body = io.NopCloser(io.MultiReader(stream("abc"), readerFunc(func([]byte) (int, error) {
			req.Trailer.Set("Sum", "6")
			return 0, io.EOF
		})))
		s := serve(503, 200)
		send(t, newRetrier(t, retry.Config{}).Transport(s), req)
		for _, a := range s.all() {
			require.Equal(t, "6", a.req.Trailer.Get("Sum"))
		}
	})
}

// A deadline that has passed leaves nothing, not less.
func TestDeadlineFieldOfALateRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		time.Sleep(time.Minute)
		s := serve(200)
		send(
			t,
			newRetrier(t, retry.Config{DeadlineField: "Request-Timeout"}).Transport(s),
			request(t, "GET", nil).WithContext(ctx),
		)
		require.Equal(t, "0", s.all()[0].req.Header.Get("Request-Timeout"))
	})
}

// A deadline that Scope sets is the request's, though the caller's is later: of its attempts, of
// its waits, and of what the server is told.
func TestScopesShorterDeadline(t *testing.T) {
	tests := []struct {
		name   string
		answer any
		took   time.Duration
		sent   int
		err    error
	}{
		{"while the server works", after(time.Hour, 200), time.Second, 1, context.DeadlineExceeded},
		{"before the wait would end", answer(503, "Retry-After", "2"), 0, 1, nil},
		{"after the wait", answer(503, "Retry-After", "0"), 0, 3, nil},
		{"before a refusal would end", refusal{2 * time.Second}, 0, 1, refusal{2 * time.Second}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRetrier(t, retry.Config{
					DeadlineField: "Request-Timeout",
					Scope: func(ctx context.Context) context.Context {
						ctx, cancel := context.WithTimeout(ctx, time.Second)
						t.Cleanup(cancel)
						return ctx
					},
				})
				r.SetRandom(func(int64) int64 { return 0 })
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				s := serve(tt.answer)
				start := time.Now()
				status, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
				require.Equal(t, tt.took, time.Since(start))
				require.Equal(t, tt.sent, s.count())
				require.Equal(t, "1000", s.all()[0].req.Header.Get("Request-Timeout"))
				if tt.err == nil {
					require.NoError(t, err)
					require.Equal(t, 503, status)
				} else {
					require.ErrorIs(t, err, tt.err)
				}
				want := map[string]uint64{"deadline": 1}
				if tt.sent == 3 {
					want = map[string]uint64{"attempts": 1}
				}
				require.Equal(t, want, r.Stats().GaveUp)
			})
		})
	}
}
