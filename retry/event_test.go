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

func TestObserve(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var got []retry.Event
		r := newRetrier(
			t,
			retry.Config{Observe: func(_ context.Context, e retry.Event) { got = append(got, e) }},
		)
		ask := func(answers ...any) retry.Event {
			got = nil
			send(t, r.Transport(serve(answers...)), request(t, "GET", nil))
			require.Len(t, got, 1, "one event for each request")
			return got[0]
		}
		e := ask(200)
		require.Equal(t, retry.Event{Outcome: retry.Success, Key: "a.test"}, e)
		e = ask(answer(503, "Retry-After", "1"), 200)
		require.Equal(t, retry.Success, e.Outcome)
		require.Equal(t, 1, e.Retries)
		require.GreaterOrEqual(t, e.Duration, time.Second)
		e = ask(503)
		require.Equal(t, retry.Failure, e.Outcome)
		require.Equal(t, retry.GaveUpAttempts, e.GaveUp)
		e = ask(500)
		require.Equal(t, retry.Success, e.Outcome, "the server answered, and no retry was called for")
		e = ask(io.EOF)
		require.Equal(t, retry.Failure, e.Outcome)
		require.Equal(t, io.EOF, e.Err)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		got = nil
		send(t, r.Transport(serve(after(time.Hour, 200))), request(t, "GET", nil).WithContext(ctx))
		require.Equal(t, retry.Canceled, got[0].Outcome)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got = nil
		send(t, r.Transport(serve(after(time.Hour, 200))), request(t, "GET", nil).WithContext(ctx))
		require.Equal(t, retry.Failure, got[0].Outcome)
		require.Equal(t, retry.GaveUpDeadline, got[0].GaveUp)
	})
}

func TestStats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRetrier(t, retry.Config{})
		send(t, r.Transport(serve(503, io.EOF, 200)), request(t, "GET", nil))
		send(t, r.Transport(serve(429)), request(t, "POST", nil))
		require.Equal(t, retry.Stats{
			Requests: 2, Attempts: 4, Retries: map[string]uint64{"503": 1, "error": 1},
			GaveUp: map[string]uint64{"method": 1},
			Budget: map[string]float64{"a.test": 8.1},
		}, r.Stats())
	})
}

// A caller that is gone gets the answer that there is, and its retry is not paid for.
func TestFailureAfterTheCallerLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRetrier(t, retry.Config{Hint: "Should-Retry"})
		s := serve(func(*http.Request) (*http.Response, error) {
			cancel()
			return answer(503), nil
		})
		status, _, err := send(t, r.Transport(s), request(t, "GET", nil).WithContext(ctx))
		require.NoError(t, err)
		require.Equal(t, 503, status)
		require.Equal(t, 1, s.count())
		require.Equal(t, map[string]uint64{"canceled": 1}, r.Stats().GaveUp)
	})
}

// An error that could be a timeout and is none has another reason.
func TestReasonsOfErrors(t *testing.T) {
	for reason, err := range map[string]error{
		"timeout":     &net.OpError{Op: "read", Err: &timeoutError{}},
		"error":       &net.OpError{Op: "read", Err: syscall.ECONNRESET},
		"unprocessed": &net.OpError{Op: "dial", Err: &timeoutError{}},
		"not_sent":    refusal{time.Second},
	} {
		bubble(t, func(t *testing.T) {
			r := newRetrier(t, retry.Config{})
			send(t, r.Transport(serve(err, 200)), request(t, "GET", nil))
			require.Equal(t, map[string]uint64{reason: 1}, r.Stats().Retries)
		})
	}
}
