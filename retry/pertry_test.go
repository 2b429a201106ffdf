package retry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestPerTry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Second})
		s := serve(after(time.Hour, 200), after(time.Millisecond, 200))
		start := time.Now()
		status, text, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, "OK", text)
		require.Less(t, time.Since(start), 1100*time.Millisecond)
		require.Equal(t, map[string]uint64{"timeout": 1}, r.Stats().Retries)

		s = serve(after(time.Hour, 200))
		_, _, err = send(t, r.Transport(s), request(t, "GET", nil))
		require.ErrorIs(t, err, retry.ErrPerTry)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		require.Equal(t, 3, s.count())

		s = serve(after(time.Hour, 200))
		send(t, r.Transport(s), request(t, "POST", nil))
		require.Equal(t, 1, s.count(), "the server may have it")
	})
}

// PerTry's context ends with the body, not before, and not long after.
func TestPerTryLastsAsLongAsTheBody(t *testing.T) {
	for _, how := range []string{"read", "close", "none"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRetrier(t, retry.Config{PerTry: time.Minute})
				s := serve(200)
				if how == "none" {
					s = serve(func(*http.Request) (*http.Response, error) {
						resp := answer(204)
						resp.Body = http.NoBody
						return resp, nil
					})
				}
				resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
				require.NoError(t, err)
				ctx := s.all()[0].req.Context()
				switch how {
				case "none":
					require.Error(t, ctx.Err())
				case "read":
					time.Sleep(30 * time.Second)
					require.NoError(t, ctx.Err())
					_, _ = io.Copy(io.Discard, resp.Body)
					require.Error(t, ctx.Err())
				case "close":
					require.NoError(t, ctx.Err())
					resp.Body.Close()
					require.Error(t, ctx.Err())
				}
			})
		})
	}
}

// The context of an attempt that failed ends when its body is thrown away.
func TestPerTryEndsWithFailedAttempts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Hour})
		s := serve(503, io.EOF, 200)
		resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Error(t, s.all()[0].req.Context().Err())
		require.Error(t, s.all()[1].req.Context().Err())
		require.NoError(t, s.all()[2].req.Context().Err())
	})
}

// A refusal stays one where it comes because the attempt's time is up.
func TestRefusalAtTheEndOfPerTry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Second})
		s := serve(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, refusal{time.Second}
		}, 200)
		status, _, err := send(t, r.Transport(s), request(t, "POST", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, map[string]uint64{"not_sent": 1}, r.Stats().Retries)
	})
}

// An attempt that never got a connection within PerTry was not sent.
func TestPerTryBeforeThereIsAConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{PerTry: time.Second})
		s := serve(func(req *http.Request) (*http.Response, error) {
			httptrace.ContextClientTrace(req.Context()).GetConn("a.test:80")
			<-req.Context().Done()
			return nil, context.Cause(req.Context())
		}, 200)
		status, _, err := send(t, r.Transport(s), request(t, "POST", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, map[string]uint64{"timeout": 1}, r.Stats().Retries)
	})
}

// A closedBody notes whether its attempt was over when it was closed.
type closedBody struct {
	io.Reader
	ctx    context.Context
	closes int
	ended  error
	err    error
}

func (b *closedBody) Close() error {
	b.closes++
	b.ended = b.ctx.Err()
	return b.err
}

// A body is closed before the end of its attempt: net/http would take a context that has ended for
// an answer that was abandoned, and drop the connection. What Close says reaches the caller.
func TestBodiesAreClosedBeforeTheirAttemptEnds(t *testing.T) {
	for _, hedged := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			cfg := retry.Config{PerTry: time.Minute}
			if hedged {
				cfg = retry.Config{Hedge: true}
			}
			r := newRetrier(t, cfg)
			warm(t, r, "GET")
			var b *closedBody
			s := serve(func(req *http.Request) (*http.Response, error) {
				b = &closedBody{Reader: stream("x"), ctx: req.Context(), err: io.ErrClosedPipe}
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: b}, nil
			})
			resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
			require.NoError(t, err)
			require.Equal(t, io.ErrClosedPipe, resp.Body.Close())
			require.Equal(t, 1, b.closes)
			require.NoError(t, b.ended)
			require.Error(t, b.ctx.Err())
		})
	}
}

// Of a caller that has left, too, the error stays what it is.
func TestPerTryOfACallerThatHasLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lost := errors.New("lost")
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		s := serve(func(*http.Request) (*http.Response, error) {
			time.Sleep(3 * time.Second)
			return nil, lost
		})
		r := newRetrier(t, retry.Config{PerTry: time.Second})
		_, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
		require.Equal(t, lost, err)
		require.Equal(t, map[string]uint64{"canceled": 1}, r.Stats().GaveUp)
	})
}
