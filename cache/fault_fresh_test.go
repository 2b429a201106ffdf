package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
)

const longAgo = "Sun, 06 Nov 1994 08:49:37 GMT"

// A stranger who makes the origin fail by what is in his request spoils nothing for others.
func TestC10_C39_ErrorsAreNotStoredUnlessTheySaySo(t *testing.T) {
	for _, status := range []int{
		400, 401, 403, 408, 413, 416, 421, 425, 429, 431, 500, 501, 502, 503, 504, 507,
	} {
		for _, fields := range [][]string{
			nil, {"Last-Modified", longAgo}, {"ETag", `"1"`}, {"Expires", longAgo},
			{"Cache-Control", "public"},
		} {
			h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
					if len(r.Header.Get("X-Large")) < 10_000 {
						_, _ = io.WriteString(w, "tea")
						return
					}
					send(status, "no tea", fields...)(w, r)
				}))
			require.Equal(t, status, get(h, "/", "X-Large", strings.Repeat("x", 10_000)).StatusCode)
			if status == 501 && len(fields) > 0 && fields[1] == "public" {
				continue // RFC 9111, section 3, and RFC 9110, section 15.1, leave that to the origin
			}
			require.Equal(t, "tea", text(t, get(h, "/")), "%d %q", status, fields)
		}
	}
}

// RFC 9111, section 4.2.1: what cannot be read is stale. Nothing is fresh for ever by an overflow.
func TestC37_UnreadableFreshnessIsStale(t *testing.T) {
	for control, want := range map[string]time.Duration{ // 0: stale at once
		"max-age=60":                   time.Minute,
		"MAX-AGE=60":                   time.Minute,
		`max-age="60"`:                 time.Minute,
		"max-age=060":                  time.Minute,
		",, max-age=60 ,":              time.Minute,
		"max-age=60, max-age=3600":     time.Minute,
		"max-age=-1":                   0,
		"max-age=1e3":                  0,
		"max-age=60;":                  0,
		"max-age=60s":                  0,
		"max-age=6 0":                  0,
		"max-age=":                     0,
		"max-age":                      0,
		"max-age=0":                    0,
		"max-age=1.5":                  0,
		`foo="max-age=60"`:             0,
		`foo="\", max-age=60"`:         0,
		"max-age=60, no-cache":         0,
		"s-maxage=0, max-age=60":       0,
		`s-maxage="x", max-age=60`:     0,
		"s-maxage=60, max-age=0":       time.Minute,
		"max-age=99999999999999999999": 1 << 31 * time.Second,
		"max-age=9223372036854775807":  1 << 31 * time.Second,
		"max-age=2147483648":           1 << 31 * time.Second,
	} {
		t.Run(control, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := saying(fixed("tea"), "Cache-Control", control, "ETag", `"1"`)
				h := newCache(t, cache.Config{}).Middleware(origin)
				get(h, "/")
				if want > 0 {
					time.Sleep(want - time.Second)
					require.True(t, fromCache(get(h, "/")), "too short")
					time.Sleep(2 * time.Second)
				}
				require.False(t, fromCache(get(h, "/")), "too long")
			})
		})
	}
}

// Whatever stands in Cache-Control, nothing is fresh for longer than its greatest number says, and
// nobody panics.
func TestC37_NoFreshnessIsInvented(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		pieces := rapid.SliceOfN(rapid.SampledFrom([]string{
			"max-age", "s-maxage", "=", "10", "20", `"`, `\`, ",", " ", ";", "-", "public", "no-cache",
			"private", "no-store", "immutable", "must-understand", "stale-while-revalidate", "\t", "0x", "é",
		}), 0, 12).Draw(rt, "pieces")
		control := strings.Join(pieces, "")
		synctest.Test(t, func(t *testing.T) {
			h := newCache(t, cache.Config{}).Middleware(saying(fixed("tea"), "Cache-Control", control))
			get(h, "/")
			most := time.Duration(1)
			for _, run := range strings.FieldsFunc(control, func(r rune) bool { return r < '0' || r > '9' }) {
				var n time.Duration
				for _, digit := range run {
					n = min(n*10+time.Duration(digit-'0'), 1<<32)
				}
				most = max(most, n)
			}
			time.Sleep(most*time.Second + time.Second)
			resp := get(h, "/")
			require.False(t, fromCache(resp) && !strings.Contains(control, "stale-while-revalidate"), control)
		})
	})
}

// A client's stale-if-error opens nothing that the response forbids.
func TestC40_StaleIfErrorOfARequestObeysTheResponse(t *testing.T) {
	for control, allowed := range map[string]bool{
		"max-age=60, must-revalidate, stale-if-error=600": false,
		"max-age=60, proxy-revalidate":                    false,
		"max-age=60, no-cache, stale-if-error=600":        false,
		"s-maxage=60": false,
		"max-age=60":  true,
	} {
		synctest.Test(t, func(t *testing.T) {
			origin := &counted{}
			origin.serve = func(w http.ResponseWriter, r *http.Request) {
				if origin.calls.Load() > 1 {
					w.WriteHeader(http.StatusInternalServerError)
					return
				}
				send(200, "tea", "Cache-Control", control)(w, r)
			}
			h := newCache(t, cache.Config{}).Middleware(origin)
			get(h, "/")
			time.Sleep(90 * time.Second)
			resp := get(h, "/", "Cache-Control", "stale-if-error=600")
			require.Equal(t, allowed, resp.StatusCode == http.StatusOK, control)
		})
	}
}

// Headers caps what a handler says of its errors.
func TestC70_HeadersKeepsNegativeAnswersShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		headers := newHeaders(t, cache.HeadersConfig{Override: true, Rules: []cache.HeadersRule{
			{Status: []int{404}, TTL: 5 * time.Second},
		}})
		h := newCache(t, cache.Config{}).Middleware(headers.Middleware(
			send(404, "", "Cache-Control", "max-age=86400")))
		get(h, "/")
		time.Sleep(4 * time.Second)
		require.True(t, fromCache(get(h, "/")))
		time.Sleep(2 * time.Second)
		require.False(t, fromCache(get(h, "/")))
	})
}

func TestC35_IgnoreReloadLeavesNoDirectiveThatFetches(t *testing.T) {
	for _, control := range []string{"no-cache", "max-age=0", "max-age=1", "min-fresh=100000"} {
		synctest.Test(t, func(t *testing.T) {
			origin := numbered("Cache-Control", "max-age=60, stale-while-revalidate=60")
			h := newCache(t, cache.Config{IgnoreReload: true}).Middleware(origin)
			get(h, "/")
			time.Sleep(30 * time.Second)
			require.Equal(t, "1", text(t, get(h, "/", "Cache-Control", control)), control)
			time.Sleep(60 * time.Second)
			require.Equal(t, "1", text(t, get(h, "/", "Cache-Control", control)), control)
			synctest.Wait()
		})
	}
}

// One client's request keeps no refresh from being stored that others need.
func TestC41_ARefreshServesAllAndNotTheOneThatBeganIt(t *testing.T) {
	for _, field := range [][]string{
		{"Cache-Control", "no-store"}, {"Authorization", "x"},
		{"Cache-Control", "no-store, stale-if-error=9"},
	} {
		synctest.Test(t, func(t *testing.T) {
			origin := numbered("Cache-Control", "max-age=60, stale-while-revalidate=60")
			h := newCache(t, cache.Config{}).Middleware(origin)
			get(h, "/")
			time.Sleep(70 * time.Second)
			require.Equal(t, "1", text(t, get(h, "/", field...)))
			synctest.Wait()
			get(h, "/")
			synctest.Wait()
			require.Equal(t, "2", text(t, get(h, "/")))
			require.EqualValues(t, 2, origin.calls.Load(), field)
		})
	}
}

// A reload gets an answer that was made after it was sent, and not that of a fetch which has just
// ended.
func TestC35_AReloadIsNotAnsweredByAFetchThatHasEnded(t *testing.T) {
	origin := numbered("Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{}).Middleware(origin)
	for i := range 3000 {
		require.Equal(t, fmt.Sprint(i+1), text(t, get(h, "/", "Cache-Control", "no-cache")))
	}
}
