package wire

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// resting returns a Transport that keeps connections for a minute, and a function that makes a
// connection fall idle now and returns its other end.
func resting(t *testing.T) (w *Transport, rest func() net.Conn) {
	w = &Transport{base: &http.Transport{IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 9}}
	return w, func() net.Conn {
		ours, theirs := net.Pipe()
		require.True(t, w.keep(&conn{owner: w, raw: ours, idleSince: time.Now()}))
		return theirs
	}
}

func (t *Transport) resting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.idle)
}

// closed reports whether the other end of a connection is closed.
func closed(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now())
	_, err := conn.Read(make([]byte, 1))
	netErr, ok := err.(net.Error)
	return !ok || !netErr.Timeout()
}

// Each idle connection ends when its own time is over, and not a moment before.
func TestIdleConnectionsEndAtTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, rest := resting(t)
		first := rest()
		time.Sleep(59 * time.Second)
		second := rest()
		time.Sleep(time.Second - 1)
		require.Equal(t, 2, w.resting())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, 1, w.resting())
		require.True(t, closed(first))
		time.Sleep(59*time.Second - 1)
		require.False(t, closed(second))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Zero(t, w.resting())
		require.True(t, closed(second))

		c := &conn{idleSince: time.Now()}
		require.False(t, w.expired(c, time.Now().Add(time.Minute-1)))
		require.True(t, w.expired(c, time.Now().Add(time.Minute)))
	})
}

// What falls idle after CloseIdleConnections and another request ends in its time, too.
func TestIdleConnectionsEndAfterOthersWereClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, rest := resting(t)
		first := rest()
		spare, theirs := net.Pipe()
		w.leave(spare)
		w.CloseIdleConnections()
		require.True(t, closed(first))
		require.True(t, closed(theirs))
		require.Nil(t, w.take())
		second := rest()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.True(t, closed(second))
	})
}

// A connection whose time is over is not used, also if nobody has swept it yet, nor are those
// before it.
func TestExpiredConnectionsAreNotUsed(t *testing.T) {
	w, rest := resting(t)
	ends := []net.Conn{rest(), rest()}
	for _, c := range w.idle {
		c.idleSince = time.Now().Add(-time.Minute)
	}
	require.Nil(t, w.take())
	for _, end := range ends {
		require.True(t, closed(end))
	}
	w.CloseIdleConnections()
}

// An ending context ends when it is told to.
type ending struct {
	context.Context
	done chan struct{} // its own, or package context would not call AfterFunc
	end  *func()
}

func (c ending) Done() <-chan struct{} { return c.done }

func (c ending) AfterFunc(f func()) (stop func() bool) {
	*c.end = f
	return func() bool { return true }
}

// A connection does not fall idle if the context ends, which closes it, just as the response is
// whole.
func TestConnectionsThatAreBeingClosedDoNotFallIdle(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, ok("a"))
	s.set(2, answer{text: "HTTP/1.1 204 No Content\r\n\r\n"})
	for n := 1; n <= 2; n++ {
		read(t, w, s.request(t, "GET", n, nil))
		require.Equal(t, 1, w.resting(), n)
		var end, finish func()
		trace := &httptrace.ClientTrace{GotFirstResponseByte: func() {
			if n == 2 {
				finish()
			}
		}}
		base, cancel := context.WithCancel(httptrace.WithClientTrace(t.Context(), trace))
		ctx := ending{base, make(chan struct{}), &end}
		finish = func() { cancel(); end() }
		resp, err := w.RoundTrip(s.request(t, "GET", n, nil).WithContext(ctx))
		if err == nil {
			if n == 1 {
				finish()
			}
			_, _ = io.Copy(io.Discard, resp.Body) // it may have come, or not
			resp.Body.Close()
		}
		require.Zero(t, w.resting(), n)
		cancel()
	}
}

// A body that just fits into what is written before anything is read is simple.
func TestTheLargestSimpleBody(t *testing.T) {
	for n, ok := range map[int]bool{maxBody: true, maxBody + 1: false} {
		r, err := http.NewRequest("PUT", "http://a.test/", strings.NewReader(strings.Repeat("x", n)))
		require.NoError(t, err)
		require.Equal(t, ok, simple(r), n)
	}
}

// A request of which nothing was written is repeated if the connection is to blame, and not if it
// could not be written itself.
func TestWhatCannotBeWrittenIsNotRepeated(t *testing.T) {
	r, err := http.NewRequest("GET", "http://a.test/", nil)
	require.NoError(t, err)
	require.False(t, new(conn).mayRepeat(r, errTapped))
	require.True(t, (&conn{writeErr: errTapped}).mayRepeat(r, errTapped))
}

// A connection whose server will close it does not fall idle, nor does one whose body was closed
// just before its end came.
func TestConnectionsThatEndDoNotFallIdle(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, answer{text: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na"})
	s.set(2, answer{text: "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"})
	for n := 1; n <= 2; n++ {
		read(t, w, s.request(t, "GET", n, nil))
		require.Zero(t, w.resting(), n)
	}
	s.set(3, ok("a"))
	resp, err := w.RoundTrip(s.request(t, "GET", 3, nil))
	require.NoError(t, err)
	b := resp.Body.(*body)
	require.NoError(t, b.Close())
	b.stop = func() bool { return true }
	require.Equal(t, errClosed, b.end(io.EOF))
	require.Zero(t, w.resting())
}

// A connection that was dialled for a request which then got another one is not kept for long: the
// server may close it, and nobody would know that it is old.
func TestL14_SpareConnectionsDoNotGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials, late := 0, make(chan net.Conn, 1)
		base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			dials++
			first := dials == 1
			ours, theirs := net.Pipe()
			if first {
				time.Sleep(time.Second)
				late <- theirs
				return ours, nil
			}
			go func() {
				defer theirs.Close()
				in := bufio.NewReader(theirs)
				for {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					_, _ = io.WriteString(theirs, ok("a").text)
				}
			}()
			return ours, nil
		}}
		w := New(base)
		defer w.CloseIdleConnections()
		get := func() error {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://a.test/", nil)
			require.NoError(t, err)
			resp, err := w.RoundTrip(r)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
			}
			return err
		}
		done := make(chan error)
		go func() { done <- get() }()
		synctest.Wait() // it dials
		require.NoError(t, get())
		require.NoError(t, <-done)
		require.Equal(t, 2, dials)
		theirs := <-late
		require.False(t, closed(theirs), "the next request may need it")
		time.Sleep(spareTime)
		synctest.Wait()
		require.True(t, closed(theirs))
		w.base.CloseIdleConnections()
		require.NoError(t, get(), "on a new connection")
		require.Equal(t, 3, dials)
	})
}
