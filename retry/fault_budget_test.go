package retry_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/retry"
)

// A total outage: what arrives is what was asked for, and the reserve; also when a thousand clients
// of one process ask at a time.
func TestT01_TotalOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		ok := r.Transport(serve(200))
		for range 1000 {
			send(t, ok, request(t, "GET", nil)) // a long time of success saves no more than the reserve
		}
		s := serve(503)
		rt := r.Transport(s)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				for range 5 {
					send(t, rt, request(t, "GET", nil))
				}
			})
		}
		wg.Wait()
		require.Equal(t, 5010, s.count())
	})
}

// Three tiers that all retry: with the leaf dead it gets what was asked for and the reserves; with
// any share of failures at most a tenth more.
func TestT02_ThreeTiers(t *testing.T) {
	const requests = 2000
	chain := func(t *testing.T, hint string, leaf http.RoundTripper) (answered int) {
		rt := leaf
		for _, host := range []string{"c", "b", "a"} {
			below := rt
			retrying := newRetrier(
				t,
				retry.Config{Hint: hint, Key: func(*http.Request) (string, bool) { return host, true }},
			).Transport(below)
			rt = roundTripper(
				func(req *http.Request) (*http.Response, error) { return retrying.RoundTrip(req) },
			)
		}
		for range requests {
			status, _, err := send(t, rt, request(t, "GET", nil))
			require.NoError(t, err)
			if status == 200 {
				answered++
			}
		}
		return answered
	}
	for _, hint := range []string{"", "Should-Retry"} {
		for _, percent := range []int{0, 1, 5, 10, 20, 50, 100} {
			t.Run(fmt.Sprintf("hint=%q/failing=%d", hint, percent), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					n, x := 0, uint64(percent+1)
					leaf := roundTripper(func(*http.Request) (*http.Response, error) {
						n++
						x = x*6364136223846793005 + 1442695040888963407
						status := 200
						if int(x>>33%100) < percent {
							status = 503
						}
						return &http.Response{
							StatusCode: status,
							Header:     http.Header{},
							Body:       http.NoBody,
						}, nil
					})
					answered := chain(t, hint, leaf)
					t.Logf(
						"%.4f times, %.2f %% answered",
						float64(n)/requests,
						100*float64(answered)/requests,
					)
					switch {
					case percent == 100:
						require.LessOrEqual(t, n, requests+3*10, "1.00 times and the reserves")
					case hint != "":
						require.LessOrEqual(t, float64(n), 1.1*requests+3*10)
					default: // each tier earns a tenth of what the one above has seen succeed
						require.LessOrEqual(t, float64(n), 1.1*1.1*1.1*requests+3*10)
					}
				})
			})
		}
	}
}

// The same over real connections: a service that calls a second one, which calls the leaf. With the
// hint a request is sent 1.10 times at the most, without it each tier may add its tenth.
func TestT02_ThreeTiersOverTheWire(t *testing.T) {
	const requests, clients = 1500, 6
	const field = "Should-Retry"
	for _, hint := range []string{"", field} {
		for _, percent := range []int64{20, 100} {
			t.Run(fmt.Sprintf("hint=%q/failing=%d", hint, percent), func(t *testing.T) {
				var n, answered atomic.Int64
				below := backend.Start(t, backend.Config{Handler: http.HandlerFunc(
					func(w http.ResponseWriter, _ *http.Request) {
						if n.Add(1)*37%100 < percent {
							w.WriteHeader(http.StatusServiceUnavailable)
						}
					})})
				calling := func() func(ctx context.Context) (*http.Response, error) {
					to := below
					tr := testTransport(t, backend.HTTP1)
					tr.MaxIdleConnsPerHost = clients
					rt := newRetrier(t, quick(retry.Config{Hint: hint})).Transport(tr)
					return func(ctx context.Context) (*http.Response, error) {
						return rt.RoundTrip(requestTo(t, to, "GET", nil).WithContext(ctx))
					}
				}
				for range 2 {
					call := calling()
					below = backend.Start(t, backend.Config{Handler: http.HandlerFunc(
						func(w http.ResponseWriter, r *http.Request) {
							resp, err := call(r.Context())
							if err != nil {
								t.Error(err)
								return
							}
							defer resp.Body.Close()
							if v := resp.Header[field]; v != nil {
								w.Header()[field] = v
							}
							w.WriteHeader(resp.StatusCode)
						})})
				}
				call := calling()
				var wg sync.WaitGroup
				for range clients {
					wg.Go(func() {
						for range requests / clients {
							resp, err := call(t.Context())
							if err != nil {
								t.Error(err)
								continue
							}
							resp.Body.Close()
							if resp.StatusCode == http.StatusOK {
								answered.Add(1)
							}
						}
					})
				}
				wg.Wait()
				sent := float64(n.Load())
				t.Logf("%.4f times, %.2f %% answered", sent/requests, 100*float64(answered.Load())/requests)
				switch {
				case percent == 100:
					require.LessOrEqual(t, sent, float64(requests+3*10), "1.00 times and the reserves")
				case hint != "":
					require.LessOrEqual(t, sent, 1.1*requests+3*10)
				default:
					require.Greater(t, sent, 1.1*requests+3*10, "or the hint is not needed")
					require.LessOrEqual(t, sent, 1.1*1.1*1.1*requests+3*10)
				}
			})
		}
	}
}
