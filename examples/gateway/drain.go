package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// drain ends the server without losing a request that it has accepted:
//
//  1. For DrainDelay it serves on, reports that it is not ready, and closes each connection after
//     its response, so that load balancers and clients go elsewhere by themselves. A connection
//     closed while its client sends the next request loses that request; few are open by then.
//  2. It closes the listener and answers the accepted requests within DrainTimeout. It does not
//     use http.Server.Shutdown, which drops a request that it reads after the call. A request that
//     lasts longer is cut, and drain returns an error.
//     Upgraded connections have as long to end by themselves; to be still open is no error.
//  3. It closes the connections that have had no request for a while, and the upgraded ones that
//     are left.
//
// sig is the signal that asked for the drain. A further one of signals ends the server at once.
func drain(s *running, sig os.Signal, signals <-chan os.Signal) error {
	cfg := s.gateway.current.Load().cfg.Server
	delay, timeout := time.Duration(cfg.DrainDelay), time.Duration(cfg.DrainTimeout)
	ctx, cancel := context.WithTimeoutCause(context.Background(), delay+timeout,
		errors.New("requests were still in flight at the end of server.drain_timeout: they have been cut"))
	defer cancel()
	s.gateway.draining.Store(true)
	_ = s.gateway.observer.health.Drain(ctx) // /readyz fails from here on
	s.gateway.log.Info("draining", "signal", sig.String())
	drained := make(chan error, 1)
	go func() {
		sleep(ctx, delay)
		s.listener.Close()
		<-s.served // from here on conns knows every accepted connection
		err := s.conns.wait(ctx)
		_ = await(ctx, func() bool { return s.gateway.taken.Load() == 0 })
		drained <- err
	}()
	var err error
	select {
	case err = <-drained:
	case s := <-signals:
		err = fmt.Errorf("ended by a second signal, %s", s)
	}
	s.close()
	end, cancelEnd := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancelEnd()
	// The peers of an upgraded connection have two seconds to take a close frame.
	_ = await(end, func() bool { return s.gateway.tunnels.open.Load() == 0 })
	s.gateway.close(end)
	return err
}

// silence is how long a connection must have been without a request before drain closes it. The
// client of a new connection may be about to send its first request. An HTTP/2 connection may still
// hold frames of its last response, since net/http calls it idle before it flushes them.
const silence = time.Second

// conns records which connections of an http.Server have, or are about to have, a request.
type conns struct {
	busy sync.Map // from net.Conn to *atomic.Int64: the end of its silence, in Unix nanoseconds
}

// track is an http.Server.ConnState.
func (c *conns) track(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		until := new(atomic.Int64)
		until.Store(time.Now().Add(silence).UnixNano())
		c.busy.Store(conn, until)
	case http.StateActive:
		c.extend(conn, math.MaxInt64)
	case http.StateIdle:
		c.extend(conn, time.Now().Add(silence).UnixNano())
	default: // closed, or hijacked by an upgrade
		c.busy.Delete(conn)
	}
}

func (c *conns) extend(conn net.Conn, until int64) {
	if v, ok := c.busy.Load(conn); ok {
		v.(*atomic.Int64).Store(until)
	}
}

// wait waits until no connection is busy.
func (c *conns) wait(ctx context.Context) error {
	return await(ctx, func() bool { return c.none(time.Now()) })
}

func (c *conns) none(now time.Time) bool {
	for _, until := range c.busy.Range {
		if until.(*atomic.Int64).Load() > now.UnixNano() {
			return false
		}
	}
	return true
}

// await waits until what it waits for is so, or for the end of ctx, whose cause it returns.
func await(ctx context.Context, so func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
