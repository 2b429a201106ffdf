package balancer

import (
	"bytes"
	"io"
	"net/http"
	"reflect"
	"slices"
	"sync"
)

// A requestBody wraps the body of a request, for two reasons. Its own failures must be told from
// the endpoint's. And a failed dial must not close it, so that another endpoint can have it.
type requestBody struct {
	rc io.ReadCloser

	mu       sync.Mutex // guards the fields below: transports read and close on goroutines of their own
	read     bool
	readErr  error // other than io.EOF: the caller's body failed, not the endpoint
	closed   bool  // Close was called; until then and without a Read, rc stays open
	released bool  // Close closes rc at once
}

// A bodyError says that the request's body could not be read: the fault is its sender's.
type bodyError struct{ error }

func (e *bodyError) Error() string { return "balancer: reading the request's body: " + e.error.Error() }
func (e *bodyError) Unwrap() error { return e.error }

// protectBody returns the request to send for req, which has a body: with a requestBody if one is
// needed, else req.
func protectBody(req *http.Request) (*http.Request, *requestBody) {
	if req.GetBody != nil && !mayFail(req.Body) {
		return req, nil
	}
	body := &requestBody{rc: req.Body, released: req.GetBody != nil}
	return withBody(req, body), body
}

// replay returns the request to send to a further endpoint after out, and its requestBody if it has
// one. It returns false if req's body is spent.
func replay(req, out *http.Request, body *requestBody) (*http.Request, *requestBody, bool) {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return out, body, true
	case req.GetBody == nil:
		return out, body, body.reuse()
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

func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.read = true
	b.mu.Unlock()
	n, err := b.rc.Read(p)
	if err != nil && err != io.EOF {
		b.mu.Lock()
		if !b.closed { // a transport that gives up closes the body under its own reader
			b.readErr = err
		}
		b.mu.Unlock()
	}
	return n, err
}

func (b *requestBody) Close() error {
	b.mu.Lock()
	keepOpen := !b.released && !b.read
	b.closed = true
	b.mu.Unlock()
	if keepOpen {
		return nil
	}
	return b.rc.Close()
}

// reuse makes the body usable once more. It returns false if somebody has read of it.
func (b *requestBody) reuse() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.read {
		return false
	}
	b.closed = false
	return true
}

// release ends the protection: Close closes rc from now on, and does so now if it was called.
func (b *requestBody) release() {
	b.mu.Lock()
	overdue := b.closed && !b.read && !b.released
	b.released = true
	b.mu.Unlock()
	if overdue {
		b.rc.Close()
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
