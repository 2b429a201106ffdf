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

// RFC 9111, section 4.4.
func TestC43_LocationsOfTheSameOriginAreInvalidated(t *testing.T) {
	for name, test := range map[string]struct {
		method, target string
		field, value   string
		gone, stays    []string
	}{
		"its URL":           {"POST", "/a", "", "", []string{"/a"}, []string{"/b", "/a?x=1"}},
		"DELETE":            {"DELETE", "/a", "", "", []string{"/a"}, []string{"/b"}},
		"an unknown method": {"M-SEARCH", "/a", "", "", []string{"/a"}, []string{"/b"}},
		"a safe one":        {"OPTIONS", "/a", "", "", nil, []string{"/a", "/b"}},
		"Location": {
			"POST", "/a", "Location", "/b", []string{"/a", "/b"}, []string{"/c"},
		},
		"Content-Location": {
			"PUT", "/a", "Content-Location", "http://example.com/b", []string{"/a", "/b"}, []string{"/c"},
		},
		"Location, relative": {
			"POST", "/d/a", "Location", "b", []string{"/d/a", "/d/b"}, []string{"/b"},
		},
		"Location of another origin": {
			"POST", "/a", "Location", "http://example.org/b", []string{"/a"},
			[]string{"/b", "http://example.org/b"},
		},
		"Location of another port": {
			"POST", "/a", "Location", "http://example.com:81/b", []string{"/a"},
			[]string{"/b", "http://example.com:81/b"},
		},
		"Location with another's name": {
			"POST", "/a", "Location", "//example.org/b", []string{"/a"},
			[]string{"/b", "http://example.org/b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
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

// A fetch whose body is under way when it is purged brings the old response to nobody who asks
// later.
func TestC45_PurgesReachBodiesUnderWay(t *testing.T) {
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
		t.Run(name, func(t *testing.T) {
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
				time.Sleep(1500 * time.Millisecond)
				require.NoError(t, purge(t.Context(), c))
				late := visitAs(h, request("/a/b"), &wg)
				wg.Wait()
				require.Equal(t, "1", early.body)
				require.Equal(t, "2", late.body, "who asks after the purge does not follow")
				require.Equal(t, "2", text(t, get(h, "/a/b")))
			})
		})
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
	for _, path := range []string{"*", ".*", "a/?", "a/.", "a?"} {
		pattern := "http://example.com/" + path
		require.NoError(t, c.PurgePrefix(t.Context(), pattern, cache.Hard))
		require.NoError(t, c.PurgeURL(t.Context(), pattern, cache.Hard))
	}
	require.True(t, fromCache(get(h, "/a/b")))
	for _, bad := range []string{"", "/a/b", "example.com/a", "ftp://example.com/", "http://"} {
		require.ErrorIs(t, c.PurgeURL(t.Context(), bad, cache.Hard), cache.ErrPurge, bad)
		require.ErrorIs(t, c.PurgePrefix(t.Context(), bad, cache.Hard), cache.ErrPurge, bad)
	}
	require.ErrorIs(t, c.PurgeTag(t.Context(), "tea", 0), cache.ErrPurge)
	require.True(t, fromCache(get(h, "/a/b")))
	require.NoError(t, c.PurgeTag(t.Context(), "tea", cache.Hard))
	require.False(t, fromCache(get(h, "/a/b")))
}
