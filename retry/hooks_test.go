package retry_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/retry"
)

// TestHooksThatPanic: each panics on the caller's goroutine and goes on there, and the next request
// is sent as ever. (TestPanicsInAHedge has those that run on the library's own.)
func TestHooksThatPanic(t *testing.T) {
	for _, hook := range []string{"Key", "When", "Scope", "Class", "Observe"} {
		t.Run(hook, func(t *testing.T) {
			on := hook
			maybe := func(name string) {
				if name == on {
					panic(name)
				}
			}
			r := newRetrier(t, retry.Config{
				Key: func(*http.Request) (string, bool) { maybe("Key"); return "a", true },
				When: func(*http.Request, *http.Response, error) retry.Verdict {
					maybe("When")
					return retry.Default
				},
				Scope:   func(ctx context.Context) context.Context { maybe("Scope"); return ctx },
				Hedge:   true,
				Class:   func(*http.Request) string { maybe("Class"); return "a" },
				Observe: func(context.Context, retry.Event) { maybe("Observe") },
			})
			rt := r.Transport(serve(200, 200, 200))
			require.PanicsWithValue(t, hook, func() { _, _ = rt.RoundTrip(request(t, "GET", nil)) })
			on = ""
			status, _, err := send(t, rt, request(t, "GET", nil))
			require.NoError(t, err)
			require.Equal(t, 200, status)
		})
	}
}

// TestDeadlineHooksThatPanic, likewise.
func TestDeadlineHooksThatPanic(t *testing.T) {
	for _, hook := range []string{"Skip", "ErrorHandler", "Observe"} {
		on := hook
		maybe := func(name string) {
			if name == on {
				panic(name)
			}
		}
		d, err := retry.NewDeadline(retry.DeadlineConfig{
			Field: "Timeout", Skip: func(*http.Request) bool { maybe("Skip"); return false },
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
				maybe("ErrorHandler")
				w.WriteHeader(http.StatusGatewayTimeout)
			},
			Observe: func(context.Context, retry.DeadlineEvent) { maybe("Observe") },
		})
		require.NoError(t, err)
		h := d.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		one := func(field string) int {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Timeout", field)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		field := "1000"
		if hook == "ErrorHandler" {
			field = "0"
		}
		require.PanicsWithValue(t, hook, func() { one(field) })
		on = ""
		require.Equal(t, 200, one("1000"), hook)
	}
}
