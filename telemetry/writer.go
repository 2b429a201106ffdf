package telemetry

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/response"
)

// A writer is the ResponseWriter that a handler gets. The Recorder does the work; writer looks at the
// moments when the header goes out.
type writer struct {
	response.Recorder
	x *exchange
}

func (w *writer) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		w.header()
	}
	w.Recorder.WriteHeader(code)
}

func (w *writer) Write(p []byte) (int, error) {
	w.header()
	return w.Recorder.Write(p)
}

// WriteString is here for the same reason as Write.
func (w *writer) WriteString(s string) (int, error) {
	w.header()
	return w.Recorder.WriteString(s)
}

// ReadFrom is here for the same reason as Write.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	w.header()
	return w.Recorder.ReadFrom(src)
}

// FlushError notes the time of the first flush, the first byte of a stream.
func (w *writer) FlushError() error {
	w.header()
	err := w.Recorder.FlushError()
	if err == nil {
		w.flushed()
	}
	return err
}

// Flush serves callers that assert http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// Hijack notes the time at which the handler took the connection.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.Recorder.Hijack()
	if err == nil {
		w.flushed()
	}
	return conn, rw, err
}

func (w *writer) flushed() {
	if w.x.firstFlush == 0 {
		w.x.firstFlush = max(time.Since(w.x.start), 1)
	}
}

// header completes the header before it goes out.
func (w *writer) header() {
	if w.Status != 0 {
		return
	}
	if w.x.tel.cfg.ServerTiming {
		w.x.setServerTiming()
	}
	if id := w.x.tel.cfg.RequestID; id != "" && !(len(w.Recorder.Header()[id]) == 1 && w.Recorder.Header()[id][0] == w.x.id) {
		w.Recorder.Header().Set(id, w.x.id) // a proxied server's field, added to ours, would make two
	}
}

// A countedBody counts what is read of a request's body. A handler may read it in another
// goroutine than the one it returns in.
type countedBody struct {
	io.ReadCloser
	n atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
