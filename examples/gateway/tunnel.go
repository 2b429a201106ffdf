package main

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
)

var errIdle = errors.New("neither side of the upgraded connection has sent anything for server.tunnel_idle")

// A tunnel is the client's side of an upgraded connection. It notes progress. The end of the
// request's context ends it: the balancer's Handler then takes leave of both peers.
type tunnel struct {
	net.Conn
	exchange *steadyWriter
	closed   atomic.Bool
}

// Hijack returns a connection that is ended when nobody speaks on it for tunnel_idle.
func (w *steadyWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.taken.Add(1) // before net/http ceases to count it
	conn, buf, err := w.rc.Hijack()
	if err != nil {
		w.taken.Add(-1)
		return nil, nil, err
	}
	w.header = true
	if w.body != nil {
		w.body.stop() // its deadline would be the tunnel's
	}
	w.watch(w.tunnelIdle, errIdle)
	return &tunnel{Conn: conn, exchange: w}, buf, nil
}

func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if n > 0 {
		t.exchange.moved()
	}
	return n, err
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	if n > 0 {
		t.exchange.moved()
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
	if !t.closed.Swap(true) {
		defer t.exchange.taken.Add(-1)
	}
	return t.Conn.Close()
}
