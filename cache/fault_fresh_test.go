package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
)

const longAgo = "Sun, 06 Nov 1994 08:49:37 GMT"

// What a URL looks like decides nothing.
func TestC07_TheURLsSuffixDoesNotMakeAResponseStorable(t *testing.T) {
	for _, path := range []string{
		"/account/x.css", "/account%3bx.css", "/account%00.css", "/account;x.js", "/account/..%2fx.png",
		"/account?x.css", "/robots.txt", "/static/account",
	} {
		for name, fields := range map[string][]string{
			"says nothing": nil,
			"private":      {"Cache-Control", "private"},
			"a cookie":     {"Set-Cookie", "id=1", "Cache-Control", "max-age=60"},
		} {
			origin := saying(who, fields...)
			h := newCache(t, cache.Config{}).Middleware(origin)
			require.Equal(t, "for <id=victim>", text(t, get(h, path, "Cookie", "id=victim")))
			require.Equal(t, "for <>", text(t, get(h, path)), "%s %s", path, name)
		}
	}
}

// A stranger who makes the origin fail by what is in his request spoils nothing for others.
func TestC10_C39_ErrorsAreNotStoredUnlessTheySaySo(t *testing.T) {
	for _, status := range []int{400, 401, 403, 408, 413, 416, 421, 425, 429, 431, 500, 501, 502, 503, 504, 507} {
		for _, fields := range [][]string{
			nil, {"Last-Modified", longAgo}, {"ETag", `"1"`}, {"Expires", longAgo}, {"Cache-Control", "public"},
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
			"max-age", "s-maxage", "=", "10", "20", `"`, `\`, ",", " ", ";", "-", "public", "no-cache", "private",
			"no-store", "immutable", "must-understand", "stale-while-revalidate", "\t", "0x", "é",
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

// RFC 9111, section 4.2.3.
func TestC38_AgesAndDatesDoNotMakeAResponseYounger(t *testing.T) {
	for name, test := range map[string]struct {
		fields []string
		want   time.Duration // for how long it is fresh; 0: not at all
	}{
		"an age":               {[]string{"Age", "30", "Cache-Control", "max-age=60"}, 30 * time.Second},
		"an old one":           {[]string{"Age", "60", "Cache-Control", "max-age=60"}, 0},
		"a huge one":           {[]string{"Age", "99999999999999999999", "Cache-Control", "max-age=60"}, 0},
		"a negative one":       {[]string{"Age", "-30", "Cache-Control", "max-age=60"}, time.Minute},
		"several":              {[]string{"Age", "30", "Age", "0", "Cache-Control", "max-age=60"}, 30 * time.Second},
		"a date in the past":   {[]string{"Date", httpDate(-30), "Cache-Control", "max-age=60"}, 30 * time.Second},
		"one in the future":    {[]string{"Date", httpDate(3600), "Cache-Control", "max-age=60"}, time.Minute},
		"no date":              {[]string{"Date", "yesterday", "Cache-Control", "max-age=60"}, time.Minute},
		"Expires":              {[]string{"Date", httpDate(0), "Expires", httpDate(60)}, time.Minute},
		"Expires before Date":  {[]string{"Date", httpDate(3600), "Expires", httpDate(60)}, 0},
		"Expires: 0":           {[]string{"Expires", "0"}, 0},
		"Expires: -1":          {[]string{"Expires", "-1"}, 0},
		"Expires is no date":   {[]string{"Expires", "tomorrow"}, 0},
		"Expires twice":        {[]string{"Expires", "0", "Expires", httpDate(60)}, 0},
		"Expires with an age":  {[]string{"Date", httpDate(0), "Age", "30", "Expires", httpDate(60)}, 30 * time.Second},
		"max-age over Expires": {[]string{"Expires", httpDate(3600), "Cache-Control", "max-age=60"}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := saying(fixed("tea"), test.fields...)
				h := newCache(t, cache.Config{}).Middleware(origin)
				get(h, "/")
				if test.want > 0 {
					time.Sleep(test.want - time.Second)
					require.True(t, fromCache(get(h, "/")), "too short")
					time.Sleep(2 * time.Second)
				}
				require.False(t, fromCache(get(h, "/")), "too long")
			})
		})
	}
}

// httpDate returns a date that many seconds after the beginning of a bubble.
func httpDate(after int) string {
	return time.Date(2000, 1, 1, 0, 0, after, 0, time.UTC).Format(http.TimeFormat)
}

// RFC 5861, section 4: only what says that the origin is in trouble brings back what is stale.
func TestC40_OnlyTroubleBringsBackWhatIsStale(t *testing.T) {
	for status, stale := range map[int]bool{
		500: true, 502: true, 503: true, 504: true,
		400: false, 401: false, 403: false, 404: false, 410: false, 429: false, 451: false, 501: false, 301: false,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := &counted{}
				origin.serve = func(w http.ResponseWriter, r *http.Request) {
					if origin.calls.Load() > 1 {
						w.WriteHeader(status)
						return
					}
					send(200, "tea", "Cache-Control", "max-age=60, stale-if-error=600")(w, r)
				}
				h := newCache(t, cache.Config{}).Middleware(origin)
				get(h, "/")
				time.Sleep(90 * time.Second)
				want := status
				if stale {
					want = http.StatusOK
				}
				require.Equal(t, want, get(h, "/").StatusCode)
				time.Sleep(time.Hour) // beyond stale-if-error
				require.Equal(t, status, get(h, "/").StatusCode)
			})
		})
	}
}

// A client's stale-if-error opens nothing that the response forbids.
func TestC40_StaleIfErrorOfARequestObeysTheResponse(t *testing.T) {
	for control, allowed := range map[string]bool{
		"max-age=60, must-revalidate, stale-if-error=600": false,
		"max-age=60, no-cache, stale-if-error=600":        false,
		"s-maxage=60, stale-if-error=600":                 false,
		"max-age=60, stale-if-error=600":                  true,
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

// RFC 9111, section 3.
func TestC68_StatusesThatAreNotUnderstood(t *testing.T) {
	for name, test := range map[string]struct {
		status  int
		control string
		stored  bool
	}{
		"an unknown status, explicit":               {299, "max-age=60", true},
		"an unknown error, explicit":                {599, "max-age=60", true},
		"an unknown status that must be understood": {299, "max-age=60, must-understand", false},
		"no-store, must-understand, unknown":        {299, "max-age=60, no-store, must-understand", false},
		"no-store, must-understand, known":          {200, "max-age=60, no-store, must-understand", true},
		"no-store":                                  {200, "max-age=60, no-store", false},
		"a 304 that nobody asked for":               {304, "max-age=60", false},
	} {
		t.Run(name, func(t *testing.T) {
			origin := &counted{serve: send(test.status, "", "Cache-Control", test.control)}
			h := newCache(t, cache.Config{}).Middleware(origin)
			require.Equal(t, test.status, get(h, "/").StatusCode)
			resp := get(h, "/")
			require.Equal(t, test.status, resp.StatusCode)
			require.Equal(t, test.stored, fromCache(resp))
		})
	}
}

// The wall clock does not count once a response is here: what dates say is compared with it on
// arrival alone.
func TestC69_FreshnessIsMeasuredInTimeThatPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// In a bubble time passes without the wall clock's doing; dates of the origin are an hour off.
		for _, off := range []int{-3600, 3600} {
			origin := saying(fixed("tea"), "Date", httpDate(off), "Cache-Control", "max-age=4000")
			h := newCache(t, cache.Config{}).Middleware(origin)
			get(h, "/")
			require.True(t, fromCache(get(h, "/")))
			time.Sleep(4001 * time.Second)
			require.False(t, fromCache(get(h, "/")))
		}
	})
}

func TestC70_WhatDidNotExistIsThereOnceItIsMade(t *testing.T) {
	exists := false
	h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			exists = true
			w.WriteHeader(http.StatusCreated)
		case !exists:
			send(404, "", "Cache-Control", "max-age=600")(w, r)
		default:
			_, _ = io.WriteString(w, "tea")
		}
	}))
	get(h, "/tea")
	require.True(t, fromCache(get(h, "/tea")))
	require.Equal(t, http.StatusCreated, do(h, httptest.NewRequest(http.MethodPut, "/tea", nil)).StatusCode)
	require.Equal(t, "tea", text(t, get(h, "/tea")))
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
