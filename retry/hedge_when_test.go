package retry_test

import (
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

// When is asked of what may be the request's end: of no loser, and of no error of a hedge.
func TestWhenIsNotAskedAboutALoser(t *testing.T) {
	deaf := func(d time.Duration, status int) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) {
			time.Sleep(d)
			return answer(status), nil
		}
	}
	broken := func(*http.Request) (*http.Response, error) { return nil, io.EOF }
	for _, tt := range []struct {
		name           string
		attempt, hedge any
		asked          []int // the statuses
	}{
		{"hedge loses, canceled", after(2*usual, 201), after(time.Hour, 200), []int{201}},
		{"hedge loses, deaf", deaf(2*usual, 201), deaf(time.Hour, 200), []int{201}},
		{"attempt loses, canceled", after(time.Hour, 200), after(usual, 202), []int{202}},
		{"attempt loses, deaf", deaf(time.Hour, 200), deaf(usual, 202), []int{202}},
		{"hedge is broken", after(3*usual, 201), broken, []int{201}},
		{"hedge has failed", after(5*usual, 201), after(usual, 503), []int{503, 201}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var mu sync.Mutex // guards asked
				var asked []int
				r := newRetrier(t, retry.Config{
					Hedge: true, MaxAttempts: 1,
					When: func(_ *http.Request, resp *http.Response, err error) retry.Verdict {
						mu.Lock()
						defer mu.Unlock()
						if err != nil {
							asked = append(asked, 0)
						} else {
							asked = append(asked, resp.StatusCode)
						}
						return retry.Default
					},
				})
				warm(t, r, "GET")
				asked = nil
				s := serve(tt.attempt, tt.hedge)
				status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
				require.NoError(t, err)
				require.Equal(t, 2, s.count())
				time.Sleep(2 * time.Hour) // the loser has come back
				mu.Lock()
				defer mu.Unlock()
				require.Equal(t, tt.asked, asked)
				require.Equal(t, asked[len(asked)-1], status)
			})
		})
	}
}

// What When says of a hedge's answer counts: one that it wants another of does not win.
func TestWhenJudgesAHedge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{
			Hedge: true,
			When: func(_ *http.Request, resp *http.Response, _ error) retry.Verdict {
				if resp != nil && resp.StatusCode == 202 {
					return retry.Retry
				}
				return retry.Default
			},
		})
		warm(t, r, "GET")
		s := serve(after(5*usual, 201), after(usual, 202))
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, status)
		require.Zero(t, r.Stats().HedgesWon)
	})
}

// A hedge whose answer is judged while the attempt wins has lost, and takes nothing from it.
func TestHedgeThatIsJudgedTooLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{
			Hedge: true,
			When: func(_ *http.Request, resp *http.Response, _ error) retry.Verdict {
				if resp.StatusCode == 202 {
					time.Sleep(10 * usual)
				}
				return retry.Default
			},
		})
		warm(t, r, "GET")
		late := answer(202)
		lateBody := late.Body
		s := serve(after(5*usual, 201), late)
		resp, err := r.Transport(s).RoundTrip(request(t, "GET", nil))
		require.NoError(t, err)
		require.Equal(t, 201, resp.StatusCode)
		time.Sleep(time.Second)
		require.NoError(t, s.all()[0].req.Context().Err(), "the winner goes on")
		require.Error(t, s.all()[1].req.Context().Err())
		require.Positive(t, closesOf(lateBody))
		require.Zero(t, r.Stats().HedgesWon)
		resp.Body.Close()
	})
}
