package wire

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"syscall"
	"time"
)

const noLimit = math.MaxInt64

// A conn is one connection. One request at a time uses it.
type conn struct {
	owner    *Transport
	raw      net.Conn
	buffered *bufio.Reader // of conn, so that limit holds
	out      *bufio.Writer
	peek     peeker
	abort    func() // closes raw: made once, for each request's context

	limit     int64 // how much may still be read
	written   int64 // of this request
	writeErr  error // of raw
	answered  bool  // something of a response to this request has come
	gzip      bool  // this Transport asked for gzip
	reused    bool  // not the first request
	idleSince time.Time
}

// newConn returns a conn on raw, or nil if nobody can look into raw without waiting.
func newConn(t *Transport, raw net.Conn) *conn {
	c := &conn{owner: t, raw: raw, limit: noLimit}
	if !c.peek.open(raw) {
		return nil
	}
	c.abort = func() { raw.Close() }
	c.buffered = bufio.NewReaderSize(reads{c}, cmp.Or(max(t.base.ReadBufferSize, 0), 4<<10))
	c.out = bufio.NewWriterSize(writes{c}, cmp.Or(max(t.base.WriteBufferSize, 0), 4<<10))
	return c
}

func (c *conn) close() { c.raw.Close() }

// reads are what c's buffer reads from.
type reads struct{ c *conn }

func (r reads) Read(p []byte) (int, error) {
	c := r.c
	if c.limit <= 0 {
		return 0, errLargeHeader
	}
	if int64(len(p)) > c.limit {
		p = p[:c.limit]
	}
	n, err := c.raw.Read(p)
	c.limit -= int64(n)
	return n, err
}

// writes are what c's buffer writes to.
type writes struct{ c *conn }

func (w writes) Write(p []byte) (int, error) {
	n, err := w.c.raw.Write(p)
	w.c.written += int64(n)
	if err != nil {
		w.c.writeErr = err
	}
	return n, err
}

// readFailure returns what a failed read of a response's header means.
func (c *conn) readFailure(err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case c.limit <= 0:
		return errLargeHeader
	case errors.Is(err, os.ErrDeadlineExceeded),
		c.owner.base.ResponseHeaderTimeout > 0 && errors.As(err, &timeout) && timeout.Timeout():
		return timeoutError{}
	case !c.answered && err == io.EOF:
		return fmt.Errorf("balancer: the server closed the connection without an answer: %w", io.EOF)
	}
	return fmt.Errorf("balancer: reading the response: %w", err)
}

// sound reports whether c, which is idle, is as its last response left it. If something has arrived
// since, it is the end of the connection or what must not be taken for an answer.
func (c *conn) sound() bool { return c.buffered.Buffered() == 0 && c.peek.quiet() }

// put makes c idle, whose response has been read to its end.
func (c *conn) put(trace *httptrace.ClientTrace) {
	c.reused, c.idleSince = true, time.Now()
	ok := c.buffered.Buffered() == 0 && c.owner.keep(c)
	if !ok {
		c.close()
	} else if trace != nil && trace.PutIdleConn != nil {
		trace.PutIdleConn(nil)
	}
}

func headerLimit(base *http.Transport) int64 {
	return cmp.Or(base.MaxResponseHeaderBytes, 10<<20) // as net/http
}

// A peeker looks into a connection without waiting and without taking anything out of it.
type peeker struct {
	raw  syscall.RawConn
	look func(fd uintptr) bool // made once
	got  error                 // of look; errQuiet if there is nothing to read
	buf  [1]byte
}

var errQuiet = errors.New("nothing to read")

func (p *peeker) open(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok || !canPeek {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	p.raw = raw
	p.look = func(fd uintptr) bool {
		p.got = peekFD(fd, p.buf[:])
		return true
	}
	return true
}

// quiet reports whether the connection is open and has nothing to read.
func (p *peeker) quiet() bool {
	p.got = nil
	return p.raw.Read(p.look) == nil && p.got == errQuiet
}
