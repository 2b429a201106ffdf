package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestMemoryStore_OneForSeveralCaches(t *testing.T) {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	a := newCache(t, cache.Config{Store: store})
	b := newCache(t, cache.Config{Store: store, IgnoreQuery: []string{"x"}})
	h := a.Middleware(numbered("Cache-Control", "max-age=60"))
	get(h, "/")
	require.NoError(t, b.PurgePrefix(t.Context(), "http://example.com/", cache.Hard))
	require.Equal(t, "2", text(t, get(h, "/")))
}

func TestMemoryStore_SnapshotCarriesWhatWasNotPurged(t *testing.T) {
	origin := labelled()
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	c := newCache(t, cache.Config{Store: store})
	h := c.Middleware(origin)
	for _, path := range []string{"/a", "/b", "/c"} {
		get(h, path)
		get(h, path, "X-A", "1")
	}
	require.NoError(t, c.PurgeTag(t.Context(), "b", cache.Hard))
	require.NoError(t, c.PurgeTag(t.Context(), "c", cache.Soft))
	var file bytes.Buffer
	require.NoError(t, store.Save(&file))

	restored, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	require.NoError(t, restored.Restore(bytes.NewReader(file.Bytes())))
	c = newCache(t, cache.Config{Store: restored})
	h = c.Middleware(origin)
	before := origin.calls.Load()
	require.Contains(t, get(h, "/a").Header.Get("Cache-Status"), "hit; ttl=")
	require.Contains(t, get(h, "/a", "X-A", "1").Header.Get("Cache-Status"), "hit; ttl=")
	require.Equal(t, before, origin.calls.Load())
	require.Equal(t, "Trivet; hit; ttl=0", get(h, "/c").Header.Get("Cache-Status"),
		"stale, and used as it allows")
	require.Contains(t, get(h, "/b").Header.Get("Cache-Status"), "fwd=uri-miss")
	before = origin.calls.Load()
	require.NoError(t, c.PurgeTag(t.Context(), "a", cache.Hard))
	get(h, "/a")
	require.GreaterOrEqual(t, origin.calls.Load(), before+1, "what was restored can be purged")

	file.Bytes()[file.Len()/2] ^= 1
	require.ErrorIs(t, restored.Restore(&file), cache.ErrSnapshot)
}

func TestMemoryStoreConfig_Faults(t *testing.T) {
	for _, cfg := range []cache.MemoryStoreConfig{{MaxBytes: -1}, {MaxBytes: 1000},
		{MaxBytes: 1<<62 + 1}, {Eviction: 7}} {
		_, err := cache.NewMemoryStore(cfg)
		require.Error(t, err)
	}
}

func TestConfig_Faults(t *testing.T) {
	_, err := cache.New(cache.Config{
		Heuristic: 2, MaxVariants: -1, MaxBody: -1, FetchTimeout: -1, Unkeyed: 7, MaxObject: 32 << 20,
		IgnoreQuery:    []string{"", "a*b", "ok*"},
		TargetedFields: []string{"a b"}, Drop: []string{""},
	})
	for _, field := range []string{"Heuristic", "MaxVariants", "MaxBody", "FetchTimeout", "Unkeyed",
		"MaxObject", "IgnoreQuery", "TargetedFields", "Drop"} {
		require.ErrorContains(t, err, "cache: Config."+field+": ")
	}
	require.NotContains(t, err.Error(), "ok*")
	require.PanicsWithValue(t, "cache: nil handler", func() { newCache(t, cache.Config{}).Middleware(nil) })
}

// A brokenStore fails.
type brokenStore struct{ err error }

func (s *brokenStore) Get(context.Context, cache.Key) (*cache.Resource, cache.Mark, error) {
	return nil, 0, s.err
}
func (s *brokenStore) Put(context.Context, cache.Key, *cache.Entry, int) error { return s.err }
func (s *brokenStore) Purged(*cache.Entry) (cache.Invalidation, time.Time)     { return 0, time.Time{} }
func (s *brokenStore) Purge(context.Context, cache.Purge) error                { return s.err }
func (s *brokenStore) Capacity() int64                                         { return 1 << 20 }

func TestStore_OneThatFailsCostsNoAnswer(t *testing.T) {
	store := &brokenStore{errors.New("down")}
	var events []cache.Event
	c := newCache(t, cache.Config{Store: store, Observe: func(_ context.Context,
		e cache.Event) {
		events = append(events, e)
	}})
	h := c.Middleware(numbered("Cache-Control", "max-age=60"))
	for range 3 {
		require.Equal(t, http.StatusOK, get(h, "/").StatusCode)
	}
	require.ErrorIs(t, c.PurgeTag(t.Context(), "a", cache.Hard), store.err,
		"a purge that did not happen is never a silent success")
	require.False(t, c.Stats().StoreUp)
	store.err = nil
	get(h, "/")
	require.True(t, c.Stats().StoreUp)
	var changes []bool
	for _, e := range events {
		if e.Kind == cache.StoreChanged {
			changes = append(changes, e.Up)
		}
	}
	require.Equal(t, []bool{false, true}, changes)
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []cache.Event
		c := newCache(t, cache.Config{Observe: func(_ context.Context, e cache.Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		}})
		origin := newVersioned(`"1"`, "Cache-Control", "max-age=60, stale-while-revalidate=60")
		h := c.Middleware(origin)
		get(h, "/")
		get(h, "/")
		time.Sleep(90 * time.Second)
		get(h, "/")
		synctest.Wait()
		time.Sleep(3 * time.Minute)
		get(h, "/")
		get(h, "/", "Cache-Control", "no-store")
		do(h, newRequest(http.MethodPost, "/"))
		require.NoError(t, c.PurgeTag(t.Context(), "x", cache.Soft))
		var lines []string
		for _, e := range events {
			lines = append(lines, fmt.Sprint(e.Kind, " ", e.Outcome, " ", e.Reason, " ", e.Status, " ",
				e.By, e.Soft))
			require.Equal(t, slog.KindGroup, e.LogValue().Kind())
		}
		require.ElementsMatch(t, []string{
			"request miss uri-miss 200 false",
			"request hit  200 false",
			"request stale stale 200 false",
			"refresh revalidated  304 false",
			"request revalidated stale 200 false",
			"request hit  200 false",
			"purge   0 methodfalse",
			"request pass method 200 false",
			"purge   0 tagtrue",
		}, lines)
		s := c.Stats()
		require.EqualValues(t, 2, s.Requests[cache.Hit])
		require.EqualValues(t, 4.0/6, s.HitRatio)
	})
}

func TestObserve_APanicOnTheCachesGoroutineEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{Observe: func(_ context.Context, e cache.Event) {
			if e.Kind == cache.Refreshed {
				panic("boom")
			}
		}})
		h := c.Middleware(numbered("Cache-Control", "max-age=60, stale-while-revalidate=60"))
		get(h, "/")
		time.Sleep(90 * time.Second)
		get(h, "/")
		synctest.Wait()
		require.EqualValues(t, 1, c.Stats().Panics)
		require.Equal(t, "2", text(t, get(h, "/")))
	})
}

func TestPattern_IsThatOfTheRouteThatAnswered(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, r.PathValue("id"))
	})
	mux.HandleFunc("POST /items/{id}", func(http.ResponseWriter, *http.Request) {})
	h := newCache(t, cache.Config{}).Middleware(mux)
	for range 2 {
		r := newRequest(http.MethodGet, "/items/7")
		require.Equal(t, "7", text(t, do(h, r)))
		require.Equal(t, "GET /items/{id}", r.Pattern)
	}
	r := newRequest(http.MethodPost, "/items/7")
	do(h, r)
	require.Equal(t, "POST /items/{id}", r.Pattern)
}

// A resource may take a quarter of the store: at that bound its variants are admitted, beyond it
// the oldest leaves, and a response that is too heavy alone is refused.
func TestMemoryStore_AQuarterForAResource(t *testing.T) {
	const bound = 64 << 10
	entry := func(variant string, size int64) *cache.Entry {
		return &cache.Entry{
			Variant: variant, Status: 200, Size: size, Segments: []cache.Segment{{Data: make([]byte, size)}},
		}
	}
	fill := func(sizes ...int64) (variants []string, weight int64) {
		store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{MaxBytes: bound})
		require.NoError(t, err)
		for i, size := range sizes {
			require.NoError(t, store.Put(t.Context(), cache.Key{}, entry(string(rune('a'+i)), size), 10))
		}
		r, _, err := store.Get(t.Context(), cache.Key{})
		require.NoError(t, err)
		if r != nil {
			for _, e := range r.Entries {
				variants = append(variants, e.Variant)
			}
		}
		return variants, store.Stats().Weight
	}
	_, one := fill(0)
	_, two := fill(0, 0)
	_, three := fill(0, 0, 0)
	require.Equal(t, two-one, three-two)
	const quarter = bound / 4

	for _, tt := range []struct {
		sizes []int64
		want  []string
	}{
		{[]int64{quarter - one}, []string{"a"}},
		{[]int64{quarter - one + 1}, nil},
		{[]int64{5000, quarter - two - 5000}, []string{"b", "a"}},
		{[]int64{5000, quarter - two - 5000 + 1}, []string{"b"}},
		{[]int64{5000, 100, quarter - three - 5100}, []string{"c", "b", "a"}},
		{[]int64{5000, 100, quarter - three - 5100 + 1}, []string{"c", "b"}},
	} {
		variants, weight := fill(tt.sizes...)
		require.Equal(t, tt.want, variants, "%v", tt.sizes)
		require.LessOrEqual(t, weight, int64(quarter))
	}
}
