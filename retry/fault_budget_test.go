package retry_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

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
