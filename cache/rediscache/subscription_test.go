package rediscache_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache/rediscache"
	"github.com/trivet-go/trivet/internal/faultproxy"
)

// patience is how long a test waits for what must come.
const patience = 2 * time.Minute

// A said is what a subscription told: a message, or a gap.
type said struct {
	body string
	gap  error
	up   bool      // after it
	at   time.Time // in simulated time
}

// A listener hears what a subscription tells.
type listener struct {
	t    testing.TB
	sub  *rediscache.Subscription
	said chan said
	end  chan error
	stop context.CancelCauseFunc
}

var errStop = errors.New("the test is over")

// listen runs a subscription until t ends.
func listen(t testing.TB, client redis.UniversalClient, maxSilence time.Duration) *listener {
	t.Helper()
	l := &listener{t: t, said: make(chan said, 1<<16), end: make(chan error, 1)}
	l.sub = rediscache.NewSubscription(client, maxSilence,
		func(body string) { l.said <- said{body: body, up: l.sub.Connected()} },
		func(err error) { l.said <- said{gap: err, up: l.sub.Connected()} },
	)
	ctx, stop := context.WithCancelCause(context.Background())
	l.stop = stop
	go func() { l.end <- l.sub.Run(ctx) }()
	t.Cleanup(func() {
		stop(errStop)
		<-l.end
		require.False(t, l.sub.Connected())
	})
	return l
}

// next returns what is told next.
func (l *listener) next() said {
	l.t.Helper()
	select {
	case s := <-l.said:
		return s
	case <-time.After(patience):
		require.Fail(l.t, "nothing was told")
		return said{}
	}
}

// gap returns the next gap for which up says whether there is a connection now. It skips others.
func (l *listener) gap(up bool) said {
	l.t.Helper()
	for {
		if s := l.next(); s.gap != nil && s.up == up {
			return s
		}
	}
}

// message requires that the next message is want, without a gap before it.
func (l *listener) message(want string) {
	l.t.Helper()
	require.Equal(l.t, said{body: want, up: true}, l.next())
}

func (l *listener) announce(body string) {
	l.t.Helper()
	require.NoError(l.t, l.sub.Announce(l.t.Context(), body))
}

// calm is a time after which no busy machine lets a test believe that a server is silent.
const calm = time.Minute

func TestMessagesComeInOrder(t *testing.T) {
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprint("RESP", protocol), func(t *testing.T) {
			client := redis.NewClient(&redis.Options{Addr: startRedis(t).Addr, Protocol: protocol})
			defer client.Close()
			all := []*listener{listen(t, client, calm), listen(t, client, calm)}
			for _, l := range all {
				require.Equal(t, said{gap: rediscache.ErrConnected, up: true}, l.next())
			}
			for i := range 3000 { // more than the history remembers
				all[i%2].announce(fmt.Sprint(i, ":\x00\xff\r\n"))
			}
			for _, l := range all {
				for i := range 3000 {
					l.message(fmt.Sprint(i, ":\x00\xff\r\n"))
				}
			}
		})
	}
}

// TestC63_ALostConnectionIsAGap: one when it is lost, and one when there is another.
func TestC63_ALostConnectionIsAGap(t *testing.T) {
	server := startRedis(t)
	for name, cut := range map[string]func(){
		"client kill": func() {
			c := server.client(t)
			require.NoError(t, c.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
		},
		"kill -9": func() {
			server.Kill()
			server.Restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := redis.NewClient(&redis.Options{Addr: server.Addr})
			defer client.Close()
			l := listen(t, client, calm)
			l.gap(true)
			for i := range 3 {
				start := time.Now()
				cut()
				lost := l.next()
				require.Error(t, lost.gap)
				require.False(t, lost.up)
				t.Logf("told after %v, with the cut itself: %v", time.Since(start), lost.gap)
				require.Equal(t, said{gap: rediscache.ErrConnected, up: true}, l.next())
				l.announce(fmt.Sprint(i))
				l.message(fmt.Sprint(i))
			}
		})
	}
}

// TestC63_AServerThatIsStoppedIsAGap: within the silence that is allowed, and again for as long as
// it is.
func TestC63_AServerThatIsStoppedIsAGap(t *testing.T) {
	server := startRedis(t)
	l := listen(t, server.client(t), time.Second)
	l.gap(true)
	server.Pause()
	for range 3 {
		l.gap(false)
	}
	server.Resume()
	l.gap(true)
	for s := (said{}); s.body == ""; s = l.next() { // a busy machine is silent too
		l.announce("there again")
	}
}

// TestC63_HalfOpen: no byte passes, and nobody closes the connection.
func TestC63_HalfOpen(t *testing.T) {
	proxy := faultproxy.Start(t, startRedis(t).Addr)
	l := listen(t, clientOf(t, proxy.Addr), time.Second)
	l.gap(true)
	proxy.Set(faultproxy.Fault{Hang: true})
	require.ErrorIs(t, l.gap(false).gap, rediscache.ErrSilent)
	l.gap(false)
	proxy.Set(faultproxy.Fault{})
	l.gap(true)
}
