package versioning

import (
	"io"
	"net/http"

	"github.com/trivet-go/trivet/internal/response"
)

// record makes rec the Recorder of the response to r. Its callers are inlined into other packages,
// where NewRecorder would allocate.
func record(rec *response.Recorder, w http.ResponseWriter, r *http.Request) {
	*rec = *response.NewRecorder(w, r)
}

// A completer completes a header before it goes out. It may be called several times.
type completer interface {
	complete(h http.Header)
}

// A writer is a ResponseWriter whose header is completed before it goes out.
type writer struct {
	response.Recorder
	owner completer
}

func (w *writer) header() {
	if w.Status == 0 {
		w.owner.complete(w.Recorder.Header())
	}
}

// finish completes the header of a handler that wrote nothing, which net/http is about to send.
func (w *writer) finish() { w.header() }

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

// FlushError completes the header, which a flush sends.
func (w *writer) FlushError() error {
	w.header()
	return w.Recorder.FlushError()
}

// Flush serves callers that assert http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }
