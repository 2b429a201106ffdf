package main

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// limitHeader refuses a request with more than limit header fields; each cookie counts as one. Their
// bytes are bounded by http.Server.MaxHeaderBytes, which also answers 431.
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

// limitBody refuses a body that says that it is too large, and cuts one that turns out to be:
// reading it fails with an *http.MaxBytesError, for which writeProxyError answers.
func limitBody(w http.ResponseWriter, r *http.Request, limit int64) bool {
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close") // rather than read on to the end of it
		writeProblem(w, http.StatusRequestEntityTooLarge, "the body is too large")
		return false
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	return true
}

// limitStalls gives every read of the request's body and every write of the response its own
// deadline: a body may take as long as it likes while it moves. net/http's ReadTimeout and
// WriteTimeout bound the whole instead, which is too much for a slow drip and too little for a
// large upload or an event stream. done must be called before the handler returns.
//
// A deadline of HTTP/1.1 is looked at by reads and writes only. One of HTTP/2 is a timer that resets the stream, even if
// nobody reads or writes since the upstream takes its time: so there it is set for as long as a read or write lasts.
func limitStalls(w http.ResponseWriter, r *http.Request, stall time.Duration, draining func() bool) (_ http.ResponseWriter, _ *http.Request, done func()) {
	rc := http.NewResponseController(w)
	done = func() {}
	timers := r.ProtoMajor == 2
	steady := &steadyWriter{ResponseWriter: w, rc: rc, stall: stall, draining: draining, timers: timers}
	if timers {
		_ = rc.SetWriteDeadline(time.Time{}) // that of http.Server.WriteTimeout
		done = steady.extend                 // for what net/http still has to write then
	}
	if r.Body != nil && r.Body != http.NoBody {
		body := &steadyBody{ReadCloser: r.Body, rc: rc, stall: stall, timers: timers}
		if !timers {
			// Now, too: a body that nobody reads is discarded by net/http after the response.
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
	timers bool // deadlines are timers
	eof    atomic.Bool

	mu      sync.Mutex // guards the fields below: a transport may still read when the handler has returned
	stopped bool
}

func (b *steadyBody) Read(p []byte) (int, error) {
	b.setDeadline(time.Now().Add(b.stall))
	n, err := b.ReadCloser.Read(p) // a timeout cancels the request's context: to net/http the client has gone
	if b.timers {
		b.setDeadline(time.Time{})
	}
	if err == io.EOF {
		b.stop() // net/http has lifted the deadline: it reads on only to notice that the client leaves
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

// stop leaves the connection's deadline as it is, for good.
func (b *steadyBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
}

// A steadyWriter fails when a write takes too long. While the gateway drains, it asks
// the client to use another connection for its next request.
type steadyWriter struct {
	http.ResponseWriter
	rc       *http.ResponseController
	stall    time.Duration
	draining func() bool
	timers   bool        // deadlines are timers
	body     *steadyBody // of the request; nil without one, or where nothing is written later for its sake
	header   bool        // the final header is out
}

// Unwrap serves http.ResponseController: hijacking and deadlines.
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *steadyWriter) WriteHeader(status int) {
	if !w.header && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.header = true
		if w.draining() && status != http.StatusSwitchingProtocols {
			w.Header().Set("Connection", "close")
		}
	}
	if !w.timers { // HTTP/2's is only kept until there is more to send
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

// FlushError is found by http.ResponseController before Unwrap.
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
		d *= 2 // before it writes the header, net/http waits for the rest of the request's body, until that one's deadline
	}
	_ = w.rc.SetWriteDeadline(time.Now().Add(d))
}

// relax lifts a deadline that would hold after the write, too.
func (w *steadyWriter) relax() {
	if w.timers {
		_ = w.rc.SetWriteDeadline(time.Time{})
	}
}
