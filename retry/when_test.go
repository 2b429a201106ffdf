package retry_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestWhenDecides(t *testing.T) {
	tests := []struct {
		name    string
		verdict retry.Verdict
		method  string
		answer  any
		sent    int
	}{
		{"default", retry.Default, "GET", 503, 2},
		{"default of 500", retry.Default, "GET", 500, 1},
		{"stop", retry.Stop, "GET", 503, 1},
		{"stop after an error", retry.Stop, "GET", io.EOF, 1},
		{"retry of 500", retry.Retry, "GET", 500, 2},
		{"retry does not repeat a POST", retry.Retry, "POST", 500, 1},
		{"unprocessed repeats a POST", retry.Unprocessed, "POST", 429, 2},
		{"retry of a refusal for good", retry.Retry, "GET", refusal{}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := serve(tt.answer, 200)
				var got *http.Request
				r := newRetrier(
					t,
					retry.Config{When: func(req *http.Request, resp *http.Response, err error) retry.Verdict {
						got = req
						require.True(t, (resp == nil) != (err == nil))
						if resp != nil && resp.StatusCode == 200 {
							return retry.Default
						}
						return tt.verdict
					}},
				)
				req := request(t, tt.method, strings.NewReader("x"))
				send(t, r.Transport(s), req)
				require.Same(t, req, got, "the caller's request, not a copy")
				require.Equal(t, tt.sent, s.count())
			})
		})
	}
}

// What When asks for costs budget and obeys Retry-After like everything else.
func TestWhenIsWithinTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := serve(answer(200, "Retry-After", "3"))
		r := newRetrier(t, retry.Config{
			MaxAttempts: 100,
			When: func(*http.Request, *http.Response, error) retry.Verdict {
				return retry.Unprocessed
			},
		})
		send(t, r.Transport(s), request(t, "POST", nil))
		require.Equal(t, 11, s.count())
		for _, gap := range s.gaps() {
			require.GreaterOrEqual(t, gap, 3*time.Second)
		}
	})
}
