//go:build !race

package cache_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestAllocs_AHitAllocatesOneObject(t *testing.T) {
	c := newCache(t, cache.Config{})
	h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		setFields(w.Header(), 10)
		w.Header().Set("Vary", "Accept-Encoding")
		_, _ = w.Write([]byte("0123456789"))
	}))
	r := benchRequest()
	h.ServeHTTP(httptest.NewRecorder(), r)
	w := &bareWriter{h: make(http.Header)}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		clear(w.h)
		h.ServeHTTP(w, r)
	}), 1.0)
}
