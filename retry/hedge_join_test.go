package retry_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestHedgeWaitsForItsLeastDelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, MinHedgeDelay: 50 * time.Millisecond})
		warm(t, r, "GET")
		s := serve(after(time.Second, 200), after(0, 200))
		start := time.Now()
		send(t, r.Transport(s), request(t, "GET", nil))
		require.Equal(t, 50*time.Millisecond, time.Since(start))
	})
}

// A request that could not be hedged when it was late is hedged later on.
func TestHedgeThatComesLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, Budget: retry.BudgetConfig{Ratio: -1, Reserve: 1}})
		warm(t, r, "GET")
		send(t, r.Transport(serve(503)), request(t, "GET", nil))
		require.Zero(t, r.Stats().Budget["a.test"])
		s := serve(after(time.Minute, 200), after(0, 201))
		time.AfterFunc(15*time.Second, func() { // an idle key gets a token
			send(t, r.Transport(serve(200)), request(t, "POST", nil))
		})
		start := time.Now()
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, status)
		require.Greater(t, time.Since(start), 15*time.Second)
		require.Less(t, time.Since(start), 31*time.Second)
	})
}

// Without budget there is no hedge, and the attempt goes on.
func TestNoBudgetNoHedge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, Budget: retry.BudgetConfig{Ratio: -1, Reserve: 1}})
		warm(t, r, "GET")
		send(t, r.Transport(serve(503)), request(t, "GET", nil))
		require.Zero(t, r.Stats().Budget["a.test"])
		s := serve(after(5*usual, 201), after(0, 200))
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, status)
		require.Equal(t, 1, s.count())
	})
}

// GetBody may fail for the hedge alone.
func TestHedgeWithoutABody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, Class: func(*http.Request) string { return "" }})
		warm(t, r, "GET")
		req := request(t, "QUERY", strings.NewReader("x"))
		req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		s := serve(after(5*usual, 201), 200)
		status, _, err := send(t, r.Transport(s), req)
		require.NoError(t, err)
		require.Equal(t, 201, status)
		require.Equal(t, 1, s.count())
		require.Equal(t, 10.0, r.Stats().Budget["a.test"])
	})
}

// A hedge leaves later than its attempt, and says so to the server.
func TestHedgeTellsWhatIsLeftOfTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, DeadlineField: "Request-Timeout"})
		warm(t, r, "GET")
		s := serve(after(time.Hour, 200), after(usual, 201))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		req := request(t, "GET", nil).WithContext(ctx)
		req.Header.Set("Request-Timeout", "77")
		status, _, err := send(t, r.Transport(s), req)
		require.NoError(t, err)
		require.Equal(t, 201, status)
		all := s.all()
		late := all[1].at.Sub(all[0].at)
		require.Positive(t, late)
		require.Equal(t, []string{"5000"}, all[0].req.Header["Request-Timeout"])
		left := strconv.FormatInt((5*time.Second - late).Milliseconds(), 10)
		require.Equal(t, []string{left}, all[1].req.Header["Request-Timeout"])
		require.Equal(t, "77", req.Header.Get("Request-Timeout"))
	})
}

// The waits between the looks at whether a hedge can be sent grow by one each: 1, 3, 6, 10 … of the
// first wait after the attempt has left.
func TestHedgeLooksAgainLessAndLessOften(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, Budget: retry.BudgetConfig{Ratio: -1, Reserve: 1}})
		warm(t, r, "GET")
		send(t, r.Transport(serve(503)), request(t, "GET", nil))
		require.Zero(t, r.Stats().Budget["a.test"])
		wait := r.HedgeDelay(request(t, "GET", nil))
		require.Positive(t, wait)
		const idle = 15 * time.Second // after which a further request brings a token
		time.AfterFunc(idle, func() { send(t, r.Transport(serve(200)), request(t, "POST", nil)) })
		s := serve(after(time.Minute, 200), after(0, 201))
		start := time.Now()
		_, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		want := time.Duration(0)
		for n := time.Duration(1); want < idle; n++ {
			want += n * wait
		}
		require.Equal(t, want, s.all()[1].at.Sub(start))
	})
}

// A body that is still being read from its source is not sent a second time.
func TestNoHedgeBeforeTheBodyIsWhole(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true, Class: func(*http.Request) string { return "" }})
		warm(t, r, "GET")
		slow := readerFunc(func([]byte) (int, error) {
			time.Sleep(8 * usual)
			return 0, io.EOF
		})
		req := request(t, "QUERY", io.MultiReader(stream("x"), slow))
		s := serve(after(usual/10, 201))
		status, _, err := send(t, r.Transport(s), req)
		require.NoError(t, err)
		require.Equal(t, 201, status)
		require.Equal(t, 1, s.count())
		require.Zero(t, r.Stats().Hedges)
	})
}

// A body without GetBody is kept for a hedge, too, where nothing is retried.
func TestHedgeOfAStreamWithoutRetries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		class := func(*http.Request) string { return "" }
		r := newRetrier(t, retry.Config{Hedge: true, MaxAttempts: 1, Class: class})
		warm(t, r, "GET")
		s := serve(after(10*usual, 200), after(usual, 201))
		status, _, err := send(t, r.Transport(s), request(t, "QUERY", stream("x")))
		require.NoError(t, err)
		require.Equal(t, 201, status)
		require.Equal(t, "x", s.all()[1].body)
	})
}

// The request is the caller's again once RoundTrip returns: a hedge that is about to copy it is
// waited for, whatever becomes of the attempt.
func TestNoHedgeCopiesARequestThatIsTheCallersAgain(t *testing.T) {
	for _, panics := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := newRetrier(t, retry.Config{Hedge: true, Class: func(*http.Request) string { return "" }})
			warm(t, r, "GET")
			req := request(t, "QUERY", strings.NewReader("x"))
			copied := false
			req.GetBody = func() (io.ReadCloser, error) {
				time.Sleep(time.Minute)
				copied = true
				return io.NopCloser(strings.NewReader("x")), nil
			}
			s := serve(func(req *http.Request) (*http.Response, error) {
				time.Sleep(3 * usual)
				if panics {
					panic("boom")
				}
				return answer(201), nil
			}, func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				return nil, context.Cause(req.Context())
			})
			if panics {
				require.PanicsWithValue(t, "boom", func() { _, _ = r.Transport(s).RoundTrip(req) })
			} else {
				status, _, err := send(t, r.Transport(s), req)
				require.NoError(t, err)
				require.Equal(t, 201, status)
			}
			require.True(t, copied)
			synctest.Wait()
		})
	}
}

// A hedge that was not sent is no attempt of those before a retry.
func TestAttemptsAfterAHedgeThatWasNotSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{Hedge: true})
		warm(t, r, "GET")
		s := serve(after(3*usual, 503), refusal{}, 200)
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, 3, s.count())
		require.Equal(t, 1, s.all()[2].attempts)
	})
}
