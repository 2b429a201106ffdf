package blame

import (
	"io"
	"net/http"
	"sync/atomic"
)

// An Upload is the body of a request that is watched. It tells failures of the body, which are the
// sender's, from those of the server: a client that breaks off its upload to a proxy blames the
// proxy's upstream for nothing. A nil Upload has not failed.
type Upload struct {
	io.ReadCloser
	broken, closed atomic.Bool
}

// Watch returns req with a body that is watched, and the watch. If the body cannot fail because it
// stands in memory, Watch returns req itself and nil.
func Watch(req *http.Request) (*http.Request, *Upload) {
	if req.Body == nil || req.Body == http.NoBody || req.GetBody != nil {
		return req, nil
	}
	u := &Upload{ReadCloser: req.Body}
	out := *req // not WithContext or Clone: nothing else is changed
	out.Body = u
	return &out, u
}

func (u *Upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	// A transport that gives up closes the body under its own reader.
	if err != nil && err != io.EOF && !u.closed.Load() {
		u.broken.Store(true)
	}
	return n, err
}

func (u *Upload) Close() error {
	u.closed.Store(true)
	return u.ReadCloser.Close()
}

// Failed reports whether reading the body has failed.
func (u *Upload) Failed() bool { return u != nil && u.broken.Load() }
