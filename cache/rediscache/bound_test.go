package rediscache_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache/rediscache"
)

const maxSilence = 2 * time.Second

// inBubble runs test with a subscription to f, in simulated time.
func inBubble(t *testing.T, test func(t *testing.T, f *fakeRedis, l *listener)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRedis{}
		l := &listener{t: t, said: make(chan said, 1<<16), end: make(chan error, 1)}
		l.sub = rediscache.NewSubscription(f.client(t), maxSilence,
			func(body string) { l.said <- said{body: body, up: l.sub.Connected(), at: time.Now()} },
			func(err error) { l.said <- said{gap: err, up: l.sub.Connected(), at: time.Now()} },
		)
		l.sub.SetRandom(func() float64 { return 1 })
		ctx, stop := context.WithCancel(t.Context())
		go func() { l.end <- l.sub.Run(ctx) }()
		defer func() {
			f.set(func() { f.refuse = true })
			f.cut()
			stop()
			<-l.end
		}()
		test(t, f, l)
	})
}

// TestC63_TheBoundWhenTheServerIsSilent: whenever the server falls silent, a gap is told at most
// maxSilence later, and again each maxSilence.
func TestC63_TheBoundWhenTheServerIsSilent(t *testing.T) {
	for _, after := range []time.Duration{0, 1, 499, 500, 501, 1234, 9999} {
		inBubble(t, func(t *testing.T, f *fakeRedis, l *listener) {
			require.Equal(t, rediscache.ErrConnected, l.next().gap)
			time.Sleep(after * time.Millisecond)
			synctest.Wait()
			require.Empty(t, l.said, "no gap while it answers")
			fell := time.Now()
			f.set(func() { f.mute = true })
			first := l.next()
			require.ErrorIs(t, first.gap, rediscache.ErrSilent)
			require.False(t, first.up)
			require.LessOrEqual(t, first.at.Sub(fell), maxSilence)
			require.GreaterOrEqual(t, first.at.Sub(fell), maxSilence*3/4)
			for at := first.at; at.Sub(fell) < time.Minute; {
				again := l.next()
				require.Equal(t, maxSilence, again.at.Sub(at))
				require.False(t, again.up)
				at = again.at
			}
			f.set(func() { f.mute = false })
			l.gap(true)
		})
	}
}

// TestC63_TheBoundOfALostMessage: what was said and did not come is a gap at most maxSilence later,
// though the connection lives and nothing else is said.
func TestC63_TheBoundOfALostMessage(t *testing.T) {
	for _, after := range []time.Duration{0, 1, 499, 500, 501, 1234, 9999} {
		inBubble(t, func(t *testing.T, f *fakeRedis, l *listener) {
			l.gap(true)
			time.Sleep(after * time.Millisecond)
			f.say("heard")
			require.Equal(t, "heard", l.next().body)
			said := time.Now()
			f.set(func() { f.number++ })
			gap := l.next()
			require.ErrorIs(t, gap.gap, rediscache.ErrSilent)
			require.LessOrEqual(t, gap.at.Sub(said), maxSilence)
			require.GreaterOrEqual(t, gap.at.Sub(said), maxSilence*3/4)
			l.gap(true)
			f.say("heard again")
			require.Equal(t, "heard again", l.next().body)
		})
	}
}

// TestC63_ALateMessageIsNoGap: a node of a Cluster tells the number before another one has passed
// the message on.
func TestC63_ALateMessageIsNoGap(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRedis, l *listener) {
		l.gap(true)
		for range 10 {
			f.set(func() { f.number++ })
			time.Sleep(1400 * time.Millisecond)
			f.set(func() { f.number-- })
			f.say("late")
			require.Equal(t, "late", l.next().body)
		}
		require.Empty(t, l.said)

		// Whenever it asks, some are on their way.
		for i := range 200 {
			time.Sleep(100 * time.Millisecond)
			f.set(func() {
				f.number++
				if i >= 3 {
					f.deliverLocked(f.number-3, "late")
				}
			})
		}
		for range 197 {
			require.Equal(t, "late", l.next().body)
		}
		require.Empty(t, l.said)
	})
}

// TestC63_NoConnectionAtAll: gaps are told each maxSilence, and the pauses between attempts grow
// from 50 ms to 2 s.
func TestC63_NoConnectionAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRedis{refuse: true}
		start := time.Now()
		var gaps []time.Duration
		ctx, stop := context.WithTimeout(t.Context(), 29*time.Second)
		defer stop()
		sub := rediscache.NewSubscription(f.client(t), maxSilence, nil, func(err error) {
			require.ErrorIs(t, err, errRefused)
			gaps = append(gaps, time.Since(start))
		})
		sub.SetRandom(func() float64 { return 1 })
		require.ErrorIs(t, sub.Run(ctx), context.DeadlineExceeded)
		require.Len(t, gaps, 14)
		for i, at := range gaps {
			require.Equal(t, time.Duration(i+1)*maxSilence, at)
		}
		pauses := []time.Duration{50, 100, 200, 400, 800, 1600, 2000, 2000}
		for i, want := range pauses {
			require.Equal(t, want*time.Millisecond, f.dials[i+1].Sub(f.dials[i]))
		}
	})
}

// TestC63_PausesBeginAnew after a connection that was confirmed.
func TestC63_PausesBeginAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRedis, l *listener) {
		l.gap(true)
		for range 5 {
			time.Sleep(time.Second)
			cut := time.Now()
			f.cut()
			require.NotErrorIs(t, l.gap(false).gap, rediscache.ErrSilent)
			require.Equal(t, 50*time.Millisecond, l.gap(true).at.Sub(cut))
		}
	})
}

// TestC62_AReplyToAnotherCall is neither a confirmation nor a success.
func TestC62_AReplyToAnotherCall(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRedis, l *listener) {
		l.gap(true)
		f.set(func() { f.foreign = true })
		require.ErrorContains(t, l.sub.Announce(t.Context(), "a"), "makes no sense")
		gap := l.next()
		require.ErrorIs(t, gap.gap, rediscache.ErrSilent)
		require.ErrorContains(t, gap.gap, "makes no sense")
		f.set(func() { f.foreign = false })
		l.gap(true)
		require.NoError(t, l.sub.Announce(t.Context(), "a"))
	})
}

// TestC60_RepliesThatMakeNoSense end the connection, as does a dialer that panics: that is a gap,
// and another connection is made.
func TestC60_RepliesThatMakeNoSense(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRedis, l *listener) {
		l.gap(true)
		for _, reply := range []string{
			subscribed, // the client has connected anew without a word
			"*1\r\n:5\r\n", "*0\r\n", "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n:5\r\n", "-ERR no\r\n", "$-1\r\n",
			"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n$1\r\nx\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n",
		} {
			f.set(func() { f.rawLocked(reply) })
			gap := l.next()
			require.Error(t, gap.gap, "%q", reply)
			require.NotErrorIs(t, gap.gap, rediscache.ErrSilent, "%q", reply)
			require.False(t, gap.up, "%q", reply)
			require.Equal(t, rediscache.ErrConnected, l.next().gap, "%q", reply)
		}
		f.set(func() { f.rawLocked(pong) }) // which nobody has asked for
		f.set(func() { f.refuse = true })
		f.cut()
		l.gap(false)
		f.set(func() { f.boom = true })
		for range 3 {
			require.ErrorContains(t, l.gap(false).gap, "panicked")
		}
		f.set(func() { f.boom, f.refuse = false, false })
		l.gap(true)
		f.say("a")
		require.Equal(t, "a", l.next().body)
	})
}

// TestC63_NoPong: the server answers others, and this connection hears nothing any more.
func TestC63_NoPong(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRedis, l *listener) {
		l.gap(true)
		fell := time.Now()
		f.set(func() { f.noPong = true })
		gap := l.next()
		require.ErrorIs(t, gap.gap, rediscache.ErrSilent)
		require.LessOrEqual(t, gap.at.Sub(fell), maxSilence)
		f.set(func() { f.noPong = false })
		l.gap(true)
	})
}

// TestC63_AnOverflowWhileItConnects does not hide that there is a connection.
func TestC63_AnOverflowWhileItConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRedis{noPong: true}
		gaps, release := make(chan error, 100), make(chan bool)
		sub := rediscache.NewSubscription(f.client(t), maxSilence, func(string) {}, func(err error) {
			gaps <- err
			<-release
		})
		ctx, stop := context.WithCancel(t.Context())
		end := make(chan error)
		go func() { end <- sub.Run(ctx) }()
		require.ErrorIs(t, <-gaps, rediscache.ErrSilent)
		f.set(func() { f.rawLocked(pong) })
		synctest.Wait()
		for range rediscache.MaxQueue + 1 {
			f.say("x")
		}
		synctest.Wait()
		close(release)
		require.Equal(t, rediscache.ErrConnected, <-gaps)
		synctest.Wait()
		require.True(t, sub.Connected())
		stop()
		require.ErrorIs(t, <-end, context.Canceled)
	})
}

// TestTheEndIsNoGap: a service that stops keeps its values, which it may save. What has come and
// was not told yet is not told any more.
func TestTheEndIsNoGap(t *testing.T) {
	for range 50 { // a select takes any of what is ready
		synctest.Test(t, func(t *testing.T) {
			f := &fakeRedis{}
			ctx, stop := context.WithCancelCause(t.Context())
			var told []string
			sub := rediscache.NewSubscription(f.client(t), maxSilence,
				func(body string) {
					told = append(told, body)
					for range 3 {
						f.say("late")
					}
					stop(errStop)
					synctest.Wait()
				},
				func(error) { told = append(told, "gap") },
			)
			end := make(chan error)
			go func() { end <- sub.Run(ctx) }()
			synctest.Wait()
			f.say("last")
			require.Equal(t, errStop, <-end)
			require.Equal(t, []string{"gap", "last"}, told)
		})
	}
}

// TestC63_TheBoundCountsFromTheQuestion: what was said after it is not confirmed by its answer,
// however late that comes.
func TestC63_TheBoundCountsFromTheQuestion(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeRedis, l *listener) {
		l.gap(true)
		f.set(func() { f.noPong = true })
		time.Sleep(600 * time.Millisecond) // it has asked at 500 ms
		said := time.Now()
		f.set(func() { f.number++ }) // and is lost
		time.Sleep(1200 * time.Millisecond)
		f.set(func() {
			f.rawLocked(pong)
			f.mute = true
		})
		gap := l.next()
		require.ErrorIs(t, gap.gap, rediscache.ErrSilent)
		require.LessOrEqual(t, gap.at.Sub(said), maxSilence)
	})
}
