package benchmarks_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go/budget"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/hedgepolicy"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/retry"
)

type retryStub func(*http.Request) (*http.Response, error)

func (f retryStub) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A retryArm wraps a transport. All make three attempts with waits from 50 ms on, their other
// settings are their defaults.
type retryArm struct {
	name string
	wrap func(http.RoundTripper) http.RoundTripper
}

func trivetRetry(b testing.TB, cfg retry.Config) func(http.RoundTripper) http.RoundTripper {
	r, err := retry.New(cfg)
	require.NoError(b, err)
	return r.Transport
}

func hashicorpRetry(next http.RoundTripper) http.RoundTripper {
	c := retryablehttp.NewClient()
	c.HTTPClient = &http.Client{Transport: next}
	c.Logger = nil
	c.RetryMax = 2
	c.RetryWaitMin, c.RetryWaitMax = 50*time.Millisecond, 5*time.Second
	c.ErrorHandler = retryablehttp.PassthroughErrorHandler
	return &retryablehttp.RoundTripper{Client: c}
}

func failsafeRetry(next http.RoundTripper) http.RoundTripper {
	policy := failsafehttp.NewRetryPolicyBuilder().
		WithBackoff(50*time.Millisecond, 5*time.Second).
		WithMaxAttempts(3).
		Build()
	return failsafehttp.NewRoundTripper(next, policy)
}

// failsafeBudget is failsafehttp with its budget: a fifth of what is in flight, and at least three.
func failsafeBudget(next http.RoundTripper) http.RoundTripper {
	policy := failsafehttp.NewRetryPolicyBuilder().
		WithBackoff(50*time.Millisecond, 5*time.Second).
		WithMaxAttempts(3).
		WithBudget(budget.New()).
		Build()
	return failsafehttp.NewRoundTripper(next, policy)
}

func retryArms(b testing.TB, cfg retry.Config) []retryArm {
	return []retryArm{
		{"none", func(next http.RoundTripper) http.RoundTripper { return next }},
		{"trivet", trivetRetry(b, cfg)},
		{"retryablehttp", hashicorpRetry},
		{"failsafehttp", failsafeRetry},
		{"failsafehttp/budget", failsafeBudget},
	}
}

// The success path, over a stub: without a body, and with one of 64 KiB that has GetBody. The arm
// "none" makes the copy that every transport of this kind must make.
func BenchmarkRetrySuccess(b *testing.B) {
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}
	next := retryStub(func(*http.Request) (*http.Response, error) { return resp, nil })
	arms := retryArms(b, retry.Config{})
	arms[0].wrap = func(next http.RoundTripper) http.RoundTripper {
		return retryStub(
			func(req *http.Request) (*http.Response, error) {
				return next.RoundTrip(req.Clone(req.Context()))
			},
		)
	}
	for _, size := range []int{0, 64 << 10} {
		for _, arm := range arms {
			b.Run(fmt.Sprintf("body=%d/arm=%s", size, arm.name), func(b *testing.B) {
				method, body := http.MethodGet, io.Reader(nil)
				if size > 0 {
					method, body = http.MethodPost, bytes.NewReader(make([]byte, size))
				}
				req, err := http.NewRequestWithContext(context.Background(), method, "http://a.test/", body)
				require.NoError(b, err)
				req.Header.Set("Accept", "text/plain")
				rt := arm.wrap(next)
				b.ReportAllocs()
				for b.Loop() {
					if req.GetBody != nil {
						req.Body, _ = req.GetBody()
					}
					if _, err := rt.RoundTrip(req); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// What arrives at a server for each request, and how many are answered, over real HTTP: each
// attempt fails with probability p.
func BenchmarkRetryAmplification(b *testing.B) {
	const requests, clients = 40_000, 40
	for _, percent := range []int{1, 5, 10, 20, 50, 100} {
		arms := append(
			retryArms(b, retry.Config{}),
			retryArm{
				"trivet/ratio=0.2", trivetRetry(b, retry.Config{Budget: retry.BudgetConfig{Ratio: 0.2}}),
			},
		)
		for _, arm := range arms[1:] {
			b.Run(fmt.Sprintf("failing=%d/arm=%s", percent, arm.name), func(b *testing.B) {
				for b.Loop() {
					var arrived, good atomic.Int64
					server := backend.Start(
						b,
						backend.Config{
							Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
								arrived.Add(1)
								if rand.IntN(100) < percent {
									w.WriteHeader(http.StatusServiceUnavailable)
								}
							}),
						},
					)
					tr := backend.Transport(backend.HTTP1)
					tr.MaxIdleConnsPerHost = clients
					client := &http.Client{Transport: arm.wrap(tr)}
					var wg sync.WaitGroup
					for range clients {
						wg.Go(func() {
							for range requests / clients {
								if retryGet(client, server.URL.String()) {
									good.Add(1)
								}
							}
						})
					}
					wg.Wait()
					tr.CloseIdleConnections()
					server.Close()
					b.ReportMetric(float64(arrived.Load())/requests, "arrived/request")
					b.ReportMetric(100*float64(good.Load())/requests, "%answered")
				}
			})
		}
	}
}

func retryGet(client *http.Client, url string) bool {
	resp, err := client.Get(url)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return err == nil && resp.StatusCode == http.StatusOK
}

// One request of a hundred takes a second: the slowest thousandth, and what hedging costs.
func BenchmarkRetryHedge(b *testing.B) {
	const requests, clients = 5000, 5
	failsafeHedge := func(next http.RoundTripper) http.RoundTripper {
		return failsafehttp.NewRoundTripper(
			next,
			hedgepolicy.NewWithDelayQuantile[*http.Response](0.95, 100, 50),
		)
	}
	for _, arm := range []retryArm{
		{"none", func(next http.RoundTripper) http.RoundTripper { return next }},
		{"trivet", trivetRetry(b, retry.Config{Hedge: true})},
		{"failsafehttp", failsafeHedge},
	} {
		b.Run("arm="+arm.name, func(b *testing.B) {
			for b.Loop() {
				var arrived atomic.Int64
				server := backend.Start(
					b,
					backend.Config{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						arrived.Add(1)
						d := 2 * time.Millisecond
						if rand.IntN(100) == 0 {
							d = time.Second
						}
						select {
						case <-time.After(d):
						case <-r.Context().Done():
						}
					})},
				)
				tr := backend.Transport(backend.HTTP1)
				tr.MaxIdleConnsPerHost = 2 * clients
				client := &http.Client{Transport: arm.wrap(tr)}
				took := make([]time.Duration, requests)
				var wg sync.WaitGroup
				for c := range clients {
					wg.Go(func() {
						for i := c; i < requests; i += clients {
							start := time.Now()
							retryGet(client, server.URL.String())
							took[i] = time.Since(start)
						}
					})
				}
				wg.Wait()
				tr.CloseIdleConnections()
				server.Close()
				slices.Sort(took)
				b.ReportMetric(float64(took[requests*999/1000])/1e6, "p99.9-ms")
				b.ReportMetric(float64(took[requests/2])/1e6, "p50-ms")
				b.ReportMetric(float64(arrived.Load())/requests, "arrived/request")
			}
		})
	}
}
