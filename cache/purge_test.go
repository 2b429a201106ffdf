package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestC43_UnsafeMethodsInvalidate(t *testing.T) {
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "UNKNOWN"} {
		t.Run(method, func(t *testing.T) {
			calls := 0
			h := newCache(t, cache.Config{}).Middleware(
				http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == method {
						w.Header().Set("Location", "/created")
						w.Header().Set("Content-Location", "http://other.example/elsewhere")
						return
					}
					calls++
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Vary", "X-A")
				}))
			targets := []string{"/a", "/created", "http://other.example/elsewhere", "/b"}
			for _, target := range targets {
				get(h, target)
				get(h, target, "X-A", "1")
			}
			do(h, httptest.NewRequest(method, "/a", nil))
			calls = 0
			for i, target := range targets {
				get(h, target)
				get(h, target, "X-A", "1")
				require.Equal(t, min(4, 2*(i+1)), calls,
					"%s: all variants of the URL and of Location, nothing of another origin", target)
			}
		})
	}
}

func TestC43_SafeMethodsInvalidateNothing(t *testing.T) {
	origin := numbered("Cache-Control", "max-age=60")
	h := newCache(t, cache.Config{}).Middleware(origin)
	get(h, "/")
	for _, method := range []string{"OPTIONS", "TRACE", "HEAD", "QUERY", "PROPFIND", "REPORT", "SEARCH"} {
		do(h, httptest.NewRequest(method, "/", strings.NewReader("")))
	}
	require.Equal(t, "1", text(t, get(h, "/")))
}

func TestC44_AFailedUnsafeRequestInvalidatesNothing(t *testing.T) {
	for _, status := range []int{400, 403, 404, 500, 503} {
		calls := 0
		h := newCache(t, cache.Config{}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					w.WriteHeader(status)
					return
				}
				calls++
				w.Header().Set("Cache-Control", "max-age=60")
			}))
		get(h, "/")
		do(h, httptest.NewRequest(http.MethodPost, "/", nil))
		get(h, "/")
		require.Equal(t, 1, calls, status)
	}
}

func TestC45_AFillInFlightDoesNotBringBackWhatWasPurged(t *testing.T) {
	purges := map[string]func(c *cache.Cache, h http.Handler) error{
		"method": func(c *cache.Cache, h http.Handler) error {
			do(h, httptest.NewRequest(http.MethodDelete, "/a/b", nil))
			return nil
		},
		"url": func(c *cache.Cache, _ http.Handler) error {
			return c.PurgeURL(context.Background(), "https://example.com/a/b", cache.Hard)
		},
		"soft url": func(c *cache.Cache, _ http.Handler) error {
			return c.PurgeURL(context.Background(), "https://example.com/a/b", cache.Soft)
		},
		"prefix": func(c *cache.Cache, _ http.Handler) error {
			return c.PurgePrefix(context.Background(), "http://example.com/a/", cache.Hard)
		},
		"tag": func(c *cache.Cache, _ http.Handler) error {
			return c.PurgeTag(context.Background(), "t2", cache.Hard)
		},
		"group": func(c *cache.Cache, _ http.Handler) error {
			return c.PurgeGroup(context.Background(), "http://example.com", "g", cache.Hard)
		},
	}
	for name, purge := range purges {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := &counted{}
				origin.serve = func(w http.ResponseWriter, r *http.Request) {
					if r.Method != http.MethodGet {
						return
					}
					n := origin.calls.Load() // what is read before it is purged
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Surrogate-Key", "t1 t2")
					w.Header().Set("Cache-Groups", `"g"`)
					time.Sleep(time.Second)
					fmt.Fprint(w, n)
				}
				c := newCache(t, cache.Config{})
				h := c.Middleware(origin)
				done := make(chan string)
				go func() { done <- text(t, get(h, "/a/b")) }()
				synctest.Wait()
				require.NoError(t, purge(c, h))
				go func() { done <- text(t, get(h, "/a/b")) }()
				began := time.Now()
				first, second := <-done, <-done
				if name != "tag" && name != "group" { // which nobody knows before the header
					require.Equal(t, time.Second, time.Since(began), "nobody waits for what was purged")
				}
				require.NotEqual(t, first, second,
					"who asks after a purge gets nothing that was fetched before")
				last := text(t, get(h, "/a/b"))
				require.NotEqual(t, "1", last)
			})
		})
	}
}

func labelled() *counted {
	h := &counted{}
	h.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=600, stale-while-revalidate=60")
		w.Header().Set("Surrogate-Key", "all "+strings.Trim(r.URL.Path, "/"))
		w.Header().Add("Cache-Tag", "x, y")
		w.Header().Add("Cache-Groups", `"scripts", "styles";a=1`)
		w.Header().Set("Vary", "X-A")
		_, _ = io.WriteString(w, fmt.Sprint(h.calls.Load()))
	}
	return h
}

func TestPurges(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		name  string
		purge func(c *cache.Cache) error
		gone  []string
	}{
		{"url", func(c *cache.Cache) error {
			return c.PurgeURL(ctx, "http://example.com/a",
				cache.Hard)
		}, []string{"/a"}},
		{"url with ignored query", func(c *cache.Cache) error {
			return c.PurgeURL(ctx,
				"https://EXAMPLE.com:443/a?utm_x=1", cache.Hard)
		}, []string{"/a"}},
		{"url with a query", func(c *cache.Cache) error {
			return c.PurgeURL(ctx,
				"http://example.com/a/b?q=1", cache.Hard)
		}, []string{"/a/b?q=1"}},
		{"prefix", func(c *cache.Cache) error {
			return c.PurgePrefix(ctx, "http://example.com/a/",
				cache.Hard)
		}, []string{"/a/b", "/a/b?q=1", "/a/c"}},
		{"host", func(c *cache.Cache) error {
			return c.PurgePrefix(ctx, "http://example.com",
				cache.Hard)
		}, []string{"/a", "/a/b", "/a/b?q=1", "/a/c", "/b"}},
		{"another host", func(c *cache.Cache) error {
			return c.PurgePrefix(ctx, "http://example.co",
				cache.Hard)
		}, nil},
		{"tag", func(c *cache.Cache) error { return c.PurgeTag(ctx, "a/b", cache.Hard) },
			[]string{"/a/b", "/a/b?q=1"}},
		{"cache-tag", func(c *cache.Cache) error { return c.PurgeTag(ctx, "y", cache.Hard) },
			[]string{"/a", "/a/b", "/a/b?q=1", "/a/c", "/b", "http://other.example/a"}},
		{"group", func(c *cache.Cache) error {
			return c.PurgeGroup(ctx, "https://example.com", "styles",
				cache.Hard)
		}, []string{"/a", "/a/b", "/a/b?q=1", "/a/c", "/b"}},
		{"unknown tag", func(c *cache.Cache) error { return c.PurgeTag(ctx, "z", cache.Hard) }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			origin := labelled()
			c := newCache(t, cache.Config{IgnoreQuery: []string{"utm_*"},
				KeyExtra: extra})
			h := c.Middleware(origin)
			all := []string{"/a", "/a/b", "/a/b?q=1", "/a/c", "/b", "http://other.example/a"}
			read := func(target string) {
				get(h, target)
				get(h, target, "X-A", "1")
				get(h, target, "Extra", "1")
			}
			for _, target := range all {
				read(target)
			}
			require.NoError(t, test.purge(c))
			for _, target := range all {
				before := origin.calls.Load()
				read(target)
				want := int64(0)
				for _, gone := range test.gone {
					if gone == target {
						want = 3
					}
				}
				require.Equal(t, want, origin.calls.Load()-before, target)
			}
		})
	}
}

func TestSoftPurge_IsAsIfFreshnessHadJustEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := labelled()
		c := newCache(t, cache.Config{})
		h := c.Middleware(origin)
		get(h, "/a")
		require.NoError(t, c.PurgeTag(t.Context(), "a", cache.Soft))
		time.Sleep(time.Minute)
		resp := get(h, "/a")
		require.Equal(t, "1", text(t, resp), "it may be used while it is refreshed")
		require.Contains(t, resp.Header.Get("Cache-Status"), "ttl=-60")
		synctest.Wait()
		require.Equal(t, "2", text(t, get(h, "/a")))
		require.NoError(t, c.PurgeTag(t.Context(), "a", cache.Soft))
		time.Sleep(time.Minute + time.Second)
		require.Equal(t, "3", text(t, get(h, "/a")), "beyond its window it may not")
	})
}

func TestPurge_RefusesWhatItDoesNotUnderstand(t *testing.T) {
	c := newCache(t, cache.Config{})
	ctx := context.Background()
	for _, err := range []error{
		c.PurgeURL(ctx, "/a", cache.Hard), c.PurgeURL(ctx, "ftp://a/", cache.Hard), c.PurgePrefix(ctx,
			"a", cache.Hard), c.PurgeTag(ctx, "a", 0),
		c.PurgeGroup(ctx, "", "g", cache.Hard), c.PurgeURL(ctx, "http://a b/", cache.Hard),
	} {
		require.ErrorIs(t, err, cache.ErrPurge)
	}
}

func TestGroups_AnUnsafeRequestInvalidatesThem(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Cache-Group-Invalidation", `"a"`)
			return
		}
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Cache-Groups", r.URL.Query().Get("g"))
	}}
	h := newCache(t, cache.Config{}).Middleware(origin)
	targets := map[string]bool{`/1?g="a"`: true, `/2?g="b","a"`: true, `/3?g="b"`: false,
		`/4?g=a`: false, `http://other.example/?g="a"`: false}
	for target := range targets {
		get(h, target)
	}
	do(h, httptest.NewRequest(http.MethodPost, "/form", nil))
	for target, gone := range targets {
		before := origin.calls.Load()
		get(h, target)
		require.Equal(t, gone, origin.calls.Load() > before, target)
	}
}

func TestPurges_AreRememberedInBoundedMemory(t *testing.T) {
	origin := labelled()
	c := newCache(t, cache.Config{})
	h := c.Middleware(origin)
	get(h, "/a/1")
	get(h, "/zzz")
	for i := range 2000 {
		require.NoError(t, c.PurgePrefix(context.Background(), fmt.Sprintf("http://example.com/a/%d/",
			i), cache.Hard))
	}
	before := origin.calls.Load()
	get(h, "/zzz")
	require.Equal(t, before, origin.calls.Load(), "what they have in common stays below /a/")
	get(h, "/a/1")
	get(h, "/a/17/x")
	require.NoError(t, c.PurgePrefix(context.Background(), "http://example.com/a/17", cache.Hard))
	before = origin.calls.Load()
	get(h, "/a/17/x")
	require.Equal(t, before+1, origin.calls.Load())
}
