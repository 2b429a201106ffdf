package cache_test

import (
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
