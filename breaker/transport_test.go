package breaker_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
	"github.com/trivet-go/trivet/internal/backend"
)

func (unsentError) Error() string { return "not sent" }

func (unsentError) NotSent() bool { return true }

func (timeoutError) Error() string { return "timeout" }

func (timeoutError) Timeout() bool { return true }

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
