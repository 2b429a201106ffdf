//go:build !race

package ratelimit_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
)

// TestAllocations: the bars are 2 for a request with headers, 3 for a denial, none without HTTP.
func TestAllocations(t *testing.T) {
	check := func(name string, most float64, f func()) {
		t.Helper()
		f()
		got := testing.AllocsPerRun(1000, f)
		t.Logf("%s: %v", name, got)
		require.LessOrEqual(t, got, most, name)
	}
	wide := ratelimit.PerSecond(1_000_000_000).WithBurst(1_000_000_000)
	byIP := func(r ratelimit.Rate) ratelimit.Policy {
		p := policyOf("p", r)
		p.Key = ratelimit.ByPeer
		return p
	}
	second := policyOf("second", wide)
	sliding := policyOf("p", ratelimit.PerSecond(1<<24-1))
	sliding.Algorithm = ratelimit.SlidingWindow
	sliding.Key = ratelimit.ByPeer
	w := &bareWriter{header: http.Header{}}
	serve := func(cfg ratelimit.Config) func() {
		h := newLimiter(t, cfg).Middleware(nothing)
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "192.0.2.1:1234"
		return func() {
			w.reset()
			h.ServeHTTP(w, r)
		}
	}
	check("admission", 2, serve(ratelimit.Config{Policies: []ratelimit.Policy{byIP(wide)}}))
	check("admission, sliding window", 2, serve(ratelimit.Config{Policies: []ratelimit.Policy{sliding}}))
	one, two := []ratelimit.Policy{byIP(wide)}, []ratelimit.Policy{byIP(wide), second}
	check("admission without headers", 0, serve(ratelimit.Config{Policies: one, NoHeaders: true}))
	check("admission with legacy headers", 2, serve(ratelimit.Config{Policies: one, LegacyHeaders: true}))
	check("admission, two policies", 3, serve(ratelimit.Config{Policies: two}))
	plan := byIP(wide)
	plan.RateFor = func(*http.Request) ratelimit.Rate { return ratelimit.PerSecond(1000).WithBurst(1e6) }
	check("admission at a plan's rate", 5, serve(ratelimit.Config{Policies: []ratelimit.Policy{plan}}))
	check("denial", 3, serve(ratelimit.Config{Policies: []ratelimit.Policy{byIP(ratelimit.PerDay(1))}}))
	require.Equal(t, 429, w.status)

	for _, p := range []ratelimit.Policy{byIP(wide), sliding, byIP(ratelimit.PerDay(1))} {
		l := limiterOf(t, p)
		keys := []string{"key"}
		check("TakeKeys", 0, func() {
			if _, err := l.TakeKeys(t.Context(), keys); err != nil {
				t.Fatal(err)
			}
		})
	}
	require.EqualValues(t, ratelimit.SetBytes, unsafe.Sizeof(ratelimit.Set{}), "two cache lines")
}
