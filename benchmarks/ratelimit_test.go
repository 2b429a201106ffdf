package benchmarks_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/didip/tollbooth/v7"
	"github.com/go-chi/httprate"
	"github.com/sethvargo/go-limiter/httplimit"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/stretchr/testify/require"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
	"github.com/ulule/limiter/v3"
	"github.com/ulule/limiter/v3/drivers/middleware/stdlib"
	"github.com/ulule/limiter/v3/drivers/store/memory"

	"github.com/trivet-go/trivet/ratelimit"
)

// An httpLimiter is a library's middleware that admits limit requests a minute for each address, in
// memory, with its headers.
type httpLimiter struct {
	name string
	wrap func(tb testing.TB, limit int, next http.Handler) http.Handler
}

func httpLimiters(maxKeys int) []httpLimiter {
	return []httpLimiter{
		{"trivet", func(tb testing.TB, limit int, next http.Handler) http.Handler {
			store, err := ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: maxKeys})
			require.NoError(tb, err)
			l, err := ratelimit.New(ratelimit.Config{Store: store, Policies: []ratelimit.Policy{{
				Name: "minute", Rate: ratelimit.PerMinute(int64(limit)).WithBurst(int64(limit)),
				Key: ratelimit.ByPeer, Missing: ratelimit.MissingReject,
			}}})
			require.NoError(tb, err)
			return l.Middleware(next)
		}},
		{"httprate", func(_ testing.TB, limit int, next http.Handler) http.Handler {
			return httprate.LimitBy(limit, time.Minute, func(r *http.Request) (string, error) {
				host, _, err := net.SplitHostPort(r.RemoteAddr)
				return host, err
			})(next)
		}},
		{"go-limiter", func(tb testing.TB, limit int, next http.Handler) http.Handler {
			store, err := memorystore.New(&memorystore.Config{Tokens: uint64(limit), Interval: time.Minute})
			require.NoError(tb, err)
			tb.Cleanup(func() { _ = store.Close(context.Background()) })
			m, err := httplimit.NewMiddleware(store, httplimit.IPKeyFunc())
			require.NoError(tb, err)
			return m.Handle(next)
		}},
		{"throttled", func(tb testing.TB, limit int, next http.Handler) http.Handler {
			store, err := memstore.NewCtx(0)
			require.NoError(tb, err)
			l, err := throttled.NewGCRARateLimiterCtx(
				store, throttled.RateQuota{MaxRate: throttled.PerMin(limit), MaxBurst: limit - 1},
			)
			require.NoError(tb, err)
			h := throttled.HTTPRateLimiterCtx{RateLimiter: l, VaryBy: &throttled.VaryBy{RemoteAddr: true}}
			return h.RateLimit(next)
		}},
		{"ulule", func(_ testing.TB, limit int, next http.Handler) http.Handler {
			return stdlib.NewMiddleware(
				limiter.New(memory.NewStore(), limiter.Rate{Period: time.Minute, Limit: int64(limit)}),
			).Handler(next)
		}},
		{"tollbooth", func(_ testing.TB, limit int, next http.Handler) http.Handler {
			l := tollbooth.NewLimiter(float64(limit)/60, nil).SetBurst(limit)
			l.SetIPLookups([]string{"RemoteAddr"})
			return tollbooth.LimitHandler(l, next)
		}},
	}
}

func limitRequest() *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	return r
}

// statusResponse is a nullResponse that remembers the status.
type statusResponse struct {
	nullResponse
	status int
}

func (w *statusResponse) WriteHeader(status int) { w.status = status }

// BenchmarkRateLimit is one hot key, admitted or denied, with headers: time and allocations of each
// contender.
func BenchmarkRateLimit(b *testing.B) {
	for name, limit := range map[string]int{"admitted": 1_000_000_000, "denied": 1} {
		for _, c := range httpLimiters(100_000) {
			b.Run("case="+name+"/contender="+c.name, func(b *testing.B) {
				h := c.wrap(b, limit, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
				w, r := &statusResponse{nullResponse: nullResponse{http.Header{}}}, limitRequest()
				h.ServeHTTP(w, r)
				b.ReportAllocs()
				for b.Loop() {
					clear(w.h)
					w.status = 200
					h.ServeHTTP(w, r)
				}
				require.Equal(b, limit == 1, w.status == 429, w.status)
			})
		}
	}
}

// BenchmarkRateLimitRatio interleaves all contenders in one run and reports the medians of the
// paired ratios of wall time: Trivet's over each rival's. Run it with -benchtime 20x or more.
func BenchmarkRateLimitRatio(b *testing.B) {
	for name, limit := range map[string]int{"admitted": 1_000_000_000, "denied": 1} {
		b.Run("case="+name, func(b *testing.B) {
			const n = 5000
			w, r := nullResponse{http.Header{}}, limitRequest()
			var handlers []http.Handler
			contenders := httpLimiters(100_000)
			for _, c := range contenders {
				handlers = append(
					handlers, c.wrap(b, limit, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})),
				)
			}
			block := func(h http.Handler) float64 {
				start := time.Now()
				for range n {
					clear(w.h)
					h.ServeHTTP(w, r)
				}
				return float64(time.Since(start)) / n
			}
			for _, h := range handlers {
				block(h)
			}
			took := make([][]float64, len(handlers))
			ratios := make([][]float64, len(handlers))
			for b.Loop() {
				ours := block(handlers[0])
				took[0] = append(took[0], ours)
				for i, h := range handlers[1:] {
					theirs := block(h)
					took[i+1] = append(took[i+1], theirs)
					ratios[i+1] = append(ratios[i+1], ours/theirs)
				}
			}
			b.ReportMetric(0, "ns/op")
			worst := 1 // the fastest rival
			for i, c := range contenders {
				b.ReportMetric(medianOf(took[i]), c.name+"-ns")
				if i > 1 && medianOf(ratios[i]) > medianOf(ratios[worst]) {
					worst = i
				}
			}
			b.Logf("fastest rival: %s", contenders[worst].name)
			b.ReportMetric(medianOf(ratios[worst]), "ratio")
			b.ReportMetric(slices.Min(ratios[worst]), "ratio-min")
			b.ReportMetric(slices.Max(ratios[worst]), "ratio-max")
		})
	}
}

// BenchmarkRateLimitTakeKeys is TakeKeys on 4,096 keys from all processors, beyond reading the
// clock and drawing the keys, interleaved: wall time by the number of all decisions, as RunParallel
// counts, and time of one goroutine by its own. Run it with -benchtime 10x or more.
func BenchmarkRateLimitTakeKeys(b *testing.B) {
	keys := make([][]string, 4096)
	for i := range keys {
		keys[i] = []string{"10." + strconv.Itoa(i/256) + "." + strconv.Itoa(i%256) + ".1"}
	}
	for name, algorithm := range map[string]ratelimit.Algorithm{
		"gcra": ratelimit.GCRA, "sliding": ratelimit.SlidingWindow,
	} {
		b.Run("algorithm="+name, func(b *testing.B) {
			const n = 200_000
			l, err := ratelimit.New(ratelimit.Config{Policies: []ratelimit.Policy{{
				Name: "p", Rate: ratelimit.PerSecond(1_000_000), Algorithm: algorithm,
				Missing: ratelimit.MissingReject,
				Key:     func(*http.Request) (string, bool) { return "", false },
			}}})
			require.NoError(b, err)
			base := time.Now()
			parallel := func(one func(keys []string)) float64 {
				var wg sync.WaitGroup
				start := time.Now()
				for g := range runtime.GOMAXPROCS(0) {
					wg.Go(func() {
						x := uint32(g+1) * 0x9e3779b9
						for range n {
							x ^= x << 13
							x ^= x >> 17
							x ^= x << 5
							one(keys[x%4096])
						}
					})
				}
				wg.Wait()
				return float64(time.Since(start)) / n
			}
			var sink [64]time.Duration
			clock := func(keys []string) { sink[len(keys)] = time.Since(base) }
			ctx := context.Background()
			take := func(keys []string) { _, _ = l.TakeKeys(ctx, keys) }
			parallel(take)
			var beyond []float64
			for b.Loop() {
				bare := parallel(clock)
				beyond = append(beyond, parallel(take)-bare)
			}
			procs := float64(runtime.GOMAXPROCS(0))
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(medianOf(beyond)/procs, "added-ns")
			b.ReportMetric(slices.Min(beyond)/procs, "added-ns-min")
			b.ReportMetric(slices.Max(beyond)/procs, "added-ns-max")
			b.ReportMetric(medianOf(beyond), "goroutine-ns")
		})
	}
}

// BenchmarkRateLimitMemory is the heap for each of a million live keys, all told. Run it with
// -benchtime 1x.
func BenchmarkRateLimitMemory(b *testing.B) {
	const n = 1_000_000
	for _, c := range httpLimiters(n) {
		b.Run("contender="+c.name, func(b *testing.B) {
			r := limitRequest()
			w := nullResponse{http.Header{}}
			for b.Loop() {
				before := liveHeap()
				h := c.wrap(b, 100, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
				for i := range n {
					r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)
					clear(w.h)
					h.ServeHTTP(w, r)
				}
				b.ReportMetric(float64(liveHeap()-before)/n, "B/key")
				runtime.KeepAlive(h)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}
