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

// A writer is the ResponseWriter that a handler gets. The Recorder does the work; the methods here
// complete the header before it goes out and note the first flush.
type writer struct {
	response.Recorder
	ex *exchange
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

func (w *writer) WriteString(s string) (int, error) {
	w.header()
	return w.Recorder.WriteString(s)
}

func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	w.header()
	return w.Recorder.ReadFrom(src)
}

// FlushError notes the time of the first flush, when the first byte of a stream leaves.
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
	if w.ex.firstFlush == 0 {
		w.ex.firstFlush = max(time.Since(w.ex.start), 1)
	}
}

// header completes the header before it goes out.
func (w *writer) header() {
	if w.Status != 0 {
		return
	}
	if w.ex.tel.cfg.ServerTiming {
		w.ex.setServerTiming()
	}
	if name := w.ex.tel.cfg.RequestID; name != "" {
		h := w.Recorder.Header()
		if ids := h[name]; len(ids) != 1 || ids[0] != w.ex.id {
			h.Set(name, w.ex.id) // a proxied server's field, added to ours, would make two
		}
	}
}

// A countedBody counts what is read of a request's body. A handler may read it in another goroutine
// than the one it returns in.
type countedBody struct {
	io.ReadCloser
	n atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
