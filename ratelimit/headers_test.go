package ratelimit_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/ratelimit"
)

// items parses a list of RateLimit or RateLimit-Policy as strictly as RFC 9651 says.
func items(t require.TestingT, values []string) (names []string, params []map[string]int64) {
	list, err := httpsfv.UnmarshalList(values)
	require.NoError(t, err, "%q", values)
	for _, m := range list {
		item := m.(httpsfv.Item)
		names = append(names, item.Value.(string))
		p := map[string]int64{}
		for _, name := range item.Params.Names() {
			v, _ := item.Params.Get(name)
			p[name] = v.(int64)
		}
		params = append(params, p)
	}
	return names, params
}

// TestR23_Fields: of any policies and whatever was asked, the fields are well-formed, nothing is
// negative or longer than what was promised, and no r/t is faster than the rate.
func TestR23_Fields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var policies []ratelimit.Policy
		cost := int64(1)
		for i := range rapid.IntRange(1, 3).Draw(t, "policies") {
			r := drawRate(t)
			if rapid.IntRange(0, 4).Draw(t, "huge burst") == 0 {
				r.Burst = rapid.Int64Range(1, 1<<58).Draw(t, "its size")
			}
			p := policyOf(fmt.Sprintf("p%d", i), r)
			p.Cost = func(*http.Request) int64 { return cost }
			if rapid.Bool().Draw(t, "sliding") {
				p.Algorithm, p.Rate.Burst, p.Rate.Limit = ratelimit.SlidingWindow, 0, min(r.Limit, 1<<24-1)
			}
			policies = append(policies, p)
		}
		store, err := ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: 10})
		require.NoError(t, err)
		store.SetBase(
			store.Base().Add(-time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "uptime"))),
		)
		jitter := time.Duration(
			rapid.SampledFrom([]int64{0, int64(time.Minute), math.MaxInt64}).Draw(t, "jitter"),
		)
		l, err := ratelimit.New(ratelimit.Config{
			Store: store, Policies: policies, LegacyHeaders: true, RetryJitter: jitter,
		})
		if err != nil {
			t.Skip(err.Error())
		}
		for range rapid.IntRange(1, 20).Draw(t, "requests") {
			cost = rapid.OneOf(rapid.Int64Range(0, 60), rapid.Int64Range(0, math.MaxInt64)).Draw(t, "cost")
			d, err := l.Take(context.Background(), new(http.Request))
			require.NoError(t, err)
			h := http.Header{}
			d.SetHeaders(h)
			names, quota := items(t, h["Ratelimit-Policy"])
			require.Len(t, names, len(policies))
			for i, p := range policies {
				require.Equal(t, p.Name, names[i])
				require.Positive(t, quota[i]["q"])
				require.Positive(t, quota[i]["w"])
			}
			claims := d.Claims()
			names, left := items(t, h["Ratelimit"])
			require.Len(t, names, len(policies))
			longest := int64(1)
			for i, c := range claims {
				require.GreaterOrEqual(t, left[i]["r"], int64(0))
				require.Positive(t, left[i]["t"])
				pace := float64(left[i]["r"]) / float64(left[i]["t"])
				require.LessOrEqual(t, pace, float64(c.Rate.Limit)/c.Rate.Window.Seconds()*(1+1e-9))
				full := float64(c.Rate.Window) // the time in which everything is earned
				if policies[i].Algorithm != ratelimit.SlidingWindow {
					full *= float64(c.Rate.Burst) / float64(c.Rate.Limit)
				} else {
					full *= 2
				}
				most := int64(full*(1+1e-9)/1e9) + 1
				require.LessOrEqual(
					t, left[i]["t"], max(most, int64(float64(c.Rate.Window)/float64(c.Rate.Limit)/1e9)+1),
				)
				longest = max(longest, most)
				require.LessOrEqual(t, c.RetryAfter, time.Duration(full*(1+1e-9))+1)
			}
			retry := h.Get("Retry-After")
			if d.Allowed || d.RetryAfter == 0 {
				require.Empty(t, retry)
			} else {
				s, err := strconv.ParseInt(retry, 10, 64)
				require.NoError(t, err)
				require.GreaterOrEqual(t, float64(s), d.RetryAfter.Seconds()*(1-1e-12), "rounded up")
				if jitter == 0 {
					require.LessOrEqual(t, s, longest)
				}
			}
			for _, name := range []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"} {
				n, err := strconv.ParseInt(h.Get(name), 10, 64)
				require.NoError(t, err)
				require.GreaterOrEqual(t, n, int64(0))
			}
		}
	})
}

func TestR23_RetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf("p", ratelimit.Rate{Limit: 10, Window: 15 * time.Second, Burst: 1}) // one in 1.5 s
		plain := limiterOf(t, p)
		jittered := newLimiter(t, ratelimit.Config{
			Policies: []ratelimit.Policy{p}, RetryJitter: 10 * time.Second,
		})
		draw := 0.0
		jittered.SetJitter(func() float64 { return draw })
		retry := func(l *ratelimit.Limiter) string {
			d, err := l.Take(t.Context(), new(http.Request))
			require.NoError(t, err)
			h := http.Header{}
			d.SetHeaders(h)
			return h.Get("Retry-After")
		}
		require.Empty(t, retry(plain))
		require.Empty(t, retry(jittered))
		require.Equal(t, "2", retry(plain), "1.5 s rounded up")
		time.Sleep(499 * time.Millisecond)
		require.Equal(t, "2", retry(plain), "1.001 s")
		time.Sleep(time.Millisecond)
		require.Equal(t, "1", retry(plain))
		for d, want := range map[float64]string{0: "1", 0.01: "2", 0.5: "6", 0.99: "11"} {
			draw = d
			require.Equal(t, want, retry(jittered))
		}

		// The longest jitter is added to what there is to wait, and stays a time.
		longest := newLimiter(t, ratelimit.Config{
			Policies: []ratelimit.Policy{p}, RetryJitter: math.MaxInt64,
		})
		longest.SetJitter(func() float64 { return math.Nextafter(1, 0) })
		require.Empty(t, retry(longest))
		require.Equal(t, "9223372037", retry(longest), "math.MaxInt64 nanoseconds")
	})
}

// TestR23_RetryAfterTheEffectiveWindow: draft-11, section 6: a cost that fits in two seconds, while
// what is left takes three.
func TestR23_RetryAfterTheEffectiveWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf("p", ratelimit.PerMinute(60).WithBurst(10))
		p.Cost = func(r *http.Request) int64 { return r.ContentLength }
		l := limiterOf(t, p)
		for _, cost := range []int64{7, 5} {
			d, err := l.Take(t.Context(), &http.Request{ContentLength: cost})
			require.NoError(t, err)
			h := http.Header{}
			d.SetHeaders(h)
			if cost == 5 {
				require.Equal(t, 2*time.Second, d.RetryAfter)
				require.Equal(t, `"p";r=3;t=3`, h.Get("RateLimit"))
				require.Equal(t, "3", h.Get("Retry-After"))
			}
		}
	})
}

// TestR23_NothingAboutOthers: a shared or hidden policy limits, but its state is not told.
func TestR23_NothingAboutOthers(t *testing.T) {
	hidden := policyOf("all", ratelimit.PerDay(1).WithBurst(2))
	hidden.Hidden = true
	shared := policyOf("anonymous", ratelimit.PerDay(1))
	shared.Missing = ratelimit.MissingShared
	shared.Key = ratelimit.ByHeader("X-Key")
	own := policyOf("own", ratelimit.PerDay(10).WithBurst(10))
	l := newLimiter(t, ratelimit.Config{
		Policies: []ratelimit.Policy{hidden, shared, own}, LegacyHeaders: true,
	})
	serve := func(key string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		if key != "" {
			r.Header.Set("X-Key", key)
		}
		l.Middleware(nothing).ServeHTTP(w, r)
		return w
	}
	w := serve("")
	require.Equal(t, 200, w.Code)
	require.Equal(t, `"own";q=10;w=86400`, w.Header().Get("RateLimit-Policy"))
	require.Equal(t, `"own";r=9;t=77760`, w.Header().Get("RateLimit"))
	require.Equal(t, "9", w.Header().Get("X-RateLimit-Remaining"))
	w = serve("")
	require.Equal(t, 429, w.Code)
	require.Contains(t, w.Body.String(), `"violated-policies":["anonymous"]`)
	require.Equal(t, `"own";r=9;t=77760`, w.Header().Get("RateLimit"))
	require.Equal(t, 200, serve("a").Code)
	w = serve("b")
	require.Equal(t, 429, w.Code)
	require.Contains(t, w.Body.String(), `"violated-policies":[]`)
	require.NotContains(t, strings.Join(w.Header()["Ratelimit"], " "), "all")
}

func TestFieldsOfSeveralLimitersAreOneList(t *testing.T) {
	outer := limiterOf(t, policyOf("outer", ratelimit.PerHour(100)))
	inner := limiterOf(t, policyOf("inner", ratelimit.PerHour(1)))
	h := outer.Middleware(inner.Middleware(nothing))
	for i := range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, []int{200, 429}[i], w.Code)
		for _, name := range []string{"Ratelimit", "Ratelimit-Policy"} {
			names, _ := items(t, w.Header()[name])
			require.Equal(t, []string{"outer", "inner"}, names)
		}
	}
}

func TestHeadersByOption(t *testing.T) {
	p := policyOf("p", ratelimit.PerHour(1))
	silent := newLimiter(t, ratelimit.Config{Policies: []ratelimit.Policy{p}, NoHeaders: true})
	for i := range 2 {
		w := httptest.NewRecorder()
		silent.Middleware(nothing).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Empty(t, w.Header().Get("RateLimit"))
		require.Empty(t, w.Header().Get("RateLimit-Policy"))
		require.Equal(t, []string{"", "3600"}[i], w.Header().Get("Retry-After"))
	}
	var zero ratelimit.Decision
	h := http.Header{}
	zero.SetHeaders(h)
	require.Empty(t, h)
}
