package wire

import (
	"context"
	"net"
	"slices"
	"time"
)

// take returns the idle connection that was used last, or nil.
func (t *Transport) take() *conn {
	t.mu.Lock()
	t.closing = false
	n := len(t.idle)
	if n == 0 {
		t.mu.Unlock()
		return nil
	}
	c := t.idle[n-1]
	if t.expired(c, time.Now()) { // and so are all others
		old := t.idle
		t.idle = nil
		t.mu.Unlock()
		closeAll(old)
		return nil
	}
	t.idle[n-1] = nil
	t.idle = t.idle[:n-1]
	t.mu.Unlock()
	return c
}

// keep takes c among the idle connections and reports whether it did.
func (t *Transport) keep(c *conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing || len(t.idle) >= max(t.base.MaxIdleConnsPerHost, 1) {
		return false
	}
	t.idle = append(t.idle, c)
	if d := t.base.IdleConnTimeout; d > 0 && !t.sweeps {
		t.sweeps = true
		if t.sweeper == nil {
			t.sweeper = time.AfterFunc(d, t.sweep)
		} else {
			t.sweeper.Reset(d)
		}
	}
	return true
}

func (t *Transport) expired(c *conn, now time.Time) bool {
	d := t.base.IdleConnTimeout
	return d > 0 && now.Sub(c.idleSince) >= d
}

// sweep closes the connections that have been idle for too long, and comes again for the others.
func (t *Transport) sweep() {
	now := time.Now()
	t.mu.Lock()
	n := 0
	for n < len(t.idle) && t.expired(t.idle[n], now) {
		n++
	}
	old := append([]*conn(nil), t.idle[:n]...)
	kept := copy(t.idle, t.idle[n:])
	clear(t.idle[kept:])
	t.idle = t.idle[:kept]
	t.sweeps = kept > 0
	if t.sweeps {
		t.sweeper.Reset(t.idle[0].idleSince.Add(t.base.IdleConnTimeout).Sub(now))
	}
	t.mu.Unlock()
	closeAll(old)
}

// CloseIdleConnections closes the connections that are idle, and those that fall idle before the
// next request.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	old, spares := t.idle, t.spares
	t.idle, t.spares, t.closing = nil, nil, true
	if t.sweeper != nil {
		t.sweeper.Stop()
		t.sweeps = false
	}
	t.mu.Unlock()
	closeAll(old)
	for _, s := range spares {
		s.raw.Close()
	}
	t.base.CloseIdleConnections()
}

// A spare is a connection that was dialled for us and is of no use here.
type spare struct {
	raw net.Conn
	at  time.Time
}

// spareTime is how long a spare waits for base. Base takes it for one that it has just dialled: it
// would not send a request again that fails because the server has meanwhile closed it.
const spareTime = 3 * time.Second

// leave gives raw, into which nobody can look, to base, which takes all requests from now on.
func (t *Transport) leave(raw net.Conn) {
	t.off.Store(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spares = append(t.spares, spare{raw, time.Now()})
	time.AfterFunc(spareTime, t.dropSpares)
}

// dropSpares closes the spares that have waited for too long.
func (t *Transport) dropSpares() {
	t.mu.Lock()
	n := 0
	for n < len(t.spares) && time.Since(t.spares[n].at) >= spareTime {
		n++
	}
	old := slices.Clone(t.spares[:n])
	t.spares = slices.Delete(t.spares, 0, n)
	t.mu.Unlock()
	for _, s := range old {
		s.raw.Close()
	}
}

// dialBase dials for base.
func (t *Transport) dialBase(ctx context.Context, network, addr string) (net.Conn, error) {
	if !t.off.Load() {
		return t.dial(ctx, network, addr)
	}
	t.mu.Lock()
	if n := len(t.spares); n > 0 && time.Since(t.spares[n-1].at) < spareTime {
		raw := t.spares[n-1].raw
		t.spares = t.spares[:n-1]
		t.mu.Unlock()
		return raw, nil
	}
	t.mu.Unlock()
	return t.dial(ctx, network, addr)
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		c.close()
	}
}
