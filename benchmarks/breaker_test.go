package benchmarks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	resiliency "github.com/eapache/go-resiliency/breaker"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/breaker"
)

// A breakerRival wraps a client's transport in a circuit breaker that has a window of 10 s and
// opens for 5 s when half of at least 20 requests have failed, or as near to that as it can. Rivals
// that know nothing of HTTP stand in the least code that makes them a transport for one host: they
// see the header, and neither bodies nor keys.
type breakerRival struct {
	name string
	wrap func(testing.TB, http.RoundTripper) http.RoundTripper
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

var errStatus = errors.New("status")

func failedStatus(resp *http.Response, err error) error {
	if err == nil && resp.StatusCode >= 500 {
		return errStatus
	}
	return err
}

func breakers() []breakerRival {
	return []breakerRival{
		{"none", func(_ testing.TB, next http.RoundTripper) http.RoundTripper { return next }},
		{"trivet", func(tb testing.TB, next http.RoundTripper) http.RoundTripper {
			b, err := breaker.New(breaker.Config{})
			require.NoError(tb, err)
			return b.Transport(next)
		}},
		{"gobreaker", func(_ testing.TB, next http.RoundTripper) http.RoundTripper {
			cb := gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
				Interval: 10 * time.Second, BucketPeriod: time.Second, Timeout: 5 * time.Second,
				ReadyToTrip: func(c gobreaker.Counts) bool {
					return c.Requests >= 20 && 2*c.TotalFailures >= c.Requests
				},
			})
			return roundTripFunc(func(r *http.Request) (*http.Response, error) {
				done, err := cb.Allow()
				if err != nil {
					return nil, err
				}
				resp, err := next.RoundTrip(r)
				done(failedStatus(resp, err))
				return resp, err
			})
		}},
		{"failsafehttp", func(_ testing.TB, next http.RoundTripper) http.RoundTripper {
			return failsafehttp.NewRoundTripper(next, circuitbreaker.NewBuilder[*http.Response]().
				HandleIf(func(resp *http.Response, err error) bool { return failedStatus(resp, err) != nil }).
				WithFailureRateThreshold(0.5, 20, 10*time.Second).WithDelay(5*time.Second).Build())
		}},
		{"go-resiliency", func(_ testing.TB, next http.RoundTripper) http.RoundTripper {
			cb := resiliency.New(20, 1, 5*time.Second)
			return roundTripFunc(func(r *http.Request) (resp *http.Response, err error) {
				refused := cb.Run(func() error {
					resp, err = next.RoundTrip(r)
					return failedStatus(resp, err)
				})
				if refused == resiliency.ErrBreakerOpen {
					return nil, refused
				}
				return resp, err
			})
		}},
		{"hystrix-go", func(tb testing.TB, next http.RoundTripper) http.RoundTripper {
			name := tb.Name()
			hystrix.ConfigureCommand(
				name,
				hystrix.CommandConfig{Timeout: 60_000, MaxConcurrentRequests: 1000, SleepWindow: 5000},
			)
			return roundTripFunc(func(r *http.Request) (resp *http.Response, err error) {
				refused := hystrix.DoC(r.Context(), name, func(context.Context) error {
					resp, err = next.RoundTrip(r)
					return failedStatus(resp, err)
				}, nil)
				if errors.As(refused, new(hystrix.CircuitError)) {
					return nil, refused
				}
				return resp, err
			})
		}},
	}
}

// breakerUpstream answers with a status and a body, without allocating. It is for one goroutine.
func breakerUpstream(status *int) http.RoundTripper {
	resp := &http.Response{Header: http.Header{}}
	body := io.NopCloser(http.NoBody)
	return roundTripFunc(func(*http.Request) (*http.Response, error) {
		resp.StatusCode, resp.Body = *status, body
		return resp, nil
	})
}

func breakerRequest(host string) *http.Request {
	r, err := http.NewRequest(http.MethodGet, "http://"+host+"/", nil)
	if err != nil {
		panic(err)
	}
	return r
}

func breakerSend(rt http.RoundTripper, r *http.Request) {
	if resp, err := rt.RoundTrip(r); err == nil {
		_ = resp.Body.Close()
	}
}

// BenchmarkBreaker gives allocations; for times see BenchmarkBreakerRatio.
func BenchmarkBreaker(b *testing.B) {
	for _, state := range []string{"closed", "open"} {
		for _, c := range breakers() {
			b.Run("state="+state+"/lib="+c.name, func(b *testing.B) {
				status := 200
				rt := c.wrap(b, breakerUpstream(&status))
				r := breakerRequest("users.internal")
				if state == "open" {
					status = 500
					for range 100 {
						breakerSend(rt, r)
					}
				}
				b.ReportAllocs()
				for b.Loop() {
					breakerSend(rt, r)
				}
			})
		}
	}
}

// BenchmarkBreakerRatio interleaves all contenders in one run. It reports medians of what each adds
// to the transport below, and of the paired ratios of Trivet's over each rival's, with the spread
// of the one over gobreaker's. Run it with -benchtime 20x or more.
func BenchmarkBreakerRatio(b *testing.B) {
	for _, state := range []string{"closed", "open"} {
		b.Run("state="+state, func(b *testing.B) {
			const n = 2000
			contenders := breakers()
			status := 200
			var transports []http.RoundTripper
			for _, c := range contenders {
				transports = append(transports, c.wrap(b, breakerUpstream(&status)))
			}
			r := breakerRequest("users.internal")
			trip := func() {
				if state == "open" { // again each time: five seconds may be over
					status = 500
					for _, rt := range transports {
						for range 100 {
							breakerSend(rt, r)
						}
					}
				}
			}
			block := func(rt http.RoundTripper) float64 {
				start := time.Now()
				for range n {
					breakerSend(rt, r)
				}
				return float64(time.Since(start)) / n
			}
			added := make([][]float64, len(contenders))
			ratios := make([][]float64, len(contenders))
			for b.Loop() {
				trip()
				base := block(transports[0])
				for i := 1; i < len(contenders); i++ {
					added[i] = append(added[i], block(transports[i])-base)
					ratios[i] = append(ratios[i], added[1][len(added[1])-1]/added[i][len(added[i])-1])
				}
			}
			b.ReportMetric(0, "ns/op")
			for i, c := range contenders[1:] {
				b.ReportMetric(medianOf(added[i+1]), c.name+"-added-ns")
				if i > 0 {
					b.ReportMetric(medianOf(ratios[i+1]), "over-"+c.name)
				}
			}
			b.ReportMetric(slices.Min(ratios[2]), "over-gobreaker-min")
			b.ReportMetric(slices.Max(ratios[2]), "over-gobreaker-max")
		})
	}
}

// BenchmarkBreakerCores sends requests of 64 keys from one goroutine and from two, in turn, and
// reports how many times the throughput of one the two have; and the same of one gobreaker for each
// key, which is behind a map that nobody writes.
func BenchmarkBreakerCores(b *testing.B) {
	const keys, n = 64, 20_000
	if runtime.GOMAXPROCS(0) < 2 {
		b.Fatal("needs two processors")
	}
	next := roundTripFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
	})
	var reqs []*http.Request
	each := map[string]http.RoundTripper{}
	for i := range keys {
		host := fmt.Sprintf("h%d.internal", i)
		reqs = append(reqs, breakerRequest(host))
		each[host] = breakers()[2].wrap(b, next)
	}
	for name, rt := range map[string]http.RoundTripper{
		"trivet": breakers()[1].wrap(b, next),
		"gobreaker": roundTripFunc(func(r *http.Request) (*http.Response, error) {
			return each[r.URL.Host].RoundTrip(r)
		}),
	} {
		b.Run("lib="+name, func(b *testing.B) {
			run := func(goroutines int) (perSecond float64) {
				var wg sync.WaitGroup
				start := time.Now()
				for g := range goroutines {
					wg.Go(func() {
						for i := range n {
							breakerSend(rt, reqs[(i+g*keys/2)%keys])
						}
					})
				}
				wg.Wait()
				return float64(goroutines*n) / time.Since(start).Seconds()
			}
			run(1)
			var gain []float64
			for b.Loop() {
				one := run(1)
				gain = append(gain, run(2)/one)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(medianOf(gain), "times-one")
			b.ReportMetric(slices.Max(gain), "times-one-max")
		})
	}
}
