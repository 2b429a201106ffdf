package cache_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

const farBudget = 20 * time.Millisecond

// A failingFar answers a number of calls, and fails all later ones after a time.
type failingFar struct {
	*farStore
	well    int
	failing string   // fails always
	during  func()   // what happens while that fails
	calls   []string // server.mu guards it
}

func (s *failingFar) call(name string) error {
	s.server.mu.Lock()
	s.calls = append(s.calls, name)
	failing := len(s.calls) > s.well
	s.server.mu.Unlock()
	if name == s.failing {
		s.during()
		return errFar
	}
	if failing {
		time.Sleep(farBudget)
		return errFar
	}
	return nil
}

func (s *failingFar) Get(ctx context.Context, key cache.Key) (*cache.Resource, cache.Mark, error) {
	if err := s.call("get"); err != nil {
		return nil, 0, err
	}
	return s.farStore.Get(ctx, key)
}

func (s *failingFar) Put(ctx context.Context, key cache.Key, e *cache.Entry, most int) error {
	if err := s.call("put"); err != nil {
		return err
	}
	return s.farStore.Put(ctx, key, e, most)
}

func (s *failingFar) Purge(ctx context.Context, p cache.Purge) error {
	if err := s.call("purge"); err != nil {
		return err
	}
	return s.farStore.Purge(ctx, p)
}

func (s *failingFar) Lock(ctx context.Context, key cache.Key, limit time.Duration) (cache.FarLock, error) {
	if err := s.call("lock"); err != nil {
		return cache.FarLock{}, err
	}
	return s.farStore.Lock(ctx, key, limit)
}

// TestC61_ARequestWaitsOnceForAFarThatFails, whichever of its calls is the first to fail.
func TestC61_ARequestWaitsOnceForAFarThatFails(t *testing.T) {
	for well, want := range []string{
		"get", "get lock", "get lock get", "get lock get put", "get lock get put",
	} {
		synctest.Test(t, func(t *testing.T) {
			near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
			require.NoError(t, err)
			far := &failingFar{farStore: &farStore{server: newFarServer()}, well: well}
			tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far})
			require.NoError(t, err)
			c := newCache(t, cache.Config{Store: tiered})
			h := c.Middleware(numbered("Cache-Control", "max-age=600"))
			p := &tier{tiered: tiered}
			p.run()
			defer p.stop()
			from := time.Now()
			require.Equal(t, "1", text(t, get(h, "/")))
			waited := min(1, len(strings.Fields(want))-well)
			require.Equal(t, time.Duration(waited)*farBudget, time.Since(from), "failing after %d", well)
			require.Equal(t, strings.Fields(want), far.calls)
			require.True(t, fromCache(get(h, "/")), "it is in the near tier")
			require.Equal(t, strings.Fields(want), far.calls)
			require.EqualValues(t, waited, tiered.Stats().Failures)
		})
	}
}

// TestC61_ALookThatFailedIsNotFollowedByAPut in a Cache whose only store that is.
func TestC61_ALookThatFailedIsNotFollowedByAPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &failingFar{farStore: &farStore{server: newFarServer(), told: func(cache.FarPurge) {}}}
		c := newCache(t, cache.Config{Store: far})
		h := c.Middleware(numbered("Cache-Control", "max-age=600"))
		from := time.Now()
		get(h, "/")
		require.Equal(t, farBudget, time.Since(from))
		require.Equal(t, []string{"get"}, far.calls)
		require.Zero(t, c.Stats().Stored)
		far.well = len(far.calls) + 10
		get(h, "/")
		require.True(t, fromCache(get(h, "/")), "the next request tries again")
	})
}

// TestC61_AnUnsafeRequestWaitsOnceForAFarThatFails, and forgets here all that it should.
func TestC61_AnUnsafeRequestWaitsOnceForAFarThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
		require.NoError(t, err)
		far := &failingFar{farStore: &farStore{server: newFarServer()}, well: 100}
		tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far})
		require.NoError(t, err)
		h := newCache(t, cache.Config{Store: tiered}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=600")
				w.Header().Set("Location", "/b")
				w.Header().Set("Content-Location", "/c")
			}))
		for _, path := range []string{"/a", "/b", "/c"} {
			get(h, path)
			require.True(t, fromCache(get(h, path)))
		}
		far.well, far.calls = 0, nil
		from := time.Now()
		do(h, newRequest(http.MethodPost, "/a"))
		require.Equal(t, farBudget, time.Since(from))
		require.Equal(t, 1, len(slices.DeleteFunc(far.calls, func(s string) bool { return s != "purge" })))
		far.well = 1000
		for _, path := range []string{"/a", "/b", "/c"} {
			require.False(t, fromCache(get(h, path)), path)
		}
	})
}
