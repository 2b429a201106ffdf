package breaker_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
)

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestHooksThatPanic: each panics on the caller's goroutine and goes on there. The breaker is left
// as it was, with nothing in flight.
func TestHooksThatPanic(t *testing.T) {
	for _, hook := range []string{"Key", "Failed", "Skip", "Fallback", "ErrorHandler", "Observe"} {
		t.Run(hook, func(t *testing.T) {
			on := ""
			maybe := func(name string) {
				if name == on {
					panic(name)
				}
			}
			b := newBreaker(t, breaker.Config{
				MinRequests: 1, OpenFor: time.Hour,
				Key:    func(*http.Request) (string, bool) { maybe("Key"); return "a", true },
				Failed: func(status int) bool { maybe("Failed"); return status >= 500 },
				Skip:   func(*http.Request) bool { maybe("Skip"); return false },
				Fallback: func(*http.Request, error) (*http.Response, error) {
					maybe("Fallback")
					return &http.Response{StatusCode: 203, Body: http.NoBody}, nil
				},
				ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
					maybe("ErrorHandler")
					w.WriteHeader(503)
				},
				Observe: func(context.Context, breaker.Event) { maybe("Observe") },
			})
			status := 200
			rt := b.Transport(transportFunc(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Body: http.NoBody}, nil
			}))
			h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
			}))
			send := func() int {
				resp, err := rt.RoundTrip(httptest.NewRequest("GET", "http://a.test/", nil))
				require.NoError(t, err)
				resp.Body.Close()
				return resp.StatusCode
			}
			serve := func() int {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				return w.Code
			}
			switch hook {
			case "Fallback", "ErrorHandler": // of an open circuit
				status = 500
				send()
				on = hook
				if hook == "Fallback" {
					require.PanicsWithValue(t, hook, func() { send() })
				} else {
					require.PanicsWithValue(t, hook, func() { serve() })
				}
				on = ""
				require.Equal(t, 203, send())
				require.Equal(t, 503, serve())
			case "Observe": // of the transition
				status, on = 500, hook
				require.PanicsWithValue(t, hook, func() { send() })
				on = ""
				require.Equal(t, 203, send(), "it is open all the same")
			case "Failed": // a panic of it is a failure
				on = hook
				require.PanicsWithValue(t, hook, func() { serve() })
				on = ""
				require.Equal(t, 203, send())
			default:
				on = hook
				require.PanicsWithValue(t, hook, func() { send() })
				require.PanicsWithValue(t, hook, func() { serve() })
				on = ""
				require.Equal(t, 200, send())
			}
		})
	}
}

// TestThrottleHooksThatPanic, likewise.
func TestThrottleHooksThatPanic(t *testing.T) {
	for _, hook := range []string{"Key", "Skip", "Observe"} {
		on := ""
		maybe := func(name string) {
			if name == on {
				panic(name)
			}
		}
		th, err := breaker.NewThrottle(breaker.ThrottleConfig{
			Key:     func(*http.Request) (string, bool) { maybe("Key"); return "a", true },
			Skip:    func(*http.Request) bool { maybe("Skip"); return false },
			Observe: func(context.Context, breaker.ThrottleEvent) { maybe("Observe") },
		})
		require.NoError(t, err)
		rt := th.Transport(transportFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 503, Body: http.NoBody}, nil
		}))
		send := func() error {
			_, err := rt.RoundTrip(httptest.NewRequest("GET", "http://a.test/", nil))
			return err
		}
		on = hook
		require.PanicsWithValue(t, hook, func() {
			for range 1000 { // until one is throttled, which is told
				_ = send()
			}
		})
		on = ""
		throttled := false
		for range 1000 {
			throttled = throttled || send() != nil
		}
		require.True(t, throttled, hook)
	}
}
