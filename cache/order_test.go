package cache_test

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

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
