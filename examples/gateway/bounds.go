package main

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/balancer"
)

// limitHeader answers a request with more than limit header fields, and reports whether r may go
// on. Each cookie counts as a field. http.Server.MaxHeaderBytes bounds the bytes, also with 431.
func limitHeader(w http.ResponseWriter, r *http.Request, limit int) bool {
	n := 0
	for name, values := range r.Header {
		n += len(values)
		if name == "Cookie" {
			for _, v := range values {
				n += strings.Count(v, ";")
			}
		}
	}
	if n <= limit {
		return true
	}
	w.Header().Set("Connection", "close")
	writeProblem(w, http.StatusRequestHeaderFieldsTooLarge, "too many header fields or cookies")
	return false
}

// limitBody answers a request whose Content-Length is more than limit, and reports whether r may go
// on. A body that turns out to be larger fails to be read, with an *http.MaxBytesError that
// writeProxyError answers.
func limitBody(w http.ResponseWriter, r *http.Request, limit int64) bool {
	if r.ContentLength > limit {
		balancer.Refuse(w, r, func(w http.ResponseWriter) {
			w.Header().Set("Connection", "close") // or net/http would read a small body to its end
			writeProblem(w, http.StatusRequestEntityTooLarge, "the body is too large")
		})
		return false
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	return true
}

// limitStalls gives every read of the request's body and every write of the response a deadline of
// its own: a body may take any time as long as it moves. net/http's ReadTimeout and WriteTimeout
// bound the whole instead, which is too much for a slow drip and too little for a large upload or
// an event stream. The handler must call done before it returns.
//
// Over HTTP/1.1 a deadline takes effect only in a read or write. Over HTTP/2 it is a timer that
// resets the stream, even while the gateway waits for a slow upstream and neither reads nor writes.
// So over HTTP/2 the deadline is set only while a read or write lasts.
func limitStalls(
	w http.ResponseWriter, r *http.Request, stall time.Duration, draining func() bool,
) (_ http.ResponseWriter, _ *http.Request, done func()) {
	rc := http.NewResponseController(w)
	done = func() {}
	timers := r.ProtoMajor == 2
	steady := &steadyWriter{ResponseWriter: w, rc: rc, stall: stall, draining: draining, timers: timers}
	if timers {
		_ = rc.SetWriteDeadline(time.Time{}) // lifts the one of http.Server.WriteTimeout
		done = steady.extend                 // bounds what net/http writes after the handler
	}
	if r.Body != nil && r.Body != http.NoBody {
		body := &steadyBody{ReadCloser: r.Body, rc: rc, stall: stall, timers: timers}
		if !timers {
			// The first deadline is set now: net/http reads and discards a body that no handler
			// reads.
			_ = rc.SetReadDeadline(time.Now().Add(stall))
			steady.body = body
		}
		before := done
		done = func() { body.stop(); before() }
		r2 := *r // a handler must not change its request
		r2.Body = body
		r = &r2
	}
	return steady, r, done
}

// A steadyBody fails when a Read takes too long.
type steadyBody struct {
	io.ReadCloser
	rc     *http.ResponseController
	stall  time.Duration
	timers bool // over HTTP/2, where deadlines are timers
	eof    atomic.Bool

	mu      sync.Mutex // guards the field below: a transport may read after the handler has returned
	stopped bool
}

func (b *steadyBody) Read(p []byte) (int, error) {
	b.setDeadline(time.Now().Add(b.stall))
	n, err := b.ReadCloser.Read(p) // after a timeout net/http cancels the request's context
	if b.timers {
		b.setDeadline(time.Time{})
	}
	if err == io.EOF {
		b.stop() // net/http lifts the deadline here, and reads on only to notice that the client leaves
		b.eof.Store(true)
	}
	return n, err
}

// ended reports whether the body has been read to its end.
func (b *steadyBody) ended() bool { return b.eof.Load() }

func (b *steadyBody) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

func (b *steadyBody) setDeadline(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		_ = b.rc.SetReadDeadline(t)
	}
}

// stop makes b leave the connection's deadline alone from now on.
func (b *steadyBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
}

// A steadyWriter fails when a write takes too long. While the gateway drains, it asks the client to
// close the connection.
type steadyWriter struct {
	http.ResponseWriter
	rc       *http.ResponseController
	stall    time.Duration
	draining func() bool
	timers   bool        // over HTTP/2, where deadlines are timers
	body     *steadyBody // of the request over HTTP/1.1; else nil
	header   bool        // the final header has been written
}

// Unwrap lets http.ResponseController find hijacking and deadlines.
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *steadyWriter) WriteHeader(status int) {
	if !w.header && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.header = true
		if w.draining() && status != http.StatusSwitchingProtocols {
			w.Header().Set("Connection", "close")
		}
	}
	if !w.timers { // HTTP/2 keeps the header until there is more to send
		w.extend()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *steadyWriter) Write(p []byte) (int, error) {
	if !w.header {
		w.WriteHeader(http.StatusOK)
	}
	w.extend()
	defer w.relax()
	return w.ResponseWriter.Write(p)
}

// FlushError flushes under a deadline. http.ResponseController finds it before Unwrap.
func (w *steadyWriter) FlushError() error {
	if !w.header {
		w.WriteHeader(http.StatusOK)
	}
	w.extend()
	defer w.relax()
	return w.rc.Flush()
}

func (w *steadyWriter) extend() {
	d := w.stall
	if w.body != nil && !w.body.ended() {
		// Before net/http writes the header, it reads the rest of the request's body, up to the
		// body's own deadline.
		d *= 2
	}
	_ = w.rc.SetWriteDeadline(time.Now().Add(d))
}

// relax lifts a deadline that would still hold after the write.
func (w *steadyWriter) relax() {
	if w.timers {
		_ = w.rc.SetWriteDeadline(time.Time{})
	}
}
