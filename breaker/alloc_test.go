//go:build !race

package breaker_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
)

// still answers without allocating.
func still() http.RoundTripper {
	body := io.NopCloser(http.NoBody)
	resp := &http.Response{StatusCode: 200, Header: http.Header{}}
	return roundTripper(func(*http.Request) (*http.Response, error) {
		resp.Body = body
		return resp, nil
	})
}

func TestAllocTransport(t *testing.T) {
	for name, cfg := range map[string]breaker.Config{"default": {}, "slow": {SlowAfter: 1e9}} {
		b := newBreaker(t, cfg)
		rt := b.Transport(still())
		req := request(context.Background(), "http://users.internal/")
		require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
			resp, err := rt.RoundTrip(req)
			if err != nil {
				panic(err)
			}
			_ = resp.Body.Close()
		}), 1.0, name)
	}
}

func TestAllocRefusal(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	trip(t, b, "users.internal")
	rt := b.Transport(still())
	req := request(context.Background(), "http://users.internal/")
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		if _, err := rt.RoundTrip(req); err == nil {
			panic("sent")
		}
	}), 1.0)
}

func TestAllocMiddleware(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	h := b.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }), 2.0)
}

func TestAllocThrottle(t *testing.T) {
	th := newThrottle(t, breaker.ThrottleConfig{})
	rt := th.Transport(still())
	req := request(context.Background(), "http://users.internal/")
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = rt.RoundTrip(req) }))
}

func TestAllocOverflow(t *testing.T) {
	b := newBreaker(t, breaker.Config{MaxKeys: 1})
	require.True(t, ask(b, "a", breaker.Success))
	require.True(t, ask(b, "x", breaker.Success)) // the sweep that finds no room
	rt := b.TransportFor("another", still())
	req := request(context.Background(), "http://h/")
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		resp, _ := rt.RoundTrip(req)
		_ = resp.Body.Close()
	}), 1.0)
}
