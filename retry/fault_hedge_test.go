package retry_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

// Hedge and attempt may both reach servers: never for a request that must not, and never a third.
func TestT15_HedgesAreSafe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
			r := newRetrier(t, retry.Config{Hedge: true, Class: func(*http.Request) string { return "" }})
			warm(t, r, "GET")
			s := serve(after(time.Second, 200))
			send(t, r.Transport(s), request(t, method, nil))
			want := 1
			if method == "GET" {
				want = 2
			}
			require.Equal(t, want, s.count(), method)
			synctest.Wait()
			if want == 2 {
				require.Error(
					t,
					s.all()[1].req.Context().Err(),
					"both ended at the same time, or the hedge was canceled",
				)
			}
		}
	})
}

// A hedge goes where Scope sends it: all attempts of a request share its context, so that a
// balancer knows where they have been.
func TestT16_HedgeGoesElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type key struct{}
		r := newRetrier(t, retry.Config{Hedge: true, Scope: func(ctx context.Context) context.Context {
			return context.WithValue(ctx, key{}, new(atomic.Int32))
		}})
		delays := []time.Duration{time.Hour, usual} // of two endpoints
		s := roundTripper(func(req *http.Request) (*http.Response, error) {
			been := req.Context().Value(key{}).(*atomic.Int32).Add(1) - 1
			return after(delays[been], 200)(req)
		})
		warm(t, r, "GET")
		start := time.Now()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Less(t, time.Since(start), 3*usual)
	})
}

// When all of a host is slow, hedging stops; and what there is comes out of the one budget.
func TestT17_OverloadStopsHedges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		slow := serve(after(time.Second, 200))
		rt := r.Transport(slow)
		const requests = 2000
		var wg sync.WaitGroup
		for range requests {
			time.Sleep(time.Millisecond)
			wg.Go(func() { send(t, rt, request(t, "GET", nil)) })
		}
		wg.Wait()
		require.LessOrEqual(t, slow.count(), requests+10)

		// Attempts that never end neither hedge without end.
		r = newRetrier(t, retry.Config{Hedge: true, PerTry: time.Second, MaxAttempts: 3})
		warm(t, r, "GET")
		dead := serve(after(time.Hour, 200))
		rt = r.Transport(dead)
		for range requests {
			time.Sleep(time.Millisecond)
			wg.Go(func() { send(t, rt, request(t, "GET", nil)) })
		}
		wg.Wait()
		require.LessOrEqual(t, dead.count(), requests+10)
	})
}

// A loser that answers late touches nothing that the winner's caller has.
func TestT18_LateLoser(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, Hint: "Should-Retry"})
		warm(t, r, "GET")
		s := serve(after(5*usual, 200), func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Minute)
			return answer(500), nil
		})
		req := request(t, "GET", nil)
		resp, err := r.Transport(s).RoundTrip(req)
		require.NoError(t, err)
		req.Header.Set("Reused", "yes") // the request is the caller's again
		resp.Header.Set("Mine", "yes")
		time.Sleep(time.Hour)
		require.Equal(t, 200, resp.StatusCode)
		require.Same(t, req, resp.Request)
		resp.Body.Close()
	})
}
