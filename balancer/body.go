package balancer

import (
	"bytes"
	"io"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"
)

const (
	// maxCopy is how much of a request's body is kept until its server answers, for a request that
	// has to be sent again. It holds what forms and calls of an interface commonly send.
	maxCopy = 64 << 10

	// closeGrace is how long the end of a body waits for a Read of it that is still going on, since
	// closing it under that Read would spend it; and how long a transport hears nothing of a body
	// that has been given up.
	closeGrace = time.Second
)

// A requestBody wraps the body of a request, for three reasons. Its own failures must be told from
// the endpoint's. A failed dial must not close it, so that another endpoint can have it. And what
// has been read of it is kept, within bounds, for a request that its server has not processed.
type requestBody struct {
	rc     io.ReadCloser
	copies bool // keep what is read

	mu       sync.Mutex    // guards the fields below, for transports with goroutines of their own
	turn     int           // of the present reader: earlier ones get nothing more
	kept     []byte        // all that has been read of rc, unless spent
	pos      int           // how much of kept the present reader has got
	spent    bool          // what has been read of rc is not kept
	reading  bool          // a Read of rc is going on
	end      error         // what rc said at its end
	readErr  error         // end, if not io.EOF: the caller's body failed, not the endpoint
	closed   bool          // the present reader is; rc is not while the body can be read again
	released bool          // a Close closes rc at once, and nothing more is kept
	answered bool          // there is a response
	over     bool          // which has ended
	overdue  bool          // closed, but rc stays open until the response ends
	ended    chan struct{} // closed when the response has ended; nil if nobody waits for it
	grace    *time.Timer
}

// A bodyError says that the request's body could not be read: the fault is its sender's.
type bodyError struct{ error }

func (e *bodyError) Error() string { return "balancer: reading the request's body: " + e.error.Error() }
func (e *bodyError) Unwrap() error { return e.error }

// protectBody returns the request to send for req, which has a body: with a requestBody if one is
// needed, else req. copies tells it to keep what is read.
func protectBody(req *http.Request, copies bool) (*http.Request, *requestBody) {
	if req.GetBody != nil && !mayFail(req.Body) {
		return req, nil
	}
	body := &requestBody{rc: req.Body, released: req.GetBody != nil}
	body.copies = copies && !body.released
	return withBody(req, body), body
}

// replay returns the request to send after out, and its requestBody if it has one. It returns false
// if req's body is spent.
func replay(req, out *http.Request, body *requestBody) (*http.Request, *requestBody, bool) {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return out, body, true
	case req.GetBody == nil:
		again, ok := body.rewind()
		if !ok {
			return nil, body, false
		}
		return withBody(req, again), body, true
	}
	rc, err := req.GetBody()
	if err != nil {
		return nil, body, false
	}
	if body != nil {
		body = &requestBody{rc: rc, released: true}
		rc = body
	}
	return withBody(req, rc), body, true
}

// withBody returns a copy of req with another body.
func withBody(req *http.Request, body io.ReadCloser) *http.Request {
	out := *req // WithContext would keep the body, and Clone would copy what is not changed
	out.Body = body
	return &out
}

var memoryBodies = [...]reflect.Type{
	reflect.TypeOf(io.NopCloser(nil)), reflect.TypeOf(io.NopCloser(&bytes.Reader{})),
}

// mayFail reports whether reading body can fail, as a client's can that a layer above keeps for
// replays. Those that http.NewRequest wraps are in memory. net/http sends them together with the
// header only if it sees what they are, so they are left as they are.
func mayFail(body io.ReadCloser) bool {
	return !slices.Contains(memoryBodies[:], reflect.TypeOf(body))
}

// Read and Close are those of the first reader.
func (b *requestBody) Read(p []byte) (int, error) { return b.readAs(0, p) }
func (b *requestBody) Close() error               { return b.closeAs(0) }

// A bodyReader reads a requestBody once more from its beginning.
type bodyReader struct {
	b    *requestBody
	turn int
}

func (r bodyReader) Read(p []byte) (int, error) { return r.b.readAs(r.turn, p) }
func (r bodyReader) Close() error               { return r.b.closeAs(r.turn) }

func (b *requestBody) readAs(turn int, p []byte) (int, error) {
	if n, err := b.beginRead(turn, p); n > 0 || err != nil {
		return n, err
	}
	n, err := b.rc.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	// Over HTTP/1.1, net/http's server gives up a request's body when the response begins.
	givenUp := err == http.ErrBodyReadAfterClose && b.answered && !b.over
	if !givenUp {
		b.keepLocked(p[:n])
		b.end = err
	}
	if err == nil || err == io.EOF {
		return n, err
	}
	if !givenUp && !b.closed { // a transport that gives up closes the body under its own reader
		b.readErr = err
	}
	if b.answered && !b.over {
		// If the transport heard of it now, it would break off a response that may be about to end.
		b.awaitEndLocked()
	}
	return n, err
}

// beginRead reads what is known already. If there is nothing, it begins a Read of rc.
func (b *requestBody) beginRead(turn int, p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed && b.pos == 0 && !b.spent && (!b.released || b.overdue) {
		// net/http has closed the body of a request that got no stream on one connection, and goes
		// on with another one.
		b.closed, b.overdue = false, false
	}
	switch {
	case turn != b.turn || b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.pos < len(b.kept):
		n := copy(p, b.kept[b.pos:])
		b.pos += n
		return n, nil
	}
	if b.end == nil {
		b.reading = true
		b.spent = b.spent || !b.copies
	}
	return 0, b.end
}

func (b *requestBody) keepLocked(p []byte) {
	switch {
	case b.spent || len(p) == 0:
	case b.released || len(b.kept)+len(p) > maxCopy:
		b.spent, b.kept, b.pos = true, nil, 0
	default:
		b.kept = append(b.kept, p...)
		b.pos = len(b.kept)
	}
}

func (b *requestBody) closeAs(turn int) error {
	b.mu.Lock()
	if turn != b.turn {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	keepOpen := !b.released && !b.spent
	if keepOpen && b.reading && b.grace == nil {
		b.grace = time.AfterFunc(closeGrace, func() { b.giveUp(turn) })
	}
	b.mu.Unlock()
	if keepOpen {
		return nil
	}
	return b.rc.Close()
}

// giveUp closes rc under a Read that has lasted too long since its reader was closed: the transport
// waits for that Read before it says how the request has failed.
func (b *requestBody) giveUp(turn int) {
	b.mu.Lock()
	late := b.reading && b.turn == turn
	b.spent = b.spent || late
	b.mu.Unlock()
	if late {
		b.rc.Close()
	}
}

// rewind returns a new reader, which begins at the beginning, and ends the present one. It returns
// false if the body is spent.
func (b *requestBody) rewind() (io.ReadCloser, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spent || b.reading || b.released {
		return nil, false
	}
	b.stopGraceLocked()
	b.turn++
	b.pos, b.closed = 0, false
	return bodyReader{b, b.turn}, true
}

// release ends the protection: Close closes rc from now on. What was closed before is closed now,
// with one exception. Of an answered request of HTTP/2 the transport may have closed the body when
// it changed connections, and be about to read it: that is left to finish.
func (b *requestBody) release(answered bool) {
	b.mu.Lock()
	b.stopGraceLocked()
	overdue := b.closed && !b.spent && !b.released
	b.released = true
	b.answered = answered
	b.overdue = overdue && answered && !b.over && b.copies && b.pos == 0
	if b.pos == len(b.kept) {
		b.kept, b.pos = nil, 0
	}
	later := b.overdue
	b.mu.Unlock()
	if overdue && !later {
		b.rc.Close()
	}
}

// awaitEndLocked returns when the response has ended, or after closeGrace: it may wait for the
// body.
func (b *requestBody) awaitEndLocked() {
	if b.ended == nil {
		b.ended = make(chan struct{})
	}
	ended := b.ended
	b.mu.Unlock()
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	b.mu.Lock()
}

// finish says that the response has ended, and closes what release has left open. b may be nil.
func (b *requestBody) finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	overdue := b.overdue
	b.over, b.overdue = true, false
	if b.ended != nil {
		close(b.ended)
		b.ended = nil
	}
	b.mu.Unlock()
	if overdue {
		b.rc.Close()
	}
}

func (b *requestBody) stopGraceLocked() {
	if b.grace != nil {
		b.grace.Stop()
		b.grace = nil
	}
}

// failure returns why the body could not be read; nil if it could, or if b is nil.
func (b *requestBody) failure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.readErr
}
