package rediscache_test

import (
	"context"
	"crypto/sha1"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

const (
	purgedKey = "shop{shopnews}:purged"
	newsKey   = "shop{shopnews}:sequence"
)

func entryKeyOf(key cache.Key) string { return fmt.Sprintf("{shop:%x}", key[:]) }

// An entry is kept for as long as it may be of use from when its response came, and a variant that
// is of use for less does not take the others along.
func TestStore_KeepsAnEntryFromWhenItCame(t *testing.T) {
	c := startRedis(t).client(t)
	s := newStore(t, c, generous)
	old := entry(t, s, "", "x")
	old.Received = old.Received.Add(-30 * time.Minute)
	put(t, s, old, 9)
	left := func() time.Duration { return c.PTTL(t.Context(), entryKeyOf(key)).Val() }
	require.LessOrEqual(t, left(), 30*time.Minute)
	long := entry(t, s, "long", "x")
	long.Keep = 10 * time.Hour
	put(t, s, long, 9)
	require.Greater(t, left(), 9*time.Hour)
	put(t, s, entry(t, s, "short", "x"), 9)
	require.Greater(t, left(), 9*time.Hour)
}

// As many bytes as a look may bring are kept, and not one more.
func TestStore_TheBytesOfAnEntryAreBounded(t *testing.T) {
	c := startRedis(t).client(t)
	cfg := generous
	cfg.MaxBody = 1 << 10
	s := newStore(t, c, cfg)
	first := entry(t, s, "m", "")
	of := func(variant string, n int) *cache.Entry { // of n bytes, a body and a field
		body := min(n, int(cfg.MaxBody))
		e := entry(t, s, variant, strings.Repeat("x", body))
		e.Header.Set("Pad", strings.Repeat("x", n-body))
		e.Received, e.Requested, e.Mark = first.Received, first.Requested, first.Mark
		return e
	}
	most := int(cfg.MaxBody) + rediscache.MaxSlack
	put(t, s, of("m", most-1<<10), 9)
	all, err := c.HGetAll(t.Context(), entryKeyOf(key)).Result()
	require.NoError(t, err)
	largest := most
	for name, v := range all {
		if name[0] == 'b' { // all but the body is of the same length in those that follow
			largest -= len(v) - (most - 1<<10)
		}
	}
	for i := range 4 {
		put(t, s, of(fmt.Sprint(i), largest), 9)
	}
	require.Zero(t, s.Stats().TooLarge)
	require.Len(t, bodies(t, s), 4)
	put(t, s, of("4", 1), 9)
	require.Len(t, bodies(t, s), 4, "the one that was put first has left")
	require.ErrorIs(t, s.Put(t.Context(), key, of("5", largest+1), 9), cache.ErrTooLarge)
	require.EqualValues(t, 1, s.Stats().TooLarge)
}

// What came at a time that the server's clock has not reached is no reason to refuse what comes
// now: the clock was set back.
func TestStore_WhatCameInTheFutureIsReplaced(t *testing.T) {
	c := startRedis(t).client(t)
	s := newStore(t, c, generous)
	put(t, s, entry(t, s, "", "old"), 9)
	name := entryKeyOf(key)
	all, err := c.HGetAll(t.Context(), name).Result()
	require.NoError(t, err)
	for field, line := range all {
		if field[0] != 'm' {
			continue
		}
		parts := strings.Fields(line)
		parts[0] = fmt.Sprint(time.Now().Add(time.Hour).UnixMicro())
		line = strings.Join(parts[:6], " ")
		line += fmt.Sprintf(" %x", sha1.Sum([]byte(name+field[1:]+line)))
		require.NoError(t, c.HSet(t.Context(), name, field, line).Err())
	}
	require.Equal(t, []string{"old"}, bodies(t, s))
	put(t, s, entry(t, s, "", "new"), 9)
	require.Equal(t, []string{"new"}, bodies(t, s))
}

// After a day the first of several soft purges makes way for the next, and for what was stored
// before it the purge has become a hard one; a later hard one stays as late as it is.
func TestStore_AfterADayTheFirstSoftPurgeIsHard(t *testing.T) {
	for hard, stays := range map[time.Duration]bool{2 * time.Hour: true, 30 * time.Hour: false} {
		c := startRedis(t).client(t)
		s := newStore(t, c, generous)
		require.NoError(t, s.Sync(t.Context()))
		score := func(ago time.Duration) float64 { return float64(time.Now().Add(-ago).UnixMicro()) }
		first, soft, before := score(25*time.Hour), score(time.Hour), score(hard)
		epoch := c.ZRange(t.Context(), purgedKey, 0, 0).Val()[0]
		require.NoError(t, c.ZAdd(t.Context(), purgedKey,
			redis.Z{Score: score(50 * time.Hour), Member: epoch},
			redis.Z{Score: first, Member: "flta"}, redis.Z{Score: soft, Member: "slta"},
			redis.Z{Score: before, Member: "hlta"}).Err())
		late := newStore(t, c, generous)
		late.RememberPurges(99, 100*time.Hour)
		require.NoError(t, late.Purge(t.Context(), cache.Purge{Label: "ta", How: cache.Soft}))
		at := func(member string) float64 { return c.ZScore(t.Context(), purgedKey, member).Val() }
		require.Equal(t, soft, at("flta"))
		require.Greater(t, at("slta"), soft)
		require.Equal(t, map[bool]float64{true: before, false: first}[stays], at("hlta"))
	}
}

// A lock of another that lasts longer than ours would is asked for again when ours would have
// ended.
func TestStore_WhatIsLeftOfALockIsBounded(t *testing.T) {
	c := startRedis(t).client(t)
	a, b := newStore(t, c, generous), newStore(t, c, generous)
	_, err := a.Lock(t.Context(), key, time.Hour)
	require.NoError(t, err)
	l, err := b.Lock(t.Context(), key, time.Second)
	require.NoError(t, err)
	require.Zero(t, l.Token)
	require.Equal(t, time.Second, l.Left)
}

// Who has lost a lock announces nothing when it ends it; and the number of what is announced is not
// kept for ever.
func TestStore_OnlyTheHolderOfALockAnnouncesItsEnd(t *testing.T) {
	c := startRedis(t).client(t)
	a, b := newStore(t, c, generous), newStore(t, c, generous)
	ctx, end := context.WithCancel(t.Context())
	heard, watched := make(chan cache.News, 100), make(chan struct{})
	go func() {
		defer close(watched)
		_ = a.Watch(ctx, func(n cache.News) { heard <- n })
	}()
	defer func() { end(); <-watched }()
	next := func(kind cache.NewsKind) cache.News {
		for n := range heard {
			if n.Kind == kind {
				return n
			}
		}
		return cache.News{}
	}
	next(cache.NewsUp)
	require.Positive(t, c.PTTL(ctx, newsKey).Val())
	l, err := b.Lock(ctx, key, time.Minute)
	require.NoError(t, err)
	require.NoError(t, a.Unlock(ctx, key, l.Token-1, true))
	require.NoError(t, b.Unlock(ctx, key, l.Token, false))
	require.Equal(t, cache.News{Kind: cache.NewsFetched, Key: key}, next(cache.NewsFetched))
}
