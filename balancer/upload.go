package balancer

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// An upload is the body of a request on its way to the server. Transports read it on goroutines of
// their own, which may outlive the handler.
type upload struct {
	in      *http.Request
	trailer http.Header               // of the outbound request: the names to send, or nil
	invited *expectation              // nil if the client does not wait to be told to send
	ended   atomic.Bool               // the client's body has been read whole
	failed  atomic.Pointer[bodyError] // why it could not be
	closed  atomic.Bool
	reading sync.Mutex // held while the client's body is read
}

func newUpload(in *http.Request, trailer http.Header) *upload {
	u := &upload{in: in, trailer: trailer}
	if in.ProtoAtLeast(1, 1) && listHas(in.Header["Expect"], "100-continue") {
		u.invited = newExpectation()
	}
	return u
}

var errUploadClosed = errors.New("balancer: read of a request's body after its exchange has ended")

func (u *upload) Read(p []byte) (int, error) {
	if u.invited != nil && !u.invited.wait() {
		return 0, errUploadClosed
	}
	u.reading.Lock()
	defer u.reading.Unlock()
	if u.closed.Load() {
		return 0, errUploadClosed
	}
	n, err := u.in.Body.Read(p)
	if err == io.EOF {
		// The outbound request has the trailers' names, made when only these were known.
		for name := range u.trailer {
			u.trailer[name] = u.in.Trailer[name]
		}
		u.ended.Store(true)
	} else if err != nil {
		u.failed.Store(&bodyError{err})
	}
	return n, err
}

// Close leaves the client's body open: to close it would be to read it, which may take as long as
// the client likes, and another endpoint may yet get it. A transport that waits to send it is let
// go.
func (u *upload) Close() error {
	u.decide(false)
	return nil
}

// close ends the upload: who reads it from now on gets an error.
func (u *upload) close() {
	u.closed.Store(true)
	u.decide(false)
}

// decide says whether a client that waits for it is to send the body. Only the first call counts.
func (u *upload) decide(send bool) {
	if u.invited != nil {
		u.invited.decide(send)
	}
}

// await waits until nobody reads the client's body. u must have been closed.
func (u *upload) await() {
	u.reading.Lock()
	defer u.reading.Unlock()
}

// A restOfUpload is what the transport has not read of the client's body when the upload is closed.
type restOfUpload struct{ u *upload }

func (r restOfUpload) Read(p []byte) (int, error) {
	r.u.reading.Lock()
	defer r.u.reading.Unlock()
	return r.u.in.Body.Read(p)
}

func (r restOfUpload) Close() error { return r.u.in.Body.Close() }
