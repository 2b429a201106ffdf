package ratelimit_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trivet-go/trivet/ratelimit"
)

// A bareWriter is a ResponseWriter that costs next to nothing and is used again.
type bareWriter struct {
	header http.Header
	status int
}

func (w *bareWriter) Header() http.Header         { return w.header }
func (w *bareWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *bareWriter) WriteHeader(status int)      { w.status = status }

func (w *bareWriter) reset() {
	clear(w.header)
	w.status = 0
}

var nothing = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

func BenchmarkTakeKeys(b *testing.B) {
	keys := make([][]string, 4096)
	for i := range keys {
		keys[i] = []string{fmt.Sprintf("10.%d.%d.1", i/256, i%256)}
	}
	// Each goroutine draws keys in its own order; the baseline draws them too.
	draw := func(x *uint32) []string {
		*x ^= *x << 13
		*x ^= *x >> 17
		*x ^= *x << 5
		return keys[*x%4096]
	}
	var seed atomic.Uint32
	b.Run("baseline=clock", func(b *testing.B) {
		base := time.Now()
		b.RunParallel(func(pb *testing.PB) {
			x := seed.Add(0x9e3779b9)
			var sum time.Duration
			for pb.Next() {
				sum += time.Since(base) + time.Duration(len(draw(&x)))
			}
			_ = sum
		})
	})
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		b.Run(fmt.Sprintf("algorithm=%s/keys=4096", algorithm), func(b *testing.B) {
			p := policyOf("p", ratelimit.PerSecond(1_000_000))
			p.Algorithm = algorithm
			l := newLimiter(b, ratelimit.Config{Policies: []ratelimit.Policy{p}})
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				ctx := context.Background()
				x := seed.Add(0x9e3779b9)
				for pb.Next() {
					if _, err := l.TakeKeys(ctx, draw(&x)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkMiddleware(b *testing.B) {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	for _, rate := range []ratelimit.Rate{
		ratelimit.PerSecond(1_000_000_000).WithBurst(1_000_000_000), ratelimit.PerDay(1),
	} {
		b.Run(fmt.Sprintf("limited=%t", rate.Limit == 1), func(b *testing.B) {
			p := policyOf("p", rate)
			p.Key = ratelimit.ByPeer
			h := newLimiter(b, ratelimit.Config{Policies: []ratelimit.Policy{p}}).Middleware(nothing)
			w := &bareWriter{header: http.Header{}}
			h.ServeHTTP(w, r)
			b.ReportAllocs()
			for b.Loop() {
				w.reset()
				h.ServeHTTP(w, r)
			}
		})
	}
}
