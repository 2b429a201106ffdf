package retry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

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

func (*timeoutError) Error() string { return "i/o timeout" }

func (*timeoutError) Timeout() bool { return true }

func (*timeoutError) Temporary() bool { return true }

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
