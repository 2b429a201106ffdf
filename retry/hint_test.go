package retry_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

func TestHint(t *testing.T) {
	const field = "Should-Retry"
	tests := []struct {
		name   string
		cfg    retry.Config
		method string
		answer *http.Response
		sent   int
		hint   string
	}{
		{"set by who gives up", retry.Config{Hint: field}, "GET", answer(503), 3, "false"},
		{"off", retry.Config{}, "GET", answer(503), 3, ""},
		{"obeyed", retry.Config{Hint: field}, "GET", answer(503, field, "false"), 1, "false"},
		{"obeyed in any case", retry.Config{Hint: field}, "GET", answer(503, field, " False "), 1, " False "},
		{"another value is none", retry.Config{Hint: field}, "GET", answer(503, field, "true"), 3, "false"},
		{"not obeyed when off", retry.Config{}, "GET", answer(503, field, "false"), 3, "false"},
		{"left to others if no retry was possible", retry.Config{Hint: field}, "POST", answer(503), 1, ""},
		{
			"left to others by who never retries",
			retry.Config{Hint: field, MaxAttempts: 1},
			"GET",
			answer(503),
			1,
			"",
		},
		{"not on a success", retry.Config{Hint: field}, "GET", answer(200), 1, ""},
		{"not on a failure that nobody retries", retry.Config{Hint: field}, "GET", answer(500), 1, ""},
		{
			"name in any case",
			retry.Config{Hint: "should-retry"},
			"GET",
			answer(503, field, "false"),
			1,
			"false",
		},
		{
			"set where the wait is too long",
			retry.Config{Hint: field},
			"GET",
			answer(503, "Retry-After", "3600"),
			1,
			"false",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := serve(tt.answer)
				resp, err := newRetrier(t, tt.cfg).Transport(s).RoundTrip(request(t, tt.method, nil))
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, tt.sent, s.count())
				require.Equal(t, tt.hint, resp.Header.Get(field))
			})
		})
	}
}

// What this tier could not send again at all is left to those above, which may have the body; what
// it has sent twice is not.
func TestHintAfterABodyThatIsGone(t *testing.T) {
	const field = "Should-Retry"
	for _, tt := range []struct {
		name   string
		method string
		body   io.Reader
		when   retry.Verdict // of 409
		status []any
		sent   int
		gaveUp string
		hint   string
	}{
		{"too long", "PUT", stream(strings.Repeat("x", 65<<10)), 0, []any{503}, 1, "body", ""},
		{"kept", "PUT", stream("x"), 0, []any{503}, 3, "attempts", "false"},
		{"of a POST", "POST", stream("x"), 0, []any{503}, 1, "method", ""},
		{
			"of a POST sent twice", "POST", stream("x"), retry.Unprocessed,
			[]any{409, 503}, 2, "method", "false",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRetrier(t, retry.Config{
					Hint: field,
					When: func(_ *http.Request, resp *http.Response, _ error) retry.Verdict {
						if resp.StatusCode == 409 {
							return tt.when
						}
						return retry.Default
					},
				})
				s := serve(tt.status...)
				resp, err := r.Transport(s).RoundTrip(request(t, tt.method, tt.body))
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, tt.sent, s.count())
				require.Equal(t, map[string]uint64{tt.gaveUp: 1}, r.Stats().GaveUp)
				require.Equal(t, tt.hint, resp.Header.Get(field))
			})
		})
	}
}
