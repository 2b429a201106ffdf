package rediscache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

func newInvalidations(
	t testing.TB, client redis.UniversalClient, cfg rediscache.InvalidationsConfig,
) *rediscache.Invalidations {
	t.Helper()
	if cfg.Prefix == "" {
		cfg.Prefix = "shop:"
	}
	v, err := rediscache.NewInvalidations(client, cfg)
	require.NoError(t, err)
	return v
}

// patient is a configuration under which a busy machine fails no call and makes no gap.
var patient = rediscache.InvalidationsConfig{Timeout: patience, MaxSilence: calm}

// A replica hears notices.
type replica struct {
	t       testing.TB
	v       *rediscache.Invalidations
	notices chan rediscache.Notice
	end     chan error
	stop    context.CancelCauseFunc
}

// startReplica runs v until t ends.
func startReplica(t testing.TB, v *rediscache.Invalidations) *replica {
	t.Helper()
	r := &replica{t: t, v: v, notices: make(chan rediscache.Notice, 1<<16), end: make(chan error, 1)}
	ctx, stop := context.WithCancelCause(context.Background())
	r.stop = stop
	go func() {
		r.end <- v.Run(ctx, func(n rediscache.Notice) { r.notices <- n })
		close(r.end)
	}()
	t.Cleanup(func() {
		stop(errStop)
		<-r.end
	})
	return r
}

func (r *replica) next() rediscache.Notice {
	r.t.Helper()
	select {
	case n := <-r.notices:
		return n
	case <-time.After(patience):
		require.Fail(r.t, "nothing was told")
		return rediscache.Notice{}
	}
}

// gap returns the next gap after which notices are heard, or not. It skips other notices.
func (r *replica) gap(connected bool) rediscache.Notice {
	r.t.Helper()
	for {
		if n := r.next(); n.Kind == rediscache.NoticeGap && n.Connected == connected {
			return n
		}
	}
}

func keyNotice(key string) rediscache.Notice {
	return rediscache.Notice{Kind: rediscache.NoticeKey, Key: key, Connected: true}
}

func TestNewInvalidationsNamesEveryFault(t *testing.T) {
	_, err := rediscache.NewInvalidations(nil, rediscache.InvalidationsConfig{Timeout: -1, MaxSilence: -1})
	for _, want := range []string{
		"rediscache: client: is nil", "rediscache: InvalidationsConfig.Prefix: is required",
		"rediscache: InvalidationsConfig.Timeout: -1ns is negative",
		"rediscache: InvalidationsConfig.MaxSilence: -1ns is negative",
	} {
		require.ErrorContains(t, err, want)
	}
	_, err = rediscache.NewInvalidations((*redis.Client)(nil), rediscache.InvalidationsConfig{
		Prefix: "a{b", MaxSilence: time.Millisecond,
	})
	for _, want := range []string{
		"rediscache: client: is nil", `rediscache: InvalidationsConfig.Prefix: "a{b" contains braces`,
		"rediscache: InvalidationsConfig.MaxSilence: 1ms is less than 100ms",
	} {
		require.ErrorContains(t, err, want)
	}
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	_, err = rediscache.NewInvalidations(client, rediscache.InvalidationsConfig{
		Prefix: strings.Repeat("a", 65),
	})
	require.EqualError(t, err, "rediscache: InvalidationsConfig.Prefix: has 65 bytes, more than 64")
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	ok := rediscache.InvalidationsConfig{Prefix: strings.Repeat("a", 64)}
	for want, client := range map[string]redis.UniversalClient{
		"rediscache: client: is nil": (*redis.ClusterClient)(nil),
		"rediscache: client: is a Ring, whose clients may use different servers": ring,
	} {
		_, err = rediscache.NewInvalidations(client, ok)
		require.EqualError(t, err, want)
	}
}

// TestNoticesReachEveryReplica: also the one that sends them, in the same order.
func TestNoticesReachEveryReplica(t *testing.T) {
	server := startRedis(t)
	var replicas []*replica
	for range 3 {
		replicas = append(replicas, startReplica(t, newInvalidations(t, server.client(t), patient)))
	}
	for _, r := range replicas {
		require.Equal(t, rediscache.Notice{
			Kind: rediscache.NoticeGap, Err: rediscache.ErrConnected, Connected: true,
		}, r.next())
	}
	v := replicas[1].v
	odd := ":\x00\xff\r\n{" + strings.Repeat("x", 8<<10-6)
	require.NoError(t, v.Key(t.Context(), ""))
	require.NoError(t, v.Key(t.Context(), odd))
	require.NoError(t, v.Tag(t.Context(), "prices", cache.Soft))
	require.NoError(t, v.Tag(t.Context(), odd, cache.Hard))
	for _, r := range replicas {
		require.Equal(t, keyNotice(""), r.next())
		require.Equal(t, keyNotice(odd), r.next())
		require.Equal(t, rediscache.Notice{
			Kind: rediscache.NoticeTag, Tag: "prices", How: cache.Soft, Connected: true,
		}, r.next())
		require.Equal(t, rediscache.Notice{
			Kind: rediscache.NoticeTag, Tag: odd, How: cache.Hard, Connected: true,
		}, r.next())
		stats := r.v.Stats()
		require.EqualValues(t, 4, stats.Notices)
		require.EqualValues(t, 1, stats.Gaps)
		require.Equal(t, 1, stats.Running)
		require.Equal(t, 1, stats.Connected)
	}
	require.EqualValues(t, 4, v.Stats().Published)
	replicas[1].stop(errStop)
	require.Equal(t, errStop, <-replicas[1].end)
	require.Zero(t, v.Stats().Running)
	require.Zero(t, v.Stats().Connected)
	require.NoError(t, v.Key(t.Context(), "who does not hear may speak"))
	require.Equal(t, keyNotice("who does not hear may speak"), replicas[0].next())
}

// TestWhatCannotBeSaid is an error, and nothing is sent.
func TestWhatCannotBeSaid(t *testing.T) {
	v := newInvalidations(t, startRedis(t).client(t), patient)
	require.EqualError(t, v.Tag(t.Context(), "a", 0), "rediscache: 0 is neither cache.Soft nor cache.Hard")
	require.EqualError(t, v.Tag(t.Context(), "a", 3), "rediscache: 3 is neither cache.Soft nor cache.Hard")
	long := strings.Repeat("x", 8<<10+1)
	want := "rediscache: a name of 8193 bytes is longer than 8192"
	require.EqualError(t, v.Key(t.Context(), long), want)
	require.EqualError(t, v.Tag(t.Context(), long, cache.Hard), want)
	require.Zero(t, v.Stats())
}

// TestServicesDoNotMeet: those with another Prefix hear nothing, also in the same database.
func TestServicesDoNotMeet(t *testing.T) {
	server := startRedis(t)
	one := newInvalidations(t, server.client(t), rediscache.InvalidationsConfig{
		Prefix: "shop", Timeout: patience, MaxSilence: calm,
	})
	other := newInvalidations(t, server.client(t), rediscache.InvalidationsConfig{
		Prefix: "shop2", Timeout: patience, MaxSilence: calm,
	})
	first, second := startReplica(t, one), startReplica(t, other)
	first.gap(true)
	second.gap(true)
	require.NoError(t, one.Key(t.Context(), "of one"))
	require.NoError(t, other.Key(t.Context(), "of the other"))
	require.Equal(t, keyNotice("of one"), first.next())
	require.Equal(t, keyNotice("of the other"), second.next())
	keys, err := server.client(t).Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"shop{shopinvalidations}:sequence", "shop2{shop2invalidations}:sequence",
	}, keys)
	for _, key := range keys {
		ttl, err := server.client(t).PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		require.InDelta(t, 90*24*time.Hour, ttl, float64(time.Hour))
	}
}

// TestWhoLeavesIsHeard: a client that has left after its write does not leave the old value with
// the others.
func TestWhoLeavesIsHeard(t *testing.T) {
	r := startReplica(t, newInvalidations(t, startRedis(t).client(t), patient))
	r.gap(true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, r.v.Key(ctx, "a"))
	require.Equal(t, keyNotice("a"), r.next())
}

// TestC61_AnIllRedisIsAnErrorInTime: a caller waits for its Timeout and is told that nobody may
// have heard it; after three failures it does not wait.
func TestC61_AnIllRedisIsAnErrorInTime(t *testing.T) {
	for name, ill := range map[string]func(*server){"killed": (*server).Kill, "stopped": (*server).Pause} {
		t.Run(name, func(t *testing.T) {
			server := startRedis(t)
			v := newInvalidations(t, server.client(t), rediscache.InvalidationsConfig{
				Timeout: 100 * time.Millisecond,
			})
			ill(server)
			for range 3 {
				require.ErrorContains(t, v.Key(t.Context(), "a"), "rediscache: ")
			}
			stats := v.Stats()
			require.True(t, stats.Open)
			require.EqualValues(t, 3, stats.Failures)
			for v.Stats().Refused == 0 {
				require.Error(t, v.Tag(t.Context(), "a", cache.Hard))
			}
			require.Zero(t, v.Stats().Published)
		})
	}
}

// TestC74_APanicOfHandle is its caller's, and leaves nothing behind.
func TestC74_APanicOfHandle(t *testing.T) {
	v := newInvalidations(t, startRedis(t).client(t), patient)
	require.PanicsWithValue(t, "rediscache: nil handle", func() { _ = v.Run(t.Context(), nil) })
	boom := errors.New("boom")
	require.PanicsWithValue(t, boom, func() {
		_ = v.Run(context.Background(), func(rediscache.Notice) { panic(boom) })
	})
	require.Zero(t, v.Stats().Running)
	require.Zero(t, v.Stats().Connected)
}

// TestAClosedClientEndsRun: it does not come back.
func TestAClosedClientEndsRun(t *testing.T) {
	client := startRedis(t).client(t)
	r := startReplica(t, newInvalidations(t, client, patient))
	r.gap(true)
	require.NoError(t, client.Close())
	r.gap(false)
	require.ErrorIs(t, <-r.end, redis.ErrClosed)
}

// TestRightsAreEnough: the rights that doc.go names are all that is needed.
func TestRightsAreEnough(t *testing.T) {
	server := startRedis(t)
	rule := "ACL SETUSER shop on >secret resetkeys ~shop:* resetchannels &shop:* -@all " +
		"+evalsha +eval +hget +hset +hincrby +pexpire +pttl +publish +subscribe +ping"
	var args []any
	for word := range strings.FieldsSeq(rule) {
		args = append(args, word)
	}
	require.NoError(t, server.client(t).Do(t.Context(), args...).Err())
	client := redis.NewClient(&redis.Options{
		Addr: server.Addr, Username: "shop", Password: "secret", DisableIdentity: true,
	})
	defer client.Close()
	r := startReplica(t, newInvalidations(t, client, patient))
	r.gap(true)
	for i := range 3 {
		require.NoError(t, r.v.Key(t.Context(), fmt.Sprint(i)))
		require.Equal(t, keyNotice(fmt.Sprint(i)), r.next())
	}
	other := newInvalidations(t, client, rediscache.InvalidationsConfig{
		Prefix: "other:", Timeout: patience,
	})
	require.ErrorContains(t, other.Key(t.Context(), "a"), "NOPERM")
}
