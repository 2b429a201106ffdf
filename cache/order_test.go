package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A lateStore holds one answer back.
type lateStore struct {
	cache.Store
	armed atomic.Bool
	hold  chan struct{}
}

func (s *lateStore) Get(ctx context.Context, key cache.Key) (*cache.Resource, cache.Mark, error) {
	r, mark, err := s.Store.Get(ctx, key)
	if s.armed.CompareAndSwap(true, false) {
		<-s.hold
	}
	return r, mark, err
}

func TestCoalescing_AMissThatWasOvertakenAsksTheStoreAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
		require.NoError(t, err)
		store := &lateStore{Store: memory, hold: make(chan struct{})}
		origin := numbered("Cache-Control", "max-age=60")
		h := newCache(t, cache.Config{Store: store}).Middleware(origin)
		store.armed.Store(true)
		late := make(chan string)
		go func() { late <- text(t, get(h, "/")) }()
		synctest.Wait()
		require.Equal(t, "1", text(t, get(h, "/")))
		synctest.Wait()
		close(store.hold)
		require.Equal(t, "1", <-late)
		require.EqualValues(t, 1, origin.calls.Load())
	})
}

func TestNoVarySearch_ARuleThatIsLearnedAgainFindsNothingOlder(t *testing.T) {
	rule := `params=("utm")`
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if rule != "" {
			w.Header().Set("No-Vary-Search", rule)
		}
		_, _ = io.WriteString(w, r.URL.RawQuery)
	}}
	c := newCache(t, cache.Config{})
	h := c.Middleware(origin)
	require.Equal(t, "a=1&utm=1", text(t, get(h, "/?a=1&utm=1")))
	require.Equal(t, "a=1&utm=1", text(t, get(h, "/?a=1&utm=2")))
	rule = ""
	get(h, "/?a=1&utm=1", "Cache-Control", "no-cache")
	require.NoError(t, c.PurgeURL(t.Context(), "http://example.com/?a=1&utm=2", cache.Hard))
	rule = `params=("utm")`
	get(h, "/?a=9&utm=1")
	require.Equal(t, "a=1&utm=2", text(t, get(h, "/?a=1&utm=2")), "what was purged meanwhile stays away")
}

func TestMiddleware_WhatIsForbiddenAroundTheHandlerIsNotStored(t *testing.T) {
	for control, stored := range map[string]bool{"no-store": false, "private": false, "max-age=5": true} {
		origin := numbered("Last-Modified", ago(1e15))
		inner := newCache(t, cache.Config{}).Middleware(origin)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", control)
			inner.ServeHTTP(w, r)
		})
		get(h, "/")
		get(h, "/")
		require.Equal(t, stored, origin.calls.Load() == 1, control)
	}
}

// A fetch that began before another and ends after it must not bring back what it saw.
func TestC45_ASlowFetchDoesNotReplaceWhatIsNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var version atomic.Int64
		version.Store(1)
		h := newCache(t, cache.Config{}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mine := version.Load()
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Etag", fmt.Sprintf(`"%d"`, mine))
				_, _ = io.WriteString(w, "version ")
				w.(http.Flusher).Flush()
				if r.Header.Get("Cookie") != "" {
					time.Sleep(10 * time.Second)
				}
				fmt.Fprint(w, mine)
			}))
		var wg sync.WaitGroup
		slow := visitAs(h, request("/", "Cookie", "slow"), &wg)
		time.Sleep(time.Second)
		version.Store(2)
		require.Equal(t, "version 2", text(t, get(h, "/")))
		wg.Wait()
		require.Equal(t, "version 1", slow.body)
		require.Equal(t, "version 2", text(t, get(h, "/")))
	})
}

// A whole that began before a part of the same version was stored is better than the part.
func TestC45_ASlowWholeReplacesAPartOfItsVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newRanged("0123456789", `"1"`)
		h := newCache(t, cache.Config{}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") == "" {
					time.Sleep(time.Second)
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Etag", `"1"`)
					_, _ = io.WriteString(w, "01234")
					w.(http.Flusher).Flush()
					time.Sleep(10 * time.Second)
					_, _ = io.WriteString(w, "56789")
					return
				}
				origin.ServeHTTP(w, r)
			}))
		var wg sync.WaitGroup
		visitAs(h, request("/"), &wg)
		time.Sleep(2 * time.Second)
		require.Equal(t, "23", text(t, get(h, "/", "Range", "bytes=2-3")))
		wg.Wait()
		began := time.Now()
		require.Equal(t, "0123456789", text(t, get(h, "/")))
		require.Zero(t, time.Since(began))
	})
}

// Two POSTs at once: the one that saw the older state answers last.
func TestC45_ASlowPostDoesNotReplaceWhatAnotherHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var state atomic.Value
		state.Store("none")
		c := newCache(t, cache.Config{})
		h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				state.Store(r.Header.Get("State"))
			}
			mine := state.Load().(string)
			if mine == "slow" && r.Method == http.MethodPost {
				time.Sleep(10 * time.Second)
			}
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Content-Location", "/")
			_, _ = io.WriteString(w, mine)
		}))
		post := func(state string) *http.Request {
			r := newRequest(http.MethodPost, "/")
			r.Header.Set("State", state)
			return r
		}
		do(h, post("alone"))
		resp := get(h, "/")
		require.Equal(t, "alone", text(t, resp))
		require.True(t, fromCache(resp))

		var wg sync.WaitGroup
		visitAs(h, post("slow"), &wg)
		time.Sleep(time.Second)
		do(h, post("fast"))
		wg.Wait()
		require.Equal(t, "fast", text(t, get(h, "/")))

		visitAs(h, post("slow"), &wg)
		time.Sleep(time.Second)
		state.Store("purged")
		require.NoError(t, c.PurgeURL(t.Context(), "http://example.com/", cache.Hard))
		wg.Wait()
		require.Equal(t, "purged", text(t, get(h, "/")))
	})
}

func TestC45_AHeadUnderWayDoesNotUndoAPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{})
		h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			if r.Method == http.MethodHead {
				time.Sleep(10 * time.Second)
			}
		}))
		get(h, "/")
		time.Sleep(2 * time.Minute)
		var wg sync.WaitGroup
		visitAs(h, newRequest(http.MethodHead, "/"), &wg)
		time.Sleep(time.Second)
		require.NoError(t, c.PurgeURL(t.Context(), "http://example.com/", cache.Soft))
		wg.Wait()
		require.False(t, fromCache(get(h, "/")))
	})
}

// A purge through a cache that has never seen the rule finds what the rule finds.
func TestPurgeURL_ReachesWhatAnotherCachesNoVarySearchFinds(t *testing.T) {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	origin := saying(fixed("x"), "Cache-Control", "max-age=60", "No-Vary-Search", `params=("utm")`)
	h := newCache(t, cache.Config{Store: store}).Middleware(origin)
	other := newCache(t, cache.Config{Store: store})
	get(h, "/p?a=1&utm=2")
	get(h, "/p?a=2&utm=2")
	get(other.Middleware(origin), "/p?a=1")
	require.EqualValues(t, 2, origin.calls.Load())
	require.NoError(t, other.PurgeURL(t.Context(), "http://example.com/p?a=1", cache.Hard))
	get(h, "/p?a=1")
	require.EqualValues(t, 3, origin.calls.Load())
	get(h, "/p?a=2")
	require.EqualValues(t, 3, origin.calls.Load(), "another query is not touched")
}

func TestPurgeURL_ReachesEverySpellingOfAURL(t *testing.T) {
	for _, pair := range [][2]string{
		{"/%7euser", "/~user"}, {"/~user", "/%7Euser"}, {"/a%2fb", "/a%2Fb"},
		{"/?q=%61%c3%bc", "/?q=a%C3%BC"},
		{"/100%25", "/100%25"},
	} {
		origin := saying(fixed("x"), "Cache-Control", "max-age=60")
		c := newCache(t, cache.Config{})
		h := c.Middleware(origin)
		get(h, pair[0])
		get(h, "/a/b")
		require.NoError(t, c.PurgeURL(t.Context(), "http://example.com"+pair[1], cache.Hard))
		get(h, pair[0])
		require.EqualValues(t, 3, origin.calls.Load(), pair)
		get(h, "/a/b")
		require.EqualValues(t, 3, origin.calls.Load(), "/a%2fb is another path")
	}
}
