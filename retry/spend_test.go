package retry_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		s := serve(503)
		rt := r.Transport(s)
		for range 100 {
			send(t, rt, request(t, "GET", nil))
		}
		require.Equal(t, 110, s.count(), "every request, and the reserve")
		require.Zero(t, r.Stats().Budget["a.test"])
		require.Equal(t, uint64(95), r.Stats().GaveUp["budget"])

		time.Sleep(25 * time.Second)
		send(t, rt, request(t, "GET", nil))
		require.Equal(t, 113, s.count(), "two tokens for 25 s of silence")

		time.Sleep(time.Hour)
		for range 100 {
			send(t, rt, request(t, "GET", nil))
		}
		require.Equal(t, 223, s.count(), "and never more than the reserve")
	})
}

// Requests that come more often than every 10 s leave no time to idle in.
func TestNoRefillWhileThereAreRequests(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{MaxAttempts: 2})
		s := serve(503)
		for range 200 {
			send(t, r.Transport(s), request(t, "GET", nil))
			time.Sleep(9 * time.Second)
		}
		require.Equal(t, 210, s.count())
	})
}

func TestBudgetIsEarnedBySuccesses(t *testing.T) {
	tests := []struct {
		answer any
		earns  bool
	}{
		{200, true}, {204, true}, {304, true}, {404, true}, {400, true},
		{500, false}, {501, false}, {503, false}, {429, false}, {io.EOF, false},
	}
	for _, tt := range tests {
		bubble(t, func(t *testing.T) {
			r := newRetrier(t, retry.Config{
				MaxAttempts: 2, Budget: retry.BudgetConfig{Ratio: 0.25, Reserve: 2},
			})
			send(t, r.Transport(serve(503, 503)), request(t, "GET", nil))
			require.Equal(t, 1.0, r.Stats().Budget["a.test"])
			send(t, r.Transport(serve(tt.answer)), request(t, "POST", nil))
			want := 1.0
			if tt.earns {
				want = 1.25
			}
			require.Equal(t, want, r.Stats().Budget["a.test"], "%v", tt.answer)
		})
	}
}

// A token is drawn before the backoff: requests that wait count.
func TestWaitingRequestsHoldTheirToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Budget: retry.BudgetConfig{Reserve: 1}})
		slow := serve(answer(503, "Retry-After", "5"), 200)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, _, err := send(t, r.Transport(slow), request(t, "GET", nil).WithContext(ctx))
			done <- err
		}()
		time.Sleep(time.Second)
		require.Zero(t, r.Stats().Budget["a.test"])
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 1, s.count())
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Equal(t, 1.0, r.Stats().Budget["a.test"], "given back, for it was not sent")
	})
}

// An attempt that reached no server gives its token back, and the first that does is the request's
// own.
func TestWhatIsNotSentCostsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dial := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		r := newRetrier(t, retry.Config{})
		s := serve(dial)
		for range 50 {
			_, _, err := send(t, r.Transport(s), request(t, "GET", nil))
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		}
		require.Equal(t, 150, s.count())
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
		require.Zero(t, r.Stats().Attempts)
		require.Equal(t, uint64(100), r.Stats().Retries["unprocessed"])

		s = serve(dial, dial, 500)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
		require.Zero(t, s.all()[2].attempts)

		s = serve(503, dial, 500)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 9.0, r.Stats().Budget["a.test"])
		require.Equal(t, 1, s.all()[2].attempts)
	})
}

func TestBudgetsAreByKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{MaxKeys: 2})
		s := serve(503)
		ask := func(url string) int {
			before := s.count()
			for range 30 {
				req := request(t, "GET", nil)
				req.URL, _ = req.URL.Parse(url)
				send(t, r.Transport(s), req)
			}
			return s.count() - before
		}
		require.Equal(t, 40, ask("http://a.test/"))
		require.Equal(t, 30, ask("http://A.TEST:80/"), "the same host")
		require.Equal(t, 40, ask("http://b.test/"))
		require.Equal(t, 40, ask("http://c.test/"), "the one that the rest share")
		require.Equal(t, 30, ask("http://d.test/"))
		require.Equal(t, uint64(60), r.Stats().Overflowed)
		require.Equal(t, map[string]float64{"a.test": 0, "b.test": 0, "*": 0}, r.Stats().Budget)
	})
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Key: func(req *http.Request) (string, bool) {
			k := req.Header.Get("Team")
			return k, k != ""
		}})
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 1, s.count(), "without a key nothing pays")
		req := request(t, "GET", nil)
		req.Header.Set("Team", "red")
		send(t, r.Transport(s), req)
		require.Equal(t, 4, s.count())
		require.Equal(t, map[string]float64{"red": 8}, r.Stats().Budget)
	})
}
