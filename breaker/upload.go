package breaker

import (
	"io"
	"net/http"
	"sync/atomic"
)

// An upload is the body of a request. It tells failures of the body, which are the sender's, from
// those of the server: a client that breaks off its upload to a proxy must not open the breaker in
// front of the proxy's upstream.
type upload struct {
	io.ReadCloser
	broken, closed atomic.Bool
}

// guardUpload returns req with a body that is watched, and the watch; req itself and nil if its
// body cannot fail because it stands in memory.
func guardUpload(req *http.Request) (*http.Request, *upload) {
	if req.Body == nil || req.Body == http.NoBody || req.GetBody != nil {
		return req, nil
	}
	u := &upload{ReadCloser: req.Body}
	out := *req // not WithContext or Clone: nothing else is changed
	out.Body = u
	return &out, u
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	// A transport that gives up closes the body under its own reader.
	if err != nil && err != io.EOF && !u.closed.Load() {
		u.broken.Store(true)
	}
	return n, err
}

func (u *upload) Close() error {
	u.closed.Store(true)
	return u.ReadCloser.Close()
}

func (u *upload) failed() bool { return u != nil && u.broken.Load() }
