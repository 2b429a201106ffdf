package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
)

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
		{"505", 505, nil, breaker.Success},
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
