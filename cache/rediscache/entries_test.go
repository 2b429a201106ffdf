package rediscache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

var key = cache.Key{1, 2, 3}

// entry returns one that was fetched now, after what s knows was purged.
func entry(t *testing.T, s *rediscache.Store, variant, body string, labels ...string) *cache.Entry {
	t.Helper()
	_, mark, err := s.Get(t.Context(), cache.Key{})
	require.NoError(t, err)
	e := &cache.Entry{
		URL: "//example.com/x", Labels: append([]string{"u//example.com/x"}, labels...), Mark: mark,
		Variant: variant, Status: 200, Header: http.Header{}, Size: int64(len(body)),
		Received: time.Now(), Requested: time.Now(), Keep: time.Hour,
	}
	if body != "" {
		e.Segments = []cache.Segment{{Data: []byte(body)}}
	}
	return e
}

func put(t *testing.T, s *rediscache.Store, e *cache.Entry, most int) {
	t.Helper()
	require.NoError(t, s.Put(t.Context(), key, e, most))
}

// bodies returns those that are stored, the latest first.
func bodies(t *testing.T, s *rediscache.Store) (list []string) {
	t.Helper()
	r, _, err := s.Get(t.Context(), key)
	require.NoError(t, err)
	if r == nil {
		return nil
	}
	for _, e := range r.Entries {
		list = append(list, string(e.Segments[0].Data))
	}
	return list
}

func TestStore_WhatCameLaterStays(t *testing.T) {
	s := newStore(t, startRedis(t).client(t), generous)
	early := entry(t, s, "", "early")
	early.Received = early.Received.Add(-time.Minute)
	put(t, s, entry(t, s, "", "late"), 9)
	put(t, s, early, 9)
	require.Equal(t, []string{"late"}, bodies(t, s))
	put(t, s, entry(t, s, "", "later"), 9)
	require.Equal(t, []string{"later"}, bodies(t, s))

	// A part gives way to the whole of its own version.
	part := entry(t, s, "", "part")
	part.Size, part.Header["Etag"] = 100, []string{`"1"`}
	put(t, s, part, 9)
	for _, tt := range []struct{ tag, want string }{{`"2"`, "part"}, {`W/"1"`, "part"}, {`"1"`, "whole"}} {
		whole := entry(t, s, "", "whole")
		whole.Received, whole.Header["Etag"] = part.Received.Add(-time.Minute), []string{tt.tag}
		put(t, s, whole, 9)
		require.Equal(t, []string{tt.want}, bodies(t, s))
	}

	// What was fetched after a purge is not kept out by what was not.
	slow := entry(t, s, "", "slow")
	require.NoError(t, s.Purge(t.Context(), cache.Purge{Label: "tother", How: cache.Hard}))
	fresh := entry(t, s, "", "fresh")
	fresh.Received = slow.Received.Add(-time.Second)
	put(t, s, slow, 9)
	put(t, s, fresh, 9)
	require.Equal(t, []string{"fresh"}, bodies(t, s))
}

// TestC60_AnotherVariantsValueIsAMiss: under the same key, and whole.
func TestC60_AnotherVariantsValueIsAMiss(t *testing.T) {
	c := startRedis(t).client(t)
	s := newStore(t, c, generous)
	put(t, s, entry(t, s, "1", "a"), 9)
	put(t, s, entry(t, s, "2", "b"), 9)
	name := fmt.Sprintf("{shop:%x}", key[:])
	all := c.HGetAll(t.Context(), name).Val()
	var fields []string
	for f := range all {
		if f[0] == 'b' {
			fields = append(fields, f)
		}
	}
	require.Len(t, fields, 2)
	require.NoError(t, c.HSet(t.Context(), name, fields[0], all[fields[1]], fields[1], all[fields[0]]).Err())
	require.Empty(t, bodies(t, s))
	require.EqualValues(t, 2, s.Stats().Damaged)
}

func TestStore_AgesAreTheServers(t *testing.T) {
	c := startRedis(t).client(t)
	a, b := newStore(t, c, generous), newStore(t, c, generous)
	e := entry(t, a, "", "x")
	e.Received = e.Received.Add(-time.Minute)
	put(t, a, e, 9)
	r, _, err := b.Get(t.Context(), key)
	require.NoError(t, err)
	require.Len(t, r.Entries, 1)
	age := time.Since(r.Entries[0].Received)
	require.GreaterOrEqual(t, age, time.Minute-time.Second)
	require.Less(t, age, 2*time.Minute)
}

// A gate holds back what is sent to a server once, or the reply to that.
type gate struct {
	come, open chan struct{}
	reply      bool
	lost       error // takes the place of the reply; may be nil
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	var held atomic.Bool
	return func(ctx context.Context, cmds []redis.Cmder) error {
		first := cmds[0].Name() == "evalsha" && held.CompareAndSwap(false, true)
		var err error
		if g.reply || !first {
			err = next(ctx, cmds)
		}
		if !first {
			return err
		}
		close(g.come)
		<-g.open
		if !g.reply {
			err = next(ctx, cmds)
		}
		if g.lost != nil {
			return g.lost
		}
		return err
	}
}

// TestStore_WhatIsReadLateIsNotYounger: a server that was stopped finds an older response in its
// queue when a later one is there.
func TestStore_WhatIsReadLateIsNotYounger(t *testing.T) {
	server := startRedis(t)
	c := server.client(t)
	s := newStore(t, c, generous)
	old := entry(t, s, "", "old")
	g := &gate{come: make(chan struct{}), open: make(chan struct{})}
	c.AddHook(g)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Put(context.Background(), key, old, 9); err != nil {
			t.Error(err)
		}
	})
	<-g.come
	put(t, s, entry(t, s, "", "new"), 9)
	close(g.open)
	wg.Wait()
	require.Equal(t, []string{"new"}, bodies(t, s))
}

// TestStore_ALockThatNobodyKnowsOfIsGivenBack: its reply came too late, or was lost.
func TestStore_ALockThatNobodyKnowsOfIsGivenBack(t *testing.T) {
	server := startRedis(t)
	other := newStore(t, server.client(t), generous)
	free := func() bool {
		l, err := other.Lock(t.Context(), key, time.Hour)
		require.NoError(t, err)
		if l.Token != 0 {
			require.NoError(t, other.Unlock(t.Context(), key, l.Token, false))
		}
		return l.Token != 0
	}
	require.True(t, free()) // the server knows the scripts now
	c := server.client(t)
	late := &gate{come: make(chan struct{}), open: make(chan struct{}), reply: true}
	c.AddHook(late)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := newStore(t, c, generous).Lock(ctx, key, time.Hour); err == nil {
			t.Error("it came too late")
		}
	})
	<-late.come
	require.False(t, free())
	cancel()
	wg.Wait()
	close(late.open)
	require.Eventually(t, free, time.Minute, time.Millisecond)

	c = server.client(t)
	lost := &gate{come: make(chan struct{}), open: make(chan struct{}), reply: true, lost: io.EOF}
	c.AddHook(lost)
	close(lost.open)
	s := newStore(t, c, generous)
	l, err := s.Lock(t.Context(), key, time.Hour)
	require.NoError(t, err)
	require.NotZero(t, l.Token, "the second try finds its own lock")
	require.NoError(t, s.Unlock(t.Context(), key, l.Token, true))
	require.True(t, free())
}

func TestStore_VariantsAreBounded(t *testing.T) {
	s := newStore(t, startRedis(t).client(t), generous)
	for i := range 5 {
		put(t, s, entry(t, s, fmt.Sprint(i), fmt.Sprint(i)), 3)
	}
	require.Equal(t, []string{"4", "3", "2"}, bodies(t, s))
	put(t, s, entry(t, s, "2", "again"), 3)
	require.Equal(t, []string{"again", "4", "3"}, bodies(t, s))
	large := strings.Repeat("x", 1<<20)
	for i := range 8 {
		put(t, s, entry(t, s, fmt.Sprint(i), large), 99)
	}
	require.Len(t, bodies(t, s), 4, "of all bytes that are read")
	require.ErrorIs(t, s.Put(t.Context(), key, entry(t, s, "9", large+large), 99), cache.ErrTooLarge)
	require.Len(t, bodies(t, s), 4)
	require.EqualValues(t, 1, s.Stats().TooLarge)
}

// TestStore_TheFirstOfSeveralSoftPurgesCounts for what was stored before it; otherwise repeated
// ones would prolong the time for which it is used.
func TestStore_TheFirstOfSeveralSoftPurgesCounts(t *testing.T) {
	c := startRedis(t).client(t)
	s := newStore(t, c, generous)
	for _, purge := range []cache.Purge{
		{Label: "ta", How: cache.Soft}, {Prefix: "//example.com/", How: cache.Soft},
	} {
		first := entry(t, s, "first", "x", "ta")
		require.NoError(t, s.Purge(t.Context(), purge))
		between := time.Now()
		second := entry(t, s, "second", "x", "ta")
		require.NoError(t, s.Purge(t.Context(), purge))
		third := entry(t, s, "third", "x", "ta")
		require.NoError(t, s.Purge(t.Context(), purge))
		late := newStore(t, c, generous) // knows nothing, and learns it
		asked := time.Now()
		require.NoError(t, late.Sync(t.Context()))
		// How long ago it was is as old as the reply when that is read.
		for s, late := range map[*rediscache.Store]time.Duration{s: 0, late: time.Since(asked)} {
			how, since := s.Purged(first)
			require.Equal(t, cache.Soft, how)
			require.LessOrEqual(t, since.Sub(between), late)
			how, later := s.Purged(second)
			require.Equal(t, cache.Soft, how)
			require.True(t, later.After(since))
			how, _ = s.Purged(third)
			require.Equal(t, cache.Soft, how)
		}
		last := entry(t, s, "last", "x", "ta")
		how, _ := s.Purged(last)
		require.Zero(t, how)
	}
}

// TestStore_WhatIsForgottenCountsAsPurged: for those who heard it as for those who did not.
func TestStore_WhatIsForgottenCountsAsPurged(t *testing.T) {
	c := startRedis(t).client(t)
	ctx := t.Context()
	s, other := newStore(t, c, generous), newStore(t, c, generous)
	s.RememberPurges(16, time.Hour)
	var told []cache.FarPurge
	other.Follow(func(p cache.FarPurge) { told = append(told, p) })
	require.NoError(t, other.Sync(ctx))
	e := entry(t, s, "", "x")
	put(t, s, e, 9)
	for i := range 10 {
		require.NoError(t, s.Purge(ctx, cache.Purge{Label: fmt.Sprint("t", i), How: cache.Hard}))
	}
	require.Equal(t, []string{"x"}, bodies(t, s))
	for i := range 40 {
		require.NoError(t, s.Purge(ctx, cache.Purge{Label: fmt.Sprint("t", i), How: cache.Hard}))
	}
	members := func() int64 { return c.ZCard(ctx, "shop{shopnews}:purged").Val() }
	require.LessOrEqual(t, members(), int64(17))
	for _, s := range []*rediscache.Store{s, other, newStore(t, c, generous)} {
		require.Empty(t, bodies(t, s))
	}
	require.True(t, told[1].Label == "" && told[1].Prefix == "" && told[1].How == cache.Hard,
		"a process that has missed some is told that it cannot know")
	require.Equal(t, "t39", told[len(told)-1].Label)
	put(t, s, entry(t, s, "", "new"), 9)
	require.Equal(t, []string{"new"}, bodies(t, other))

	s.RememberPurges(16, 0)
	require.NoError(t, s.Purge(ctx, cache.Purge{Label: "tx", How: cache.Hard}))
	require.LessOrEqual(t, members(), int64(2))
	require.Equal(t, []string{"new"}, bodies(t, other), "it knows all that was purged since")
}

// TestC63_AServerThatHasMissedAPurge, as a replica may have: whoever knows of it ends the epoch for
// all.
func TestC63_AServerThatHasMissedAPurge(t *testing.T) {
	c := startRedis(t).client(t)
	ctx := t.Context()
	s := newStore(t, c, generous)
	put(t, s, entry(t, s, "", "x", "ta"), 9)
	require.NoError(t, s.Purge(ctx, cache.Purge{Label: "tother", How: cache.Hard}))
	require.NoError(t, s.Purge(ctx, cache.Purge{Label: "ta", How: cache.Hard}))
	require.EqualValues(t, 1, c.ZRem(ctx, "shop{shopnews}:purged", "hlta").Val())
	require.Equal(t, []string{"x"}, bodies(t, newStore(t, c, generous)), "it cannot know")
	before := entry(t, newStore(t, c, generous), "", "slow", "ta")
	require.NoError(t, s.Sync(ctx))
	require.EqualValues(t, 2, s.Stats().Epochs)
	late := newStore(t, c, generous)
	require.Empty(t, bodies(t, late))
	put(t, late, before, 9) // fetched in the epoch that has ended
	require.Empty(t, bodies(t, late))
	put(t, late, entry(t, late, "", "new"), 9)
	require.Equal(t, []string{"new"}, bodies(t, s))
}

// TestC63_ALongNameIsNoTrap: what could not be read by others is not remembered.
func TestC63_ALongNameIsNoTrap(t *testing.T) {
	c := startRedis(t).client(t)
	s, other := newStore(t, c, generous), newStore(t, c, generous)
	long := strings.Repeat("x", 1<<20)
	put(t, s, entry(t, s, "", "x"), 9)
	require.Error(t, s.Purge(t.Context(), cache.Purge{Label: long, How: cache.Hard}))
	require.NoError(t, s.Purge(t.Context(), cache.Purge{Prefix: long, How: cache.Hard}))
	require.NoError(t, s.Purge(t.Context(), cache.Purge{Label: "a\x00\n{b}", How: cache.Hard}))
	require.Equal(t, []string{"x"}, bodies(t, other))
	require.NoError(t, s.Purge(t.Context(), cache.Purge{How: cache.Hard}))
	require.Empty(t, bodies(t, other), "nothing at all is the prefix of everything")
}

// TestStore_ALockIsItsHoldersOnly: a process that has lost it can neither extend nor end the next
// one.
func TestStore_ALockIsItsHoldersOnly(t *testing.T) {
	c := startRedis(t).client(t)
	ctx := context.Background()
	a, b := newStore(t, c, generous), newStore(t, c, generous)
	first, err := a.Lock(ctx, key, time.Minute)
	require.NoError(t, err)
	require.NotZero(t, first.Token)
	l, err := b.Lock(ctx, key, time.Minute)
	require.NoError(t, err)
	require.Zero(t, l.Token)
	require.Greater(t, l.Left, 30*time.Second)
	held, err := a.Extend(ctx, key, first.Token, time.Millisecond)
	require.NoError(t, err)
	require.True(t, held)
	var second cache.FarLock
	require.Eventually(t, func() bool {
		second, err = b.Lock(ctx, key, time.Minute)
		return err == nil && second.Token != 0
	}, time.Minute, time.Millisecond)
	require.Greater(t, second.Token, first.Token)
	held, err = a.Extend(ctx, key, first.Token, time.Minute)
	require.NoError(t, err)
	require.False(t, held)
	require.NoError(t, a.Unlock(ctx, key, first.Token, true))
	l, err = a.Lock(ctx, key, time.Minute)
	require.NoError(t, err)
	require.Zero(t, l.Token)
	require.NoError(t, b.Unlock(ctx, key, second.Token, true))
	l, err = a.Lock(ctx, key, time.Minute)
	require.NoError(t, err)
	require.NotZero(t, l.Token)
	// What nobody can have locked, and would never end, is no lock.
	require.NoError(t, c.Set(ctx, fmt.Sprintf("{shop:%x}:lock", key[:]), "x", redis.KeepTTL).Err())
	require.NoError(t, c.Persist(ctx, fmt.Sprintf("{shop:%x}:lock", key[:])).Err())
	l, err = a.Lock(ctx, key, time.Minute)
	require.NoError(t, err)
	require.NotZero(t, l.Token)
}
