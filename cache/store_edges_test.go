package cache_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// post sends a POST.
func post(h http.Handler, target string) *http.Response {
	return do(h, newRequest(http.MethodPost, target))
}

// A response to POST answers GETs only if it says that it is what they would get, all of it.
func TestPost_WhatDoesNotAnswerGetsIsNotStored(t *testing.T) {
	for name, test := range map[string]struct {
		location string
		fields   []string
		stored   bool
	}{
		"own URL":        {"/p?a=1", nil, true},
		"another query":  {"/p?a=2", nil, false},
		"Vary":           {"/p?a=1", []string{"Vary", "X-A"}, false},
		"truncated":      {"/p?a=1", []string{"Content-Length", "99"}, false},
		"another path":   {"/q?a=1", nil, false},
		"another origin": {"http://other.example/p?a=1", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newCache(t, cache.Config{}).Middleware(saying(fixed("tea"), append([]string{
				"Cache-Control", "max-age=60", "Content-Location", test.location}, test.fields...)...))
			post(h, "/p?a=1")
			require.Equal(t, test.stored, fromCache(get(h, "/p?a=1")))
		})
	}
	h := newCache(t, cache.Config{MaxObject: 10}).Middleware(saying(fixed("a body of some length"),
		"Cache-Control", "max-age=60", "Content-Location", "/p"))
	post(h, "/p")
	require.False(t, fromCache(get(h, "/p")), "it is larger than MaxObject")
}

func TestC50_AHeadOfAnotherStatusUpdatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := http.StatusNotFound
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.WriteHeader(status)
			}))
		get(h, "/")
		time.Sleep(70 * time.Second)
		status = http.StatusOK
		do(h, newRequest(http.MethodHead, "/"))
		require.Equal(t, http.StatusOK, get(h, "/").StatusCode)
	})
}

// A URL with more variants than fit keeps the latest ones.
func TestC13_VariantsThatDoNotFitLeave(t *testing.T) {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{MaxBytes: 64 << 10})
	require.NoError(t, err)
	h := newCache(t, cache.Config{Store: store, MaxObject: 8 << 10}).Middleware(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "X-A")
			_, _ = io.WriteString(w, strings.Repeat("x", 4<<10))
		}))
	for i := range 20 {
		get(h, "/", "X-A", fmt.Sprint(i))
		require.True(t, fromCache(get(h, "/", "X-A", fmt.Sprint(i))), i)
	}
}

func TestMemoryStore_APurgedVariantLeavesWithTheNextPut(t *testing.T) {
	store := newSpyStore(t, cache.MemoryStoreConfig{})
	c := newCache(t, cache.Config{Store: store})
	h := c.Middleware(varying("X-A"))
	for i := range 5 {
		get(h, "/", "X-A", fmt.Sprint(i))
		require.NoError(t, c.PurgeURL(t.Context(), "http://example.com/", cache.Hard))
	}
	require.Equal(t, 1, store.most)
}

func TestC16_FetchesOfOneKeyThatOthersMayFollowAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "X-A")
			_, _ = io.WriteString(w, r.Header.Get("X-A"))
		}}
		h := newCache(t, cache.Config{MaxVariants: 2}).Middleware(origin)
		get(h, "/", "X-A", "first") // tells that there are variants
		var wg sync.WaitGroup
		for _, name := range []string{"a", "b", "c"} {
			for range 2 {
				v := visitAs(h, request("/", "X-A", name), &wg)
				synctest.Wait()
				defer func() { require.Equal(t, name, v.body) }()
			}
		}
		wg.Wait()
		require.EqualValues(t, 1+2+2, origin.calls.Load(), "c is followed by none")
	})
}

func TestMemoryStore_PrivateAndSharedCachesShareNoResponse(t *testing.T) {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	origin := saying(fixed("x"), "Cache-Control", "private, max-age=60")
	private := newCache(t, cache.Config{Store: store, Private: true}).Middleware(origin)
	get(private, "/")
	require.True(t, fromCache(get(private, "/")))
	require.False(t, fromCache(get(newCache(t, cache.Config{Store: store}).Middleware(origin), "/")))
}

// Responses of one path that have different rules do not make each other's be forgotten.
func TestNoVarySearch_ARuleThatIsKnownFindsWhatIsOlder(t *testing.T) {
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		ignored := "x"
		if r.URL.Query().Has("b") {
			ignored = "y"
		}
		w.Header().Set("No-Vary-Search", `params=("`+ignored+`")`)
		_, _ = io.WriteString(w, r.URL.RawQuery)
	}}
	c := newCache(t, cache.Config{})
	h := c.Middleware(origin)
	require.Equal(t, "a=1&x=1", text(t, get(h, "/?a=1&x=1")))
	require.NoError(t, c.PurgeTag(t.Context(), "unrelated", cache.Hard))
	get(h, "/?b=1&y=1")
	get(h, "/?a=2&x=1")
	require.Equal(t, "a=1&x=1", text(t, get(h, "/?a=1&x=2")))
	require.EqualValues(t, 3, origin.calls.Load())
}

// Two purges by prefix that became one, since there are too many, are as late as the later for what
// was stored between them, and stale since the earlier.
func TestPurges_OfPrefixesThatBecameOne(t *testing.T) {
	for _, how := range []cache.Invalidation{cache.Soft, cache.Hard} {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			store := newSpyStore(t, cache.MemoryStoreConfig{})
			mark := func() cache.Mark {
				_, mark, err := store.Get(ctx, cache.Key{})
				require.NoError(t, err)
				return mark
			}
			purge := func(prefix string) { // what others purge meanwhile
				require.NoError(t, store.Purge(ctx, cache.Purge{Prefix: prefix, How: how}))
			}
			for i := range 127 {
				purge(fmt.Sprintf("//host%03d/", i))
			}
			first := &cache.Entry{Mark: mark(), URL: "//the.same.host/a1/"}
			purge("//the.same.host/a1/")
			at := time.Now()
			second := &cache.Entry{Mark: mark(), URL: "//the.same.host/a2/"}
			time.Sleep(time.Minute)
			purge("//the.same.host/a2/")
			for _, e := range []*cache.Entry{first, second} {
				got, since := store.Purged(e)
				require.Equal(t, how, got, e.URL)
				if how == cache.Soft {
					require.True(t, since.Equal(at), "%v is not %v", since, at)
				}
			}
		})
	}
}

// A snapshot's count of purges means nothing in another process: there it begins anew.
func TestMemoryStore_WhatWasRestoredCanBePurged(t *testing.T) {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	c := newCache(t, cache.Config{Store: store})
	for range 50 {
		require.NoError(t, c.PurgeTag(t.Context(), "another", cache.Hard))
	}
	get(c.Middleware(numbered("Cache-Control", "max-age=60", "Surrogate-Key", "t")), "/")
	var file bytes.Buffer
	require.NoError(t, store.Save(&file))

	restored, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	require.NoError(t, restored.Restore(&file))
	c = newCache(t, cache.Config{Store: restored})
	h := c.Middleware(numbered("Cache-Control", "max-age=60"))
	require.True(t, fromCache(get(h, "/")))
	require.NoError(t, c.PurgeTag(t.Context(), "t", cache.Hard))
	require.False(t, fromCache(get(h, "/")))
}

// A body of MaxObject bytes is stored, one of a byte more is not: whether its length is announced
// or not, if it completes a part, and if it comes for a POST.
func TestMaxObject_IsTheLargestBodyThatIsStored(t *testing.T) {
	for most, stored := range map[int64]bool{10: true, 9: false} {
		for name, serve := range map[string]http.HandlerFunc{
			"announced": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "10")
				_, _ = io.WriteString(w, digits)
			},
			"not announced": func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, digits[:5])
				w.(http.Flusher).Flush()
				_, _ = io.WriteString(w, digits[5:])
			},
		} {
			h := newCache(t, cache.Config{MaxObject: most}).Middleware(http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Content-Location", r.URL.Path)
					serve(w, r)
				}))
			get(h, "/get")
			require.Equal(t, stored, fromCache(get(h, "/get")), "%s, %d", name, most)
			post(h, "/post")
			require.Equal(t, stored, fromCache(get(h, "/post")), "%s, %d", name, most)
		}
		h := newCache(t, cache.Config{MaxObject: most}).Middleware(newRanged(digits, `"1"`))
		get(h, "/", "Range", "bytes=0-3")
		require.Equal(t, digits, text(t, get(h, "/")))
		require.Equal(t, stored, fromCache(get(h, "/")), "completed, %d", most)
	}
}
