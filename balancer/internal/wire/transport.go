// Package wire is an HTTP/1.1 client for one address that does its work on the goroutine of its
// caller: there is none that reads and none that writes a connection. It takes the requests that
// are simple and common; http.Transport, which it stands on, takes all others.
//
// What http.Transport promises holds: the limit and the timeout of a response's header, 1xx, hooks
// of httptrace, trailers, cancellation at any time, one bound and one timeout of idle connections,
// and that a request is repeated only if it was not processed or may be. A connection on which
// something has arrived since its last response is not used again.
package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// A Transport sends requests to the address that its http.Transport dials, whatever their URL says.
// Create one with New. It is safe for concurrent use.
type Transport struct {
	base *http.Transport // takes what is not simple
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	off  atomic.Bool // base takes everything: nobody can look into a connection of this kind

	mu      sync.Mutex // guards the fields below
	idle    []*conn    // the last one was used last
	closing bool       // since CloseIdleConnections, until the next request: idle means closed
	sweeper *time.Timer
	sweeps  bool    // the sweeper will run
	spares  []spare // base takes them; the last one is the youngest
}

// New returns a Transport on base, which must have a DialContext that ignores the address and no
// Proxy. base is the Transport's from now on: only its own connections may be closed.
func New(base *http.Transport) *Transport {
	t := &Transport{base: base, dial: base.DialContext}
	base.DialContext = t.dialBase
	if base.DisableKeepAlives || base.MaxConnsPerHost > 0 || base.MaxIdleConnsPerHost < 0 ||
		base.Protocols != nil && !base.Protocols.HTTP1() {
		t.off.Store(true)
	}
	return t
}

// A RequestError says that a request cannot be written, whoever gets it.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return "balancer: writing the request: " + e.Err.Error() }
func (e *RequestError) Unwrap() error { return e.Err }

// errLargeHeader is the error of reads beyond the limit of a response's header.
var errLargeHeader = errors.New("balancer: the header of the response exceeds MaxResponseHeaderBytes")

// A timeoutError is how a request ends whose response's header does not come in time.
type timeoutError struct{}

func (timeoutError) Error() string   { return "balancer: timeout awaiting the header of the response" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
func (timeoutError) Is(target error) bool {
	return target == context.DeadlineExceeded
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.off.Load() || !simple(r) {
		return t.base.RoundTrip(r)
	}
	ctx := r.Context()
	trace := httptrace.ContextClientTrace(ctx)
	out := t.outgoing(r)
	for {
		if ctx.Err() != nil {
			closeBody(out)
			return nil, context.Cause(ctx)
		}
		c, err := t.conn(ctx, trace, r.URL)
		if err != nil {
			closeBody(out)
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
		if c == nil { // the first connection shows that there can be none of ours
			return t.base.RoundTrip(r)
		}
		reused := c.reused
		resp, err := c.exchange(ctx, trace, out)
		if err == nil {
			resp.Request = r
			return resp, nil
		}
		if !reused || ctx.Err() != nil || !c.mayRepeat(r, err) {
			return nil, err
		}
		if out, err = rewound(out); err != nil {
			return nil, err
		}
	}
}

// conn returns a connection: the one that was used last of those that are idle and sound, or a new
// one. It returns nil if ours cannot be used.
func (t *Transport) conn(ctx context.Context, trace *httptrace.ClientTrace, u *url.URL) (*conn, error) {
	if trace != nil && trace.GetConn != nil {
		trace.GetConn(hostPort(u))
	}
	for {
		c := t.take()
		if c == nil {
			break
		}
		if !c.sound() {
			c.close()
			continue
		}
		if trace != nil && trace.GotConn != nil {
			trace.GotConn(httptrace.GotConnInfo{
				Conn: c.raw, Reused: true, WasIdle: true, IdleTime: time.Since(c.idleSince),
			})
		}
		return c, nil
	}
	raw, err := t.dial(ctx, "tcp", hostPort(u))
	if err != nil {
		return nil, err
	}
	c := newConn(t, raw)
	if c == nil {
		t.leave(raw)
		return nil, nil
	}
	if trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: raw})
	}
	return c, nil
}

// hostPort returns the host of u with its port, as net/http dials it.
func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	return u.Host + ":80"
}

// exchange sends r over c and reads the header of the response. Unless the response has a body, c
// is idle or closed afterwards.
func (c *conn) exchange(
	ctx context.Context, trace *httptrace.ClientTrace, r *http.Request,
) (*http.Response, error) {
	c.written, c.answered = 0, false
	stop := func() bool { return true }
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, c.abort)
	}
	resp, err := c.send(trace, r)
	if err != nil {
		stop()
		c.close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	keep := !resp.Close && resp.StatusCode >= 200
	if resp.StatusCode == http.StatusSwitchingProtocols && resp.Header.Get("Upgrade") != "" {
		// Nobody asked for it: all that a caller can do is close it.
		resp.Body = io.NopCloser(c.buffered)
	} else if resp.Body == http.NoBody || r.Method == http.MethodHead {
		if keep && stop() {
			c.put(trace)
		} else {
			stop()
			c.close()
		}
		return resp, nil
	}
	b := &body{conn: c, src: resp.Body, ctx: ctx, trace: trace, stop: stop, keep: keep}
	resp.Body = b
	if c.gzip && isGzip(resp) {
		inflate(resp, b)
	}
	return resp, nil
}

// send writes r and reads the header of its response.
func (c *conn) send(trace *httptrace.ClientTrace, r *http.Request) (*http.Response, error) {
	base := c.owner.base
	c.gzip = asksGzip(base, r)
	err := r.Write(c.out)
	if err == nil {
		err = c.out.Flush()
	}
	if err != nil {
		if c.writeErr == nil {
			return nil, &RequestError{err}
		}
		return nil, c.writeErr
	}
	if d := base.ResponseHeaderTimeout; d > 0 {
		_ = c.raw.SetReadDeadline(time.Now().Add(d)) // a closed connection fails to be read
	}
	c.limit = headerLimit(base)
	resp, err := c.header(trace, r)
	if err != nil {
		return nil, c.readFailure(err)
	}
	if base.ResponseHeaderTimeout > 0 {
		_ = c.raw.SetReadDeadline(time.Time{})
	}
	c.limit = noLimit
	return resp, nil
}

// header reads the header of the final response to r. Informational ones go to the trace, and 101
// is final (RFC 9110, section 15.2).
func (c *conn) header(trace *httptrace.ClientTrace, r *http.Request) (*http.Response, error) {
	if _, err := c.buffered.Peek(1); err != nil {
		return nil, err
	}
	c.answered = true
	if trace != nil && trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	for {
		resp, err := http.ReadResponse(c.buffered, r)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
		if resp.StatusCode < 100 {
			return resp, nil // as net/http, which leaves it to the caller
		}
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(resp.StatusCode, mime(resp.Header)); err != nil {
				return nil, err
			}
			// Who gets them bounds their number. Otherwise all headers together have one limit.
			c.limit = headerLimit(c.owner.base)
		}
	}
}
