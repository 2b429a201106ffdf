// Package response wraps http.ResponseWriter without hiding what it can do.
package response

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
)

// A Recorder passes a response through and remembers its status and size.
// Like any ResponseWriter it must not be used concurrently. Create one with [NewRecorder].
type Recorder struct {
	http.ResponseWriter
	Status   int   // of the final header; zero until it is sent; 101 once hijacked without one
	Bytes    int64 // body bytes sent; zero for HEAD, whose body net/http accepts and discards
	Hijacked bool  // the handler has taken the connection: what it writes there is not counted

	head bool
}

// NewRecorder returns a Recorder of w, the response to r.
func NewRecorder(w http.ResponseWriter, r *http.Request) *Recorder {
	return &Recorder{ResponseWriter: w, head: r.Method == http.MethodHead}
}

// Unwrap serves http.ResponseController: deadlines and full duplex pass through.
func (r *Recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader passes code on unless the final header is out: net/http would ignore
// a second one too, but blame this line for it in the server's log.
func (r *Recorder) WriteHeader(code int) {
	if r.Status != 0 {
		return
	}
	r.ResponseWriter.WriteHeader(code) // panics on a code that is none
	// 1xx responses precede the final one, except 101 which is final.
	if code >= 200 || code == http.StatusSwitchingProtocols {
		r.Status = code
	}
}

func (r *Recorder) Write(p []byte) (int, error) {
	if r.Hijacked {
		return 0, http.ErrHijacked
	}
	n, err := r.ResponseWriter.Write(p)
	r.wrote(int64(n), true) // a write that fails has sent the header too: over-long, or 204 and 304
	return n, err
}

// WriteString spares io.WriteString the copy into a byte slice.
func (r *Recorder) WriteString(s string) (int, error) {
	if r.Hijacked {
		return 0, http.ErrHijacked
	}
	n, err := io.WriteString(r.ResponseWriter, s)
	r.wrote(int64(n), true)
	return n, err
}

// ReadFrom keeps the sendfile path, which io.Copy finds by type assertion and
// not through Unwrap.
func (r *Recorder) ReadFrom(src io.Reader) (int64, error) {
	if r.Hijacked {
		return 0, http.ErrHijacked
	}
	n, err := io.Copy(r.ResponseWriter, src)
	// Nothing copied, nothing sent: src may have failed before its first byte. But
	// what is refused as too long was refused after the header.
	r.wrote(n, errors.Is(err, http.ErrContentLength))
	return n, err
}

// FlushError is here rather than left to Unwrap because a flush sends the header.
func (r *Recorder) FlushError() error {
	if r.Hijacked {
		return http.ErrHijacked
	}
	err := http.NewResponseController(r.ResponseWriter).Flush()
	r.wrote(0, !errors.Is(err, http.ErrNotSupported))
	return err
}

// Flush serves callers that assert http.Flusher. It does nothing if the
// underlying writer cannot flush.
func (r *Recorder) Flush() { _ = r.FlushError() }

// Hijack serves callers that assert http.Hijacker. Its error matches
// http.ErrNotSupported if the underlying writer cannot hijack.
func (r *Recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.Hijacked = true
		if r.Status == 0 {
			r.Status = http.StatusSwitchingProtocols
		}
	}
	return conn, rw, err
}

// Push serves callers that assert http.Pusher. It returns http.ErrNotSupported
// if no underlying writer can push.
func (r *Recorder) Push(target string, opts *http.PushOptions) error {
	for w := r.ResponseWriter; ; {
		if p, ok := w.(http.Pusher); ok {
			return p.Push(target, opts)
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return http.ErrNotSupported
		}
		w = u.Unwrap()
	}
}

// wrote counts n body bytes. They, or committed, mean that the header is out.
func (r *Recorder) wrote(n int64, committed bool) {
	if r.Status == 0 && (n > 0 || committed) {
		r.Status = http.StatusOK
	}
	if !r.head {
		r.Bytes += n
	}
}
