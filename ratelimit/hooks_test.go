package ratelimit_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
)

// panickyStore is a user's Store that panics in what it is told to.
type panickyStore struct {
	brokenStore
	in string
}

func (s *panickyStore) panics(in string) {
	if s.in == in {
		panic(in)
	}
}

func (s *panickyStore) Take(ctx context.Context, c []ratelimit.Claim) error {
	s.panics("Take")
	return s.brokenStore.Take(ctx, c)
}

func (s *panickyStore) Peek(ctx context.Context, c []ratelimit.Claim) error {
	s.panics("Peek")
	return s.brokenStore.Peek(ctx, c)
}

func (s *panickyStore) Charge(ctx context.Context, c []ratelimit.Claim) error {
	s.panics("Charge")
	return s.brokenStore.Charge(ctx, c)
}

func (s *panickyStore) Refund(ctx context.Context, c []ratelimit.Claim) error {
	s.panics("Refund")
	return s.brokenStore.Refund(ctx, c)
}

// TestHooksThatPanic: each panics on the request's goroutine and goes on there, holds no lock, and
// the next request is decided as ever.
func TestHooksThatPanic(t *testing.T) {
	for _, hook := range []string{
		"Key", "RateFor", "Cost", "CountIf", "ErrorHandler", "Observe", "Observe of the store",
		"Take", "Peek", "Charge", "Refund",
	} {
		t.Run(hook, func(t *testing.T) {
			on := hook
			maybe := func(name string) {
				if name == on {
					panic(name)
				}
			}
			store := &panickyStore{in: hook}
			p := ratelimit.Policy{
				Name: "p", Rate: ratelimit.PerHour(10).WithBurst(10), Missing: ratelimit.MissingReject,
				Key: func(r *http.Request) (string, bool) {
					maybe("Key")
					return r.Header.Get("Key"), true
				},
				RateFor: func(*http.Request) ratelimit.Rate { maybe("RateFor"); return ratelimit.Rate{} },
				Cost:    func(*http.Request) int64 { maybe("Cost"); return 1 },
				CountIf: func(status int) bool { maybe("CountIf"); return status >= 500 },
			}
			l := newLimiter(t, ratelimit.Config{
				Store: store, Policies: []ratelimit.Policy{p}, PassDecision: true,
				ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
					maybe("ErrorHandler")
					w.WriteHeader(http.StatusTooManyRequests)
				},
				Observe: func(_ context.Context, e ratelimit.Event) {
					if e.Kind == ratelimit.StoreChanged {
						maybe("Observe of the store")
					} else {
						maybe("Observe")
					}
				},
			})
			if hook == "Observe of the store" {
				store.err = errDown
			}
			h := l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				d, _ := ratelimit.FromContext(r.Context())
				_ = d.Charge(r.Context(), 1)
				_, _ = l.PeekKeys(r.Context(), []string{"a"})
			}))
			one := func(key string) int {
				r := httptest.NewRequest("GET", "/", nil)
				r.Header.Set("Key", key)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Code
			}
			key := "a"
			if hook == "ErrorHandler" {
				key = "" // is refused
			}
			require.PanicsWithValue(t, hook, func() { one(key) })
			on, store.in, store.err = "", "", nil
			require.Equal(t, http.StatusOK, one("a"))
		})
	}
}
