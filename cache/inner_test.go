package cache_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestMiddleware_WhatTheHandlerDoesToItsRequestMakesNoOtherVariant(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "X-A, X-B")
		_, _ = io.WriteString(w, r.Header.Get("X-A"))
	}}
	changing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-A") == "" {
			r.Header.Set("X-A", "set inside")
		}
		r.Header.Set("X-B", "set inside")
		origin.ServeHTTP(w, r)
	})
	h := newCache(t, cache.Config{}).Middleware(changing)
	for range 2 {
		require.Equal(t, "set inside", text(t, get(h, "/")))
		require.Equal(t, "1", text(t, get(h, "/", "X-A", "1")))
	}
	require.EqualValues(t, 2, origin.calls.Load())
}

func TestNoStore_OfOneRequestDoesNotKeepOthersFromSharing(t *testing.T) {
	c := newCache(t, cache.Config{})
	h := c.Middleware(numbered("Cache-Control", "max-age=60"))
	get(h, "/", "Cache-Control", "no-store")
	require.Equal(t, "Trivet; fwd=uri-miss; stored", get(h, "/").Header.Get("Cache-Status"))
}
