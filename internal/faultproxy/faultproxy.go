//go:build unix

// Package faultproxy stands between a client and a TCP server in a test and
// spoils their connections on command.
//
//	p := faultproxy.Start(t, backend.Addr)
//	p.Set(faultproxy.Fault{Cut: faultproxy.Reset, After: 100})
//	http.Get("http://" + p.Addr) // 100 bytes of the response, then "connection reset by peer"
//	p.Set(faultproxy.Fault{})    // all is well again
package faultproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/trivet-go/trivet/internal/freeport"
)

// A Cut says how a connection ends when [Fault.After] bytes have reached the client.
type Cut int

const (
	// NoCut leaves the connection alone.
	NoCut Cut = iota
	// Reset sends a TCP reset to both sides, as a process that is killed may do.
	Reset
	// Truncate ends the connection in order (FIN), as if the server had no more to say.
	Truncate
	// HalfClose ends only the direction to the client; what the client sends still arrives.
	HalfClose
)

// A Fault says what is wrong. The zero Fault is a proxy that does its work.
type Fault struct {
	// Refuse closes the listening socket, so that new connections are refused as by a
	// process that is not running. Open ones stay: see [Proxy.ResetAll].
	Refuse bool

	// Hang accepts connections and passes no byte in either direction, as a process
	// that is stopped. Bytes that wait go on when Hang is over.
	Hang bool

	// Latency is how much later bytes reach the client. It does not lower the bandwidth.
	Latency time.Duration

	// Bandwidth is how many bytes per second reach the client. Zero means no limit.
	Bandwidth int

	// Cut and After end each connection once it has sent the client After bytes,
	// counted since Set. With After zero that is when the server's first byte arrives.
	Cut   Cut
	After int64
}

// A Proxy forwards TCP connections. Create one with [Start].
// A Proxy is safe for concurrent use.
type Proxy struct {
	// Addr is where the Proxy listens, "127.0.0.1:port". It stays the same.
	Addr string

	target string
	wg     sync.WaitGroup // all goroutines

	mu       sync.Mutex // guards the fields below
	ln       net.Listener
	current  *state
	links    map[*link]bool
	accepted int
	closed   bool
}

// A state is one Fault while it lasts.
type state struct {
	Fault
	over chan struct{} // closed when another Fault is set
}

// Start returns a running Proxy before the server at target ("host:port"), which
// need not listen yet. It ends with tb.
func Start(tb testing.TB, target string) *Proxy {
	tb.Helper()
	p := &Proxy{
		Addr:    freeport.Reserve(tb),
		target:  target,
		current: &state{over: make(chan struct{})},
		links:   map[*link]bool{},
	}
	if err := p.listenLocked(); err != nil {
		tb.Fatalf("faultproxy: %v", err)
	}
	tb.Cleanup(p.close)
	return p
}

// Set replaces the current Fault, for open connections too. It panics if the
// listening socket cannot be opened again after Refuse.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	old := p.current
	p.current = &state{Fault: f, over: make(chan struct{})}
	close(old.over)
	switch {
	case f.Refuse && p.ln != nil:
		p.ln.Close()
		p.ln = nil
	case !f.Refuse && p.ln == nil:
		if err := p.listenLocked(); err != nil {
			panic("faultproxy: " + err.Error())
		}
	}
}

// ResetAll ends all open connections with a TCP reset now.
func (p *Proxy) ResetAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Accepted returns how many connections clients have opened so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Open returns how many connections are open now.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	if p.ln != nil {
		p.ln.Close()
	}
	for l := range p.links {
		l.reset()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) state() *state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

func (p *Proxy) listenLocked() error {
	ln, err := net.Listen("tcp", p.Addr)
	if err != nil {
		return err
	}
	p.ln = ln
	p.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			p.accept(conn.(*net.TCPConn))
		}
	})
	return nil
}

func (p *Proxy) accept(client *net.TCPConn) {
	l := &link{proxy: p, client: client, gone: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		client.Close()
		return
	}
	p.accepted++
	p.links[l] = true
	p.wg.Go(func() {
		l.run()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, l)
	})
}

// A link is one client connection and its way on to the server.
type link struct {
	proxy  *Proxy
	client *net.TCPConn
	end    sync.Once
	gone   chan struct{} // closed by the first of reset and finish

	mu     sync.Mutex // guards the fields below
	server *net.TCPConn
}

func (l *link) run() {
	if !l.passable() {
		return
	}
	conn, err := net.Dial("tcp", l.proxy.target)
	if err != nil {
		l.reset()
		return
	}
	l.mu.Lock()
	l.server = conn.(*net.TCPConn)
	l.mu.Unlock()
	select {
	case <-l.gone: // reset while we dialed
		conn.Close()
		return
	default:
	}
	var wg sync.WaitGroup
	wg.Go(l.upstream)
	wg.Go(l.downstream)
	wg.Wait()
	l.finish()
}

// passable waits while the proxy hangs. It reports whether the link is still open.
func (l *link) passable() bool {
	for {
		s := l.proxy.state()
		if !s.Hang {
			select {
			case <-l.gone:
				return false
			default:
				return true
			}
		}
		select {
		case <-s.over:
		case <-l.gone:
			return false
		}
	}
}

// upstream carries bytes from the client to the server.
func (l *link) upstream() {
	buf := make([]byte, 32<<10)
	for l.passable() {
		n, err := l.client.Read(buf)
		if n > 0 {
			if !l.passable() {
				return
			}
			if _, err := l.server.Write(buf[:n]); err != nil {
				l.reset()
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				l.server.CloseWrite()
			} else {
				l.reset()
			}
			return
		}
	}
}

// A chunk is what one read from the server brought, and when.
type chunk struct {
	data []byte
	at   time.Time
	err  error
}

// downstream carries bytes from the server to the client. Reader and writer are
// apart so that a latency delays bytes without lowering the bandwidth.
func (l *link) downstream() {
	chunks := make(chan chunk, 64)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer close(chunks)
		for {
			buf := make([]byte, 16<<10)
			n, err := l.server.Read(buf)
			select {
			case chunks <- chunk{buf[:n], time.Now(), err}:
			case <-l.gone:
				return
			}
			if err != nil {
				return
			}
		}
	})
	w := downWriter{link: l}
	for c := range chunks {
		if !w.write(c) {
			l.finish() // wakes the reader, if it is not the one that ended
			return
		}
		switch {
		case c.err == nil:
		case errors.Is(c.err, io.EOF):
			l.client.CloseWrite()
			return
		default:
			l.reset()
			return
		}
	}
}

// A downWriter writes to the client under the faults of the moment.
type downWriter struct {
	link  *link
	state *state
	sent  int64 // since state began
	mute  bool  // half closed: what the server still says is dropped
}

// write reports whether the link goes on.
func (w *downWriter) write(c chunk) bool {
	for len(c.data) > 0 {
		if !w.link.passable() {
			return false
		}
		s := w.link.proxy.state()
		if s != w.state {
			w.state, w.sent = s, 0
		}
		if !w.link.wait(s, time.Until(c.at.Add(s.Latency))) {
			return false
		}
		if w.link.proxy.state() != s {
			continue
		}
		n := int64(len(c.data))
		if s.Bandwidth > 0 { // in steps of a hundredth of a second
			n = min(n, max(1, int64(s.Bandwidth)/100))
		}
		if s.Cut != NoCut {
			n = min(n, max(0, s.After-w.sent))
		}
		if w.mute {
			return true
		}
		if _, err := w.link.client.Write(c.data[:n]); err != nil {
			w.link.reset()
			return false
		}
		w.sent += n
		c.data = c.data[n:]
		if s.Cut != NoCut && w.sent >= s.After {
			switch s.Cut {
			case Reset:
				w.link.reset()
				return false
			case Truncate:
				return false
			case HalfClose:
				w.link.client.CloseWrite()
				w.mute = true
			}
		}
		if s.Bandwidth > 0 && !w.link.wait(s, time.Duration(n)*time.Second/time.Duration(s.Bandwidth)) {
			return false
		}
	}
	return true
}

// wait lets d pass, or less if s ends. It reports whether the link is still open.
func (l *link) wait(s *state, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.over:
	case <-l.gone:
		return false
	}
	return true
}

// reset ends both sides at once, unread bytes or not.
func (l *link) reset() { l.close(true) }

// finish ends both sides in order.
func (l *link) finish() { l.close(false) }

func (l *link) close(abrupt bool) {
	l.end.Do(func() {
		close(l.gone)
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range []*net.TCPConn{l.client, l.server} {
			if c == nil {
				continue
			}
			if abrupt {
				c.SetLinger(0)
			}
			c.Close()
		}
	})
}
