//go:build !race

package cache_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

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

func TestAllocs_AHitInTheNearTierAllocatesOneObject(t *testing.T) {
	p := newTier(t, newFarServer(), cache.TieredConfig{NearTTL: time.Hour},
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			setFields(w.Header(), 10)
			_, _ = w.Write([]byte("0123456789"))
		}))
	r := benchRequest()
	p.h.ServeHTTP(httptest.NewRecorder(), r)
	w := &bareWriter{h: make(http.Header)}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		clear(w.h)
		p.h.ServeHTTP(w, r)
	}), 1.0)
}

// The answer with its body, its fields in a map of up to eight, and their values.
func TestAllocs_AHitOfATransportAllocatesFourObjects(t *testing.T) {
	rt := newCache(t, cache.Config{Private: true}).Transport(handlerTransport{http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) {
			setFields(w.Header(), 10)
			_, _ = w.Write([]byte("0123456789"))
		})})
	r := benchRequest()
	r.RequestURI = ""
	one := func() {
		resp, err := rt.RoundTrip(r)
		if err != nil {
			panic(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if n != 10 || err != nil {
			panic(err)
		}
		resp.Body.Close()
	}
	one()
	require.LessOrEqual(t, testing.AllocsPerRun(1000, one), 4.0)
}

type handlerTransport struct{ http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}
