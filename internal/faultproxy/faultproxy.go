//go:build unix

// Package faultproxy is a TCP proxy for tests. It stands between a client and a server, and makes
// their connections fail in the way that the test sets.
//
//	p := faultproxy.Start(t, backend.Addr)
//	p.Set(faultproxy.Fault{Cut: faultproxy.Reset, After: 100})
//	http.Get("http://" + p.Addr) // 100 bytes of the response, then "connection reset by peer"
//	p.Set(faultproxy.Fault{})    // forwards again
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

// A Cut is a way in which a connection ends when [Fault.After] bytes have been sent to the client.
type Cut int

const (
	// NoCut does not end the connection.
	NoCut Cut = iota
	// Reset sends a TCP reset to both sides, as happens when a process is killed.
	Reset
	// Truncate closes the connection in order (FIN), as if the server had sent everything.
	Truncate
	// HalfClose ends only the direction to the client; the server still gets what the client sends.
	HalfClose
)

// A Fault says how a [Proxy] misbehaves. With the zero Fault it forwards everything.
type Fault struct {
	// Refuse closes the listening socket, so that new connections are refused as if no process
	// were running. Open connections stay: see [Proxy.ResetAll].
	Refuse bool

	// Hang accepts connections and passes no byte in either direction, like a process that is
	// stopped. The bytes are passed on when Hang is over.
	Hang bool

	// Latency delays the bytes to the client by this much. It does not lower the bandwidth. Zero
	// or negative means no delay.
	Latency time.Duration

	// Bandwidth is how many bytes a second are sent to the client. Zero or negative means no limit.
	Bandwidth int

	// Cut ends each connection when After bytes have been sent to its client since Set. If After is
	// zero or negative, the connection ends when the server's next byte arrives.
	Cut   Cut
	After int64
}

// A Proxy forwards TCP connections. Create one with [Start]. A Proxy is safe for concurrent use.
type Proxy struct {
	// Addr is the address that the Proxy listens on, "127.0.0.1:port". It never changes.
	Addr string

	target string
	wg     sync.WaitGroup // of all goroutines

	mu       sync.Mutex // guards the fields below
	ln       net.Listener
	current  *state
	links    map[*link]bool
	accepted int
	closed   bool
}

// A state is a Fault from the time when it is set until the next one is.
type state struct {
	Fault
	over chan struct{} // closed when another Fault is set
}

// Start returns a running Proxy in front of the server at target ("host:port"), which need not
// listen yet. The Proxy is closed when tb ends.
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

// Set replaces the current Fault, for open connections too. It panics if the listening socket
// cannot be opened again after Refuse.
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

// ResetAll ends all open connections with a TCP reset.
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

// A link is a client's connection together with the one to the server.
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
	case <-l.gone: // the link was reset during the dial
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

// A chunk is the result of one read from the server.
type chunk struct {
	data []byte
	at   time.Time
	err  error
}

// downstream carries bytes from the server to the client. It reads in a goroutine of its own, so
// that a latency delays bytes without lowering the bandwidth.
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
			l.finish() // wakes the reader
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

// A downWriter writes to the client as the current Fault lets it.
type downWriter struct {
	link  *link
	state *state
	sent  int64 // bytes, since state began
	mute  bool  // the client's direction is closed, so further bytes of the server are dropped
}

// write writes c. It reports whether the link stays open.
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

// wait waits for d, or until s is over. It reports whether the link is still open.
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

// reset ends both connections with a TCP reset, even if bytes are unread.
func (l *link) reset() { l.close(true) }

// finish closes both connections in order.
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
