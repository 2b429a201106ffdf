package retry_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/retry"
)

func TestT11_RetryAfter(t *testing.T) {
	tests := []struct {
		name   string
		fields []string
		waits  time.Duration // at least; -1: the answer is returned at once
	}{
		{"seconds", []string{"3"}, 3 * time.Second},
		{"overflows nanoseconds", []string{"9223372037"}, -1},
		{"overflows everything", []string{strings.Repeat("9", 60)}, -1},
		{"negative", []string{"-1"}, 0},
		{"exponent", []string{"1e99"}, 0},
		{"words", []string{"soon"}, 0},
		{"empty", []string{""}, 0},
		{"past date", []string{"Fri, 31 Dec 1999 23:59:59 GMT"}, 0},
		{"far date", []string{"Fri, 31 Dec 9999 23:59:59 GMT"}, -1},
		{"the most", []string{"30"}, 30 * time.Second},
		{"more than the most", []string{"31"}, -1},
		{"two fields", []string{"2", "5"}, 5 * time.Second},
		{"two fields, one absurd", []string{"2", "99999"}, -1},
		{"two fields, one unreadable", []string{"soon", "4"}, 4 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				first := answer(503)
				first.Header["Retry-After"] = tt.fields
				s := serve(first, 200)
				start := time.Now()
				status, _, err := send(t, newRetrier(t, retry.Config{}).Transport(s), request(t, "GET", nil))
				require.NoError(t, err)
				if tt.waits < 0 {
					require.Equal(t, 503, status)
					require.Zero(t, time.Since(start))
					return
				}
				require.Equal(t, 200, status)
				require.GreaterOrEqual(t, time.Since(start), tt.waits)
				require.LessOrEqual(t, time.Since(start), tt.waits+tt.waits/10+50*time.Millisecond)
			})
		})
	}
	t.Run("over the deadline", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			start := time.Now()
			status, _, err := send(
				t,
				newRetrier(t, retry.Config{}).Transport(serve(answer(503, "Retry-After", "2"))),
				request(t, "GET", nil).WithContext(ctx),
			)
			require.NoError(t, err)
			require.Equal(t, 503, status)
			require.Zero(t, time.Since(start))
		})
	})
}

// Whatever Retry-After says, the request takes no longer than it may, and nothing overflows.
func TestT11_AnyRetryAfter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		value := rapid.OneOf(
			rapid.String(), rapid.StringMatching(`[-+]?[0-9]{0,25}`),
			rapid.Just("Fri, 31 Dec 9999 23:59:59 GMT"),
		).Draw(rt, "value")
		within := time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(rt, "within"))
		synctest.Test(t, func(t *testing.T) {
			first := answer(503)
			first.Header["Retry-After"] = []string{value}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			start := time.Now()
			_, _, err := send(
				t,
				newRetrier(t, retry.Config{}).Transport(serve(first, 200)),
				request(t, "GET", nil).WithContext(ctx),
			)
			require.NoError(t, err)
			require.Less(t, time.Since(start), min(within, 33*time.Second))
		})
	})
}

// A caller that leaves during the wait is let go at once, with nothing left behind.
func TestT12_CancelDuringBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		left := errors.New("the user has closed the page")
		r := newRetrier(t, retry.Config{})
		b := newBody("abc")
		req := request(t, "PUT", nil)
		req.Body = b
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(left) })
		start := time.Now()
		s := serve(answer(503, "Retry-After", "10"))
		_, _, err := send(t, r.Transport(s), req.WithContext(ctx))
		require.Equal(t, left, err)
		require.Equal(t, time.Second, time.Since(start))
		require.Equal(t, 1, s.count())
		require.EqualValues(t, 1, b.closes.Load())
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
		require.Equal(t, uint64(1), r.Stats().GaveUp["canceled"])
		synctest.Wait()
	})
}

// A caller may leave at any moment: it gets its error or an answer, soon, and everything is given
// back.
func TestT12_CancelAtEveryMoment(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		at := time.Duration(rapid.Int64Range(0, int64(300*time.Millisecond)).Draw(rt, "at"))
		hedge := rapid.Bool().Draw(rt, "hedge")
		synctest.Test(t, func(t *testing.T) {
			r := newRetrier(
				t,
				retry.Config{
					Hedge:  hedge,
					PerTry: 70 * time.Millisecond,
					Class:  func(*http.Request) string { return "" },
				},
			)
			warm(t, r, "GET")
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(at, cancel)
			b := newBody("abc")
			req := request(t, "QUERY", nil).WithContext(ctx)
			req.Body = b
			s := serve(
				after(40*time.Millisecond, 503),
				after(time.Hour, 200),
				after(50*time.Millisecond, 502),
				after(time.Hour, 200),
			)
			start := time.Now()
			resp, err := r.Transport(s).RoundTrip(req)
			if err == nil {
				resp.Body.Close()
			}
			require.LessOrEqual(t, time.Since(start), at+time.Nanosecond)
			time.Sleep(time.Hour)
			require.EqualValues(t, 1, b.closes.Load())
			require.Zero(t, retry.Buffered(0))
			for _, a := range s.all() {
				require.Error(t, a.req.Context().Err())
			}
			require.InDelta(
				t,
				10-float64(s.count()-1),
				r.Stats().Budget["a.test"],
				1e-6,
				"what was sent was paid for, and nothing else",
			)
		})
	})
}

// Nobody sleeps towards a deadline that will have passed.
func TestT14_DeadlineShorterThanBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Backoff: 4 * time.Second})
		r.SetRandom(func(n int64) int64 { return n - 1 })
		for _, a := range []any{503, io.EOF} {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			start := time.Now()
			status, _, err := send(t, r.Transport(serve(a)), request(t, "GET", nil).WithContext(ctx))
			require.Zero(t, time.Since(start))
			require.True(t, status == 503 || err == io.EOF)
		}
		require.Equal(t, uint64(2), r.Stats().GaveUp["deadline"])
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
	})
}

// Clients that fail together do not come back together.
func TestT22_Spread(t *testing.T) {
	for _, field := range []string{"", "20"} {
		bubble(t, func(t *testing.T) {
			const clients = 5000
			s := serve(answer(503, "Retry-After", field))
			r := newRetrier(t, retry.Config{
				MaxAttempts: 2, Backoff: time.Second, Budget: retry.BudgetConfig{Reserve: clients},
			})
			var wg sync.WaitGroup
			start := time.Now()
			for range clients {
				wg.Go(func() {
					req := request(t, "GET", nil)
					rt := r.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
						resp := answer(503)
						if field != "" {
							resp.Header.Set("Retry-After", field)
						}
						s.mu.Lock()
						s.seen = append(s.seen, seen{at: time.Now()})
						s.mu.Unlock()
						return resp, nil
					}))
					send(t, rt, req)
				})
			}
			wg.Wait()
			var slots [40]int // of 50 ms
			for _, a := range s.all() {
				if d := a.at.Sub(start); d > 0 {
					slots[min(int(d%(20*time.Second)/(50*time.Millisecond)), 39)]++
				}
			}
			peak, used, sum := 0, 0, 0
			for _, n := range slots {
				sum += n
				peak = max(peak, n)
				if n > 0 {
					used++
				}
			}
			require.Equal(t, clients, sum)
			require.GreaterOrEqual(t, used, 20)
			mean := float64(sum) / float64(used)
			require.Less(t, float64(peak)/mean, 2.0, "field %q: %v", field, slots)
		})
	}
}

// However many attempts and however long the waits, nothing overflows.
func TestT25_BackoffDoesNotOverflow(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		base := time.Duration(rapid.Int64Range(1, int64(1<<62)).Draw(rt, "backoff"))
		most := time.Duration(rapid.Int64Range(int64(base), int64(1<<63-1)).Draw(rt, "most"))
		attempts := rapid.IntRange(1, 200).Draw(rt, "attempts")
		r := newRetrier(
			t,
			retry.Config{
				MaxAttempts: attempts,
				Backoff:     base,
				MaxBackoff:  most,
				Budget:      retry.BudgetConfig{Reserve: 1000},
			},
		)
		last := int64(0)
		r.SetRandom(func(n int64) int64 {
			if n <= 0 || n > int64(most) || n < last {
				rt.Fatalf("a wait of up to %d after one of up to %d", n, last)
			}
			last = n
			return 0
		})
		s := serve(503)
		send(t, r.Transport(s), request(t, "GET", nil))
		if s.count() != attempts {
			rt.Fatalf("%d attempts of %d", s.count(), attempts)
		}
	})
	for _, most := range []int{0, -1} {
		_, err := retry.New(retry.Config{MaxAttempts: most})
		require.Equal(t, most < 0, err != nil)
	}
}
