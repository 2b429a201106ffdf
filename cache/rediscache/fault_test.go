package rediscache_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache/rediscache"
	"github.com/trivet-go/trivet/internal/faultproxy"
)

// TestC63_FlushAll: the server has forgotten its numbers. That is a gap, whether a message or a
// question comes first, and only one: what is said afterwards is heard.
func TestC63_FlushAll(t *testing.T) {
	server := startRedis(t)
	client := server.client(t)
	t.Run("a message first", func(t *testing.T) {
		l := listen(t, client, calm) // asks after 15 s
		l.gap(true)
		l.announce("before")
		l.message("before")
		require.NoError(t, client.FlushAll(t.Context()).Err())
		l.announce("after")
		require.Equal(t, said{gap: rediscache.ErrMissing, up: true}, l.next())
		l.message("after")
		l.announce("later")
		l.message("later")
	})
	t.Run("a question first", func(t *testing.T) {
		l := listen(t, client, 4*time.Second)
		l.gap(true)
		require.NoError(t, client.FlushAll(t.Context()).Err())
		require.ErrorIs(t, l.gap(false).gap, rediscache.ErrMissing)
		l.gap(true)
		l.announce("after")
		require.Equal(t, "after", l.next().body)
	})
}

// TestC63_ARestartWithAnOldSnapshot gives numbers again that it has given already.
func TestC63_ARestartWithAnOldSnapshot(t *testing.T) {
	server := startRedis(t)
	client := server.client(t)
	l := listen(t, client, calm)
	l.gap(true)
	l.announce("1")
	l.message("1")
	require.NoError(t, client.Save(t.Context()).Err())
	for i := 2; i < 5; i++ {
		l.announce(fmt.Sprint(i))
		l.message(fmt.Sprint(i))
	}
	server.Kill()
	server.Restart()
	require.False(t, l.next().up)
	require.Equal(t, said{gap: rediscache.ErrConnected, up: true}, l.next())
	l.announce("2 again")
	l.message("2 again")
	key, _ := l.sub.Channel()
	number, err := client.HGet(t.Context(), key, "number").Int()
	require.NoError(t, err)
	require.Equal(t, 2, number)
}

// TestC63_AnotherServerOfTheSameNumber: a replica has taken over without the last messages and has
// said as many of its own, which a connection to the old master never brings. The number alone
// would not show it.
func TestC63_AnotherServerOfTheSameNumber(t *testing.T) {
	server := startRedis(t)
	l := listen(t, server.client(t), 4*time.Second)
	l.gap(true)
	l.announce("a")
	l.announce("b")
	for range 2 {
		l.next()
	}
	key, _ := l.sub.Channel()
	require.NoError(t, server.client(t).HSet(t.Context(), key, "id", strings.Repeat("x", 12)).Err())
	require.ErrorIs(t, l.gap(false).gap, rediscache.ErrMissing)
	l.gap(true)
}

// TestC63_AMissingMessage is a gap when the next one comes, and without a next one when the silence
// is over that is allowed.
func TestC63_AMissingMessage(t *testing.T) {
	server := startRedis(t)
	client := server.client(t)
	lose := func(t *testing.T, l *listener) { // to be counted and not sent is to be lost on the way
		key, _ := l.sub.Channel()
		require.NoError(t, client.HIncrBy(t.Context(), key, "number", 1).Err())
		require.NoError(t, client.HSet(t.Context(), key, "id", strings.Repeat("y", 12)).Err())
	}
	t.Run("with a next one", func(t *testing.T) {
		l := listen(t, client, calm)
		l.gap(true)
		l.announce("a")
		l.message("a")
		lose(t, l)
		l.announce("b")
		require.Equal(t, said{gap: rediscache.ErrMissing, up: true}, l.next())
		l.message("b")
	})
	t.Run("the last one", func(t *testing.T) {
		l := listen(t, client, time.Second)
		l.gap(true)
		lose(t, l)
		require.ErrorIs(t, l.gap(false).gap, rediscache.ErrSilent)
		l.gap(true)
	})
}

// TestC60_MalformedMessages are gaps: what a newer release or a stranger says may be anything.
func TestC60_MalformedMessages(t *testing.T) {
	server := startRedis(t)
	client := server.client(t)
	l := listen(t, client, calm)
	l.gap(true)
	_, channel := l.sub.Channel()
	id := strings.Repeat("z", 12)
	for _, payload := range []string{
		"", "1", "1:::", "2:1::" + id + ":x", "1:0::" + id + ":x", "1:01::" + id + ":x",
		"1:-1::" + id + ":x", "1:9007199254740993::" + id + ":x", "1:1:short:" + id + ":x",
		"1:1::short:x", "1:1::" + id[:11] + "!:x", "1:1::" + id, "1:1::" + id + "\n:x",
		strings.Repeat("x", 1<<20),
		"1:1::" + id + ":" + strings.Repeat("x", 1<<14),
	} {
		require.NoError(t, client.Publish(t.Context(), channel, payload).Err())
		require.Equal(t, said{gap: rediscache.ErrMalformed, up: true}, l.next(), "%.40q", payload)
	}
	l.announce("a")
	l.message("a") // the connection and the count are as before
}

// TestC60_NoticesOfAnotherRelease are gaps of Run.
func TestC60_NoticesOfAnotherRelease(t *testing.T) {
	client := startRedis(t).client(t)
	r := startReplica(t, newInvalidations(t, client, patient))
	r.gap(true)
	a := rediscache.NewAnnouncer(client, "shop:", "invalidations")
	for _, body := range []string{"", "xkey", strings.Repeat("k", 8<<10+2)} {
		require.NoError(t, a.Announce(t.Context(), body))
		require.Equal(t, rediscache.Notice{
			Kind: rediscache.NoticeGap, Err: rediscache.ErrMalformed, Connected: true,
		}, r.next())
	}
}

// TestC63_AHandlerThatIsSlow: what does not fit into the bound is a gap, after which it goes on.
func TestC63_AHandlerThatIsSlow(t *testing.T) {
	client := startRedis(t).client(t)
	t.Run("many", func(t *testing.T) { testSlowHandler(t, client, rediscache.MaxQueue+100, "") })
	t.Run("long ones", func(t *testing.T) { testSlowHandler(t, client, 300, strings.Repeat("x", 4<<10)) })
}

func testSlowHandler(t *testing.T, client *redis.Client, n int, pad string) {
	v := newInvalidations(t, client, patient)
	entered, release := make(chan bool, 1), make(chan bool)
	notices := make(chan rediscache.Notice, 1<<16)
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error)
	go func() {
		end <- v.Run(ctx, func(n rediscache.Notice) {
			if n.Key == "first" {
				entered <- true
				<-release
			}
			notices <- n
		})
	}()
	defer func() { cancel(); <-end }()
	require.True(t, (<-notices).Connected)
	require.NoError(t, v.Key(t.Context(), "first"))
	<-entered
	other := startReplica(t, newInvalidations(t, client, patient)) // hears when all has been sent
	other.gap(true)
	for i := range n {
		require.NoError(t, v.Key(t.Context(), fmt.Sprint(i, pad)))
	}
	for range n {
		other.next()
	}
	release <- true
	require.Equal(t, keyNotice("first"), <-notices)
	for n := range notices { // the client may still be busy with what has been sent
		if n.Kind == rediscache.NoticeGap {
			require.Equal(t, rediscache.ErrOverflow, n.Err)
			require.True(t, n.Connected)
			break
		}
	}
	require.NoError(t, v.Key(t.Context(), "last"))
	for n := range notices {
		require.Equal(t, rediscache.NoticeKey, n.Kind)
		if n.Key == "last" {
			break
		}
	}
	require.EqualValues(t, 2, v.Stats().Gaps)
}

// TestC63_ASlowLinkLosesNothing: latency and a narrow line are no gap.
func TestC63_ASlowLinkLosesNothing(t *testing.T) {
	server := startRedis(t)
	proxy := faultproxy.Start(t, server.Addr)
	proxy.Set(faultproxy.Fault{Latency: 20 * time.Millisecond, Bandwidth: 20_000})
	l := listen(t, clientOf(t, proxy.Addr), calm)
	speaker := rediscache.NewAnnouncer(server.client(t), "test:", "said")
	l.gap(true)
	for i := range 200 {
		require.NoError(t, speaker.Announce(t.Context(), fmt.Sprint(i)))
	}
	for i := range 200 {
		l.message(fmt.Sprint(i))
	}
}

// TestC63_AConnectionThatBreaksOffInAMessage loses no later one in silence.
func TestC63_AConnectionThatBreaksOffInAMessage(t *testing.T) {
	server := startRedis(t)
	proxy := faultproxy.Start(t, server.Addr)
	l := listen(t, clientOf(t, proxy.Addr), calm)
	speaker := rediscache.NewAnnouncer(server.client(t), "test:", "said")
	l.gap(true)
	for _, cut := range []faultproxy.Cut{faultproxy.Reset, faultproxy.Truncate} {
		proxy.Set(faultproxy.Fault{Cut: cut, After: 40})
		require.NoError(t, speaker.Announce(t.Context(), strings.Repeat("x", 1000)))
		require.False(t, l.gap(false).up)
		proxy.Set(faultproxy.Fault{})
		l.gap(true)
		require.NoError(t, speaker.Announce(t.Context(), "whole"))
		l.message("whole")
	}
}

// TestC61_Full: a server without memory takes no notice, and says so.
func TestC61_Full(t *testing.T) {
	server := startRedis(t)
	r := startReplica(t, newInvalidations(t, server.client(t), patient))
	r.gap(true)
	require.NoError(t, server.client(t).ConfigSet(t.Context(), "maxmemory", "1").Err())
	require.ErrorContains(t, r.v.Key(t.Context(), "a"), "OOM")
	require.NoError(t, server.client(t).ConfigSet(t.Context(), "maxmemory", "0").Err())
	for r.v.Key(t.Context(), "b") != nil { // the breaker may be open
	}
	require.Equal(t, keyNotice("b"), r.next())
}

// TestC61_ReadOnly: a replica of Redis takes no notice.
func TestC61_ReadOnly(t *testing.T) {
	master, follower := startRedis(t), startRedis(t)
	client := follower.client(t)
	require.NoError(t, client.ReplicaOf(t.Context(), "127.0.0.1", master.Port()).Err())
	require.ErrorContains(t, newInvalidations(t, client, patient).Key(t.Context(), "a"), "READONLY")
}

// TestC63_Cluster: all hear all, whichever node they ask first, and a node that is killed is a gap
// until it is there again.
func TestC63_Cluster(t *testing.T) {
	nodes := startCluster(t)
	var replicas []*replica
	for _, node := range nodes {
		client := redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: []string{node.Addr}, DialerRetries: 1, MaxRedirects: 3,
			DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		})
		t.Cleanup(func() { _ = client.Close() })
		v := newInvalidations(t, client, rediscache.InvalidationsConfig{
			Timeout: patience, MaxSilence: 10 * time.Second,
		})
		replicas = append(replicas, startReplica(t, v))
	}
	for _, r := range replicas {
		r.gap(true)
	}
	everyoneHears := func(round int) {
		t.Helper()
		for i, from := range replicas {
			key := fmt.Sprint(round, i)
			require.Eventually(t, func() bool { return from.v.Key(t.Context(), key) == nil },
				patience, 20*time.Millisecond)
			for _, r := range replicas {
				for n := r.next(); n.Key != key; n = r.next() {
					isGap := n.Kind == rediscache.NoticeGap
					require.True(t, isGap || strings.HasPrefix(n.Key, fmt.Sprint(round)))
				}
			}
		}
	}
	everyoneHears(0)
	client := nodes[0].client(t)
	slot, err := client.ClusterKeySlot(t.Context(), "shop:{shop:invalidations}").Result()
	require.NoError(t, err)
	owner := nodes[slot*int64(len(nodes))/16384]
	owner.Kill()
	for _, r := range replicas {
		r.gap(false)
	}
	owner.Restart()
	for _, r := range replicas {
		r.gap(true)
	}
	everyoneHears(1)
}
