package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A tapped connection fails to be written when it is told to, and knows its last read deadline.
type tapped struct {
	*net.TCPConn // into which one can look
	fails        *atomic.Bool

	mu       sync.Mutex
	deadline time.Time
}

var errTapped = errors.New("told to fail")

func (c *tapped) Write(p []byte) (int, error) {
	if c.fails.Swap(false) {
		return 0, errTapped
	}
	return c.TCPConn.Write(p)
}

func (c *tapped) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.TCPConn.SetReadDeadline(t)
}

// tap returns a Transport to s, a flag that lets the next write fail, and the connections it has
// made.
func tap(
	t *testing.T, s *rawServer, change func(*http.Transport),
) (*Transport, *atomic.Bool, func() []*tapped) {
	t.Helper()
	fails := new(atomic.Bool)
	var mu sync.Mutex
	var all []*tapped
	base := s.base()
	dial := base.DialContext
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, &tapped{TCPConn: c.(*net.TCPConn), fails: fails})
		return all[len(all)-1], nil
	}
	if change != nil {
		change(base)
	}
	w := New(base)
	t.Cleanup(w.CloseIdleConnections)
	return w, fails, func() []*tapped {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// Nothing of a request has left if the first write fails: it is sent again, whatever its method,
// if the connection had been idle, and not on a new one.
func TestRequestsThatHaveNotLeftAreRepeated(t *testing.T) {
	s := startRaw(t)
	w, fails, conns := tap(t, s, nil)
	s.set(1, ok("a"))
	s.set(2, ok("b"))
	fails.Store(true)
	_, err := w.RoundTrip(s.request(t, "POST", 2, strings.NewReader("x")))
	require.ErrorIs(t, err, errTapped)
	require.Zero(t, s.requests(2))
	read(t, w, s.request(t, "GET", 1, nil))
	fails.Store(true)
	_, body := read(t, w, s.request(t, "POST", 2, strings.NewReader("x")))
	require.Equal(t, "b", body)
	require.Equal(t, 1, s.requests(2))
	require.Equal(t, "x", s.body(2))
	require.Len(t, conns(), 3)
}

// Whoever has seen a part of an answer has been processed.
func TestRequestsWithHalfAnAnswerAreNotRepeated(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, ok("a"))
	s.set(2, answer{text: "HTTP/1.1 2", end: true})
	read(t, w, s.request(t, "GET", 1, nil))
	_, err := w.RoundTrip(s.request(t, "GET", 2, nil))
	require.Error(t, err)
	require.Equal(t, 1, s.requests(2))
}

// The timeout of the header leaves no deadline behind.
func TestBodiesHaveNoDeadline(t *testing.T) {
	s := startRaw(t)
	w, _, conns := tap(t, s, func(base *http.Transport) { base.ResponseHeaderTimeout = time.Minute })
	s.set(1, ok("a"))
	resp, err := w.RoundTrip(s.request(t, "GET", 1, nil))
	require.NoError(t, err)
	require.Zero(t, conns()[0].deadline)
	resp.Body.Close()
}

// Connections that fall idle one after the other end one after the other, without another request.
func TestIdleConnectionsEndInTurn(t *testing.T) {
	s := startRaw(t)
	base := s.base()
	base.IdleConnTimeout = 500 * time.Millisecond
	w := New(base)
	t.Cleanup(w.CloseIdleConnections)
	s.set(1, ok("a"))
	first, err := w.RoundTrip(s.request(t, "GET", 1, nil))
	require.NoError(t, err)
	second, err := w.RoundTrip(s.request(t, "GET", 1, nil))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, first.Body)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, second.Body)
	require.NoError(t, err)
	w.mu.Lock()
	last := w.idle[len(w.idle)-1]
	// It is not over when the first one is.
	last.idleSince = last.idleSince.Add(base.IdleConnTimeout)
	w.mu.Unlock()
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.idle) == 0
	}, 30*time.Second, time.Millisecond)
}

// A watched context counts what waits for its end.
type watched struct {
	context.Context
	done    chan struct{} // its own, or package context would not call AfterFunc
	waiting *atomic.Int64
}

func (w watched) Done() <-chan struct{} { return w.done }

func (w watched) AfterFunc(f func()) func() bool {
	w.waiting.Add(1)
	stop := context.AfterFunc(w.Context, f)
	return func() bool {
		w.waiting.Add(-1)
		return stop()
	}
}

// A body that is closed leaves nothing at a context that may live for long, and says so to readers.
func TestClosedBodiesLeaveTheirContext(t *testing.T) {
	s := startRaw(t)
	w := direct(t, s)
	s.set(1, answer{text: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var waiting atomic.Int64
	r := s.request(t, "GET", 1, nil).WithContext(watched{ctx, make(chan struct{}), &waiting})
	resp, err := w.RoundTrip(r)
	require.NoError(t, err)
	require.EqualValues(t, 1, waiting.Load())
	_, err = io.ReadFull(resp.Body, make([]byte, 4))
	require.NoError(t, err)
	failed := make(chan error)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		failed <- err
	}()
	require.NoError(t, resp.Body.Close())
	require.ErrorIs(t, <-failed, errClosed)
	require.Zero(t, waiting.Load())
}
