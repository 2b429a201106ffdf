package main

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// bounds are the settings of an exchange.
type bounds struct {
	stall, tunnelIdle Timeout
	pace              Pace
	draining          func() bool
	taken             *atomic.Int64 // counts the connections that Hijack has returned until they are closed
}

// limitStalls bounds how long an exchange may stand still, and how slow a client may be. A body may
// take any time as long as it moves: net/http's ReadTimeout and WriteTimeout bound the whole
// instead, which is too much for a slow drip and too little for a large upload or an event stream.
// The handler must call done before it returns.
//
// Until the answer begins, each read of the request's body has a deadline. From then on the
// exchange ends when neither side has made progress for that long, so that one of them may be
// silent while the other speaks. Each write of the answer has a deadline of its own.
//
// Over HTTP/1.1 a deadline takes effect only in a read or write. Over HTTP/2 it is a timer that
// resets the stream, even while the gateway waits for a slow upstream and neither reads nor writes.
// So over HTTP/2 the deadline is set only while a read or write lasts. Over HTTP/1.1 a write may
// have half as long again, so that few writes have to move the deadline.
func limitStalls(
	w http.ResponseWriter, r *http.Request, b bounds,
) (_ *steadyWriter, _ *http.Request, done func()) {
	ctx, cut := context.WithCancelCause(r.Context())
	rc := http.NewResponseController(w)
	steady := &steadyWriter{
		ResponseWriter: w, rc: rc, bounds: b, cut: cut, timers: r.ProtoMajor == 2, began: time.Now(),
	}
	r = r.WithContext(ctx)
	if steady.timers {
		_ = rc.SetWriteDeadline(time.Time{}) // lifts the one of http.Server.WriteTimeout
	}
	if r.Body != nil && r.Body != http.NoBody {
		steady.body = &steadyBody{ReadCloser: r.Body, exchange: steady}
		if !steady.timers {
			// The first deadline is set now: net/http reads and discards a body that no handler
			// reads.
			_ = rc.SetReadDeadline(b.stall.deadline())
			// The first read may come late and write 100 (Continue).
			_ = rc.SetWriteDeadline(time.Time{})
		}
		r.Body = steady.body
	}
	return steady, r, func() {
		steady.end()
		steady.edit.dropLate(w.Header())
		if steady.body != nil {
			steady.body.leave()
		}
		if steady.timers || steady.body != nil && !steady.header {
			steady.extend() // bounds what net/http writes after the handler
		}
		cut(nil)
	}
}

// steadily returns a route's handler with the route's own stall timeout and changes of answers.
func steadily(stall Timeout, e *edit, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if steady, ok := w.(*steadyWriter); ok {
			steady.stall, steady.edit = stall, e // before anybody reads or writes
		}
		next.ServeHTTP(w, r)
	})
}

// deadline returns the time at which something that begins now has stood still for too long.
func (t Timeout) deadline() time.Time {
	if t == off {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(t))
}

// A steadyBody fails when a Read takes too long, or when the whole is too slow.
type steadyBody struct {
	io.ReadCloser
	exchange *steadyWriter
	pace     pace
	eof      atomic.Bool

	mu      sync.Mutex // guards the fields below: a transport may read after the handler has returned
	stopped bool
	free    bool // the answer has begun, and the exchange is watched as a whole
}

func (b *steadyBody) Read(p []byte) (int, error) {
	bounded := b.setDeadline(b.exchange.stall.deadline())
	start := time.Now()
	n, err := b.ReadCloser.Read(p) // after a timeout net/http cancels the request's context
	if b.exchange.timers {
		b.setDeadline(time.Time{})
	}
	if n > 0 {
		b.exchange.moved()
	}
	if err == io.EOF {
		b.stop() // net/http lifts the deadline here, and reads on only to notice that the client leaves
		b.eof.Store(true)
	}
	if bounded && err == nil && b.pace.tooSlow(n, time.Since(start), b.exchange.bounds.pace) {
		return n, errDrips
	}
	return n, err
}

// ended reports whether the body has been read to its end.
func (b *steadyBody) ended() bool { return b.eof.Load() }

func (b *steadyBody) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

// setDeadline sets the deadline of reads, and reports whether they have any.
func (b *steadyBody) setDeadline(t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped && !b.free {
		_ = b.exchange.rc.SetReadDeadline(t)
	}
	return !b.free
}

// release lifts the deadline for good.
func (b *steadyBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped && !b.free {
		_ = b.exchange.rc.SetReadDeadline(time.Time{})
	}
	b.free = true
}

// fail ends a Read that is going on: net/http's transport of HTTP/2 hears of the end of a request's
// context only between two of them.
func (b *steadyBody) fail() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		_ = b.exchange.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

// leave is stop at the end of the handler. Over HTTP/1.1 net/http reads on then, to use the
// connection again.
func (b *steadyBody) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.free && !b.stopped && !b.exchange.timers {
		_ = b.exchange.rc.SetReadDeadline(b.exchange.stall.deadline())
	}
	b.stopped = true
}

// stop makes b leave the connection's deadline alone from now on.
func (b *steadyBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
}

// A steadyWriter fails when a write takes too long, and ends an exchange that stands still. While
// the gateway drains, it asks the client to close the connection.
type steadyWriter struct {
	http.ResponseWriter
	bounds
	rc     *http.ResponseController
	cut    context.CancelCauseFunc // ends the request's context
	began  time.Time
	timers bool        // over HTTP/2, where deadlines are timers
	body   *steadyBody // of the request; else nil
	header bool        // the final header has been written, or the connection taken
	duplex bool        // over HTTP/1.1: net/http does not read the body before it answers
	edit   *edit       // of the header of a final answer; may be nil
	pace   pace

	until    time.Time    // over HTTP/1.1: the deadline of writes; zero: not set yet
	progress atomic.Int64 // when a side last made some, in nanoseconds since began
	writing  atomic.Bool  // the gateway waits for the client to take some

	mu    sync.Mutex  // guards the fields below
	timer *time.Timer // calls check; nil while nobody watches the exchange
	limit Timeout     // of standing still
	cause error       // of the end, if it stands still for longer; nil: see stalledBy
}

// Unwrap lets http.ResponseController find deadlines.
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// EnableFullDuplex notes that the handler reads while it writes.
func (w *steadyWriter) EnableFullDuplex() error {
	err := w.rc.EnableFullDuplex()
	w.duplex = w.duplex || err == nil
	return err
}

func (w *steadyWriter) WriteHeader(status int) {
	if !w.header && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.header = true
		// net/http would take the rest of a body that it failed to read for the next request.
		unread := w.duplex && w.body != nil && !w.body.ended()
		if (unread || w.draining()) && status != http.StatusSwitchingProtocols {
			w.Header().Set("Connection", "close")
		}
		if status >= 200 {
			w.edit.apply(w.Header())
			w.edit.dropAnnounced(w.Header())
			w.answered()
		}
	}
	if !w.timers { // HTTP/2 keeps the header until there is more to send
		w.extend()
	}
	w.ResponseWriter.WriteHeader(status)
}

// answered begins to watch the exchange as a whole.
func (w *steadyWriter) answered() {
	if w.body != nil && (w.timers || w.duplex) {
		w.body.release()
	}
	w.watch(w.stall, nil)
}

// watch ends the exchange when neither side has made progress for limit: with cause, or if that is
// nil with what stalledBy says.
func (w *steadyWriter) watch(limit Timeout, cause error) {
	w.end()
	w.moved()
	if limit == off {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit, w.cause = limit, cause
	w.timer = time.AfterFunc(time.Duration(limit), w.check)
}

// end ends the watch.
func (w *steadyWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// moved notes progress.
func (w *steadyWriter) moved() { w.progress.Store(int64(time.Since(w.began))) }

// check ends the exchange if it has stood still for too long.
func (w *steadyWriter) check() {
	idle := time.Since(w.began) - time.Duration(w.progress.Load())
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.timer == nil: // the exchange has ended
	case idle >= time.Duration(w.limit):
		cause := w.cause
		if cause == nil {
			cause = w.stalledBy()
		}
		w.cut(cause)
		if w.body != nil {
			w.body.fail()
		}
	default:
		w.timer.Reset(time.Duration(w.limit) - idle)
	}
}

func (w *steadyWriter) Write(p []byte) (int, error) {
	if !w.header {
		w.WriteHeader(http.StatusOK)
	}
	w.writing.Store(true)
	start := w.extend()
	n, err := w.ResponseWriter.Write(p)
	return n, w.wrote(n, start, err)
}

// FlushError flushes under a deadline. http.ResponseController finds it before Unwrap.
func (w *steadyWriter) FlushError() error {
	if !w.header {
		w.WriteHeader(http.StatusOK)
	}
	w.writing.Store(true)
	start := w.extend()
	return w.wrote(0, start, w.rc.Flush())
}

// extend gives a write that begins now its deadline.
func (w *steadyWriter) extend() (now time.Time) {
	now = time.Now()
	if w.stall == off {
		if !w.timers {
			_ = w.rc.SetWriteDeadline(time.Time{})
		}
		return now
	}
	d := time.Duration(w.stall)
	if w.body != nil && !w.timers && !w.body.ended() {
		// Before net/http writes the header, it reads the rest of the request's body, up to the
		// body's own deadline.
		d *= 2
	}
	switch {
	case w.timers:
		_ = w.rc.SetWriteDeadline(now.Add(d))
	case w.until.Sub(now) < d:
		w.until = now.Add(d + d/2)
		_ = w.rc.SetWriteDeadline(w.until)
	}
	return now
}

// wrote notes what came of a write, and lifts a deadline that would still hold after it.
func (w *steadyWriter) wrote(n int, start time.Time, err error) error {
	w.writing.Store(false)
	if w.timers {
		_ = w.rc.SetWriteDeadline(time.Time{})
	}
	w.moved()
	if err == nil && w.pace.tooSlow(n, time.Since(start), w.bounds.pace) {
		w.cut(dripping{})
		return errDrips
	}
	return err
}
