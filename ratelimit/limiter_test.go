package ratelimit_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/ratelimit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// constant is a Key that counts all requests as one.
func constant(*http.Request) (string, bool) { return "all", true }

func policyOf(name string, rate ratelimit.Rate) ratelimit.Policy {
	return ratelimit.Policy{Name: name, Rate: rate, Key: constant, Missing: ratelimit.MissingReject}
}

func newLimiter(t testing.TB, cfg ratelimit.Config) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(cfg)
	require.NoError(t, err)
	return l
}

// limiterOf returns a limiter of policies, with defaults otherwise.
func limiterOf(t testing.TB, policies ...ratelimit.Policy) *ratelimit.Limiter {
	t.Helper()
	return newLimiter(t, ratelimit.Config{Policies: policies})
}

// limiterOn returns a limiter of policies on store.
func limiterOn(t testing.TB, store ratelimit.Store, policies ...ratelimit.Policy) *ratelimit.Limiter {
	t.Helper()
	return newLimiter(t, ratelimit.Config{Store: store, Policies: policies})
}

func TestPoliciesAreChargedAllOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, ratelimit.Config{Policies: []ratelimit.Policy{
			policyOf("wide", ratelimit.PerMinute(60).WithBurst(10)),
			policyOf("narrow", ratelimit.PerMinute(1).WithBurst(2)),
		}})
		for range 2 {
			d, err := l.TakeKeys(t.Context(), []string{"a", "b"})
			require.NoError(t, err)
			require.True(t, d.Allowed)
		}
		for range 5 {
			d, err := l.TakeKeys(t.Context(), []string{"a", "b"})
			require.NoError(t, err)
			require.False(t, d.Allowed)
			require.Equal(t, []string{"narrow"}, d.Violated())
			require.Equal(t, time.Minute, d.RetryAfter)
			claims := d.Claims()
			require.EqualValues(t, 8, claims[0].Remaining, "what was refused is not charged")
		}
		time.Sleep(time.Minute)
		d, err := l.TakeKeys(t.Context(), []string{"a", "b"})
		require.NoError(t, err)
		require.True(t, d.Allowed)
	})
}

func TestMiddlewareRefuses(t *testing.T) {
	l := limiterOf(t, policyOf("day", ratelimit.PerDay(1)))
	h := l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 204, w.Code)
	require.Equal(t, `"day";q=1;w=86400`, w.Header().Get("RateLimit-Policy"))
	require.Equal(t, `"day";r=0;t=86400`, w.Header().Get("RateLimit"))
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 429, w.Code)
	require.Equal(t, "86400", w.Header().Get("Retry-After"))
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.JSONEq(t, `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded",
		"title":"Request quota exceeded","status":429,"violated-policies":["day"]}`, w.Body.String())
}
