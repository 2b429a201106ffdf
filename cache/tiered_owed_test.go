package cache_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// TestC63_AnUnsafeRequestWhileFarIsAway is not forgotten: nobody would repeat its purge.
func TestC63_AnUnsafeRequestWhileFarIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		origin := numbered("Cache-Control", "max-age=600")
		a := newTier(t, server, cache.TieredConfig{}, origin)
		b := newTier(t, server, cache.TieredConfig{}, origin)
		for _, p := range []*tier{a, b} {
			p.run()
			defer p.stop()
		}
		get(a.h, "/x")
		require.Equal(t, "1", text(t, get(b.h, "/x")))
		a.far.down.Store(true)
		require.Equal(t, "2", text(t, do(a.h, newRequest(http.MethodPost, "/x"))))
		require.Equal(t, 1, a.tiered.Stats().Owed)
		time.Sleep(10 * time.Second)
		require.Equal(t, "1", text(t, get(b.h, "/x")), "it could not be told")
		a.far.down.Store(false)
		require.Equal(t, "3", text(t, get(a.h, "/x")), "far has an old one")
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		require.Zero(t, a.tiered.Stats().Owed)
		require.NotEqual(t, "1", text(t, get(b.h, "/x")))
	})
}

// TestC63_WhatIsOwedIsBounded: too much of it purges everything.
func TestC63_WhatIsOwedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		origin := numbered("Cache-Control", "max-age=600")
		a := newTier(t, server, cache.TieredConfig{}, origin)
		get(newTier(t, server, cache.TieredConfig{}, origin).h, "/x")
		a.far.down.Store(true)
		require.Error(t, a.cache.PurgeTag(t.Context(), "x", cache.Hard))
		require.Zero(t, a.tiered.Stats().Owed, "nobody would repeat it")
		a.run()
		defer a.stop()
		for i := range 300 {
			for range 2 {
				require.Error(t, a.cache.PurgeTag(t.Context(), fmt.Sprint(i), cache.Hard))
			}
		}
		require.LessOrEqual(t, a.tiered.Stats().Owed, 256)
		a.far.down.Store(false)
		require.Equal(t, "2", text(t, get(a.h, "/x")), "it may be among those that were too many")
		time.Sleep(time.Second)
		require.Zero(t, a.tiered.Stats().Owed)
	})
}

// TestC63_ALookBetweenAPurgeAndItsFailure finds what far has not forgotten, and keeps it no longer
// than the purge lasts.
func TestC63_ALookBetweenAPurgeAndItsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
		require.NoError(t, err)
		far := &failingFar{farStore: &farStore{server: newFarServer()}, well: 100}
		tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far, NearTTL: time.Minute})
		require.NoError(t, err)
		c := newCache(t, cache.Config{Store: tiered})
		h := c.Middleware(numbered("Cache-Control", "max-age=600", "Surrogate-Key", "a"))
		get(h, "/")
		time.Sleep(2 * time.Minute) // the near tier is not sure any more
		far.during = func() { require.Equal(t, "1", text(t, get(h, "/"))) }
		far.failing = "purge"
		require.ErrorIs(t, c.PurgeTag(t.Context(), "a", cache.Hard), cache.ErrUnreached)
		require.Equal(t, "2", text(t, get(h, "/")))
	})
}

// TestC63_APurgeThatFailsWhileItIsRepeated is not repaid by what began before it.
func TestC63_APurgeThatFailsWhileItIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		far := &repeatingFar{farStore: &farStore{server: server}}
		near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
		require.NoError(t, err)
		tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far})
		require.NoError(t, err)
		p := &tier{tiered: tiered}
		p.run()
		defer p.stop()
		purge := cache.Purge{Label: "x", How: cache.Hard}
		far.down.Store(true)
		require.Error(t, tiered.Purge(t.Context(), purge))
		far.during = func() {
			far.during = nil
			far.down.Store(true)
			require.Error(t, tiered.Purge(t.Context(), purge))
			far.down.Store(false)
		}
		far.down.Store(false)
		time.Sleep(5 * time.Second)
		require.Zero(t, tiered.Stats().Owed)
		require.Len(t, server.purges, 2)
	})
}

// In a repeatingFar something happens once after a purge was done and before it is told.
type repeatingFar struct {
	*farStore
	during func()
}

func (s *repeatingFar) Purge(ctx context.Context, p cache.Purge) error {
	err := s.farStore.Purge(ctx, p)
	if err == nil && s.during != nil {
		s.during()
	}
	return err
}
