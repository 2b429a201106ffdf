package retry_test

import (
	"context"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestBackoffIsFullJitter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{MaxAttempts: 10, MaxBackoff: time.Second})
		var most []time.Duration
		r.SetRandom(func(n int64) int64 {
			most = append(most, time.Duration(n))
			return n - 1
		})
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		const ms = time.Millisecond
		require.Equal(
			t,
			[]time.Duration{
				50 * ms,
				100 * ms,
				200 * ms,
				400 * ms,
				800 * ms,
				1000 * ms,
				1000 * ms,
				1000 * ms,
				1000 * ms,
			},
			most,
		)
		require.Equal(t, 50*ms-1, s.gaps()[0])
	})
}

func TestRetryAfterIsAFloor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		s := serve(
			answer(429, "Retry-After", "7"),
			answer(503, "Retry-After", time.Now().Add(20*time.Second).UTC().Format(http.TimeFormat)),
			200,
		)
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		gaps := s.gaps()
		require.GreaterOrEqual(t, gaps[0], 7*time.Second)
		require.LessOrEqual(t, gaps[0], 7700*time.Millisecond)
		require.GreaterOrEqual(t, gaps[1], 12*time.Second)
		require.LessOrEqual(t, gaps[1], 14300*time.Millisecond)
	})
}

// A floor shorter than the backoff leaves it alone.
func TestRetryAfterBelowTheBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Backoff: 4 * time.Second})
		r.SetRandom(func(n int64) int64 { return n - 1 })
		s := serve(answer(503, "Retry-After", "1"), 200)
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 4*time.Second-1, s.gaps()[0])
	})
}

// The jitter on top of a floor must not cost a request that the floor alone leaves time for.
func TestJitterOfRetryAfterStaysWithinTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		r.SetRandom(func(n int64) int64 { return n - 1 })
		s := serve(answer(503, "Retry-After", "10"), 200)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+time.Millisecond)
		defer cancel()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, 10*time.Second, s.gaps()[0])
	})
}

func TestRefusalsWaitAsTheySay(t *testing.T) {
	tests := []struct {
		name   string
		wait   time.Duration
		within time.Duration // the deadline; 0 for none
		sent   int
		gap    time.Duration
		gaveUp string
	}{
		{"longer than the backoff", 2 * time.Second, 0, 2, 2 * time.Second, ""},
		{"shorter than the backoff", time.Millisecond, 0, 2, 50*time.Millisecond - 1, ""},
		{"the most", 30 * time.Second, 0, 2, 30 * time.Second, ""},
		{"too long", 30*time.Second + 1, 0, 1, 0, "retry_after"},
		{"for ever", math.MaxInt64, 0, 1, 0, "retry_after"},
		{"beyond the deadline", 2 * time.Second, time.Second, 1, 0, "deadline"},
		{"final", 0, 0, 1, 0, "final"},
		{"final, said with a negative time", -1, 0, 1, 0, "final"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRetrier(t, retry.Config{})
				r.SetRandom(func(n int64) int64 { return n - 1 })
				s := serve(refusal{tt.wait}, 200)
				req := request(t, "POST", stream("body"))
				if tt.within > 0 {
					ctx, cancel := context.WithTimeout(t.Context(), tt.within)
					defer cancel()
					req = req.WithContext(ctx)
				}
				start := time.Now()
				_, _, err := send(t, r.Transport(s), req)
				require.Equal(t, tt.sent, s.count())
				if tt.sent == 1 {
					require.Equal(t, refusal{tt.wait}, err, "as it is")
					require.Zero(t, time.Since(start), "at once")
					require.Equal(t, uint64(1), r.Stats().GaveUp[tt.gaveUp])
					return
				}
				require.NoError(t, err)
				require.Equal(t, tt.gap, s.gaps()[0])
				require.Equal(t, "body", s.all()[1].body)
				require.Zero(t, s.all()[1].attempts, "a refusal was not sent")
				require.Equal(t, 10.0, r.Stats().Budget["a.test"], "and costs nothing")
			})
		})
	}
}

// A refusal costs nothing; the attempt after it does, if one before it was sent.
func TestRefusalAfterAnAttemptThatWasSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{MaxAttempts: 4})
		s := serve(503, refusal{time.Second}, refusal{time.Second}, 404)
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 404, status)
		require.InDelta(t, 10-1+0.1, r.Stats().Budget["a.test"], 1e-9)
		require.Equal(
			t,
			[]int{0, 1, 1, 1},
			[]int{s.all()[0].attempts, s.all()[1].attempts, s.all()[2].attempts, s.all()[3].attempts},
		)
		require.Equal(t, uint64(2), r.Stats().Attempts)
	})
}

// Of several fields the longest wait counts, in whatever order they come.
func TestTheLongestRetryAfterCounts(t *testing.T) {
	for _, fields := range [][]string{{"2", "7"}, {"7", "2"}, {"7", "soon"}} {
		bubble(t, func(t *testing.T) {
			s := serve(answer(503, "Retry-After", fields[0], "Retry-After", fields[1]), 200)
			send(t, newRetrier(t, retry.Config{}).Transport(s), request(t, "GET", nil))
			require.GreaterOrEqual(t, s.gaps()[0], 7*time.Second)
		})
	}
}
