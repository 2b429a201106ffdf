package cache_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// newHeaders returns Headers with that configuration, which must be valid.
func newHeaders(tb testing.TB, cfg cache.HeadersConfig) *cache.Headers {
	tb.Helper()
	headers, err := cache.NewHeaders(cfg)
	require.NoError(tb, err)
	return headers
}

// send is a handler that sends body with those fields, given as name and value in turn.
func send(status int, body string, fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
		w.WriteHeader(status)
		if body != "" {
			_, _ = w.Write([]byte(body))
		}
	}
}

// answer lets handler answer a GET with those request fields.
func answer(handler http.Handler, fields ...string) *httptest.ResponseRecorder {
	return answerTo(handler, http.MethodGet, fields...)
}

func answerTo(handler http.Handler, method string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://example.com/tea", nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestNewHeadersNamesEveryFault(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  cache.HeadersConfig
		want []string
	}{
		"negative durations": {
			cache.HeadersConfig{TTL: -1, SharedTTL: -1, Stale: -1, StaleIfError: -1, Max: -1},
			[]string{"HeadersConfig.TTL: -1ns is negative", "HeadersConfig.SharedTTL: -1ns is negative",
				"HeadersConfig.Stale: -1ns is negative", "HeadersConfig.StaleIfError: -1ns is negative",
				"HeadersConfig.Max: -1ns is negative"},
		},
		"fractions of a second": {
			cache.HeadersConfig{TTL: 1500 * time.Millisecond, Max: time.Millisecond},
			[]string{"HeadersConfig.TTL: 1.5s is not a number of whole seconds",
				"HeadersConfig.Max: 1ms is not a number of whole seconds"},
		},
		"a shared TTL without a TTL": {
			cache.HeadersConfig{SharedTTL: time.Minute},
			[]string{"HeadersConfig.SharedTTL: 1m0s without a TTL"},
		},
		"names": {
			cache.HeadersConfig{TagField: "Tags", Vary: []string{"Accept", "", "a b"}},
			[]string{`HeadersConfig.TagField: "Tags" is neither Surrogate-Key nor Cache-Tag`,
				`HeadersConfig.Vary: entry 1, "", is not the name of a field`,
				`HeadersConfig.Vary: entry 2, "a b", is not the name of a field`},
		},
		"rules": {
			cache.HeadersConfig{Rules: []cache.HeadersRule{
				{TTL: time.Minute},
				{Status: []int{200, 100, 304}, Types: []string{"html", "text/html; charset=utf-8"}, TTL: -2},
			}},
			[]string{"HeadersConfig.Rules[1].Status: entry 1, 100, is not a status that can be stored",
				"HeadersConfig.Rules[1].Status: entry 2, 304, is not a status that can be stored",
				`HeadersConfig.Rules[1].Types: entry 0, "html", is not a media type`,
				`HeadersConfig.Rules[1].Types: entry 1, "text/html; charset=utf-8", is not a media type`,
				"HeadersConfig.Rules[1].TTL: -2ns is negative"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cache.NewHeaders(test.cfg)
			require.EqualError(t, err, "cache: "+strings.Join(test.want, "\ncache: "))
		})
	}
}

func TestHeadersRefuseANilHandler(t *testing.T) {
	headers := newHeaders(t, cache.HeadersConfig{})
	require.PanicsWithValue(t, "cache: nil handler", func() { headers.Middleware(nil) })
}

func TestHeadersAddFreshness(t *testing.T) {
	minutes := cache.HeadersConfig{
		TTL: time.Minute, SharedTTL: time.Hour, Stale: 30 * time.Second, StaleIfError: 24 * time.Hour,
	}
	typed := cache.HeadersConfig{TTL: time.Minute, Rules: []cache.HeadersRule{
		{Types: []string{"image/*"}, TTL: time.Hour, SharedTTL: 24 * time.Hour},
		{Types: []string{"text/html"}},
		{Status: []int{404, 410}, TTL: 10 * time.Second},
		{Status: []int{500}, TTL: cache.HeadersNoStore},
	}}
	const stale = ", stale-while-revalidate=30, stale-if-error=86400"
	for name, test := range map[string]struct {
		cfg          cache.HeadersConfig
		handler      http.Handler
		control, cdn string
	}{
		"nothing by default": {cache.HeadersConfig{}, send(200, "tea"), "", ""},
		"a default":          {minutes, send(200, "tea"), "max-age=60" + stale, "max-age=3600" + stale},
		"no body": {
			minutes, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), "max-age=60" + stale,
			"max-age=3600" + stale,
		},
		"Cache-Control stays": {minutes, send(200, "tea", "Cache-Control", "private"), "private", ""},
		"Expires stays":       {minutes, send(200, "tea", "Expires", "0"), "", ""},
		"Pragma stays":        {minutes, send(200, "tea", "Pragma", "no-cache"), "", ""},
		"targeted fields stay": {
			minutes, send(200, "tea", "CDN-Cache-Control", "no-store"), "", "no-store",
		},
		"Surrogate-Control stays": {minutes, send(200, "tea", "Surrogate-Control", "max-age=5"), "", ""},
		"a redirection": {
			minutes, send(301, "", "Location", "/"), "max-age=60" + stale, "max-age=3600" + stale,
		},
		"a part": {
			minutes, send(206, "t", "Content-Range", "bytes 0-0/3"), "max-age=60" + stale,
			"max-age=3600" + stale,
		},
		"a 304": {minutes, send(304, ""), "max-age=60" + stale, "max-age=3600" + stale},

		"C39 an error has no default":      {minutes, send(500, "no tea"), "", ""},
		"C70 what does not exist has none": {minutes, send(404, "no tea"), "", ""},
		"C20 what sets a cookie has none":  {minutes, send(200, "tea", "Set-Cookie", "a=b"), "", ""},
		"a media type": {
			typed, send(200, "tea", "Content-Type", "Image/PNG"), "max-age=3600", "max-age=86400",
		},
		"a media type with parameters": {
			typed, send(200, "tea", "Content-Type", "text/html; charset=utf-8"), "no-cache", "",
		},
		"a media type that net/http finds": {typed, send(200, "<!DOCTYPE html><p>tea"), "no-cache", ""},
		"another media type": {
			typed, send(200, "tea", "Content-Type", "text/htmlx"), "max-age=60", "",
		},
		"an image that is not found": {
			typed, send(404, "tea", "Content-Type", "image/png"), "max-age=10", "",
		},
		"a status":                           {typed, send(410, "tea"), "max-age=10", ""},
		"a status that must not be stored":   {typed, send(500, "tea"), "no-store", ""},
		"a 304 does not tell its media type": {typed, send(304, ""), "", ""},
		"a 304 that tells its media type": {
			typed, send(304, "", "Content-Type", "image/png"), "max-age=3600", "max-age=86400",
		},
		"own field beside a rule": {
			typed, send(200, "tea", "Content-Type", "image/png", "Cache-Control", "max-age=5"),
			"max-age=5", "",
		},
		"any type": {
			cache.HeadersConfig{Rules: []cache.HeadersRule{{Types: []string{"*/*"}, TTL: time.Second}}},
			send(200, "tea", "Content-Type", "text/plain"), "max-age=1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := answer(newHeaders(t, test.cfg).Middleware(test.handler))
			require.Equal(t, test.control, w.Header().Get("Cache-Control"))
			require.Equal(t, test.cdn, w.Header().Get("CDN-Cache-Control"))
		})
	}
}

// An ETag of the handler's own means that the body is not held, and rules must know its type
// anyway.
func TestHeadersFindTheTypeOfBodiesThatAreNotHeld(t *testing.T) {
	headers := newHeaders(t, cache.HeadersConfig{Rules: []cache.HeadersRule{
		{Types: []string{"text/html"}, TTL: time.Minute},
	}})
	for name, write := range map[string]func(http.ResponseWriter){
		"Write":       func(w http.ResponseWriter) { _, _ = w.Write([]byte("<!DOCTYPE html>")) },
		"WriteString": func(w http.ResponseWriter) { _, _ = w.(*stringsOnly).WriteString("<!DOCTYPE html>") },
	} {
		t.Run(name, func(t *testing.T) {
			w := answer(headers.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("ETag", `"1"`)
				write(&stringsOnly{w})
			})))
			require.Equal(t, "max-age=60", w.Header().Get("Cache-Control"))
			require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
		})
	}
}

// stringsOnly writes strings through the WriteString of the writer below.
type stringsOnly struct{ http.ResponseWriter }

func (s *stringsOnly) WriteString(text string) (int, error) {
	return s.ResponseWriter.(interface{ WriteString(string) (int, error) }).WriteString(text)
}

func TestHeadersOverrideWhatTheHandlerSays(t *testing.T) {
	cfg := cache.HeadersConfig{TTL: time.Minute, Override: true}
	for name, test := range map[string]struct {
		cfg     cache.HeadersConfig
		handler http.Handler
		want    http.Header
	}{
		"freshness": {
			cfg,
			send(200, "", "Cache-Control", "no-store", "CDN-Cache-Control", "private", "Expires", "0",
				"Pragma", "no-cache", "Surrogate-Control", "no-store", "ETag", `"1"`),
			http.Header{"Cache-Control": {"max-age=60"}, "Etag": {`"1"`}},
		},
		"not what no rule names": {
			cfg,
			send(500, "", "Cache-Control", "max-age=9", "Expires", "0"),
			http.Header{"Cache-Control": {"max-age=9"}, "Expires": {"0"}},
		},
		"not what sets a cookie": {
			cfg,
			send(200, "", "Cache-Control", "no-store", "Set-Cookie", "a=b", "ETag", `"1"`),
			http.Header{"Cache-Control": {"no-store"}, "Set-Cookie": {"a=b"}, "Etag": {`"1"`}},
		},
		"what sets a cookie, by option": {
			cache.HeadersConfig{TTL: time.Minute, Override: true, StoreSetCookie: true},
			send(200, "", "Cache-Control", "no-store", "Set-Cookie", "a=b", "ETag", `"1"`),
			http.Header{"Cache-Control": {"max-age=60"}, "Set-Cookie": {"a=b"}, "Etag": {`"1"`}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, answer(newHeaders(t, test.cfg).Middleware(test.handler)).Header())
		})
	}
}

func TestHeadersCapFreshness(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for name, test := range map[string]struct {
		name  string
		lines []string
		want  []string
	}{
		"more": {
			"Cache-Control", []string{"public, max-age=3600"}, []string{"public, max-age=60"},
		},
		"less":    {"Cache-Control", []string{"max-age=59, public"}, []string{"max-age=59, public"}},
		"as much": {"Cache-Control", []string{"max-age=060"}, []string{"max-age=060"}},
		"s-maxage": {
			"Cache-Control", []string{"S-MaxAge=61 , Max-Age = 62"}, []string{"S-MaxAge=60, Max-Age =60"},
		},
		"quoted": {"Cache-Control", []string{`max-age="3600"`}, []string{"max-age=60"}},
		"beyond any range": {
			"Cache-Control", []string{"max-age=99999999999999999999"}, []string{"max-age=60"},
		},
		"several lines": {
			"Cache-Control", []string{"max-age=99", "s-maxage=98"}, []string{"max-age=60", "s-maxage=60"},
		},
		"not a number": {
			"Cache-Control", []string{"max-age=1h, max-age=-1, max-age="},
			[]string{"max-age=1h, max-age=-1, max-age="},
		},
		"in a string": {
			"Cache-Control", []string{`x="\", max-age=99", max-age=98`},
			[]string{`x="\", max-age=99", max-age=60`},
		},
		"no lifetime": {
			"Cache-Control", []string{"no-cache, stale-if-error=99,"},
			[]string{"no-cache, stale-if-error=99,"},
		},
		"behind a stray quote": {
			"Cache-Control", []string{`x", max-age=61`}, []string{`x", max-age=60`},
		},
		"targeted":         {"Cdn-Cache-Control", []string{"max-age=61"}, []string{"max-age=60"}},
		"surrogates":       {"Surrogate-Control", []string{"max-age=61"}, []string{"max-age=60"}},
		"a late Expires":   {"Expires", []string{at(time.Hour)}, []string{at(time.Minute)}},
		"an early Expires": {"Expires", []string{at(time.Second)}, []string{at(time.Second)}},
		"an invalid one":   {"Expires", []string{"0"}, []string{"0"}},
	} {
		t.Run(name, func(t *testing.T) {
			lines := append([]string(nil), test.lines...)
			w := answer(newHeaders(t, cache.HeadersConfig{Max: time.Minute}).Middleware(
				http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Date", at(0))
					w.Header()[test.name] = lines
				})))
			require.Equal(t, test.want, w.Header()[test.name])
			require.Equal(t, test.lines, lines, "the handler's slice")
		})
	}
	t.Run("what is added", func(t *testing.T) {
		w := answer(newHeaders(t, cache.HeadersConfig{
			TTL: time.Hour, SharedTTL: time.Hour, Stale: time.Hour, Max: time.Minute,
		}).Middleware(send(200, "")))
		require.Equal(t, "max-age=60, stale-while-revalidate=3600", w.Header().Get("Cache-Control"))
		require.Equal(t, "max-age=60, stale-while-revalidate=3600", w.Header().Get("CDN-Cache-Control"))
	})
	t.Run("Expires without Date", func(t *testing.T) {
		w := answer(newHeaders(t, cache.HeadersConfig{Max: time.Minute}).Middleware(
			send(200, "", "Expires", at(time.Hour))))
		got, err := http.ParseTime(w.Header().Get("Expires"))
		require.NoError(t, err)
		require.WithinRange(t, got, now.Add(time.Minute), time.Now().Add(time.Minute))
	})
}

func TestHeadersAddVaryAndTags(t *testing.T) {
	vary := cache.HeadersConfig{Vary: []string{"accept-language", "Origin"}}
	tags := cache.HeadersConfig{
		Tags: func(r *http.Request) []string { return []string{"tea", "", r.Pattern} },
	}
	commas := tags
	commas.TagField = "Cache-Tag"
	for name, test := range map[string]struct {
		cfg     cache.HeadersConfig
		handler http.Handler
		field   string
		want    []string
	}{
		"Vary": {vary, send(200, ""), "Vary", []string{"Accept-Language, Origin"}},
		"what Vary lacks": {
			vary, send(200, "", "Vary", "Cookie, ORIGIN"), "Vary",
			[]string{"Cookie, ORIGIN", "Accept-Language"},
		},
		"Vary has it all": {
			vary, send(200, "", "Vary", "origin", "Vary", "accept-language"), "Vary",
			[]string{"origin", "accept-language"},
		},
		"Vary is a star": {vary, send(200, "", "Vary", "*"), "Vary", []string{"*"}},
		"tags":           {tags, send(200, ""), "Surrogate-Key", []string{"tea GET /tea"}},
		"beside the handler's": {
			tags, send(200, "", "Surrogate-Key", "a b"), "Surrogate-Key", []string{"a b tea GET /tea"},
		},
		"Cache-Tag": {
			commas, send(200, "", "Cache-Tag", "a,b"), "Cache-Tag", []string{"a,b,tea,GET /tea"},
		},
		"no tags": {cache.HeadersConfig{Tags: func(*http.Request) []string { return nil }}, send(200, ""),
			"Surrogate-Key", nil},
	} {
		t.Run(name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.Handle("GET /tea", test.handler)
			require.Equal(t, test.want, answer(newHeaders(t, test.cfg).Middleware(mux)).Header()[test.field])
		})
	}
}

func TestHeadersPassOtherMethodsAndSkippedRequests(t *testing.T) {
	headers := newHeaders(t, cache.HeadersConfig{
		TTL: time.Minute, Vary: []string{"Origin"},
		Skip: func(r *http.Request) bool { return r.Header.Get("Skip") != "" },
	})
	handler := headers.Middleware(send(200, "tea", "X-Tea", "green"))
	want := http.Header{"X-Tea": {"green"}}
	require.Equal(t, want, answerTo(handler, http.MethodPost).Header())
	require.Equal(t, want, answer(handler, "Skip", "1").Header())
	for _, method := range []string{http.MethodGet, http.MethodHead, "QUERY"} {
		require.Equal(t, "max-age=60", answerTo(handler, method).Header().Get("Cache-Control"), method)
	}
}

// What an outer middleware has set stays, and its slices are not written to.
func TestHeadersKeepTheOuterFields(t *testing.T) {
	vary := make([]string, 1, 4)
	vary[0] = "Origin"
	cfg := cache.HeadersConfig{TTL: time.Minute, Vary: []string{"Accept"}}
	inner := newHeaders(t, cfg).Middleware(send(200, "tea"))
	w := answer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "7")
		w.Header()["Vary"] = vary
		inner.ServeHTTP(w, r)
	}))
	require.Equal(t, "7", w.Header().Get("X-Request-Id"))
	require.Equal(t, []string{"Origin", "Accept"}, w.Header()["Vary"])
	require.Equal(t, []string{"Origin", "", "", ""}, vary[:4])
	require.NotEmpty(t, w.Header().Get("ETag"))
}

// A middleware outside that forbids to store everything is not overruled by a default.
func TestHeadersTakeOuterFreshnessForTheResponsesOwn(t *testing.T) {
	inner := newHeaders(t, cache.HeadersConfig{TTL: time.Minute}).Middleware(send(200, "tea"))
	w := answer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		inner.ServeHTTP(w, r)
	}))
	require.Equal(t, []string{"no-store"}, w.Header()["Cache-Control"])
}
