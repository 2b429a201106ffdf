package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// tunnels are the upgraded connections to clients.
type tunnels struct {
	tally // requests for one, and what became of them

	mu  sync.Mutex // guards the field below
	all map[*tunnel]struct{}
}

// add makes a tunnel of a hijacked connection. headed says that the header of the 101 has been
// written; otherwise it is still to pass through the tunnel.
func (ts *tunnels) add(
	conn net.Conn, buf *bufio.ReadWriter, idle Timeout, headed bool,
) (*tunnel, *bufio.ReadWriter) {
	t := &tunnel{Conn: conn, all: ts, began: time.Now(), idle: idle}
	t.frames.begun = headed
	ts.mu.Lock()
	if idle != off {
		t.timer = time.AfterFunc(time.Duration(idle), t.check)
	}
	if ts.all == nil {
		ts.all = map[*tunnel]struct{}{}
	}
	ts.all[t] = struct{}{}
	ts.mu.Unlock()
	// What the client sent behind its request is in buf.
	early, _ := buf.Reader.Peek(buf.Reader.Buffered())
	r := bufio.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(early)), t))
	_, _ = r.Peek(len(early))
	return t, bufio.NewReadWriter(r, bufio.NewWriter(t))
}

// wait waits until there are none, or ctx ends.
func (ts *tunnels) wait(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ts.mu.Lock()
		n := len(ts.all)
		ts.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// goAway closes all tunnels.
func (ts *tunnels) goAway() {
	ts.mu.Lock()
	var all []*tunnel
	for t := range ts.all {
		all = append(all, t)
	}
	ts.mu.Unlock()
	var wg sync.WaitGroup
	for _, t := range all {
		wg.Go(t.goAway)
	}
	wg.Wait()
}

// A tunnel is the client's side of an upgraded connection.
type tunnel struct {
	net.Conn
	all      *tunnels
	idle     Timeout
	began    time.Time
	timer    *time.Timer // guarded by all.mu; nil if the tunnel may be idle for ever
	progress atomic.Int64
	once     sync.Once

	mu     sync.Mutex // held during a write; guards the field below
	frames frames
}

func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if n > 0 {
		t.progress.Store(int64(time.Since(t.began)))
	}
	return n, err
}

func (t *tunnel) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.Conn.Write(p)
	t.frames.pass(p[:n])
	if n > 0 {
		t.progress.Store(int64(time.Since(t.began)))
	}
	return n, err
}

// CloseWrite lets the proxy pass on that the server has finished while the client still speaks.
func (t *tunnel) CloseWrite() error {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

func (t *tunnel) Close() error {
	t.once.Do(func() {
		t.all.mu.Lock()
		if t.timer != nil {
			t.timer.Stop()
		}
		delete(t.all.all, t)
		t.all.mu.Unlock()
	})
	return t.Conn.Close()
}

// check closes the tunnel if it has been idle for too long.
func (t *tunnel) check() {
	idle := time.Since(t.began) - time.Duration(t.progress.Load())
	if idle >= time.Duration(t.idle) {
		t.goAway()
		return
	}
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	t.timer.Reset(time.Duration(t.idle) - idle)
}

// closeGoingAway is a frame of RFC 6455, section 5.5.1, with the status "going away".
const closeGoingAway = "\x88\x02\x03\xe9"

// goAway closes the tunnel. The client is told with a close frame if nothing else is being sent to
// it: in the middle of a frame, those bytes would be taken for a part of it.
func (t *tunnel) goAway() {
	if t.mu.TryLock() {
		if t.frames.between() {
			_ = t.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = io.WriteString(t.Conn, closeGoingAway)
		}
		t.mu.Unlock()
	}
	t.Close()
}

// frames follows the frames that a server sends (RFC 6455, section 5.2).
type frames struct {
	begun  bool // the header of the 101 has passed
	tail   int  // how much of an empty line has come before that
	head   [14]byte
	n      int    // bytes of head
	left   uint64 // bytes of the present frame's payload
	closed bool   // the server has sent its close frame
}

// between reports whether a frame could be sent now.
func (f *frames) between() bool { return f.begun && f.n == 0 && f.left == 0 && !f.closed }

func (f *frames) pass(p []byte) {
	for len(p) > 0 {
		switch {
		case !f.begun:
			const end = "\r\n\r\n"
			if p[0] == end[f.tail] {
				f.tail++
			} else if f.tail = 0; p[0] == end[0] {
				f.tail = 1
			}
			f.begun = f.tail == len(end)
			p = p[1:]
		case f.left > 0:
			skip := min(f.left, uint64(len(p)))
			f.left -= skip
			p = p[skip:]
		default:
			f.head[f.n] = p[0]
			f.n++
			p = p[1:]
			f.endHead()
		}
	}
}

// endHead reads the head of a frame if it is complete.
func (f *frames) endHead() {
	if f.n < 2 {
		return
	}
	size, length := 2, uint64(f.head[1]&0x7f)
	extended := f.head[2:2]
	switch length {
	case 126:
		extended = f.head[2:4]
	case 127:
		extended = f.head[2:10]
	}
	size += len(extended)
	if f.head[1]&0x80 != 0 {
		size += 4 // a mask, which a server must not use
	}
	if f.n < size {
		return
	}
	if len(extended) > 0 {
		length = 0
	}
	for _, b := range extended {
		length = length<<8 | uint64(b)
	}
	f.closed = f.closed || f.head[0]&0x0f == 8
	f.n, f.left = 0, length
}
