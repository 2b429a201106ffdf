package versioning_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trivet-go/trivet/versioning"
)

// fixedKey is a key function that costs nothing.
func fixedKey(*http.Request) (string, bool) { return "user-4711", true }

// runningRollout returns a rollout in its first step, with all that a request may cost.
func runningRollout(tb testing.TB, stable, canary http.Handler, tagField string) http.Handler {
	cfg := rolloutOf(0.3)
	cfg.Key, cfg.TagField = fixedKey, tagField
	cfg.Force = func(*http.Request) (versioning.Arm, bool) { return "", false }
	cfg.Skip = func(*http.Request) bool { return false }
	return newRollout(tb, cfg).Handler(stable, canary)
}

// beyond prints what h costs beyond the handler in it: interleaved, the median of ten and the
// spread.
func beyond(b *testing.B, bare, h http.Handler, r *http.Request) {
	const each = 20_000
	w := &nullWriter{header: http.Header{}}
	cost := func(h http.Handler) float64 {
		begun := time.Now()
		for range each {
			clear(w.header)
			h.ServeHTTP(w, r)
		}
		return float64(time.Since(begun).Nanoseconds()) / each
	}
	for b.Loop() {
		var costs []float64
		for range 10 {
			without := cost(bare)
			costs = append(costs, cost(h)-without)
		}
		slices.Sort(costs)
		b.ReportMetric((costs[4]+costs[5])/2, "ns/request")
		b.ReportMetric(costs[0], "ns-least")
		b.ReportMetric(costs[9], "ns-most")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRollout: the bar is 300 ns and one allocation beyond the key function, and beyond the
// same handler that reads the clock as often.
func BenchmarkRollout(b *testing.B) {
	bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })
	base := time.Now()
	clocked := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Since(base)
		bare(w, r)
		_, _ = fixedKey(r)
		if time.Since(base) < begun {
			b.Error("the clock goes back")
		}
	})
	h, tagged := runningRollout(b, bare, bare, ""), runningRollout(b, bare, bare, "Surrogate-Key")
	r := request("GET", "/")
	b.Run("beyond=handler", func(b *testing.B) { beyond(b, clocked, h, r) })
	b.Run("beyond=handler/tag=true", func(b *testing.B) { beyond(b, clocked, tagged, r) })
	for name, h := range map[string]http.Handler{"baseline": bare, "rollout": h, "tagging": tagged} {
		b.Run("handler="+name, func(b *testing.B) {
			b.ReportAllocs()
			w := &nullWriter{header: http.Header{}}
			for b.Loop() {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
		})
		b.Run("parallel/handler="+name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				w := &nullWriter{header: http.Header{}}
				for pb.Next() {
					clear(w.header)
					h.ServeHTTP(w, r)
				}
			})
		})
	}
}

// BenchmarkShadow is what a request costs whose copy finds no room, since the candidate hangs, and
// what a copy costs that waits. The bar is 10 µs beyond the copying of bytes, and six allocations.
func BenchmarkShadow(b *testing.B) {
	for _, size := range []int{0, 1 << 10, 32 << 10} {
		body := []byte(strings.Repeat("x", size))
		bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write(body)
		})
		forever := make(chan struct{})
		cfg := shadowOf(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-forever }))
		s, err := versioning.NewShadow(cfg)
		if err != nil {
			b.Fatal(err)
		}
		h := s.Middleware(bare)
		r := request("GET", "/users", "Accept", "application/json", "User-Agent", "x", "Authorization", "y")
		b.Run(fmt.Sprintf("beyond=handler/body=%d", size), func(b *testing.B) { beyond(b, bare, h, r) })
		b.Run(fmt.Sprintf("body=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			w := &nullWriter{header: http.Header{}}
			for b.Loop() {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
		})
		close(forever)
		if err := s.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
