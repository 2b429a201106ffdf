package cache_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

var errFar = errors.New("far is away")

// A farServer is what several farStores share: entries and purges, with the time of the bubble.
type farServer struct {
	mu      sync.Mutex // guards the fields below
	entries map[cache.Key]*cache.Entry
	purges  []cache.FarPurge
	locks   map[cache.Key]farLock
	tokens  uint64
	heard   map[*farStore]func(cache.News)
}

type farLock struct {
	token uint64
	until time.Time
}

// A farStore is one process' part of a farServer.
type farStore struct {
	server *farServer
	down   atomic.Bool // nothing can be asked
	deaf   atomic.Bool // announcements are lost

	told  func(cache.FarPurge)
	known int // purges; server.mu guards it
	looks atomic.Int64
	watch error // what Watch returns at once; may be nil
}

func newFarServer() *farServer {
	return &farServer{
		entries: make(map[cache.Key]*cache.Entry), locks: make(map[cache.Key]farLock),
		heard: make(map[*farStore]func(cache.News)),
	}
}

func (s *farStore) learnLocked() {
	for ; s.known < len(s.server.purges); s.known++ {
		s.told(s.server.purges[s.known])
	}
}

func (s *farStore) ask() (unlock func(), err error) {
	if s.down.Load() {
		return nil, errFar
	}
	s.server.mu.Lock()
	s.learnLocked()
	return s.server.mu.Unlock, nil
}

func (s *farStore) announceLocked(n cache.News) {
	for other, news := range s.server.heard {
		if !other.deaf.Load() && !other.down.Load() {
			news(n)
		}
	}
}

func (s *farStore) Follow(told func(cache.FarPurge)) { s.told = told }

func (s *farStore) Get(_ context.Context, key cache.Key) (*cache.Resource, cache.Mark, error) {
	s.looks.Add(1)
	unlock, err := s.ask()
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	stored, ok := s.server.entries[key]
	if !ok {
		return nil, cache.Mark(s.known), nil
	}
	e := copyOf(stored)
	return &cache.Resource{Entries: []*cache.Entry{e}}, cache.Mark(s.known), nil
}

// copyOf returns what of an entry a store keeps.
func copyOf(e *cache.Entry) *cache.Entry {
	return &cache.Entry{
		Echo: e.Echo, URL: e.URL, Labels: e.Labels, Mark: e.Mark, Variant: e.Variant, Vary: e.Vary,
		Pattern: e.Pattern, Status: e.Status, Header: e.Header, Trailer: e.Trailer, Size: e.Size,
		Segments: e.Segments, Loose: e.Loose, Age: e.Age, Received: e.Received, Requested: e.Requested,
		StaleSince: e.StaleSince, Keep: e.Keep,
	}
}

func (s *farStore) Put(_ context.Context, key cache.Key, e *cache.Entry, _ int) error {
	unlock, err := s.ask()
	if err != nil {
		return err
	}
	defer unlock()
	s.server.entries[key] = copyOf(e)
	return nil
}

func (s *farStore) Purged(e *cache.Entry) (how cache.Invalidation, since time.Time) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	for _, p := range s.server.purges[min(int(e.Mark), s.known):s.known] {
		if p.Label == "" || slices.Contains(e.Labels, p.Label) {
			if p.How == cache.Hard {
				return cache.Hard, since
			}
			how, since = cache.Soft, p.At
		}
	}
	return how, since
}

func (s *farStore) Purge(_ context.Context, p cache.Purge) error {
	unlock, err := s.ask()
	if err != nil {
		return err
	}
	defer unlock()
	mark := cache.Mark(len(s.server.purges) + 1)
	s.server.purges = append(s.server.purges, cache.FarPurge{Purge: p, Mark: mark, At: time.Now()})
	s.learnLocked()
	s.announceLocked(cache.News{Kind: cache.NewsPurged})
	return nil
}

func (s *farStore) Capacity() int64 { return 1 << 20 }

func (s *farStore) Sync(context.Context) error {
	unlock, err := s.ask()
	if err == nil {
		unlock()
	}
	return err
}

func (s *farStore) Watch(ctx context.Context, news func(cache.News)) error {
	if s.watch != nil {
		return s.watch
	}
	s.server.mu.Lock()
	s.server.heard[s] = news
	s.server.mu.Unlock()
	news(cache.News{Kind: cache.NewsUp})
	<-ctx.Done()
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	delete(s.server.heard, s)
	return context.Cause(ctx)
}

func (s *farStore) Lock(_ context.Context, key cache.Key, limit time.Duration) (cache.FarLock, error) {
	unlock, err := s.ask()
	if err != nil {
		return cache.FarLock{}, err
	}
	defer unlock()
	if l := s.server.locks[key]; l.until.After(time.Now()) {
		return cache.FarLock{Left: time.Until(l.until)}, nil
	}
	s.server.tokens++
	s.server.locks[key] = farLock{s.server.tokens, time.Now().Add(limit)}
	return cache.FarLock{Token: s.server.tokens}, nil
}

func (s *farStore) Extend(_ context.Context, key cache.Key, token uint64, limit time.Duration) (bool, error) {
	unlock, err := s.ask()
	if err != nil {
		return false, err
	}
	defer unlock()
	l := s.server.locks[key]
	if l.token != token || !l.until.After(time.Now()) {
		return false, nil
	}
	s.server.locks[key] = farLock{token, time.Now().Add(limit)}
	return true, nil
}

func (s *farStore) Unlock(_ context.Context, key cache.Key, token uint64, stored bool) error {
	unlock, err := s.ask()
	if err != nil {
		return err
	}
	defer unlock()
	if s.server.locks[key].token == token {
		delete(s.server.locks, key)
		s.announceLocked(cache.News{Kind: cache.NewsFetched, Key: key, Stored: stored})
	}
	return nil
}

// A tier is one process.
type tier struct {
	far    *farStore
	tiered *cache.Tiered
	cache  *cache.Cache
	h      http.Handler
	stop   func()
}

func newTier(t testing.TB, server *farServer, cfg cache.TieredConfig, origin http.Handler) *tier {
	t.Helper()
	near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	p := &tier{far: &farStore{server: server}}
	cfg.Near, cfg.Far = near, p.far
	p.tiered, err = cache.NewTiered(cfg)
	require.NoError(t, err)
	p.cache = newCache(t, cache.Config{Store: p.tiered})
	p.h = p.cache.Middleware(origin)
	return p
}

// run starts Run, in a bubble.
func (p *tier) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.tiered.Run(ctx)
	}()
	p.stop = func() {
		cancel()
		<-ended
	}
	synctest.Wait()
}

func TestNewTiered_Faults(t *testing.T) {
	_, err := cache.NewTiered(cache.TieredConfig{NearTTL: -1})
	for _, want := range []string{
		"cache: TieredConfig.Near: is required", "cache: TieredConfig.Far: is required",
		"cache: TieredConfig.NearTTL: ",
	} {
		require.ErrorContains(t, err, want)
	}
}

// TestC63_ANearEntryIsUsedForNearTTL while nothing confirms it, and for as long as something does.
func TestC63_ANearEntryIsUsedForNearTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		p := newTier(t, server, cache.TieredConfig{}, numbered("Cache-Control", "max-age=600"))
		get(p.h, "/")
		looks := p.far.looks.Load()
		time.Sleep(2*time.Second - time.Millisecond)
		require.True(t, fromCache(get(p.h, "/")))
		require.Equal(t, looks, p.far.looks.Load())
		time.Sleep(time.Millisecond)
		require.True(t, fromCache(get(p.h, "/")), "far has it")
		require.Equal(t, looks+1, p.far.looks.Load())
		time.Sleep(2*time.Second - time.Millisecond)
		require.True(t, fromCache(get(p.h, "/")))
		require.Equal(t, looks+1, p.far.looks.Load(), "it was confirmed by that")

		p.run()
		require.True(t, p.tiered.Stats().Confirmed)
		time.Sleep(time.Minute)
		require.True(t, fromCache(get(p.h, "/")))
		require.Equal(t, looks+1, p.far.looks.Load())
		p.far.down.Store(true)
		time.Sleep(1400 * time.Millisecond) // the last confirmation is up to half a second ago
		require.True(t, fromCache(get(p.h, "/")))
		time.Sleep(600 * time.Millisecond)
		require.False(t, p.tiered.Stats().Confirmed)
		require.False(t, fromCache(get(p.h, "/")), "nobody knows what was purged")
		require.True(t, fromCache(get(p.h, "/")), "what was fetched without far is used as long")
		time.Sleep(2 * time.Second)
		require.False(t, fromCache(get(p.h, "/")))
		p.far.down.Store(false)
		time.Sleep(time.Second)
		require.True(t, p.tiered.Stats().Confirmed)
		p.stop()
		time.Sleep(2 * time.Second)
		require.False(t, p.tiered.Stats().Confirmed)
		require.False(t, p.tiered.Stats().Connected)
	})
}

// TestC63_ALostAnnouncementDelaysAPurgeByLessThanNearTTL.
func TestC63_ALostAnnouncementDelaysAPurgeByLessThanNearTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		origin := numbered("Cache-Control", "max-age=600", "Surrogate-Key", "a")
		a := newTier(t, server, cache.TieredConfig{}, origin)
		b := newTier(t, server, cache.TieredConfig{}, origin)
		a.run()
		b.run()
		defer a.stop()
		defer b.stop()
		get(a.h, "/")
		require.Equal(t, "1", text(t, get(b.h, "/")))
		b.far.deaf.Store(true)
		require.NoError(t, a.cache.PurgeTag(t.Context(), "a", cache.Hard))
		require.Equal(t, "2", text(t, get(a.h, "/")))
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, "2", text(t, get(b.h, "/")))
		b.far.deaf.Store(false)
		require.NoError(t, a.cache.PurgeTag(t.Context(), "a", cache.Hard))
		synctest.Wait()
		require.Equal(t, "3", text(t, get(b.h, "/")), "one that is heard works at once")
	})
}

// TestC63_AnEntryThatFarHasIsComparedWithWhatWasPurged, softly too.
func TestC63_AnEntryThatFarHasIsComparedWithWhatWasPurged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		origin := numbered("Cache-Control", "max-age=600, stale-while-revalidate=60", "Surrogate-Key", "a")
		a := newTier(t, server, cache.TieredConfig{}, origin)
		get(a.h, "/")
		require.NoError(t, a.cache.PurgeTag(t.Context(), "a", cache.Soft))
		time.Sleep(10 * time.Second)
		b := newTier(t, server, cache.TieredConfig{}, origin)
		resp := get(b.h, "/")
		require.Equal(t, "1", text(t, resp))
		require.Equal(t, "Trivet; hit; ttl=-10", resp.Header.Get("Cache-Status"), "stale since it was purged")
		synctest.Wait()
		require.NoError(t, a.cache.PurgeTag(t.Context(), "a", cache.Hard))
		c := newTier(t, server, cache.TieredConfig{}, origin)
		require.Equal(t, "3", text(t, get(c.h, "/")))
	})
}

// TestTiered_TheLockOfADeadProcessEnds: the next takes it over then, and the others go on waiting.
func TestTiered_TheLockOfADeadProcessEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		var calls atomic.Int64
		dead := make(chan struct{})
		origin := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=600")
			if calls.Add(1) == 1 {
				<-dead
			} else {
				time.Sleep(300 * time.Millisecond)
			}
			_, _ = io.WriteString(w, "x")
		})
		tiers := make([]*tier, 4)
		for i := range tiers {
			tiers[i] = newTier(t, server, cache.TieredConfig{}, origin)
			tiers[i].run()
			defer tiers[i].stop()
		}
		var wg sync.WaitGroup
		ask := func(p *tier) {
			wg.Go(func() {
				w := httptest.NewRecorder()
				p.h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
				require.Equal(t, "x", w.Body.String())
			})
		}
		ask(tiers[0])
		synctest.Wait()
		time.Sleep(5 * time.Second) // it lives, and extends its lock
		require.EqualValues(t, 1, calls.Load())
		for _, p := range tiers[1:] {
			ask(p)
		}
		synctest.Wait()
		require.EqualValues(t, 1, calls.Load())
		tiers[0].far.down.Store(true)
		time.Sleep(1100 * time.Millisecond)
		require.EqualValues(t, 2, calls.Load(), "one of them has taken over")
		time.Sleep(400 * time.Millisecond)
		for _, p := range tiers[1:] {
			require.True(t, fromCache(get(p.h, "/")))
		}
		require.EqualValues(t, 2, calls.Load())
		close(dead)
		wg.Wait()
	})
}

// TestTiered_RunEndsAndBeginsAnew.
func TestTiered_RunEndsAndBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTier(t, newFarServer(), cache.TieredConfig{}, numbered("Cache-Control", "max-age=600"))
		for range 2 {
			p.run()
			require.True(t, p.tiered.Stats().Connected)
			require.ErrorContains(t, p.tiered.Run(t.Context()), "runs already")
			require.True(t, p.tiered.Stats().Connected, "the other one still runs")
			p.stop()
			require.False(t, p.tiered.Stats().Connected)
		}
		ended := errors.New("ended")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(ended)
		require.Equal(t, ended, p.tiered.Run(ctx))
		p.far.watch = errFar
		require.Equal(t, errFar, p.tiered.Run(t.Context()), "what ends Watch ends Run")
	})
}

// TestTiered_AnAnnouncementThatWasMissedIsMadeUpFor when the connection is there again.
func TestTiered_AnAnnouncementThatWasMissedIsMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		var calls atomic.Int64
		origin := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.Header().Set("Cache-Control", "max-age=600")
			time.Sleep(100 * time.Millisecond)
			_, _ = io.WriteString(w, "x")
		})
		a := newTier(t, server, cache.TieredConfig{Wait: time.Minute}, origin)
		b := newTier(t, server, cache.TieredConfig{Wait: time.Minute}, origin)
		for _, p := range []*tier{a, b} {
			p.run()
			defer p.stop()
		}
		var wg sync.WaitGroup
		wg.Go(func() { get(a.h, "/") })
		synctest.Wait()
		from := time.Now()
		wg.Go(func() { require.True(t, fromCache(get(b.h, "/"))) })
		synctest.Wait()
		b.far.deaf.Store(true)
		time.Sleep(200 * time.Millisecond)
		b.far.deaf.Store(false)
		server.mu.Lock()
		news := server.heard[b.far]
		server.mu.Unlock()
		news(cache.News{Kind: cache.NewsDown})
		news(cache.News{Kind: cache.NewsUp})
		wg.Wait()
		require.Less(t, time.Since(from), time.Second)
		require.EqualValues(t, 1, calls.Load())
	})
}

// TestTiered_NobodyWaitsLongerThanWait for a process that lives and does not come to an end.
func TestTiered_NobodyWaitsLongerThanWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		var calls atomic.Int64
		hangs := make(chan struct{})
		origin := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=600")
			if calls.Add(1) == 1 {
				<-hangs
			}
			_, _ = io.WriteString(w, "x")
		})
		a := newTier(t, server, cache.TieredConfig{Wait: time.Second}, origin)
		b := newTier(t, server, cache.TieredConfig{Wait: time.Second}, origin)
		never := newTier(t, server, cache.TieredConfig{Wait: -1}, origin)
		for _, p := range []*tier{a, b, never} {
			p.run()
			defer p.stop()
		}
		var wg sync.WaitGroup
		wg.Go(func() { get(a.h, "/") })
		synctest.Wait()
		from := time.Now()
		get(never.h, "/other")
		wg.Go(func() { get(never.h, "/") })
		synctest.Wait()
		require.Zero(t, time.Since(from))
		server.mu.Lock()
		clear(server.entries) // as if it had not been stored
		server.mu.Unlock()
		get(b.h, "/")
		require.Equal(t, time.Second, time.Since(from))
		close(hangs)
		wg.Wait()
	})
}

// TestTiered_WhatFailsIsNotWaitedForInTurn: each fetches for itself when one has failed.
func TestTiered_WhatFailsIsNotWaitedForInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newFarServer()
		origin := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(100 * time.Millisecond)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		var wg sync.WaitGroup
		from := time.Now()
		for range 5 {
			p := newTier(t, server, cache.TieredConfig{}, origin)
			p.run()
			defer p.stop()
			wg.Go(func() { get(p.h, "/") })
		}
		wg.Wait()
		require.Equal(t, 200*time.Millisecond, time.Since(from))
	})
}

// TestTiered_WhatIsSharedByProcessesHasItsLimits: what depends on what one process knows is left
// out.
func TestTiered_WhatIsSharedByProcessesHasItsLimits(t *testing.T) {
	server := newFarServer()
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=600")
		w.Header().Set("No-Vary-Search", `params=("x")`)
		if r.Method == http.MethodPost {
			w.Header().Set("Content-Location", r.URL.String())
		}
	}}
	p := newTier(t, server, cache.TieredConfig{}, origin)
	get(p.h, "/a?x=1")
	require.False(t, fromCache(get(p.h, "/a?x=2")), "a purge elsewhere of x=2 would not find it")
	require.True(t, fromCache(get(p.h, "/a?x=2")))
	do(p.h, newRequest(http.MethodPost, "/b"))
	require.False(t, fromCache(get(p.h, "/b")))
}

// TestTiered_APurgeWithoutFar is one here, and an error.
func TestTiered_APurgeWithoutFar(t *testing.T) {
	p := newTier(t, newFarServer(), cache.TieredConfig{},
		numbered("Cache-Control", "max-age=600", "Surrogate-Key", "a"))
	get(p.h, "/")
	p.far.down.Store(true)
	err := p.cache.PurgeTag(t.Context(), "a", cache.Hard)
	require.ErrorIs(t, err, cache.ErrUnreached)
	require.ErrorIs(t, err, errFar)
	require.False(t, fromCache(get(p.h, "/")))
	require.EqualValues(t, 1, p.tiered.Stats().Unreached)
}

// BenchmarkTieredHit compares a hit in the near tier with one in a MemoryStore: the median of
// paired ratios.
func BenchmarkTieredHit(b *testing.B) {
	origin := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		setFields(w.Header(), 10)
		_, _ = w.Write([]byte("0123456789"))
	})
	p := newTier(b, newFarServer(), cache.TieredConfig{NearTTL: time.Hour}, origin)
	memory := newCache(b, cache.Config{}).Middleware(origin)
	r := benchRequest()
	p.h.ServeHTTP(httptest.NewRecorder(), r)
	memory.ServeHTTP(httptest.NewRecorder(), r)
	w := &bareWriter{h: make(http.Header)}
	took := func(h http.Handler) time.Duration {
		from := time.Now()
		for range 500 {
			clear(w.h)
			h.ServeHTTP(w, r)
		}
		return time.Since(from)
	}
	var ratios []float64
	for b.Loop() {
		ratios = append(ratios, float64(took(p.h))/float64(took(memory)))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
}
