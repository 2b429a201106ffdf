package breaker_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/trivet-go/trivet/breaker"
)

// quiet answers without allocating, and for any number of goroutines.
func quiet() http.RoundTripper {
	resp := &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody}
	return roundTripper(func(*http.Request) (*http.Response, error) { return resp, nil })
}

func BenchmarkTransport(b *testing.B) {
	run := func(name string, rt http.RoundTripper) {
		b.Run(name, func(b *testing.B) {
			req := request(context.Background(), "http://users.internal/")
			b.ReportAllocs()
			for b.Loop() {
				_, _ = rt.RoundTrip(req)
			}
		})
	}
	run("state=none", quiet())
	run("state=closed", newBreaker(b, breaker.Config{}).Transport(quiet()))
	run("state=closed/slow=1s", newBreaker(b, breaker.Config{SlowAfter: 1e9}).Transport(quiet()))
	open := newBreaker(b, breaker.Config{OpenFor: 1e12})
	trip(b, open, "users.internal")
	run("state=open", open.Transport(quiet()))
	th, err := breaker.NewThrottle(breaker.ThrottleConfig{})
	if err != nil {
		b.Fatal(err)
	}
	run("throttle", th.Transport(quiet()))
}

func BenchmarkTransportParallel(b *testing.B) {
	for _, keys := range []int{1, 64} {
		for _, procs := range []int{1, 2} {
			b.Run(fmt.Sprintf("keys=%d/procs=%d", keys, procs), func(b *testing.B) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				br := newBreaker(b, breaker.Config{})
				reqs := make([]*http.Request, keys)
				for i := range reqs {
					reqs[i] = request(context.Background(), fmt.Sprintf("http://h%d.internal/", i))
				}
				rt := br.Transport(quiet())
				var start atomic.Int64
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					i := int(start.Add(1)) * keys / 2
					for ; pb.Next(); i++ {
						_, _ = rt.RoundTrip(reqs[i%keys])
					}
				})
			})
		}
	}
}

func BenchmarkMiddleware(b *testing.B) {
	for _, state := range []string{"none", "closed"} {
		b.Run("state="+state, func(b *testing.B) {
			var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "x")
			})
			if state == "closed" {
				h = newBreaker(b, breaker.Config{}).Middleware(h)
			}
			r := request(context.Background(), "http://h/")
			w := discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header               { return d.h }
func (d discard) Write(p []byte) (int, error)       { return len(p), nil }
func (d discard) WriteString(s string) (int, error) { return len(s), nil }
func (d discard) WriteHeader(int)                   {}

// BenchmarkKeys measures what a key costs, and what ten million hostile ones do.
func BenchmarkKeys(b *testing.B) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	b.Run("own", func(b *testing.B) {
		const keys = 100_000
		before := heap()
		br := newBreaker(b, breaker.Config{MaxKeys: keys})
		for i := range keys {
			ask(br, "host-"+strconv.Itoa(i)+".internal", breaker.Success)
		}
		used := float64(heap()-before) / keys
		for b.Loop() {
		}
		b.ReportMetric(used, "B/key")
		runtime.KeepAlive(br)
	})
	b.Run("hostile", func(b *testing.B) {
		before := heap()
		br := newBreaker(b, breaker.Config{})
		n, used := 0, map[string]float64{}
		for _, until := range []int{100_000, 1_000_000, 10_000_000} {
			for ; n < until; n++ {
				ask(br, "host-"+strconv.Itoa(n)+".example", breaker.Success)
			}
			used["MB@"+strconv.Itoa(until)] = float64(heap()-before) / 1e6
		}
		for b.Loop() {
		}
		for unit, v := range used {
			b.ReportMetric(v, unit)
		}
		runtime.KeepAlive(br)
	})
}
