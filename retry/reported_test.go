package retry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/retry"
)

// What users of other retrying and hedging clients have reported.

// The end of an attempt's time is not the end of its answer: a large one is read whole, whoever has
// won.
func TestReported_LargeAnswersAreWhole(t *testing.T) {
	large := bytes.Repeat([]byte("x"), 256<<10)
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		var n atomic.Int64
		b := backend.Start(t, backend.Config{Protocol: p, Handler: http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1)%3 == 0 {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				_, _ = w.Write(large)
			})})
		r := newRetrier(t, quick(retry.Config{
			PerTry: time.Minute, Hedge: true, HedgeRatio: 1,
			Budget: retry.BudgetConfig{Ratio: 1, Reserve: 1000},
		}))
		rt := r.Transport(testTransport(t, p))
		for range 70 { // from the 50th on, hedges may join
			resp, err := rt.RoundTrip(requestTo(t, b, "GET", nil))
			require.NoError(t, err)
			got, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Len(t, got, len(large))
			require.NoError(t, resp.Body.Close())
		}
	}
}

// An attempt's time covers the body: who reads a part that stalls gets a timeout.
func TestReported_AStalledBodyTimesOut(t *testing.T) {
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		b := backend.Start(t, backend.Config{Protocol: p, Handler: http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "part")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			})})
		r := newRetrier(t, quick(retry.Config{PerTry: 50 * time.Millisecond, MaxAttempts: 1}))
		resp, err := r.Transport(testTransport(t, p)).RoundTrip(requestTo(t, b, "GET", nil))
		if err == nil { // on a slow machine the header is late, too
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
}

// The server is told what the attempt has, which is less than PerTry where less is left.
func TestReported_TheServerIsToldWhatTheAttemptHas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{DeadlineField: "Request-Timeout", PerTry: 100 * time.Millisecond})
		r.SetRandom(func(int64) int64 { return 0 })
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		s := serve(after(time.Hour, 200))
		_, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var told []string
		for _, a := range s.all() {
			told = append(told, a.req.Header.Get("Request-Timeout"))
		}
		require.Equal(t, []string{"100", "100", "50"}, told)
	})
}

// A budget that is spent keeps others from being sent. What is on its way goes on, and a request
// whose hedges have failed ends.
func TestReported_ASpentBudgetEndsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, Budget: retry.BudgetConfig{Ratio: -1, Reserve: 1}})
		warm(t, r, "GET")
		var wg sync.WaitGroup
		wg.Go(func() { // its hedge takes the only token
			s := serve(after(time.Hour, 200), after(100*usual, 201))
			status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
			if err != nil || status != 201 {
				t.Errorf("hedged: %d, %v", status, err)
			}
		})
		time.Sleep(10 * usual)
		require.Zero(t, r.Stats().Budget["a.test"])
		start := time.Now()
		s := serve(after(5*usual, 503))
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 503, status)
		require.Equal(t, 5*usual, time.Since(start), "at once")
		require.Equal(t, 1, s.count())
		wg.Wait()
	})
}

// A failure that comes before the hedge would is retried after the backoff, not after the hedge's
// delay.
func TestReported_AFailureDoesNotWaitForTheHedgesDelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, MinHedgeDelay: time.Hour})
		warm(t, r, "GET")
		r.SetRandom(func(int64) int64 { return int64(usual) })
		s := serve(503, 201)
		start := time.Now()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, status)
		require.Equal(t, usual, time.Since(start))
	})
}

// Attempts, hedges and callers that leave at any moment get in no other's way for ever.
func TestReported_CancelingHedgedRequestsDeadlocksNothing(t *testing.T) {
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		b := backend.Start(t, backend.Config{Protocol: p, Handler: http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(rand.N(2 * time.Millisecond)):
				case <-r.Context().Done():
				}
				if rand.IntN(10) == 0 {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				_, _ = io.WriteString(w, "body")
			})})
		r := newRetrier(t, quick(retry.Config{
			Hedge: true, HedgeRatio: 1, MinHedgeDelay: time.Microsecond,
			Budget: retry.BudgetConfig{Ratio: 1, Reserve: 10_000},
		}))
		rt := r.Transport(testTransport(t, p))
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 50 {
					ctx, cancel := context.WithCancel(t.Context())
					if rand.IntN(2) == 0 {
						time.AfterFunc(rand.N(3*time.Millisecond), cancel)
					}
					resp, err := rt.RoundTrip(requestTo(t, b, "GET", nil).WithContext(ctx))
					if err == nil {
						_, _ = io.ReadAll(resp.Body)
						resp.Body.Close()
					} else if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					cancel()
				}
			})
		}
		wg.Wait()
	}
}

// With a single connection to the host, an answer that is retried gives it back first, also one
// that has no end.
func TestReported_FailedAnswersGiveTheirConnectionBack(t *testing.T) {
	var n atomic.Int64
	b := backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			i := n.Add(1)
			if i%3 == 0 {
				return
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			if i%3 == 1 {
				_, _ = io.WriteString(w, "short")
				return
			}
			for r.Context().Err() == nil {
				_, _ = w.Write(bytes.Repeat([]byte("x"), 1000))
				_ = http.NewResponseController(w).Flush()
			}
		})})
	tr := testTransport(t, backend.HTTP1)
	tr.MaxConnsPerHost = 1
	rt := newRetrier(t, quick(retry.Config{})).Transport(tr)
	for range 3 {
		status, _, err := send(t, rt, requestTo(t, b, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
	}
}

// A server may answer while it still gets the body: the next attempt shares nothing with what still
// reads that.
func TestReported_NoTwoAttemptsReadABody(t *testing.T) {
	text := strings.Repeat("0123456789", 100_000)
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		var n atomic.Int64
		b := backend.Start(t, backend.Config{Protocol: p, Handler: http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1)%3 != 0 {
					w.WriteHeader(http.StatusServiceUnavailable) // without a look at the body
					return
				}
				got, _ := io.ReadAll(r.Body)
				_, _ = w.Write(got)
			})})
		rt := newRetrier(t, quick(retry.Config{MaxBody: 2 << 20})).Transport(testTransport(t, p))
		for _, body := range []io.Reader{strings.NewReader(text), stream(text)} {
			status, got, err := send(t, rt, requestTo(t, b, "PUT", body))
			require.NoError(t, err)
			require.Equal(t, 200, status)
			require.True(t, text == got)
		}
		require.Zero(t, retry.Buffered(0))
	}
}
