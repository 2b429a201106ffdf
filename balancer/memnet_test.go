package balancer_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A memNet is a network of HTTP servers in memory. Unlike sockets, its connections can be waited
// for inside a synctest bubble.
type memNet struct {
	t       *testing.T
	latency time.Duration // of a dial

	mu      sync.Mutex // guards the fields below
	servers map[string]*memServer
}

type memServer struct {
	accept chan net.Conn
	down   chan struct{} // closed when the server is
	server *http.Server
	dialed int
	open   int
}

var errRefused = errors.New("connection refused")

func newMemNet(t *testing.T) *memNet { return &memNet{t: t, servers: map[string]*memServer{}} }

// transport returns a template whose connections go through n.
func (n *memNet) transport() *http.Transport {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return &http.Transport{DialContext: n.dial, Protocols: p}
}

// serve starts a server at addr, and returns what stops it.
func (n *memNet) serve(addr string, h http.Handler) (stop func()) {
	s := &memServer{accept: make(chan net.Conn), down: make(chan struct{}), server: &http.Server{Handler: h}}
	n.mu.Lock()
	n.servers[addr] = s
	n.mu.Unlock()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.server.Serve(s)
	}()
	stop = sync.OnceFunc(func() {
		n.mu.Lock()
		if n.servers[addr] == s {
			delete(n.servers, addr)
		}
		n.mu.Unlock()
		_ = s.server.Close()
		<-served
	})
	n.t.Cleanup(stop)
	return stop
}

func (n *memNet) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	s := n.servers[addr]
	n.mu.Unlock()
	if s == nil {
		return nil, &net.OpError{Op: "dial", Net: "mem", Err: errRefused}
	}
	time.Sleep(n.latency)
	client, server := net.Pipe()
	select {
	case s.accept <- server:
	case <-s.down:
		return nil, &net.OpError{Op: "dial", Net: "mem", Err: errRefused}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.dialed++
	s.open++
	return &memConn{Conn: client, closed: func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		s.open--
	}}, nil
}

// dialed returns how many connections have been made to addr.
func (n *memNet) dialed(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.servers[addr].dialed
}

// open returns how many connections clients hold open to addr.
func (n *memNet) open(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.servers[addr].open
}

// memServer is a net.Listener.
func (s *memServer) Accept() (net.Conn, error) {
	select {
	case c := <-s.accept:
		return c, nil
	case <-s.down:
		return nil, net.ErrClosed
	}
}

func (s *memServer) Close() error {
	select {
	case <-s.down:
	default:
		close(s.down)
	}
	return nil
}

func (s *memServer) Addr() net.Addr { return &net.UnixAddr{Name: "mem", Net: "unix"} }

type memConn struct {
	net.Conn
	once   sync.Once
	closed func()
}

func (c *memConn) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

// after answers with status once d has passed.
func after(d time.Duration, status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(d)
		w.WriteHeader(status)
	})
}
