package cache_test

import (
	"bytes"
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

// A slowFar knows what it answers when it is asked, and the answer takes time.
type slowFar struct {
	*farStore
	takes atomic.Int64
}

func (s *slowFar) Get(ctx context.Context, key cache.Key) (*cache.Resource, cache.Mark, error) {
	r, mark, err := s.farStore.Get(ctx, key)
	time.Sleep(time.Duration(s.takes.Load()))
	return r, mark, err
}

func (s *slowFar) Sync(ctx context.Context) error {
	err := s.farStore.Sync(ctx)
	time.Sleep(time.Duration(s.takes.Load()))
	return err
}

func (s *slowFar) Lock(ctx context.Context, key cache.Key, limit time.Duration) (cache.FarLock, error) {
	l, err := s.farStore.Lock(ctx, key, limit)
	time.Sleep(time.Duration(s.takes.Load()))
	return l, err
}

func newSlowTier(t *testing.T, server *farServer, origin http.Handler) (p *tier, far *slowFar) {
	t.Helper()
	far = &slowFar{farStore: &farStore{server: server}}
	near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	p = &tier{far: far.farStore}
	p.tiered, err = cache.NewTiered(cache.TieredConfig{Near: near, Far: far})
	require.NoError(t, err)
	p.cache = newCache(t, cache.Config{Store: p.tiered})
	p.h = p.cache.Middleware(origin)
	return p, far
}

// TestC63_WhatFarSaysIsAsOldAsTheQuestion: a purge may have come while the answer was on its way.
func TestC63_WhatFarSaysIsAsOldAsTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, far := newSlowTier(t, newFarServer(), numbered("Cache-Control", "max-age=600"))
		far.takes.Store(int64(time.Second))
		p.run()
		defer func() { p.stop() }()
		time.Sleep(time.Second / 2)
		far.down.Store(true) // only the first answer is on its way
		time.Sleep(3*time.Second/2 - 1)
		require.True(t, p.tiered.Stats().Confirmed)
		time.Sleep(time.Nanosecond)
		require.False(t, p.tiered.Stats().Confirmed)
	})
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		origin := numbered("Cache-Control", "max-age=600")
		get(newTier(t, server, cache.TieredConfig{}, origin).h, "/")
		p, far := newSlowTier(t, server, origin)
		far.takes.Store(int64(time.Second))
		require.True(t, fromCache(get(p.h, "/")))
		time.Sleep(time.Second - 1)
		get(p.h, "/")
		require.EqualValues(t, 1, far.looks.Load())
		time.Sleep(time.Nanosecond)
		get(p.h, "/")
		require.EqualValues(t, 2, far.looks.Load())
	})
}

// TestC63_WhatWasRestoredIsConfirmedFirst: nobody knows what was purged since it was saved.
func TestC63_WhatWasRestoredIsConfirmedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := numbered("Cache-Control", "max-age=600")
		store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
		require.NoError(t, err)
		get(newCache(t, cache.Config{Store: store}).Middleware(origin), "/")
		var file bytes.Buffer
		require.NoError(t, store.Save(&file))
		near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
		require.NoError(t, err)
		require.NoError(t, near.Restore(&file))
		far := &farStore{server: newFarServer()}
		tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far})
		require.NoError(t, err)
		require.False(t, fromCache(get(newCache(t, cache.Config{Store: tiered}).Middleware(origin), "/")))
		require.EqualValues(t, 1, far.looks.Load())
	})
}

// TestC45_AFetchUnderWayTellsFarNothingThatIsPurgedHere, whether or not something else has the tag,
// or so much was purged meanwhile that nobody can tell.
func TestC45_AFetchUnderWayTellsFarNothingThatIsPurgedHere(t *testing.T) {
	for _, how := range []cache.Invalidation{cache.Hard, cache.Soft} {
		for _, test := range []struct {
			other, reaches bool
			flood          int
		}{{other: true}, {}, {reaches: true}, {reaches: true, flood: 1100}} {
			t.Run(fmt.Sprint(how, test), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := newFarServer()
					var calls atomic.Int64
					origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						n := calls.Add(1)
						w.Header().Set("Cache-Control", "max-age=600")
						w.Header().Set("Surrogate-Key", "a")
						if r.URL.Path == "/" {
							time.Sleep(time.Second)
						}
						fmt.Fprint(w, n)
					})
					p := newTier(t, server, cache.TieredConfig{}, origin)
					if test.other {
						get(p.h, "/other")
					}
					var wg sync.WaitGroup
					v := visitAs(p.h, request("/"), &wg)
					synctest.Wait()
					p.far.down.Store(!test.reaches)
					err := p.cache.PurgeTag(t.Context(), "a", how)
					require.Equal(t, test.reaches, err == nil)
					p.far.down.Store(false)
					for i := range test.flood {
						require.NoError(t, p.cache.PurgeTag(t.Context(), fmt.Sprint(i), cache.Hard))
					}
					wg.Wait()
					require.NotEmpty(t, v.body)
					require.NotEqual(t, v.body, text(t, get(p.h, "/")), "here")
					b := newTier(t, server, cache.TieredConfig{}, origin)
					require.NotEqual(t, v.body, text(t, get(b.h, "/")), "elsewhere")
				})
			})
		}
	}
}

// TestTiered_ALockIsKeptOverAFailure: one attempt to extend it that fails is not the end of it.
func TestTiered_ALockIsKeptOverAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		var calls atomic.Int64
		origin := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.Header().Set("Cache-Control", "max-age=600")
			time.Sleep(2500 * time.Millisecond)
		})
		cfg := cache.TieredConfig{Wait: 3 * time.Second} // a lock is for half of that, extended each third
		a, b := newTier(t, server, cfg, origin), newTier(t, server, cfg, origin)
		a.run()
		defer a.stop()
		b.run()
		defer b.stop()
		var wg sync.WaitGroup
		wg.Go(func() { get(a.h, "/") })
		time.Sleep(450 * time.Millisecond)
		a.far.down.Store(true)
		time.Sleep(100 * time.Millisecond)
		a.far.down.Store(false)
		time.Sleep(1300 * time.Millisecond)
		wg.Go(func() { get(b.h, "/") })
		wg.Wait()
		require.EqualValues(t, 1, calls.Load())
	})
}

// TestTiered_SeveralOfAProcessFetchOnce, and what one of them has stored is there for other
// processes although the others of them have stored nothing.
func TestTiered_SeveralOfAProcessFetchOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		var calls atomic.Int64
		origin := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.Header().Set("Cache-Control", "max-age=600")
			time.Sleep(100 * time.Millisecond)
			_, _ = io.WriteString(w, "x")
		})
		a := newTier(t, server, cache.TieredConfig{}, origin)
		b := newTier(t, server, cache.TieredConfig{}, origin)
		a.run()
		defer a.stop()
		b.run()
		defer b.stop()
		var wg sync.WaitGroup
		for _, p := range []*tier{a, a, a, b, b} {
			wg.Go(func() { get(p.h, "/") })
			synctest.Wait()
		}
		wg.Wait()
		require.EqualValues(t, 1, calls.Load())
	})
}

// TestTiered_ARefreshElsewhereIsHereAtOnce, and takes no place among the fetches here.
func TestTiered_ARefreshElsewhereIsHereAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		origin := &counted{}
		origin.serve = func(w http.ResponseWriter, _ *http.Request) {
			n := origin.calls.Load()
			w.Header().Set("Cache-Control", "max-age=60, stale-while-revalidate=600")
			time.Sleep(100 * time.Millisecond)
			fmt.Fprint(w, n)
		}
		a := newTier(t, server, cache.TieredConfig{}, origin)
		b := newTier(t, server, cache.TieredConfig{}, origin)
		a.run()
		defer a.stop()
		b.run()
		defer b.stop()
		get(a.h, "/")
		get(b.h, "/")
		time.Sleep(2 * time.Minute)
		for _, p := range []*tier{a, b} {
			require.Equal(t, "1", text(t, get(p.h, "/")))
			synctest.Wait()
		}
		time.Sleep(time.Second)
		for _, p := range []*tier{a, b} {
			require.Equal(t, "2", text(t, get(p.h, "/")))
			require.Zero(t, p.cache.Stats().Background)
		}
		require.EqualValues(t, 2, origin.calls.Load())
	})
}

// TestTiered_WhoFindsItThereTellsTheOthers, who wait for it and need not fetch it.
func TestTiered_WhoFindsItThereTellsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		origin := &counted{}
		origin.serve = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60, stale-while-revalidate=600")
			fmt.Fprint(w, origin.calls.Load())
		}
		a := newTier(t, server, cache.TieredConfig{}, origin)
		b := newTier(t, server, cache.TieredConfig{}, origin)
		c, far := newSlowTier(t, server, origin)
		for _, p := range []*tier{a, b, c} {
			p.run()
			defer p.stop()
			get(p.h, "/")
		}
		time.Sleep(2 * time.Minute)
		get(a.h, "/")
		synctest.Wait()
		require.EqualValues(t, 2, origin.calls.Load())
		far.takes.Store(int64(time.Second / 5))
		for _, p := range []*tier{c, b} { // c looks for it, and b waits for c
			require.Equal(t, "1", text(t, get(p.h, "/")))
			synctest.Wait()
		}
		require.EqualValues(t, 1, b.tiered.Stats().Waits)
		time.Sleep(5 * time.Second)
		for _, p := range []*tier{b, c} {
			require.Equal(t, "2", text(t, get(p.h, "/")))
		}
		require.EqualValues(t, 2, origin.calls.Load())
	})
}

// TestTiered_WhatWasStoredDuringALookStays: what far had when it was asked is older.
func TestTiered_WhatWasStoredDuringALookStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		p, far := newSlowTier(t, server, numbered())
		ctx := t.Context()
		_, mark, err := p.tiered.Get(ctx, cache.Key{})
		require.NoError(t, err)
		entry := func(body string) *cache.Entry {
			return &cache.Entry{
				Mark: mark, Status: 200, Header: http.Header{}, Size: int64(len(body)), Received: time.Now(),
				Segments: []cache.Segment{{Data: []byte(body)}},
			}
		}
		require.NoError(t, (&farStore{server: server}).put(entry("old")))
		far.takes.Store(int64(time.Second))
		var wg sync.WaitGroup
		wg.Go(func() { _, _, _ = p.tiered.Get(ctx, cache.Key{}) })
		time.Sleep(time.Second / 2)
		require.NoError(t, p.tiered.Put(ctx, cache.Key{}, entry("new"), 8))
		wg.Wait()
		r, _, err := p.tiered.Get(ctx, cache.Key{})
		require.NoError(t, err)
		require.Equal(t, "new", string(r.Entries[0].Segments[0].Data))
		require.EqualValues(t, 2, far.looks.Load())
	})
}

func (s *farStore) put(e *cache.Entry) error {
	s.told = func(cache.FarPurge) {}
	return s.Put(context.Background(), cache.Key{}, e, 8)
}

// TestTiered_WhileFarFailsNobodyWaitsForItTwice: a request that has asked far in vain does not ask
// it for a lock.
func TestTiered_WhileFarFailsNobodyWaitsForItTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, far := newSlowTier(t, newFarServer(), numbered("Cache-Control", "max-age=600"))
		p.run()
		defer func() { p.stop() }()
		require.True(t, p.tiered.Stats().Confirmed)
		far.down.Store(true)
		far.takes.Store(int64(100 * time.Millisecond))
		start := time.Now()
		get(p.h, "/")
		require.Equal(t, 100*time.Millisecond, time.Since(start))
	})
}
