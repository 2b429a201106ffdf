package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// numbered answers with the fields and the number of the call.
func numbered(pairs ...string) *counted {
	h := &counted{}
	h.serve = func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			w.Header().Add(pairs[i], pairs[i+1])
		}
		_, _ = io.WriteString(w, strconv.FormatInt(h.calls.Load(), 10))
	}
	return h
}

// ago is an HTTP-date.
func ago(d time.Duration) string { return time.Now().Add(-d).UTC().Format(http.TimeFormat) }

func TestFreshness(t *testing.T) {
	for _, test := range []struct {
		name   string
		fields []string
		life   time.Duration // the response is used until then
		config cache.Config
	}{
		{name: "max-age", fields: []string{"Cache-Control", "max-age=60"}, life: time.Minute},
		{name: "s-maxage over max-age", fields: []string{"Cache-Control", "max-age=60, s-maxage=120"},
			life: 2 * time.Minute},
		{name: "private cache ignores s-maxage", fields: []string{"Cache-Control",
			"max-age=60, s-maxage=120"},
			life: time.Minute, config: cache.Config{Private: true}},
		{name: "C37 upper case", fields: []string{"Cache-Control", "MAX-AGE=60"}, life: time.Minute},
		{name: "C37 quoted", fields: []string{"Cache-Control", `max-age="60"`}, life: time.Minute},
		{name: "C37 first of two", fields: []string{"Cache-Control", "max-age=60, max-age=600"},
			life: time.Minute},
		{name: "C37 in a quoted string", fields: []string{"Cache-Control",
			`x="max-age=600", max-age=60`}, life: time.Minute},
		{name: "C37 negative", fields: []string{"Cache-Control", "max-age=-1"}},
		{name: "C37 exponent", fields: []string{"Cache-Control", "max-age=1e30"}},
		{name: "C37 semicolon", fields: []string{"Cache-Control", "max-age=60;"}},
		{name: "C37 fraction", fields: []string{"Cache-Control", "max-age=60.5"}},
		{name: "C37 empty", fields: []string{"Cache-Control", "max-age="}},
		{name: "C37 invalid hides no other", fields: []string{"Cache-Control", `no-store="x, max-age=60`}},
		{name: "expires", fields: []string{"Expires", "+60"}, life: time.Minute},
		{name: "C38 expires 0", fields: []string{"Expires", "0", "Last-Modified", "-86400"}},
		{name: "C38 age", fields: []string{"Cache-Control", "max-age=60", "Age", "20"},
			life: 40 * time.Second},
		{name: "C38 negative age", fields: []string{"Cache-Control", "max-age=60", "Age", "-20"},
			life: time.Minute},
		{name: "C38 huge age", fields: []string{"Cache-Control", "max-age=60", "Age",
			"99999999999999999999"}},
		{name: "C38 first age", fields: []string{"Cache-Control", "max-age=60", "Age", "20, 50"},
			life: 40 * time.Second},
		{name: "C38 old date", fields: []string{"Cache-Control", "max-age=60", "Date", "-20"},
			life: 40 * time.Second},
		{name: "C38 date ahead", fields: []string{"Cache-Control", "max-age=60", "Date", "+3600"},
			life: time.Minute},
		{name: "heuristic", fields: []string{"Last-Modified", "-600"}, life: time.Minute},
		{name: "heuristic off", fields: []string{"Last-Modified", "-600"},
			config: cache.Config{Heuristic: -1}},
		{name: "heuristic at most a day", fields: []string{"Last-Modified", "-31536000"},
			life: 24 * time.Hour},
		{name: "targeted", fields: []string{"Cache-Control", "max-age=60", "Cdn-Cache-Control",
			"max-age=120"}, life: 2 * time.Minute},
		{name: "targeted over no-store", fields: []string{"Cache-Control", "no-store",
			"Cdn-Cache-Control", "max-age=60"}, life: time.Minute},
		{name: "targeted and invalid", fields: []string{"Cache-Control", "no-store",
			"Cdn-Cache-Control", "max-age=60, &&"}},
		{name: "targeted of the wrong type", fields: []string{"Cache-Control", "max-age=60",
			"Cdn-Cache-Control", `max-age="600"`}, life: time.Minute},
		{name: "private cache has no targeted fields", fields: []string{"Cache-Control", "max-age=60",
			"Cdn-Cache-Control", "max-age=1"},
			life: time.Minute, config: cache.Config{Private: true}},
		{name: "no-store", fields: []string{"Cache-Control", "no-store, max-age=60"}},
		{name: "must-understand", fields: []string{"Cache-Control",
			"no-store, must-understand, max-age=60"}, life: time.Minute},
		{name: "private", fields: []string{"Cache-Control", "private, max-age=60"}},
		{name: "private in a private cache", fields: []string{"Cache-Control", "private, max-age=60"},
			life:   time.Minute,
			config: cache.Config{Private: true}},
		{name: "C12 vary star", fields: []string{"Cache-Control", "max-age=60", "Vary", ", *"}},
		{name: "C20 set-cookie", fields: []string{"Cache-Control", "public, max-age=60", "Set-Cookie",
			"a=b"}},
		{name: "C20 set-cookie allowed", fields: []string{"Cache-Control", "max-age=60", "Set-Cookie",
			"a=b"}, life: time.Minute,
			config: cache.Config{StoreSetCookie: true}},
		{name: "nothing", fields: nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fields := make([]string, len(test.fields))
				for i, v := range test.fields {
					if n, err := strconv.Atoi(v); err == nil && (v[0] == '+' || v[0] == '-') &&
						test.fields[i-i%2] != "Age" {
						v = ago(-time.Duration(n) * time.Second)
					}
					fields[i] = v
				}
				origin := numbered(fields...)
				h := newCache(t, test.config).Middleware(origin)
				get(h, "/")
				if test.life > 0 {
					time.Sleep(test.life - time.Second)
					require.Equal(t, "1", text(t, get(h, "/")), "a second before its end")
					time.Sleep(time.Second)
				}
				require.Equal(t, "2", text(t, get(h, "/")))
			})
		})
	}
}

func TestStatuses(t *testing.T) {
	for _, test := range []struct {
		name, control, modified string
		status                  int
		stored                  bool
	}{
		{"C39 500 without freshness", "", "-600", 500, false},
		{"C39 500 with freshness", "max-age=60", "", 500, true},
		{"C10 400 without freshness", "", "-600", 400, false},
		{"C10 431 without freshness", "", "-600", 431, false},
		{"C10 501 without freshness", "", "-600", 501, false},
		{"C70 404 with Last-Modified", "", "-600", 404, true},
		{"404 with freshness", "max-age=60", "", 404, true},
		{"299 with freshness", "max-age=60", "", 299, true},
		{"C68 599 with must-understand", "no-store, must-understand, max-age=60", "", 599, false},
		{"C68 206 that nobody asked for", "max-age=60", "", 206, false},
		{"C68 304 that nobody asked for", "max-age=60", "", 304, false},
		{"204", "max-age=60", "", 204, true},
		{"301 with Last-Modified", "", "-600", 301, true},
		{"302 with Last-Modified", "", "-600", 302, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
				if test.control != "" {
					w.Header().Set("Cache-Control", test.control)
				}
				if test.modified != "" {
					w.Header().Set("Last-Modified", ago(10*time.Minute))
				}
				w.WriteHeader(test.status)
			}}
			h := newCache(t, cache.Config{}).Middleware(origin)
			for range 2 {
				require.Equal(t, test.status, get(h, "/").StatusCode)
			}
			require.Equal(t, test.stored, origin.calls.Load() == 1)
		})
	}
}

func TestC70_AnErrorIsHeuristicallyFreshForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Last-Modified", ago(1000*time.Hour))
			w.WriteHeader(http.StatusNotFound)
		}}
		h := newCache(t, cache.Config{}).Middleware(origin)
		get(h, "/")
		time.Sleep(time.Minute)
		get(h, "/")
		require.EqualValues(t, 2, origin.calls.Load())
		do(h, httptest.NewRequest(http.MethodPut, "/", strings.NewReader("x")))
		get(h, "/")
		require.EqualValues(t, 3, origin.calls.Load(), "the PUT failed, and invalidated nothing")
	})
}

func TestRequestDirectives(t *testing.T) {
	for _, test := range []struct {
		name, control, request string
		after                  time.Duration
		stored                 bool
		config                 cache.Config
	}{
		{name: "no-cache", control: "max-age=60", request: "no-cache"},
		{name: "C35 ignored", control: "max-age=60", request: "no-cache", stored: true,
			config: cache.Config{IgnoreReload: true}},
		{name: "C35 max-age=0 ignored", control: "max-age=60", request: "max-age=0", stored: true,
			config: cache.Config{IgnoreReload: true}},
		{name: "max-age=0", control: "max-age=60", request: "max-age=0"},
		{name: "max-age=0 of what is immutable", control: "max-age=60, immutable", request: "max-age=0",
			stored: true},
		{name: "max-age", control: "max-age=60", request: "max-age=10", after: 11 * time.Second},
		{name: "max-age, younger", control: "max-age=60", request: "max-age=10", after: 9 * time.Second,
			stored: true},
		{name: "min-fresh", control: "max-age=60", request: "min-fresh=30", after: 31 * time.Second},
		{name: "min-fresh, fresher", control: "max-age=60", request: "min-fresh=30",
			after: 29 * time.Second, stored: true},
		{name: "max-stale", control: "max-age=60", request: "max-stale=10", after: 69 * time.Second,
			stored: true},
		{name: "max-stale, staler", control: "max-age=60", request: "max-stale=10", after: 71 * time.Second},
		{name: "any max-stale", control: "max-age=60", request: "max-stale", after: time.Hour, stored: true},
		{name: "C34 max-stale and must-revalidate", control: "max-age=60, must-revalidate",
			request: "max-stale", after: 61 * time.Second},
		{name: "C34 max-stale and proxy-revalidate", control: "max-age=60, proxy-revalidate",
			request: "max-stale", after: 61 * time.Second},
		{name: "C34 max-stale and s-maxage", control: "s-maxage=60", request: "max-stale",
			after: 61 * time.Second},
		{name: "C34 max-stale and no-cache", control: "max-age=60, no-cache", request: "max-stale"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := numbered("Cache-Control", test.control, "Etag", `"1"`)
				h := newCache(t, test.config).Middleware(origin)
				get(h, "/")
				time.Sleep(test.after)
				want := "2"
				if test.stored {
					want = "1"
				}
				require.Equal(t, want, text(t, get(h, "/", "Cache-Control", test.request)))
			})
		})
	}
}

func TestC35_PragmaCountsWithoutCacheControlOnly(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(numbered("Cache-Control", "max-age=60"))
	get(h, "/")
	require.Equal(t, "1", text(t, get(h, "/", "Pragma", "no-cache", "Cache-Control", "max-age=60")))
	require.Equal(t, "2", text(t, get(h, "/", "Pragma", "no-cache")))
}

func TestC36_OnlyIfCachedNeverFetches(t *testing.T) {
	origin := numbered("Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{Detail: true}).Middleware(origin)
	resp := get(h, "/", "Cache-Control", "only-if-cached")
	require.Equal(t, http.StatusGatewayTimeout, resp.StatusCode)
	require.Equal(t, "Trivet; fwd=uri-miss; detail=only-if-cached", resp.Header.Get("Cache-Status"))
	require.Zero(t, origin.calls.Load())
	get(h, "/")
	require.Equal(t, http.StatusOK, get(h, "/", "Cache-Control", "only-if-cached").StatusCode)
}

func TestC69_AgesAreMonotonicAndGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Config{}).Middleware(numbered("Cache-Control", "max-age=3600"))
		get(h, "/")
		for i := range 5 {
			resp := get(h, "/")
			require.Equal(t, fmt.Sprint(i*600), resp.Header.Get("Age"))
			require.Equal(t, fmt.Sprintf("Trivet; hit; ttl=%d", 3600-i*600), resp.Header.Get("Cache-Status"))
			time.Sleep(10 * time.Minute)
		}
	})
}

func TestStaleWhileRevalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := numbered("Cache-Control", "max-age=60, stale-while-revalidate=30")
		c := newCache(t, cache.Config{})
		h := c.Middleware(origin)
		get(h, "/")
		time.Sleep(80 * time.Second)
		resp := get(h, "/")
		require.Equal(t, "1", text(t, resp))
		require.Equal(t, "Trivet; hit; ttl=-20", resp.Header.Get("Cache-Status"))
		synctest.Wait()
		require.Equal(t, "2", text(t, get(h, "/")))
		time.Sleep(91 * time.Second)
		require.Equal(t, "3", text(t, get(h, "/")), "beyond the window the client waits")
		require.EqualValues(t, 1, c.Stats().Refreshes)
	})
}

func TestC41_OneRefreshForAKeyAndABoundForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := slowly(time.Second, "x", "Cache-Control", "max-age=60, stale-while-revalidate=600")
		c := newCache(t, cache.Config{MaxBackground: 3})
		h := c.Middleware(origin)
		paths := []string{"/a", "/b", "/c", "/d", "/e"}
		for _, path := range paths {
			get(h, path)
		}
		time.Sleep(2 * time.Minute)
		for range 10 {
			for _, path := range paths {
				require.Equal(t, http.StatusOK, get(h, path).StatusCode)
			}
		}
		synctest.Wait()
		require.EqualValues(t, 3, c.Stats().Background)
		time.Sleep(time.Minute)
		require.EqualValues(t, 5+3, origin.calls.Load())
	})
}

func TestC40_StaleIfError(t *testing.T) {
	for _, test := range []struct {
		name, control string
		status        int
		after         time.Duration
		stale         bool
	}{
		{"503", "max-age=60, stale-if-error=60", 503, 100 * time.Second, true},
		{"500", "max-age=60, stale-if-error=60", 500, 100 * time.Second, true},
		{"beyond the window", "max-age=60, stale-if-error=60", 503, 121 * time.Second, false},
		{"404", "max-age=60, stale-if-error=60", 404, 100 * time.Second, false},
		{"401", "max-age=60, stale-if-error=60", 401, 100 * time.Second, false},
		{"410", "max-age=60, stale-if-error=60", 410, 100 * time.Second, false},
		{"429", "max-age=60, stale-if-error=60", 429, 100 * time.Second, false},
		{"must-revalidate", "max-age=60, stale-if-error=60, must-revalidate", 503, 100 * time.Second, false},
		{"no word of it", "max-age=60", 503, 100 * time.Second, false},
		{"the origin cannot be reached", "max-age=60", 502, 100 * time.Second, true},
		{"the origin cannot be reached, long ago", "max-age=60", 502, 2 * time.Hour, false},
		{"the origin cannot be reached, s-maxage", "s-maxage=60", 504, 100 * time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := &counted{}
				origin.serve = func(w http.ResponseWriter, r *http.Request) {
					if origin.calls.Load() > 1 {
						time.Sleep(time.Second)
						w.WriteHeader(test.status)
						return
					}
					w.Header().Set("Cache-Control", test.control)
					_, _ = io.WriteString(w, "fine")
				}
				h := newCache(t, cache.Config{}).Middleware(origin)
				get(h, "/")
				time.Sleep(test.after)
				answers, _ := many(h, 5)
				for _, resp := range answers {
					if test.stale {
						require.Equal(t, http.StatusOK, resp.StatusCode)
						require.Equal(t, "fine", text(t, resp))
					} else {
						require.Equal(t, test.status, resp.StatusCode)
					}
				}
				if test.stale {
					require.EqualValues(t, 2, origin.calls.Load(),
						"those who wait get the stale response too")
				}
			})
		})
	}
}

// Whatever lets a stored response be used does so up to its last moment, and not a moment longer.
func TestFreshness_AtItsBounds(t *testing.T) {
	for name, test := range map[string]struct {
		fields string        // of the response
		asked  string        // Cache-Control of the request
		then   int           // what the origin answers after the first
		last   time.Duration // when the first may be used for the last time
	}{
		"stale-if-error":         {"max-age=60, stale-if-error=60", "", 500, 2 * time.Minute},
		"stale-while-revalidate": {"max-age=60, stale-while-revalidate=60", "", 200, 2 * time.Minute},
		"disconnected":           {"max-age=60", "", 502, time.Hour + time.Minute},
		"max-stale":              {"max-age=60", "max-stale=60", 200, 2 * time.Minute},
		"min-fresh":              {"max-age=60", "min-fresh=20", 200, 40 * time.Second},
		"max-age":                {"max-age=60", "max-age=20", 200, 20 * time.Second},
	} {
		for _, beyond := range []time.Duration{0, 1} {
			t.Run(fmt.Sprint(name, " ", beyond), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					first := true
					h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
						func(w http.ResponseWriter, r *http.Request) {
							if !first {
								w.WriteHeader(test.then)
								return
							}
							w.Header().Set("Cache-Control", test.fields)
							_, _ = io.WriteString(w, "first")
						}))
					get(h, "/")
					first = false
					time.Sleep(test.last + beyond)
					var asked []string
					if test.asked != "" {
						asked = []string{"Cache-Control", test.asked}
					}
					require.Equal(t, beyond == 0, text(t, get(h, "/", asked...)) == "first")
				})
			})
		}
	}
}

// RFC 9111, section 4.2.3: the time that the origin took counts to the age, of what is stored and
// of what a HEAD updates.
func TestC38_TheTimeThatAnAnswerTookIsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(10 * time.Second)
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Etag", `"1"`)
				_, _ = io.WriteString(w, "x")
			}))
		get(h, "/")
		require.Equal(t, "Trivet; hit; ttl=50", get(h, "/").Header.Get("Cache-Status"))
		time.Sleep(2 * time.Minute)
		do(h, newRequest(http.MethodHead, "/"))
		resp := get(h, "/")
		require.Equal(t, "Trivet; hit; ttl=50", resp.Header.Get("Cache-Status"))
		require.Equal(t, "10", resp.Header.Get("Age"))
	})
}

// A gateway's 502 that is to be kept is an answer; one that is not tells that it reaches nobody.
func TestC40_A502ThatMayBeStoredIsTheAnswer(t *testing.T) {
	for _, stored := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			status, fields := 200, "max-age=60"
			h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", fields)
					w.WriteHeader(status)
				}))
			get(h, "/")
			time.Sleep(2 * time.Minute)
			status = 502
			want := 502
			if fields = "public, max-age=10"; !stored {
				fields, want = "no-store", 200
			}
			require.Equal(t, want, get(h, "/").StatusCode)
		})
	}
}

// A store is told for how long a response may be of use, with each time for which it may be stale.
func TestKeep_CoversTheStaleTimes(t *testing.T) {
	for fields, want := range map[string]time.Duration{
		"max-age=60":                               time.Hour + time.Minute,
		"max-age=60, stale-if-error=7200":          2*time.Hour + time.Minute,
		"max-age=60, stale-while-revalidate=10800": 3*time.Hour + time.Minute,
	} {
		store := newSpyStore(t, cache.MemoryStoreConfig{})
		get(newCache(t, cache.Config{Store: store}).Middleware(numbered("Cache-Control", fields)), "/")
		require.Equal(t, want, store.stored()[0].Keep.Round(time.Second), fields)
	}
}
