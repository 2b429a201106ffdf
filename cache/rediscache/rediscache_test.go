package rediscache_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

func TestNew_Faults(t *testing.T) {
	_, err := rediscache.New((*redis.Client)(nil), rediscache.Config{
		Prefix: "a{b}", Timeout: -1, PurgeTimeout: -1, MaxTTL: -1, MaxBody: -1,
	})
	for _, want := range []string{
		"rediscache: client: is nil", "rediscache: Config.Prefix: ", "rediscache: Config.Timeout: ",
		"rediscache: Config.PurgeTimeout: ", "rediscache: Config.MaxTTL: ", "rediscache: Config.MaxBody: ",
	} {
		require.ErrorContains(t, err, want)
	}
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer c.Close()
	_, err = rediscache.New(c, rediscache.Config{})
	require.ErrorContains(t, err, "rediscache: Config.Prefix: is required")
	s := newStore(t, c, rediscache.Config{Prefix: "shop"})
	require.Zero(t, s.Stats(), "Redis was not called")
}

func TestStore_ProcessesShare(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin()
	a := newCache(t, cache.Config{Store: newStore(t, server.client(t), generous)}).Middleware(origin)
	b := newCache(t, cache.Config{Store: newStore(t, server.client(t), generous)}).Middleware(origin)
	_, status := get(t, a, "/x")
	require.Equal(t, "Trivet; fwd=uri-miss; stored", status)
	for range 3 {
		_, status = get(t, b, "/x")
		require.True(t, hit(status), status)
	}
	require.EqualValues(t, 1, origin.calls.Load())
	other := generous
	other.Prefix = "other"
	c := newCache(t, cache.Config{Store: newStore(t, server.client(t), other)}).Middleware(origin)
	_, status = get(t, c, "/x")
	require.False(t, hit(status), "another service")
}

func TestStore_APurgeReachesAll(t *testing.T) {
	server := startRedis(t)
	origin := newOrigin("Cache-Control", "max-age=600, stale-while-revalidate=600")
	var caches []*cache.Cache
	var hs []http.Handler
	for range 2 {
		c := newCache(t, cache.Config{Store: newStore(t, server.client(t), generous)})
		caches = append(caches, c)
		hs = append(hs, c.Middleware(origin))
	}
	knowingNothing := func() http.Handler {
		store := newStore(t, server.client(t), generous)
		return newCache(t, cache.Config{Store: store}).Middleware(origin)
	}
	ctx, c := t.Context(), caches[0]
	for name, purge := range map[string]func(cache.Invalidation) error{
		"url": func(how cache.Invalidation) error { return c.PurgeURL(ctx, "http://example.com/x", how) },
		"prefix": func(how cache.Invalidation) error {
			return c.PurgePrefix(ctx, "http://example.com/", how)
		},
		"tag": func(how cache.Invalidation) error { return c.PurgeTag(ctx, "tag-x", how) },
	} {
		t.Run(name, func(t *testing.T) {
			get(t, hs[1], "/x")
			want := origin.change("/x")
			require.NoError(t, purge(cache.Hard))
			generation, status := get(t, hs[1], "/x")
			require.Equal(t, want, generation, status)
			require.False(t, hit(status))
			require.NoError(t, purge(cache.Soft))
			_, status = get(t, hs[1], "/x")
			require.Contains(t, status, "hit; ttl=", "stale, and used as it allows")
			require.NotContains(t, status, "ttl=5")
			// A process that knows nothing yet learns of both.
			late := knowingNothing()
			_, status = get(t, late, "/x")
			require.True(t, hit(status), status)
			require.NoError(t, purge(cache.Hard))
			late = knowingNothing()
			_, status = get(t, late, "/x")
			require.False(t, hit(status), status)
		})
	}
}

// TestStore_OneRoundTripAHit counts what the server is asked.
func TestStore_OneRoundTripAHit(t *testing.T) {
	server := startRedis(t)
	store := newStore(t, server.client(t), generous)
	h := newCache(t, cache.Config{Store: store}).Middleware(newOrigin())
	get(t, h, "/x")
	before := store.Stats().Calls
	for range 10 {
		_, status := get(t, h, "/x")
		require.True(t, hit(status))
	}
	require.EqualValues(t, 10, store.Stats().Calls-before)
}

func TestStore_EveryEntryExpires(t *testing.T) {
	server := startRedis(t)
	cfg := generous
	cfg.MaxTTL = 3 * time.Hour
	c := server.client(t)
	store := newStore(t, c, cfg)
	h := newCache(t, cache.Config{Store: store}).Middleware(newOrigin("Cache-Control",
		"max-age=100000"))
	get(t, h, "/long")
	h = newCache(t, cache.Config{Store: store}).Middleware(newOrigin("Cache-Control", "max-age=600"))
	get(t, h, "/short")
	keys, err := c.Keys(t.Context(), "{shop:*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 2)
	var longest, shortest time.Duration
	for _, key := range keys {
		ttl := c.PTTL(t.Context(), key).Val()
		require.Positive(t, ttl)
		longest = max(longest, ttl)
		if shortest == 0 || ttl < shortest {
			shortest = ttl
		}
	}
	require.LessOrEqual(t, longest, 3*time.Hour)
	require.LessOrEqual(t, shortest, 70*time.Minute+time.Second, "freshness, and an hour beyond")
	require.Greater(t, shortest, time.Hour)
}

// aclLine is what the package comment says.
func aclLine(t *testing.T) []any {
	t.Helper()
	file, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	text := string(file)
	_, after, ok := strings.Cut(text, "//\tACL ")
	require.True(t, ok)
	text, _, ok = strings.Cut(after, "\n//\n")
	require.True(t, ok)
	args := []any{"acl"}
	for word := range strings.FieldsSeq(strings.ReplaceAll(text, "//", "")) {
		args = append(args, word)
	}
	return append(args, "+hello", "+client", "+auth")
}

// TestStore_TheRightsInTheDocAreEnough: for looks, stores, purges, locks and the subscription.
func TestStore_TheRightsInTheDocAreEnough(t *testing.T) {
	server := startRedis(t)
	server.do(aclLine(t)...)
	var mu sync.Mutex // guards the field below
	var denied []string
	clients := func() redis.UniversalClient {
		c := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "shop", Password: "password"})
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	origin := newOrigin()
	near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	require.NoError(t, err)
	fleet := startFleet(t, 2, clients, generous, slow, origin)
	run(t, fleet...)
	tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: newStore(t, clients(), generous)})
	require.NoError(t, err)
	c := newCache(t, cache.Config{Store: tiered, Observe: func(_ context.Context, e cache.Event) {
		if e.Err != nil {
			mu.Lock()
			defer mu.Unlock()
			denied = append(denied, e.Err.Error())
		}
	}})
	h := c.Middleware(origin)
	for _, path := range []string{"/a", "/b"} {
		get(t, fleet[0].h, path)
		_, status := get(t, fleet[1].h, path)
		require.True(t, hit(status), status)
		get(t, h, path)
	}
	for _, how := range []cache.Invalidation{cache.Soft, cache.Soft, cache.Hard} {
		require.NoError(t, c.PurgeTag(t.Context(), "tag-a", how))
	}
	for _, p := range fleet {
		require.Eventually(t, func() bool {
			get(t, p.h, "/a")
			return p.tiered.Stats().Locks > 0
		}, time.Minute, time.Millisecond)
		require.NoError(t, p.cache.PurgeTag(t.Context(), "tag-a", cache.Hard))
		require.Zero(t, p.far.Stats().Failures)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Empty(t, denied)
}
