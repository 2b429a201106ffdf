package retry_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

const usual = 10 * time.Millisecond

// warm makes r know that requests like req take the usual time.
func warm(t *testing.T, r *retry.Retrier, method string) {
	t.Helper()
	rt := r.Transport(roundTripper(after(usual, 200)))
	for range 100 {
		_, _, err := send(t, rt, request(t, method, nil))
		require.NoError(t, err)
	}
}

// A hedge is sent after the 95th percentile, its answer counts, and the attempt is canceled.
func TestHedgeWins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		s := serve(after(time.Hour, 200), after(usual, 201))
		start := time.Now()
		resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		took := time.Since(start)
		require.Equal(t, 201, resp.StatusCode)
		require.GreaterOrEqual(t, took, 2*usual)
		require.Less(t, took, 3*usual)
		synctest.Wait()

		first, second := s.all()[0], s.all()[1]
		require.Error(t, first.req.Context().Err(), "the loser is canceled")
		require.NoError(t, second.req.Context().Err(), "the winner is not")
		require.Equal(t, 1, second.attempts)
		time.Sleep(time.Hour)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "Created", string(b))
		require.Error(t, second.req.Context().Err(), "its context ends with the body")
		stats := r.Stats()
		require.Equal(t, [3]uint64{1, 1, 102}, [3]uint64{stats.Hedges, stats.HedgesWon, stats.Attempts})
		require.InDelta(t, 9.1, stats.Budget["a.test"], 1e-9)
	})
}

func TestAttemptWinsOverItsHedge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var events []retry.Event
		r := newRetrier(
			t,
			retry.Config{
				Hedge:   true,
				Observe: func(_ context.Context, e retry.Event) { events = append(events, e) },
			},
		)
		warm(t, r, "GET")
		s := serve(after(2*usual, 201), after(time.Hour, 200))
		resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, resp.StatusCode)
		synctest.Wait()
		require.Equal(t, 2, s.count())
		require.NoError(t, s.all()[0].req.Context().Err())
		require.Error(t, s.all()[1].req.Context().Err())
		resp.Body.Close()
		require.Error(t, s.all()[0].req.Context().Err())
		e := events[len(events)-1]
		require.True(t, e.Hedged)
		require.False(t, e.HedgeWon)
		require.Zero(t, e.Retries)
	})
}

// A loser that answers nevertheless has its body closed, whichever it is.
func TestLosersBodyIsClosed(t *testing.T) {
	for _, winner := range []int{0, 1} {
		bubble(t, func(t *testing.T) {
			r := newRetrier(t, retry.Config{Hedge: true})
			warm(t, r, "GET")
			var bodies [2]io.ReadCloser
			deaf := func(i int, d time.Duration) func(*http.Request) (*http.Response, error) {
				resp := answer(200)
				bodies[i] = resp.Body
				return func(*http.Request) (*http.Response, error) { // does not listen to its context
					time.Sleep(d)
					return resp, nil
				}
			}
			delays := [2]time.Duration{3 * usual, 5 * usual}
			if winner == 1 {
				delays = [2]time.Duration{5 * usual, usual}
			}
			resp, err := r.Transport(serve(deaf(0, delays[0]), deaf(1, delays[1]))).
				RoundTrip(request(t, "GET", nil))
			require.NoError(t, err)
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, err)
			resp.Body.Close()
			time.Sleep(time.Second)
			for _, b := range bodies {
				require.Positive(t, closesOf(b))
			}
		})
	}
}

// What is hedged, and what never is.
func TestWhatIsHedged(t *testing.T) {
	tests := []struct {
		name   string
		method string
		fields []string
		body   io.Reader
		sent   int
	}{
		{"GET", "GET", nil, nil, 2},
		{"HEAD", "HEAD", nil, nil, 2},
		{"QUERY with a body", "QUERY", nil, strings.NewReader("x"), 2},
		{"QUERY with a body that is a stream", "QUERY", nil, stream("x"), 2},
		{"QUERY with a long stream", "QUERY", nil, stream(strings.Repeat("x", 70_000)), 1},
		{"POST", "POST", nil, nil, 1},
		{"PUT, which is idempotent and not safe", "PUT", nil, nil, 1},
		{"DELETE", "DELETE", nil, nil, 1},
		{"POST with a key", "POST", []string{"Idempotency-Key", `"1"`}, strings.NewReader("x"), 2},
		{"upgrade", "GET", []string{"Connection", "upgrade", "Upgrade", "websocket"}, nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRetrier(t, retry.Config{Hedge: true, Class: func(*http.Request) string { return "" }})
				warm(t, r, "GET")
				s := serve(after(10*usual, 200), after(usual, 200))
				req := request(t, tt.method, tt.body)
				for i := 0; i < len(tt.fields); i += 2 {
					req.Header.Set(tt.fields[i], tt.fields[i+1])
				}
				_, _, err := send(t, r.Transport(s), req)
				require.NoError(t, err)
				require.Equal(t, tt.sent, s.count())
				for _, a := range s.all() {
					require.Equal(t, s.all()[0].body, a.body)
				}
			})
		})
	}
}

func TestNoHedgeUnlessAsked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		warm(t, r, "GET")
		s := serve(after(time.Minute, 200))
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 1, s.count())
	})
}

// The classes of a host have quantiles of their own.
func TestHedgeDelayIsByHostAndClass(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		slow := serve(after(time.Second, 200))
		send(t, r.Transport(slow), request(t, "HEAD", nil))
		require.Equal(t, 1, slow.count(), "nothing is known of HEAD")
		req := request(t, "GET", nil)
		req.URL.Host = "b.test"
		send(t, r.Transport(slow), req)
		require.Equal(t, 2, slow.count(), "nor of this host")
	})
}

// An attempt that fails while its hedge is on its way waits for the hedge.
func TestHedgeSavesAFailedAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		s := serve(after(2*usual, 503), after(3*usual, 201))
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, status)
		require.Equal(t, 2, s.count(), "and is not retried beside it")
	})
}

// A hedge that fails leaves the attempt alone, and both failures are one.
func TestHedgeFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		s := serve(after(5*usual, 201), after(0, 503))
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, status)

		s = serve(after(5*usual, 503), after(usual, 502), after(10*time.Second, 201))
		status, _, err = send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, status)
		require.Equal(t, 3, s.count(), "one hedge for a request, whatever its retries")
		require.Equal(t, 2, s.all()[2].attempts)
		require.Equal(t, map[string]uint64{"503": 1}, r.Stats().Retries)
	})
}

// A hedge that reaches no server costs nothing.
func TestHedgeThatIsNotSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		dial := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		for _, err := range []error{refusal{}, refusal{time.Second}, dial} {
			before := r.Stats()
			s := serve(after(5*usual, 201), err)
			status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
			require.NoError(t, err)
			require.Equal(t, 201, status)
			require.Equal(t, 2, s.count())
			require.Equal(t, 10.0, r.Stats().Budget["a.test"])
			require.Equal(t, before.Attempts+1, r.Stats().Attempts)
		}
	})
}

func TestHedgesAreAtMostTheirShare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, HedgeRatio: 0.02})
		warm(t, r, "GET")
		var n int
		s := roundTripper(func(req *http.Request) (*http.Response, error) {
			if retry.Attempts(req.Context()) == 0 {
				if n++; n%25 == 0 {
					return after(time.Second, 200)(req)
				}
			}
			return after(usual, 200)(req)
		})
		for range 1000 {
			_, _, err := send(t, r.Transport(s), request(t, "GET", nil))
			require.NoError(t, err)
		}
		stats := r.Stats()
		require.LessOrEqual(t, float64(stats.Hedges), 0.02*float64(stats.Requests))
		require.Greater(t, stats.Hedges, uint64(10))
	})
}

func TestHedgedRequestIsCanceledAsAWhole(t *testing.T) {
	for _, at := range []time.Duration{usual / 2, 3 * usual} {
		bubble(t, func(t *testing.T) {
			r := newRetrier(t, retry.Config{Hedge: true})
			warm(t, r, "GET")
			s := serve(after(time.Hour, 200))
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(at, cancel)
			start := time.Now()
			_, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, at, time.Since(start))
			synctest.Wait()
			for _, a := range s.all() {
				require.Error(t, a.req.Context().Err())
			}
		})
	}
}

// The caller leaves while only the hedge is still on its way.
func TestCancelWhileWaitingForTheHedge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		deaf := func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Minute)
			return answer(200), nil
		}
		s := serve(after(2*usual, 503), deaf)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*usual, cancel)
		start := time.Now()
		resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil).WithContext(ctx))
		require.Equal(t, 5*usual, time.Since(start), "at once, though the hedge does not listen")
		require.True(t, err != nil || resp.StatusCode == 503)
		if resp != nil {
			resp.Body.Close()
		}
		time.Sleep(time.Hour)
	})
}

func TestPerTryOfAHedge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, PerTry: time.Second, MaxAttempts: 1})
		warm(t, r, "GET")
		s := serve(after(time.Hour, 200))
		_, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.ErrorIs(t, err, retry.ErrPerTry)
		require.Equal(t, 2, s.count())
		first, _ := s.all()[0].req.Context().Deadline()
		second, _ := s.all()[1].req.Context().Deadline()
		require.Equal(t, s.all()[1].at.Sub(s.all()[0].at), second.Sub(first), "each has its own time")
	})
}

// On the hedge's goroutine a panic fails the hedge and nothing else.
func TestPanicsInAHedge(t *testing.T) {
	for _, where := range []string{"when", "transport", "body"} {
		t.Run(where, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var hedge atomic.Bool
				r := newRetrier(
					t,
					retry.Config{
						Hedge: true,
						When: func(_ *http.Request, resp *http.Response, _ error) retry.Verdict {
							if where == "when" && resp.StatusCode == 202 {
								panic("boom")
							}
							return retry.Default
						},
						Class: func(*http.Request) string { return "" },
					},
				)
				warm(t, r, "GET")
				lost := answer(202)
				lostBody := lost.Body
				req := request(t, "QUERY", strings.NewReader("x"))
				if where == "body" {
					req.GetBody = func() (io.ReadCloser, error) { panic("boom") }
				}
				s := serve(after(5*usual, 201), func(*http.Request) (*http.Response, error) {
					hedge.Store(true)
					if where == "transport" {
						panic("boom")
					}
					return lost, nil
				})
				status, _, err := send(t, r.Transport(s), req)
				require.NoError(t, err)
				require.Equal(t, 201, status)
				require.Equal(t, uint64(1), r.Stats().Panics)
				if where == "when" {
					require.Positive(t, closesOf(lostBody))
				}
			})
		})
	}
}

// A panic on the caller's goroutine ends the hedge, even one that has won.
func TestPanicOfAHedgedAttempt(t *testing.T) {
	for _, won := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := newRetrier(t, retry.Config{Hedge: true})
			warm(t, r, "GET")
			late := answer(200)
			lateBody := late.Body
			s := serve(func(*http.Request) (*http.Response, error) {
				time.Sleep(5 * usual)
				panic("boom")
			}, func(req *http.Request) (*http.Response, error) {
				if won {
					return late, nil
				}
				return after(time.Hour, 200)(req)
			})
			require.PanicsWithValue(t, "boom", func() { r.Transport(s).RoundTrip(request(t, "GET", nil)) })
			synctest.Wait()
			for _, a := range s.all() {
				require.Error(t, a.req.Context().Err())
			}
			if won {
				require.Positive(t, closesOf(lateBody))
			}
		})
	}
}

// Attempts that are abandoned still count as slow: if they were forgotten, the quantile would fall,
// more requests would be hedged, and so on.
func TestHedgingDoesNotFeedItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(
			t,
			retry.Config{Hedge: true, HedgeRatio: 1, Budget: retry.BudgetConfig{Ratio: 1, Reserve: 1000}},
		)
		var n atomic.Int64
		s := roundTripper(
			func(req *http.Request) (*http.Response, error) { // one of 20 takes more than 200 ms
				return after(usual*1000/time.Duration(1+n.Add(1)*373%1000), 200)(req)
			},
		)
		for range 5000 {
			_, _, err := send(t, r.Transport(s), request(t, "GET", nil))
			require.NoError(t, err)
		}
		require.Less(t, r.Stats().Hedges, uint64(5000*7/100))
		require.Greater(t, r.Stats().Hedges, uint64(5000*1/100))
	})
}

// Many hedged requests at a time: each gets one answer, its own, whole.
func TestHedgesConcurrently(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(
			t,
			retry.Config{Hedge: true, HedgeRatio: 1, Budget: retry.BudgetConfig{Ratio: 1, Reserve: 1000}},
		)
		warm(t, r, "GET")
		var n atomic.Int64
		s := roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := after(time.Duration(n.Add(7)%23)*time.Millisecond, 200)(req)
			if err == nil {
				resp.Body = io.NopCloser(strings.NewReader(req.Header.Get("Id")))
			}
			return resp, err
		})
		var wg sync.WaitGroup
		for i := range 500 {
			wg.Go(func() {
				req := request(t, "GET", nil)
				id := strings.Repeat("x", i+1)
				req.Header.Set("Id", id)
				_, text, err := send(t, r.Transport(s), req)
				if err != nil || text != id {
					t.Errorf("%d: %v, %q", i, err, text)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
	})
}

// A request whose attempt and hedge end at the same moment gets one of the answers, and the other
// is closed.
func TestPhotoFinish(t *testing.T) {
	for range 50 {
		bubble(t, func(t *testing.T) {
			r := newRetrier(t, retry.Config{Hedge: true})
			warm(t, r, "GET")
			a, b := answer(200), answer(200)
			finish := time.Now().Add(100 * usual)
			until := func(resp *http.Response) func(*http.Request) (*http.Response, error) {
				return func(*http.Request) (*http.Response, error) {
					time.Sleep(time.Until(finish))
					return resp, nil
				}
			}
			bodies := []io.ReadCloser{a.Body, b.Body}
			_, text, err := send(t, r.Transport(serve(until(a), until(b))), request(t, "GET", nil))
			require.NoError(t, err)
			require.Equal(t, "OK", text)
			synctest.Wait()
			for _, b := range bodies {
				require.Positive(t, closesOf(b))
			}
		})
	}
}

func closesOf(b io.ReadCloser) int32 {
	if own, ok := b.(*body); ok {
		return own.closes.Load()
	}
	return 0
}

// Whatever When says of it, a hedge that failed does not win.
func TestHintedHedgeDoesNotWin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, Hint: "Should-Retry"})
		warm(t, r, "GET")
		s := serve(after(5*usual, 201), answer(503, "Should-Retry", "false"))
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, status)
	})
}

// An attempt that nothing can save still waits for a hedge that is on its way.
func TestHedgeSavesAHopelessAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		s := serve(func(*http.Request) (*http.Response, error) {
			time.Sleep(2 * usual)
			return nil, refusal{}
		}, after(3*usual, 201))
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, status)
	})
}
