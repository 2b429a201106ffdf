package rediscache_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// TestC61_AServerThatTakesNoMoreClients answers an error to each new one.
func TestC61_AServerThatTakesNoMoreClients(t *testing.T) {
	server := startRedis(t)
	held := server.client(t)
	require.NoError(t, held.ConfigSet(t.Context(), "maxclients", "1").Err())
	origin := newOrigin()
	fleet := startFleet(t, 1, givingUp(t, server), generous, slow, origin)
	for i := range 5 {
		get(t, fleet[0].h, fmt.Sprint("/", i))
	}
	require.Error(t, fleet[0].cache.PurgeTag(t.Context(), "tag-x", cache.Hard))
	require.NoError(t, held.ConfigSet(t.Context(), "maxclients", "100").Err())
	require.Eventually(t, func() bool {
		return fleet[0].cache.PurgeTag(context.Background(), "tag-x", cache.Hard) == nil
	}, time.Minute, time.Millisecond)
	run(t, fleet...)
}

// A tardyFar lets something happen when a purge is done in this process, and not in the far store.
type tardyFar struct {
	cache.FarStore
	before func()
}

func (f *tardyFar) Purge(ctx context.Context, p cache.Purge) error {
	f.before()
	return f.FarStore.Purge(ctx, p)
}

// TestC63_ALookWhileAPurgeIsUnderWay finds what the far store has not forgotten yet: it is used no
// more once the purge is done.
func TestC63_ALookWhileAPurgeIsUnderWay(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	far := &tardyFar{FarStore: newStore(t, server.client(t), generous)}
	tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far, NearTTL: time.Nanosecond})
	require.NoError(t, err)
	c := newCache(t, cache.Config{Store: tiered})
	h := c.Middleware(origin)
	get(t, h, "/x")
	want := origin.change("/x")
	far.before = func() {
		_, status := get(t, h, "/x")
		require.True(t, hit(status), status)
	}
	require.NoError(t, c.PurgeTag(t.Context(), "tag-x", cache.Hard))
	generation, _ := get(t, h, "/x")
	require.Equal(t, want, generation)
}

// TestC61_EveryConnectionIsCutOff, those of subscriptions too, again and again.
func TestC61_EveryConnectionIsCutOff(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	clients := func() redis.UniversalClient {
		c := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: 3})
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	fleet := startFleet(t, 2, clients, generous, slow, origin)
	run(t, fleet...)
	for range 5 {
		for _, p := range fleet {
			get(t, p.h, "/x")
		}
		for _, kind := range []string{"pubsub", "normal"} {
			server.do("client", "kill", "type", kind)
		}
		want := origin.change("/x")
		require.Eventually(t, func() bool {
			return fleet[0].cache.PurgeTag(context.Background(), "tag-x", cache.Hard) == nil
		}, time.Minute, time.Millisecond)
		for _, p := range fleet {
			require.Eventually(t, func() bool {
				generation, _ := get(t, p.h, "/x")
				return generation == want
			}, time.Minute, time.Millisecond)
		}
	}
	connected(t, fleet...)
}

// TestTiered_AClientThatIsClosedEndsRun, with an error that says so.
func TestTiered_AClientThatIsClosedEndsRun(t *testing.T) {
	server := startRedis(t)
	fleet := startFleet(t, 1, onServer(t, server), generous, slow, newOrigin())
	ended := make(chan error)
	go func() { ended <- fleet[0].tiered.Run(context.Background()) }()
	connected(t, fleet...)
	require.NoError(t, fleet[0].client.Close())
	require.ErrorIs(t, <-ended, redis.ErrClosed)
	get(t, fleet[0].h, "/x")
}

// TestTiered_WhatIsTooLargeForRedis is in the near tiers, and no process waits for another's.
func TestTiered_WhatIsTooLargeForRedis(t *testing.T) {
	server := startRedis(t)
	var here sync.WaitGroup
	here.Add(3)
	first := make(chan struct{})
	var calls atomic.Int64
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			<-first
		} else {
			here.Done()
			here.Wait() // all others are here at the same time
		}
		w.Header().Set("Cache-Control", "max-age=600")
		_, _ = w.Write(make([]byte, 200<<10))
	})
	cfg := generous
	cfg.MaxBody = 64 << 10
	fleet := startFleet(t, 4, onServer(t, server), cfg, slow, origin)
	run(t, fleet...)
	ask := func(p *process) string {
		w := httptest.NewRecorder()
		p.h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://example.com/", nil))
		if w.Body.Len() != 200<<10 {
			t.Errorf("status %d, %d bytes", w.Code, w.Body.Len())
		}
		return w.Header().Get("Cache-Status")
	}
	var wg sync.WaitGroup
	for _, p := range fleet {
		wg.Go(func() { ask(p) })
	}
	require.Eventually(t, func() bool {
		var waiting uint64
		for _, p := range fleet {
			waiting += p.tiered.Stats().Waits
		}
		return waiting == 3
	}, time.Minute, time.Millisecond)
	close(first)
	wg.Wait()
	require.EqualValues(t, 4, calls.Load())
	for _, p := range fleet {
		status := ask(p)
		require.True(t, hit(status), status)
		require.Zero(t, p.cache.Stats().Failures)
		require.Zero(t, p.tiered.Stats().Failures)
	}
}
