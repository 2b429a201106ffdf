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
//  1. For DrainDelay it serves on, is not ready, and lets each response end its connection, so that load
//     balancers and clients go elsewhere by themselves. A connection that is closed while its client sends
//     the next request loses that request: this way there are few left to close.
//  2. It accepts no more, and answers what it has accepted within DrainTimeout. Not by http.Server.Shutdown,
//     which drops a request that it reads after the call. Requests that last longer are cut, an error.
//  3. Connections that have been without a request for a while are closed, and upgraded ones, which would never end by
//     themselves.
//
// sig is what asked for that. A further signal ends it at once.
func drain(s *running, sig os.Signal, signals <-chan os.Signal) error {
	limits := s.gateway.current.Load().cfg.Server
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Duration(limits.DrainDelay+limits.DrainTimeout),
		errors.New("requests were still in flight at the end of server.drain_timeout: they have been cut"))
	defer cancel()
	s.gateway.draining.Store(true)
	_ = s.gateway.observer.health.Drain(ctx) // /readyz fails from here on
	s.gateway.log.Info("draining", "signal", sig.String())
	drained := make(chan error, 1)
	go func() {
		sleep(ctx, time.Duration(limits.DrainDelay))
		s.listener.Close()
		<-s.served // what has been accepted is known to conns now
		drained <- s.conns.wait(ctx)
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
	s.gateway.close(end)
	return err
}

// silence is how long a connection must have been without a request to be closed. One that is new may be about to send
// its first. One whose last response has just ended, net/http calls idle before it has flushed the frames of HTTP/2.
const silence = time.Second

// conns knows which connections of an http.Server have, or are about to have, a request.
type conns struct {
	busy sync.Map // from net.Conn to *atomic.Int64: until when, in Unix nanoseconds
}

// track is for http.Server.ConnState.
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
	default: // closed, or hijacked, hence upgraded
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
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if c.none(time.Now()) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *conns) none(now time.Time) bool {
	for _, until := range c.busy.Range {
		if until.(*atomic.Int64).Load() > now.UnixNano() {
			return false
		}
	}
	return true
}
