// Package response wraps http.ResponseWriter without hiding what it can do.
package response

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// A Recorder passes a response through and remembers its status and size. Create one with
// [NewRecorder]. Like any ResponseWriter it must not be used concurrently.
type Recorder struct {
	http.ResponseWriter
	Status   int   // of the final header; zero until it is sent; 101 if hijacked before that
	Bytes    int64 // of the body that were sent; zero for HEAD, whose body net/http discards
	Hijacked bool  // the handler has taken the connection; Bytes leaves out what it writes there

	head    bool          // the request's method is HEAD
	request *http.Request // as the handler got it
}

// NewRecorder returns a Recorder around w, the writer of the response to r.
func NewRecorder(w http.ResponseWriter, r *http.Request) *Recorder {
	return &Recorder{ResponseWriter: w, head: r.Method == http.MethodHead, request: r}
}

// Serve tells r that the handler gets inner, a copy of the request that r was made for.
func (r *Recorder) Serve(inner *http.Request) { r.request = inner }

// Unwrap lets http.ResponseController reach the writer below, for deadlines and full duplex.
func (r *Recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader passes code on unless the final header has been sent. net/http would ignore a second
// final header too, but the line in its log would name this file rather than the handler's: so the
// line is written here.
func (r *Recorder) WriteHeader(code int) {
	if r.Status != 0 {
		if !r.Hijacked {
			r.complain()
		}
		return
	}
	if code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		Inform(r.ResponseWriter, code)
		return
	}
	r.begin(code)
	r.ResponseWriter.WriteHeader(code) // panics if code is invalid
	r.Status = code
}

func (r *Recorder) Write(p []byte) (int, error) {
	if r.Hijacked {
		return 0, http.ErrHijacked
	}
	r.begin(http.StatusOK)
	n, err := r.ResponseWriter.Write(p)
	// A write that fails, as too long or with 204 and 304, has sent the header too.
	r.wrote(int64(n), true)
	return n, err
}

// WriteString lets io.WriteString write without copying s into a byte slice.
func (r *Recorder) WriteString(s string) (int, error) {
	if r.Hijacked {
		return 0, http.ErrHijacked
	}
	r.begin(http.StatusOK)
	n, err := io.WriteString(r.ResponseWriter, s)
	r.wrote(int64(n), true)
	return n, err
}

// ReadFrom keeps the way to sendfile open: io.Copy looks for this method and does not use Unwrap.
func (r *Recorder) ReadFrom(src io.Reader) (int64, error) {
	if r.Hijacked {
		return 0, http.ErrHijacked
	}
	r.begin(http.StatusOK)
	n, err := io.Copy(r.ResponseWriter, src)
	// If nothing was copied no header was sent, since src may have failed before its first byte.
	// But a copy that is refused as too long has sent the header.
	r.wrote(n, errors.Is(err, http.ErrContentLength))
	return n, err
}

// FlushError flushes. It is not left to Unwrap, because a flush sends the header.
func (r *Recorder) FlushError() error {
	if r.Hijacked {
		return http.ErrHijacked
	}
	r.begin(http.StatusOK)
	err := http.NewResponseController(r.ResponseWriter).Flush()
	r.wrote(0, !errors.Is(err, http.ErrNotSupported))
	return err
}

// Flush is for callers that assert http.Flusher. If the writer below cannot flush it does nothing.
func (r *Recorder) Flush() { _ = r.FlushError() }

// Hijack is for callers that assert http.Hijacker. If the writer below cannot hijack, the error
// matches http.ErrNotSupported.
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

// Push is for callers that assert http.Pusher. If no writer below can push it returns
// http.ErrNotSupported.
func (r *Recorder) Push(target string, opts *http.PushOptions) error {
	if p, ok := below[http.Pusher](r.ResponseWriter); ok {
		return p.Push(target, opts)
	}
	return http.ErrNotSupported
}

// CloseNotify is for callers that assert http.CloseNotifier, which is deprecated, but net/http's
// own writers have it. If no writer below has, the channel tells of the end of the request's
// context.
func (r *Recorder) CloseNotify() <-chan bool {
	type closeNotifier interface{ CloseNotify() <-chan bool }
	if c, ok := below[closeNotifier](r.ResponseWriter); ok {
		return c.CloseNotify()
	}
	gone := make(chan bool, 1)
	if r.request != nil {
		context.AfterFunc(r.request.Context(), func() { gone <- true })
	}
	return gone
}

// SetReadDeadline, SetWriteDeadline and EnableFullDuplex are for callers that assert them, as
// net/http's own writers have them. If no writer below has, they return http.ErrNotSupported.
func (r *Recorder) SetReadDeadline(at time.Time) error {
	return http.NewResponseController(r.ResponseWriter).SetReadDeadline(at)
}

// SetWriteDeadline is described at SetReadDeadline.
func (r *Recorder) SetWriteDeadline(at time.Time) error {
	return http.NewResponseController(r.ResponseWriter).SetWriteDeadline(at)
}

// EnableFullDuplex is described at SetReadDeadline.
func (r *Recorder) EnableFullDuplex() error {
	return http.NewResponseController(r.ResponseWriter).EnableFullDuplex()
}

// below returns w, or the first writer below it, that is a T.
func below[T any](w http.ResponseWriter) (found T, ok bool) {
	for {
		if found, ok = w.(T); ok {
			return found, true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return found, false
		}
		w = u.Unwrap()
	}
}

// wrote counts n bytes of the body. The header has been sent if n is positive or committed is true.
func (r *Recorder) wrote(n int64, committed bool) {
	if r.Status == 0 && (n > 0 || committed) {
		r.Status = http.StatusOK
	}
	if !r.head {
		r.Bytes += n
	}
}
