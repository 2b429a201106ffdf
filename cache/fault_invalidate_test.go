package cache_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestC41_StaleResponsesAreRefreshedOnceAndWithinABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			send(200, "tea", "Cache-Control", "max-age=60, stale-while-revalidate=600")(w, r)
		}}
		c := newCache(t, cache.Config{MaxBackground: 3})
		h := c.Middleware(origin)
		for i := range 10 {
			get(h, fmt.Sprint("/", i))
		}
		time.Sleep(90 * time.Second)
		origin.calls.Store(0)
		began := time.Now()
		for range 20 {
			require.Equal(t, "tea", text(t, get(h, "/0")))
		}
		require.Zero(t, time.Since(began), "nobody waits")
		synctest.Wait()
		require.EqualValues(t, 1, origin.calls.Load(), "one refresh of a URL")
		for i := range 10 {
			get(h, fmt.Sprint("/", i))
		}
		synctest.Wait()
		require.EqualValues(t, 3, origin.calls.Load(), "MaxBackground of them")
		require.Positive(t, c.Stats().PutOff)
		time.Sleep(2 * time.Second)
		require.True(t, fromCache(get(h, "/0")))
		require.Zero(t, c.Stats().Background)
	})
}

func TestC42_CloseEndsRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := 0
		origin := &counted{}
		origin.serve = func(w http.ResponseWriter, r *http.Request) {
			if origin.calls.Load() > 1 {
				<-r.Context().Done()
				time.Sleep(time.Second) // it takes a while to leave
				ended++
				return
			}
			send(200, "tea", "Cache-Control", "max-age=60, stale-while-revalidate=600")(w, r)
		}
		c := newCache(t, cache.Config{FetchTimeout: time.Hour})
		h := c.Middleware(origin)
		get(h, "/")
		time.Sleep(90 * time.Second)
		get(h, "/")
		synctest.Wait()
		require.Equal(t, 1, c.Stats().Background)
		brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, c.Close(brief), context.DeadlineExceeded)
		require.NoError(t, c.Close(t.Context()))
		require.Equal(t, 1, ended)
		require.Zero(t, c.Stats().Background)
		// A closed cache still answers, and refreshes nothing any more.
		require.Equal(t, "tea", text(t, get(h, "/")))
		require.Zero(t, c.Stats().Background)
	})
}

// RFC 9111, section 4.4.
func TestC43_UnsafeMethodsInvalidateTheirOrigin(t *testing.T) {
	for name, test := range map[string]struct {
		method, target string
		field, value   string
		gone, stays    []string
	}{
		"its URL":                      {"POST", "/a", "", "", []string{"/a"}, []string{"/b", "/a?x=1"}},
		"DELETE":                       {"DELETE", "/a", "", "", []string{"/a"}, []string{"/b"}},
		"an unknown method":            {"M-SEARCH", "/a", "", "", []string{"/a"}, []string{"/b"}},
		"a safe one":                   {"OPTIONS", "/a", "", "", nil, []string{"/a", "/b"}},
		"Location":                     {"POST", "/a", "Location", "/b", []string{"/a", "/b"}, []string{"/c"}},
		"Content-Location":             {"PUT", "/a", "Content-Location", "http://example.com/b", []string{"/a", "/b"}, []string{"/c"}},
		"Location, relative":           {"POST", "/d/a", "Location", "b", []string{"/d/a", "/d/b"}, []string{"/b"}},
		"Location of another origin":   {"POST", "/a", "Location", "http://example.org/b", []string{"/a"}, []string{"/b", "http://example.org/b"}},
		"Location of another port":     {"POST", "/a", "Location", "http://example.com:81/b", []string{"/a"}, []string{"/b", "http://example.com:81/b"}},
		"Location with another's name": {"POST", "/a", "Location", "//example.org/b", []string{"/a"}, []string{"/b", "http://example.org/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet {
					if test.field != "" {
						w.Header().Set(test.field, test.value)
					}
					return
				}
				send(200, "tea", "Cache-Control", "max-age=60")(w, r)
			}))
			all := append(append([]string(nil), test.gone...), test.stays...)
			for _, target := range all {
				get(h, target)
				require.True(t, fromCache(get(h, target)))
			}
			do(h, httptest.NewRequest(test.method, test.target, nil))
			for _, target := range test.gone {
				require.False(t, fromCache(get(h, target)), target)
			}
			for _, target := range test.stays {
				require.True(t, fromCache(get(h, target)), target)
			}
		})
	}
}

func TestC44_FailedUnsafeRequestsInvalidateNothing(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 405, 409, 412, 500, 502, 503} {
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				send(status, "", "Location", "/b")(w, r)
				return
			}
			send(200, "tea", "Cache-Control", "max-age=60")(w, r)
		}))
		get(h, "/a")
		get(h, "/b")
		do(h, httptest.NewRequest(http.MethodPost, "/a", nil))
		require.True(t, fromCache(get(h, "/a")), status)
		require.True(t, fromCache(get(h, "/b")), status)
	}
}

// A fetch that began before a purge brings the old response back to nobody who asks after it.
func TestC45_PurgesReachFetchesUnderWay(t *testing.T) {
	purges := map[string]func(ctx context.Context, c *cache.Cache) error{
		"URL": func(ctx context.Context, c *cache.Cache) error {
			return c.PurgeURL(ctx, "http://example.com/a/b", cache.Hard)
		},
		"prefix": func(ctx context.Context, c *cache.Cache) error {
			return c.PurgePrefix(ctx, "http://example.com/a/", cache.Hard)
		},
		"tag": func(ctx context.Context, c *cache.Cache) error { return c.PurgeTag(ctx, "tea", cache.Hard) },
		"group": func(ctx context.Context, c *cache.Cache) error {
			return c.PurgeGroup(ctx, "http://example.com", "teas", cache.Hard)
		},
	}
	for name, purge := range purges {
		for when, delay := range map[string]time.Duration{
			"before the header": 500 * time.Millisecond, "within the body": 1500 * time.Millisecond,
		} {
			t.Run(name+" "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					origin := &counted{}
					origin.serve = func(w http.ResponseWriter, _ *http.Request) {
						n := origin.calls.Load()
						time.Sleep(time.Second)
						h := w.Header()
						h.Set("Cache-Control", "max-age=60")
						h.Set("Surrogate-Key", "tea")
						h.Set("Cache-Groups", `"teas"`)
						fmt.Fprint(w, n)
						_ = http.NewResponseController(w).Flush()
						time.Sleep(time.Second)
					}
					c := newCache(t, cache.Config{})
					h := c.Middleware(origin)
					var wg sync.WaitGroup
					early := visitAs(h, request("/a/b"), &wg)
					time.Sleep(delay)
					require.NoError(t, purge(t.Context(), c))
					late := visitAs(h, request("/a/b"), &wg)
					wg.Wait()
					require.Equal(t, "1", early.body)
					if name == "URL" || name == "prefix" || when == "within the body" {
						require.Equal(t, "2", late.body, "who asks after the purge does not follow")
					}
					require.NotEqual(t, "1", text(t, get(h, "/a/b")))
				})
			})
		}
	}
}

// An unsafe request that succeeds while a fetch runs has the same effect.
func TestC45_InvalidationReachesFetchesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := "old"
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				state = "new"
				return
			}
			body := state
			time.Sleep(time.Second)
			send(200, body, "Cache-Control", "max-age=60")(w, r)
		}))
		var wg sync.WaitGroup
		visitAs(h, request("/"), &wg)
		synctest.Wait()
		do(h, httptest.NewRequest(http.MethodPut, "/", nil))
		late := visitAs(h, request("/"), &wg)
		wg.Wait()
		require.Equal(t, "new", late.body)
		require.Equal(t, "new", text(t, get(h, "/")))
	})
}

func TestC57_CacheStatusTellsNoKey(t *testing.T) {
	origin := saying(fixed("tea"), "Cache-Control", "max-age=60", "Vary", "Cookie")
	h := newCache(t, cache.Config{
		Detail: true, KeyExtra: func(*http.Request) string { return "s3cr3t" },
	}).Middleware(origin)
	for range 2 {
		state := get(h, "/s3cr3t?s3cr3t", "Cookie", "s3cr3t").Header.Get("Cache-Status")
		require.NotEmpty(t, state)
		require.NotContains(t, state, "s3cr3t")
		require.NotContains(t, state, "key")
	}
}

// Nobody purges over HTTP unless the program offers it: there is no method and no URL for it.
func TestC58_NothingPurgesByHTTP(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed) // as a handler does that knows no PURGE
			return
		}
		send(200, "tea", "Cache-Control", "max-age=60")(w, r)
	}}
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/")
	for _, method := range []string{"PURGE", "BAN", "REFRESH", "DELETE"} {
		r := httptest.NewRequest(method, "/", nil)
		r.Header.Set("Surrogate-Key", "tea")
		require.Equal(t, http.StatusMethodNotAllowed, do(h, r).StatusCode)
		require.True(t, fromCache(get(h, "/")), method)
	}
}

// What is purged is a text and no pattern.
func TestC58_PurgesTakeNoPatterns(t *testing.T) {
	origin := saying(fixed("tea"), "Cache-Control", "max-age=60", "Surrogate-Key", "tea")
	c := newCache(t, cache.Config{})
	h := c.Middleware(origin)
	get(h, "/a/b")
	for _, pattern := range []string{"*", ".*", "te?", "t.a", "", "(a+)+$"} {
		require.NoError(t, c.PurgeTag(t.Context(), pattern, cache.Hard))
	}
	for _, pattern := range []string{"http://example.com/*", "http://example.com/.*", "http://example.com/a/?"} {
		require.NoError(t, c.PurgePrefix(t.Context(), pattern, cache.Hard))
		require.NoError(t, c.PurgeURL(t.Context(), pattern, cache.Hard))
	}
	require.True(t, fromCache(get(h, "/a/b")))
	for _, bad := range []string{"", "/a/b", "example.com/a", "ftp://example.com/", "http://", "http://[::1"} {
		require.ErrorIs(t, c.PurgeURL(t.Context(), bad, cache.Hard), cache.ErrPurge, bad)
		require.ErrorIs(t, c.PurgePrefix(t.Context(), bad, cache.Hard), cache.ErrPurge, bad)
	}
	require.ErrorIs(t, c.PurgeTag(t.Context(), "tea", 0), cache.ErrPurge)
	require.True(t, fromCache(get(h, "/a/b")))
	require.NoError(t, c.PurgeTag(t.Context(), "tea", cache.Hard))
	require.False(t, fromCache(get(h, "/a/b")))
}
