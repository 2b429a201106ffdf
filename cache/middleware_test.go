package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func newCache(t testing.TB, cfg cache.Config) *cache.Cache {
	t.Helper()
	c, err := cache.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return c
}

// get sends a GET to h and returns the answer. The pairs are names and values of request fields.
func get(h http.Handler, target string, pairs ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i < len(pairs); i += 2 {
		r.Header.Add(pairs[i], pairs[i+1])
	}
	return do(h, r)
}

func do(h http.Handler, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}

// A counted handler counts its calls.
type counted struct {
	calls atomic.Int64
	serve http.HandlerFunc
}

func (h *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.calls.Add(1)
	h.serve(w, r)
}

func TestMiddleware_HitsWhatIsFresh(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprintf(w, "hello %s", r.URL.Path)
	}}
	h := newCache(t, cache.Config{}).Middleware(origin)
	first := get(h, "/a")
	require.Equal(t, "hello /a", text(t, first))
	require.Equal(t, "Trivet; fwd=uri-miss; stored", first.Header.Get("Cache-Status"))
	second := get(h, "/a")
	require.Equal(t, "hello /a", text(t, second))
	require.Equal(t, "Trivet; hit; ttl=60", second.Header.Get("Cache-Status"))
	require.Equal(t, "0", second.Header.Get("Age"))
	require.Equal(t, "8", second.Header.Get("Content-Length"))
	require.EqualValues(t, 1, origin.calls.Load())
}

func newRequest(method, target string) *http.Request { return httptest.NewRequest(method, target, nil) }
