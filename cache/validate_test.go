package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A versioned origin has one resource whose tag and fields the test changes.
type versioned struct {
	counted
	tag      string
	fields   []string // of a 200
	modified []string // of a 304; nil: the tag
	asked    []http.Header
}

func newVersioned(tag string, fields ...string) *versioned {
	v := &versioned{tag: tag, fields: fields}
	v.serve = func(w http.ResponseWriter, r *http.Request) {
		v.asked = append(v.asked, r.Header.Clone())
		set := func(pairs []string) {
			for i := 0; i < len(pairs); i += 2 {
				w.Header().Add(pairs[i], pairs[i+1])
			}
		}
		if r.Header.Get("If-None-Match") != "" && (r.Header.Get("If-None-Match") == v.tag ||
			v.modified != nil) {
			if v.modified == nil {
				w.Header().Set("Etag", v.tag)
			}
			set(v.modified)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Etag", v.tag)
		set(v.fields)
		_, _ = io.WriteString(w, "body of "+v.tag)
	}
	return v
}

func TestC29_AValidationOfOursIsA200ForTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newVersioned(`"1"`, "Cache-Control", "max-age=60", "X-A", "a")
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(time.Minute)
		resp := get(h, "/")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, `body of "1"`, text(t, resp))
		require.Equal(t, "a", resp.Header.Get("X-A"))
		require.Equal(t, "Trivet; fwd=stale; fwd-status=304; stored", resp.Header.Get("Cache-Status"))
		require.Equal(t, "Trivet; hit; ttl=60", get(h, "/").Header.Get("Cache-Status"), "it is fresh again")
		require.EqualValues(t, 2, origin.calls.Load())
		origin.tag = `"2"`
		time.Sleep(time.Minute)
		require.Equal(t, `body of "2"`, text(t, get(h, "/")))
		require.Equal(t, `body of "2"`, text(t, get(h, "/")))
	})
}

func TestConditionalRequests(t *testing.T) {
	modified := ago(time.Hour)
	h := newCache(t, cache.Config{}).Middleware(numbered("Cache-Control", "max-age=60", "Etag", `W/"1"`,
		"Last-Modified", modified))
	for range 2 { // the first is answered from what is fetched
		require.Equal(t, http.StatusNotModified, get(h, "/", "If-None-Match", `"1"`).StatusCode)
	}
	for _, test := range []struct {
		field, value string
		status       int
	}{
		{"If-None-Match", `"0", W/"1"`, 304}, {"If-None-Match", "*", 304}, {"If-None-Match", `"2"`,
			200}, {"If-None-Match", `"1`, 200},
		{"If-Modified-Since", modified, 304}, {"If-Modified-Since", ago(2 * time.Hour), 200},
		{"If-Modified-Since", "yesterday", 200},
		{"If-Modified-Since", ago(0), 304},
	} {
		resp := get(h, "/", test.field, test.value)
		require.Equal(t, test.status, resp.StatusCode, test)
		if test.status == 304 {
			require.Equal(t, `W/"1"`, resp.Header.Get("Etag"))
			require.Empty(t, resp.Header.Get("Content-Length"))
			require.Empty(t, text(t, resp))
		}
	}
	require.Equal(t, 200, get(h, "/", "If-None-Match", `"2"`, "If-Modified-Since", ago(0)).StatusCode,
		"the tag counts alone")
}

func TestC30_ANotModifiedIsNeverStoredAsTheResponse(t *testing.T) {
	origin := newVersioned(`"1"`, "Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{}).Middleware(origin)
	require.Equal(t, http.StatusNotModified, get(h, "/", "If-None-Match", `"1"`).StatusCode)
	resp := get(h, "/")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, `body of "1"`, text(t, resp))
}

func TestC30_TheClientValidatesWhatIsNotStored(t *testing.T) {
	origin := newVersioned(`"1"`, "Cache-Control", "no-store")
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/")
	resp := get(h, "/", "If-None-Match", `"1"`)
	require.Equal(t, http.StatusNotModified, resp.StatusCode)
	require.Equal(t, `"1"`, origin.asked[1].Get("If-None-Match"), "its own condition went through")
	require.Equal(t, http.StatusOK, get(h, "/").StatusCode)
}

func TestC31_ANotModifiedOfAnotherVersionFreshensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newVersioned(`"1"`, "Cache-Control", "max-age=60")
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(time.Minute)
		origin.tag, origin.modified = `"2"`, []string{"Etag", `"2"`}
		require.Equal(t, `body of "2"`, text(t, get(h, "/")), "it is asked again without conditions")
		require.EqualValues(t, 3, origin.calls.Load())
		require.Empty(t, origin.asked[2].Get("If-None-Match"))
	})
}

func TestC32_FieldsOfTheMessageAreNotMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newVersioned(`"1"`, "Cache-Control", "max-age=60", "X-A", "old")
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(time.Minute)
		origin.modified = []string{
			"Etag", `"1"`, "Content-Length", "0", "Content-Encoding", "gzip", "Content-Range",
			"bytes 0-1/2", "X-A", "new",
			"Connection", "X-Hop", "X-Hop", "1",
		}
		for range 2 {
			resp := get(h, "/")
			require.Equal(t, `body of "1"`, text(t, resp))
			require.Equal(t, strconv.Itoa(len(`body of "1"`)), resp.Header.Get("Content-Length"))
			require.Equal(t, "new", resp.Header.Get("X-A"))
			require.Empty(t,
				resp.Header.Get("Content-Encoding")+resp.Header.Get("Content-Range")+resp.Header.Get("X-Hop"))
		}
	})
}

func TestC33_ANotModifiedIsHeldToTheRulesOfA200(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newVersioned(`"1"`, "Cache-Control", "max-age=60")
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(time.Minute)
		origin.modified = []string{"Etag", `"1"`, "Set-Cookie", "id=1"}
		require.Equal(t, "id=1", get(h, "/").Header.Get("Set-Cookie"), "its client gets it")
		origin.modified = nil
		require.Empty(t, get(h, "/").Header.Get("Set-Cookie"))
		require.EqualValues(t, 3, origin.calls.Load(), "it made nothing fresh")
		time.Sleep(time.Minute)
		origin.modified = []string{"Etag", `"1"`, "Vary", "X-A"}
		get(h, "/", "X-A", "1")
		require.Equal(t, "1", strconv.Itoa(len(get(h, "/", "X-A", "1").Header["Vary"])))
	})
}

func TestRevalidation_CarriesTheTagsOfAllVariants(t *testing.T) {
	var asked []string
	h := newCache(t, cache.Config{}).Middleware(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tag := `"de"`
			if r.Header.Get("Accept-Language") == "en" {
				tag = `"en"`
			}
			asked = append(asked, r.Header.Get("If-None-Match"))
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "Accept-Language")
			w.Header().Set("Etag", tag)
			if asked[len(asked)-1] != "" && slices.Contains([]string{`"de"`, `"en", "de"`},
				asked[len(asked)-1]) && tag == `"de"` {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			_, _ = io.WriteString(w, tag)
		}))
	require.Equal(t, `"de"`, text(t, get(h, "/", "Accept-Language", "de")))
	require.Equal(t, `"en"`, text(t, get(h, "/", "Accept-Language", "en")))
	require.Equal(t, `"de"`, text(t, get(h, "/", "Accept-Language", "fr")),
		"a 304 tells which stored variant answers")
	require.Equal(t, []string{"", `"de"`, `"en", "de"`}, asked)
	require.Equal(t, `"de"`, text(t, get(h, "/", "Accept-Language", "fr")))
	require.Len(t, asked, 3)
}

func TestC50_HeadStoresNothingAndUpdatesWhatIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newVersioned(`"1"`, "Cache-Control", "max-age=60", "X-A", "old")
		h := newCache(t, cache.Config{}).Middleware(origin)
		head := func() *http.Response { return do(h, httptest.NewRequest(http.MethodHead, "/", nil)) }
		head()
		resp := get(h, "/")
		require.Equal(t, `body of "1"`, text(t, resp))
		require.EqualValues(t, 2, origin.calls.Load())
		resp = head()
		require.EqualValues(t, 2, origin.calls.Load(), "a GET answers HEAD")
		require.Equal(t, "11", resp.Header.Get("Content-Length"))
		require.Empty(t, text(t, resp))
		time.Sleep(time.Minute)
		origin.fields[3] = "new"
		head()
		resp = get(h, "/")
		require.EqualValues(t, 3, origin.calls.Load(), "the HEAD made it fresh")
		require.Equal(t, "new", resp.Header.Get("X-A"))
		require.Equal(t, `body of "1"`, text(t, resp))
		time.Sleep(time.Minute)
		origin.tag = `"2"`
		head()
		require.Equal(t, `body of "2"`, text(t, get(h, "/")))
	})
}

// A request carries sixteen tags of stored variants, and no more.
func TestRevalidation_CarriesSixteenTags(t *testing.T) {
	asked := ""
	h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			asked = r.Header.Get("If-None-Match")
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "X-A")
			w.Header().Set("Etag", `"`+r.Header.Get("X-A")+`"`)
			_, _ = io.WriteString(w, "x")
		}))
	for i := range 20 {
		get(h, "/", "X-A", fmt.Sprint(i))
		require.Equal(t, min(i, 16)*2, strings.Count(asked, `"`))
	}
}
