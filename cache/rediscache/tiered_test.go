package rediscache_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestTiered_NearHitsCallNobody(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	fleet := startFleet(t, 2, onServer(t, server), generous, slow, origin)
	run(t, fleet...)
	get(t, fleet[0].h, "/x")
	_, status := get(t, fleet[1].h, "/x")
	require.True(t, hit(status), status)
	before := fleet[1].tiered.Stats()
	for range 100 {
		_, status := get(t, fleet[1].h, "/x")
		require.True(t, hit(status), status)
	}
	after := fleet[1].tiered.Stats()
	require.Equal(t, before.FarHits, after.FarHits)
	require.EqualValues(t, 1, origin.calls.Load())
}

// TestC63_TiersAgreeAfterAPurge: of one process, by whatever means, in all near tiers.
func TestC63_TiersAgreeAfterAPurge(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin("Cache-Groups", `"g"`, "Cache-Control", "max-age=600")
	fleet := startFleet(t, 3, onServer(t, server), generous, slow, origin)
	run(t, fleet...)
	ctx := t.Context()
	c := fleet[0].cache
	for name, purge := range map[string]func() error{
		"url":    func() error { return c.PurgeURL(ctx, "http://example.com/x", cache.Hard) },
		"prefix": func() error { return c.PurgePrefix(ctx, "http://example.com/", cache.Hard) },
		"tag":    func() error { return c.PurgeTag(ctx, "tag-x", cache.Hard) },
		"group":  func() error { return c.PurgeGroup(ctx, "http://example.com", "g", cache.Hard) },
	} {
		for _, p := range fleet {
			get(t, p.h, "/x")
		}
		want := origin.change("/x")
		require.NoError(t, purge())
		generation, _ := get(t, fleet[0].h, "/x")
		require.Equal(t, want, generation, "%s: in the process that purged, at once", name)
		for _, p := range fleet {
			require.Eventually(t, func() bool {
				generation, _ := get(t, p.h, "/x")
				return generation == want
			}, time.Minute, time.Millisecond, name)
		}
	}
}

// TestC63_WithoutRunANearEntryIsUsedForNearTTL: then the far tier is asked, and knows.
func TestC63_WithoutRunANearEntryIsUsedForNearTTL(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	fleet := startFleet(t, 2, onServer(t, server), generous,
		cache.TieredConfig{NearTTL: 200 * time.Millisecond}, origin)
	get(t, fleet[1].h, "/x")
	want := origin.change("/x")
	require.NoError(t, fleet[0].cache.PurgeTag(t.Context(), "tag-x", cache.Hard))
	purged := time.Now()
	for {
		asked := time.Now()
		generation, _ := get(t, fleet[1].h, "/x")
		if generation == want {
			break
		}
		require.Less(t, asked.Sub(purged), 200*time.Millisecond)
	}
	require.EqualValues(t, 2, origin.calls.Load())
}

// TestC63_ASlowFillBringsNothingBack: what was being fetched in one process when another purged it.
func TestC63_ASlowFillBringsNothingBack(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	began, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	origin.delay = func() {
		once.Do(func() {
			close(began)
			<-goOn
		})
	}
	for _, tiered := range []bool{false, true} {
		t.Run(fmt.Sprint("tiered=", tiered), func(t *testing.T) {
			path := fmt.Sprint("/slow-", tiered)
			began, goOn, once = make(chan struct{}), make(chan struct{}), sync.Once{}
			fleet := startFleet(t, 2, onServer(t, server), generous, slow, origin)
			hs := []http.Handler{fleet[0].h, fleet[1].h}
			purge := fleet[1].cache
			if tiered {
				run(t, fleet...)
			} else {
				for i := range hs {
					c := newCache(t, cache.Config{Store: newStore(t, server.client(t), generous)})
					hs[i] = c.Middleware(origin)
					purge = c
				}
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				generation, _, err := ask(hs[0], path)
				if generation != 0 || err != nil {
					t.Error(generation, err)
				}
			})
			<-began
			want := origin.change(path)
			require.NoError(t, purge.PurgeURL(t.Context(), "http://example.com"+path, cache.Hard))
			close(goOn)
			wg.Wait()
			for _, h := range hs {
				if tiered { // the other process hears of it a moment later
					require.Eventually(t, func() bool {
						generation, _ := get(t, h, path)
						return generation == want
					}, time.Minute, time.Millisecond)
				}
				for range 3 {
					generation, status := get(t, h, path)
					require.Equal(t, want, generation, status)
				}
			}
		})
	}
}

// TestC63_APurgeThatReachesNobodyElseIsAnError and is a purge all the same in this process.
func TestC63_APurgeThatReachesNobodyElseIsAnError(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	fleet := startFleet(t, 2, givingUp(t, server), generous, slow, origin)
	run(t, fleet...)
	get(t, fleet[0].h, "/x")
	get(t, fleet[1].h, "/x")
	server.Kill()
	want := origin.change("/x")
	err := fleet[0].cache.PurgeTag(t.Context(), "tag-x", cache.Hard)
	require.ErrorIs(t, err, cache.ErrUnreached)
	generation, _ := get(t, fleet[0].h, "/x")
	require.Equal(t, want, generation)
	require.EqualValues(t, 1, fleet[0].tiered.Stats().Unreached)
	server.Restart()
	// Said again, it reaches all.
	require.Eventually(t, func() bool {
		return fleet[0].cache.PurgeTag(t.Context(), "tag-x", cache.Hard) == nil
	}, time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		generation, _ := get(t, fleet[1].h, "/x")
		return generation == want
	}, time.Minute, time.Millisecond)
}

// TestTiered_AGapIsMadeUpFor: a process that was cut off learns what was purged meanwhile.
func TestTiered_AGapIsMadeUpFor(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	fleet := startFleet(t, 2, onServer(t, server), generous, slow, origin)
	run(t, fleet...)
	for i := range 3 {
		get(t, fleet[1].h, fmt.Sprint("/", i))
	}
	fleet[1].stop() // it hears nothing
	want := origin.change("/1")
	for i := range 1500 { // more than one page
		require.NoError(t, fleet[0].cache.PurgeTag(t.Context(), fmt.Sprint("some", i), cache.Hard))
	}
	require.NoError(t, fleet[0].cache.PurgeTag(t.Context(), "tag-1", cache.Hard))
	calls := origin.calls.Load()
	run(t, fleet[1])
	require.Eventually(t, func() bool {
		generation, _ := get(t, fleet[1].h, "/1")
		return generation == want
	}, time.Minute, time.Millisecond)
	_, status := get(t, fleet[1].h, "/0")
	require.True(t, hit(status), "what was not purged is there: %s", status)
	require.EqualValues(t, 1, origin.calls.Load()-calls)
}

// TestTiered_OneFetchForTheFleet: 8 processes with 125 requests each want one cold key.
func TestTiered_OneFetchForTheFleet(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	release := make(chan struct{})
	origin.delay = func() { <-release }
	fleet := startFleet(t, 8, onServer(t, server), generous, slow, origin)
	run(t, fleet...)
	rounds := 1
	if soak() {
		rounds = 100
	}
	for round := range rounds {
		release = make(chan struct{})
		before := origin.calls.Load()
		path := fmt.Sprint("/cold-", round)
		var wg sync.WaitGroup
		for _, p := range fleet {
			for range 125 {
				wg.Go(func() {
					if _, _, err := ask(p.h, path); err != nil {
						t.Error(err)
					}
				})
			}
		}
		require.Eventually(t, func() bool {
			var waiting uint64
			for _, p := range fleet {
				waiting += p.tiered.Stats().Waits
			}
			return waiting >= uint64(7*(round+1)) && origin.calls.Load() > before
		}, time.Minute, time.Millisecond)
		close(release)
		wg.Wait()
		require.EqualValues(t, 1, origin.calls.Load()-before)
	}
}

// TestTiered_OneFetchEachWithoutRedis: each process fetches once.
func TestTiered_OneFetchEachWithoutRedis(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	release := make(chan struct{})
	cfg := generous
	cfg.Timeout = 20 * time.Millisecond
	fleet := startFleet(t, 8, givingUp(t, server), cfg, slow, origin)
	run(t, fleet...)
	server.Pause()
	defer server.Resume()
	origin.delay = func() { <-release }
	var wg sync.WaitGroup
	for _, p := range fleet {
		for range 125 {
			wg.Go(func() {
				if _, _, err := ask(p.h, "/cold"); err != nil {
					t.Error(err)
				}
			})
		}
	}
	require.Eventually(t, func() bool {
		for _, p := range fleet {
			if p.cache.Stats().Filling == 0 {
				return false
			}
		}
		return true
	}, time.Minute, time.Millisecond)
	close(release)
	wg.Wait()
	require.LessOrEqual(t, origin.calls.Load(), int64(8))
}

// TestTiered_AProcessThatDiesWhileItFetches: the next one takes over when its lock ends.
func TestTiered_AProcessThatDiesWhileItFetches(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	var first atomic.Bool
	began, dead := make(chan struct{}), make(chan struct{})
	origin.delay = func() {
		if first.CompareAndSwap(false, true) {
			close(began)
			<-dead
		}
	}
	tier := slow
	var doomed *redis.Client
	clients := func() redis.UniversalClient {
		c := server.client(t)
		if doomed == nil {
			doomed = c
		}
		return c
	}
	tier.Wait = 4 * time.Second
	fleet := startFleet(t, 3, clients, generous, tier, origin)
	run(t, fleet...)
	var wg sync.WaitGroup
	wg.Go(func() { _, _, _ = ask(fleet[0].h, "/x") })
	<-began
	fleet[0].stop()
	require.NoError(t, doomed.Close()) // it extends nothing any more
	for _, p := range fleet[1:] {
		wg.Go(func() {
			if _, _, err := ask(p.h, "/x"); err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return origin.calls.Load() >= 2 }, time.Minute, time.Millisecond)
	close(dead)
	wg.Wait()
	require.LessOrEqual(t, origin.calls.Load(), int64(3), "the dead one's, and the one that took over")
	require.Positive(t, fleet[1].tiered.Stats().Takeovers+fleet[2].tiered.Stats().Takeovers)
}

// TestTiered_WhatCannotBeSharedIsNotWaitedForInTurn: each process fetches for itself at once when
// one has found that.
func TestTiered_WhatCannotBeSharedIsNotWaitedForInTurn(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin("Cache-Control", "private")
	var here sync.WaitGroup
	here.Add(4)
	first := make(chan struct{})
	origin.delay = func() {
		if origin.calls.Load() == 1 {
			<-first
			return
		}
		here.Done()
		here.Wait() // all others are here at the same time
	}
	fleet := startFleet(t, 5, onServer(t, server), generous, slow, origin)
	run(t, fleet...)
	var wg sync.WaitGroup
	for _, p := range fleet {
		wg.Go(func() {
			if _, _, err := ask(p.h, "/x"); err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool {
		var waiting uint64
		for _, p := range fleet {
			waiting += p.tiered.Stats().Waits
		}
		return waiting == 4
	}, time.Minute, time.Millisecond)
	close(first)
	wg.Wait()
	require.EqualValues(t, 5, origin.calls.Load())
}

// TestTiered_AStaleResponseIsRefreshedOnceForAll in the background.
func TestTiered_AStaleResponseIsRefreshedOnceForAll(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin("Cache-Control", "max-age=600, stale-while-revalidate=600")
	fleet := startFleet(t, 4, onServer(t, server), generous, slow, origin)
	run(t, fleet...)
	for _, p := range fleet {
		get(t, p.h, "/x")
	}
	want := origin.change("/x")
	require.NoError(t, fleet[0].cache.PurgeTag(t.Context(), "tag-x", cache.Soft))
	for _, p := range fleet {
		require.Eventually(t, func() bool {
			generation, _ := get(t, p.h, "/x")
			return generation == want
		}, time.Minute, time.Millisecond)
	}
	require.LessOrEqual(t, origin.calls.Load(), int64(2))
}
