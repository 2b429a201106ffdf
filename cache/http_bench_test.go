package cache_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/trivet-go/trivet/cache"
)

// A bareWriter is a ResponseWriter that costs nothing.
type bareWriter struct{ h http.Header }

func (w *bareWriter) Header() http.Header         { return w.h }
func (w *bareWriter) WriteHeader(int)             {}
func (w *bareWriter) Write(p []byte) (int, error) { return len(p), nil }

func benchRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://example.com/products/17?page=2", nil)
	r.Header.Set("User-Agent", "Mozilla/5.0")
	r.Header.Set("Accept", "*/*")
	r.Header.Set("Accept-Encoding", "gzip, br")
	return r
}

var benchDate = ago(0)

func setFields(h http.Header, n int) {
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "max-age=3600")
	h.Set("Etag", `"abcdef"`)
	h.Set("Content-Length", strconv.Itoa(n))
	h.Set("Date", benchDate)
}

// BenchmarkMiddlewareHit compares a hit with a handler that sets the same fields and writes once.
func BenchmarkMiddlewareHit(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		body := []byte(strings.Repeat("x", size))
		bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			setFields(h, size)
			h.Set("Age", "1")
			h.Set("Cache-Status", "Trivet; hit; ttl=3599")
			_, _ = w.Write(body)
		})
		c, err := cache.New(cache.Config{})
		if err != nil {
			b.Fatal(err)
		}
		cached := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			setFields(w.Header(), size)
			_, _ = w.Write(body)
		}))
		r := benchRequest()
		cached.ServeHTTP(httptest.NewRecorder(), r)
		for name, h := range map[string]http.Handler{"bare": bare, "trivet": cached} {
			b.Run("size="+strconv.Itoa(size)+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				w := &bareWriter{h: make(http.Header)}
				for b.Loop() {
					clear(w.h)
					h.ServeHTTP(w, r)
				}
			})
		}
	}
}

// BenchmarkTransportHit measures a hit in front of a client.
func BenchmarkTransportHit(b *testing.B) {
	c, err := cache.New(cache.Config{Private: true})
	if err != nil {
		b.Fatal(err)
	}
	rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		h := make(http.Header)
		setFields(h, 1<<10)
		return &http.Response{
			StatusCode: http.StatusOK, Header: h, ContentLength: 1 << 10, Request: r,
			Body: io.NopCloser(strings.NewReader(strings.Repeat("x", 1<<10))),
		}, nil
	}))
	r, _ := http.NewRequest(http.MethodGet, "http://example.com/products/17?page=2", nil)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := rt.RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
