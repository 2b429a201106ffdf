package cache_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
)

// A versioned handler has an ETag and answers conditions with what notModified says.
type versioned struct {
	tag         string
	body        string
	control     string
	unmodified  http.Header // further fields of a 304
	saw         []string    // If-None-Match of each request
	calls       int
	alwaysTells bool // 304 whatever the request's condition is
}

func (v *versioned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.calls++
	condition := r.Header.Get("If-None-Match")
	v.saw = append(v.saw, condition)
	w.Header().Set("Cache-Control", v.control)
	if v.tag != "" {
		w.Header().Set("ETag", v.tag)
	}
	if condition != "" && (condition == v.tag || v.alwaysTells) {
		for name, values := range v.unmodified {
			w.Header()[name] = values
		}
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = io.WriteString(w, v.body)
}

func TestC29_A304OfOursReachesNoClientThatDidNotAsk(t *testing.T) {
	origin := &versioned{tag: `"1"`, body: "tea", control: "max-age=60, must-revalidate"}
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(61 * time.Second)
		resp := get(h, "/")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "tea", text(t, resp))
		require.Equal(t, []string{"", `"1"`}, origin.saw)
		// It has what the client asked for, and knows nothing of ours.
		time.Sleep(61 * time.Second)
		require.Equal(t, http.StatusNotModified, get(h, "/", "If-None-Match", `"1"`).StatusCode)
		time.Sleep(61 * time.Second)
		resp = get(h, "/", "If-None-Match", `"2"`)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "tea", text(t, resp))
	})
}

func TestC30_TheAnswerToAClientsConditionIsNotStoredAsTheObject(t *testing.T) {
	for _, tells := range []bool{false, true} { // also an origin that says 304 to everything
		origin := &versioned{tag: `"1"`, body: "tea", control: "max-age=60", alwaysTells: tells}
		h := newCache(t, cache.Config{}).Middleware(origin)
		resp := get(h, "/", "If-None-Match", `"1"`)
		require.Equal(t, http.StatusNotModified, resp.StatusCode)
		require.Empty(t, text(t, resp))
		resp = get(h, "/")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "tea", text(t, resp))
		require.Equal(t, "3", resp.Header.Get("Content-Length"))
	}
}

// RFC 9111, section 4.3.4: a 304 updates only the response that its validators identify. Anything else
// ends with what the origin has now, or with what is stored and matches.
func TestC31_A304UpdatesOnlyWhatItIsAbout(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tags := []string{`"1"`, `W/"1"`, `"2"`, ""}
		stored := rapid.SampledFrom(tags[:3]).Draw(rt, "stored")
		told := rapid.SampledFrom(tags).Draw(rt, "told")
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
					calls++
					w.Header().Set("Cache-Control", "max-age=60")
					switch {
					case calls == 1:
						w.Header().Set("ETag", stored)
						_, _ = io.WriteString(w, "old")
					case r.Header.Get("If-None-Match") != "":
						if told != "" {
							w.Header().Set("ETag", told)
						}
						w.Header().Set("X-New", "1")
						w.WriteHeader(http.StatusNotModified)
					default:
						w.Header().Set("ETag", `"2"`)
						_, _ = io.WriteString(w, "new")
					}
				}))
			get(h, "/")
			time.Sleep(61 * time.Second)
			resp := get(h, "/")
			require.Equal(t, http.StatusOK, resp.StatusCode)
			opaque := func(tag string) string { return tag[len(tag)-3:] }
			body := text(t, resp)
			switch {
			case told == "" || told == stored:
				require.Equal(t, "old", body)
				require.Equal(t, "1", resp.Header.Get("X-New"))
			case opaque(told) != opaque(stored):
				require.Equal(t, "new", body, "stored %s, told %s", stored, told)
			}
			if body == "old" {
				require.NotEqual(t, `"2"`, resp.Header.Get("ETag")[max(0, len(resp.Header.Get("ETag"))-3):])
			}
		})
	})
}

// RFC 9111, section 3.2.
func TestC32_WhatA304SaysOfItselfIsNotMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := &versioned{tag: `"1"`, body: "tea", control: "max-age=60", unmodified: http.Header{
			"Content-Length": {"0"}, "Content-Encoding": {"gzip"}, "Content-Range": {"bytes 0-0/3"},
			"Connection": {"X-Secret"}, "X-Secret": {"1"}, "Keep-Alive": {"1"}, "X-New": {"1"},
		}}
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(61 * time.Second)
		for range 2 {
			resp := get(h, "/")
			require.Equal(t, "tea", text(t, resp))
			require.Equal(t, "3", resp.Header.Get("Content-Length"))
			require.Equal(t, "1", resp.Header.Get("X-New"))
			for _, name := range []string{"Content-Encoding", "Content-Range", "Connection", "X-Secret", "Keep-Alive"} {
				require.Empty(t, resp.Header.Get(name), name)
			}
		}
		require.Equal(t, 2, origin.calls)
	})
}

// A 304 brings no cookie in by the back door, and what it says of Vary counts from then on.
func TestC33_A304IsStoredUnderTheRulesOfA200(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := &versioned{tag: `"1"`, body: "tea", control: "max-age=60",
			unmodified: http.Header{"Set-Cookie": {"id=1"}}}
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(61 * time.Second)
		get(h, "/")
		require.Empty(t, get(h, "/").Header.Get("Set-Cookie"))
	})
	synctest.Test(t, func(t *testing.T) {
		origin := &versioned{tag: `"1"`, body: "tea", control: "max-age=60",
			unmodified: http.Header{"Vary": {"X-Tea"}}}
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(61 * time.Second)
		get(h, "/", "X-Tea", "green")
		calls := origin.calls
		get(h, "/", "X-Tea", "black")
		require.Equal(t, calls+1, origin.calls)
	})
	synctest.Test(t, func(t *testing.T) {
		origin := &versioned{tag: `"1"`, body: "tea", control: "max-age=60",
			unmodified: http.Header{"Cache-Control": {"private"}}}
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(61 * time.Second)
		get(h, "/")
		calls := origin.calls
		get(h, "/")
		require.Equal(t, calls+1, origin.calls, "it is not fresh for others")
	})
}

// What a request allows never opens what the response forbids.
func TestC34_MaxStaleDoesNotOpenWhatTheResponseForbids(t *testing.T) {
	for control, allowed := range map[string]bool{
		"max-age=60":                   true,
		"max-age=60, must-revalidate":  false,
		"max-age=60, proxy-revalidate": false,
		"s-maxage=60":                  false,
		"max-age=60, no-cache":         false,
	} {
		synctest.Test(t, func(t *testing.T) {
			origin := saying(fixed("tea"), "Cache-Control", control, "ETag", `"1"`)
			h := newCache(t, cache.Config{}).Middleware(origin)
			get(h, "/")
			time.Sleep(70 * time.Second)
			for _, ask := range []string{"max-stale", "max-stale=60", "max-stale=99999999999"} {
				require.Equal(t, allowed, get(h, "/", "Cache-Control", ask).Header.Get("Age") == "70", control+" "+ask)
			}
			calls := origin.calls.Load()
			get(h, "/", "Cache-Control", "max-stale=5")
			require.LessOrEqual(t, origin.calls.Load()-calls, int64(1))
		})
	}
	h := newCache(t, cache.Config{}).Middleware(saying(fixed("tea"), "Cache-Control", "no-store, max-age=60"))
	get(h, "/")
	require.False(t, fromCache(get(h, "/", "Cache-Control", "max-stale, only-if-cached")))
}

// Clients that reload can be kept from reaching the origin; if they reach it, they reach it together.
func TestC35_ReloadsDoNotFloodTheOrigin(t *testing.T) {
	reloads := [][]string{{"Cache-Control", "no-cache"}, {"Cache-Control", "max-age=0"}, {"Pragma", "no-cache"}}
	origin := saying(fixed("tea"), "Cache-Control", "max-age=60")
	c := newCache(t, cache.Config{IgnoreReload: true})
	h := c.Middleware(origin)
	get(h, "/")
	for _, reload := range reloads {
		require.True(t, fromCache(get(h, "/", reload...)))
	}
	require.EqualValues(t, 1, origin.calls.Load())

	origin = saying(fixed("tea"), "Cache-Control", "max-age=60")
	c = newCache(t, cache.Config{})
	h = c.Middleware(origin)
	get(h, "/")
	for _, reload := range reloads {
		require.False(t, fromCache(get(h, "/", reload...)))
	}
	require.EqualValues(t, 4, origin.calls.Load())
	require.EqualValues(t, 4, c.Stats().Fetches, "their rate can be seen")
}

func TestC35_ReloadsAtTheSameTimeAreOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := &counted{serve: slowly}
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		before := origin.calls.Load()
		waitAll(h, 50, "Cache-Control", "no-cache")
		require.LessOrEqual(t, origin.calls.Load()-before, int64(1))
	})
}

func TestC36_OnlyIfCachedReachesNoOrigin(t *testing.T) {
	origin := saying(fixed("tea"), "Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{}).Middleware(origin)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r := httptest.NewRequest(method, "/", nil)
		r.Header.Set("Cache-Control", "only-if-cached")
		require.Equal(t, http.StatusGatewayTimeout, do(h, r).StatusCode)
	}
	require.Zero(t, origin.calls.Load())
	get(h, "/")
	require.Equal(t, "tea", text(t, get(h, "/", "Cache-Control", "only-if-cached")))
	require.EqualValues(t, 1, origin.calls.Load())
}

// Strong tags do not survive a change of the coding.
func TestC64_ACodingIsServedOnlyToThoseWhoTakeIt(t *testing.T) {
	origin := saying(func(r *http.Request) string { return "coded " + strconv.Quote(r.Header.Get("Accept-Encoding")) },
		"Cache-Control", "max-age=60", "Content-Encoding", "gzip", "ETag", `"1"`)
	plain := saying(fixed("plain"), "Cache-Control", "max-age=60", "ETag", `"0"`)
	h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept-Encoding")
		if e := r.Header.Get("Accept-Encoding"); e == "gzip" || e == "gzip, br" || e == "br, gzip" {
			origin.ServeHTTP(w, r)
			return
		}
		plain.ServeHTTP(w, r)
	}))
	coded := get(h, "/", "Accept-Encoding", "gzip")
	require.Equal(t, `"1"`, coded.Header.Get("ETag"))
	for _, refuse := range []string{"identity", "gzip;q=0", "br", "*;q=0"} {
		resp := get(h, "/", "Accept-Encoding", refuse)
		require.Equal(t, "plain", text(t, resp), refuse)
		require.Empty(t, resp.Header.Get("Content-Encoding"), refuse)
		require.Equal(t, `"0"`, resp.Header.Get("ETag"), refuse)
	}
	require.Equal(t, "plain", text(t, get(h, "/")))
	resp := get(h, "/", "Accept-Encoding", "gzip")
	require.Equal(t, "gzip", resp.Header.Get("Content-Encoding"))
	require.Equal(t, http.StatusOK, get(h, "/", "Accept-Encoding", "identity", "If-None-Match", `"1"`).StatusCode)
}
