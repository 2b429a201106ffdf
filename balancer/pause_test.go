package balancer_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// An endpoint that says when it has room again is left alone until then, and not blamed.
func TestBusyEndpointsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := true
		var mu sync.Mutex
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(addrs(4)...),
			Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
				time.Sleep(time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				if e.Addr == "10.0.0.0:80" && busy {
					busy = false
					resp := answer(503)
					resp.Header.Set("Retry-After", "5")
					return resp, nil
				}
				return answer(200), nil
			}).wrap,
		})
		for func() bool { mu.Lock(); defer mu.Unlock(); return busy }() {
			_, err := get(t.Context(), b)
			require.NoError(t, err)
		}
		before := statusOf(t, b, "10.0.0.0:80").Requests
		for range 1000 {
			_, err := get(t.Context(), b)
			require.NoError(t, err)
			time.Sleep(3 * time.Millisecond)
		}
		require.LessOrEqual(
			t,
			statusOf(t, b, "10.0.0.0:80").Requests-before,
			uint64(20),
			"in four of the five seconds",
		)
		require.Zero(t, b.Stats().Ejections)
		require.Zero(t, b.Stats().Failures)
		time.Sleep(10 * time.Second)
		load(t, b, 2*time.Millisecond, 10*time.Second)
		before = statusOf(t, b, "10.0.0.0:80").Requests
		sent, _ := load(t, b, 2*time.Millisecond, 10*time.Second)
		require.Greater(t, statusOf(t, b, "10.0.0.0:80").Requests-before, uint64(sent/16))
	})
}
