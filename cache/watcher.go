package cache

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/trivet-go/trivet/internal/response"
)

// A watcher passes on the response to a request that the cache cannot answer. It adds Cache-Status,
// invalidates what an unsafe request has changed, and updates what a HEAD tells of.
type watcher struct {
	response.Recorder
	x      *exchange
	began  time.Time
	state  string
	seen   bool
	outer  http.Header // of a POST or a HEAD: what is set around the handler
	vary   []string    // the values of outer, as unshared has put them into the header
	before uint64      // of a POST: what had changed when the handler began
	post   *Entry      // that a POST has made; nil if it has not
	length int64       // of its body
	data   []byte
}

// see is called before the header goes out.
func (w *watcher) see(status int) {
	if w.seen || w.Status != 0 {
		return
	}
	w.seen = true
	h := w.Header()
	x := w.x
	ctx, outer := x.r.Context(), plainNames(w.outer)
	if unsafeMethod(x.r.Method) {
		plain := plainNames(h)
		x.invalidate(ctx, status, plain)
		if x.r.Method == http.MethodPost {
			w.post = x.posted(ctx, status, ownFields(h, w.outer, w.vary), outer)
			w.length = contentLength(plain)
			// A POST that takes longer than another one must not leave what it saw in the other's
			// place, nor bring back what was purged meanwhile.
			if x.c.changes.concerning(x.target()) != w.before+1 {
				w.post = nil
			}
		}
	} else if x.head() && x.echo != nil {
		x.update(ctx, status, ownFields(h, w.outer, w.vary), outer, w.began)
	}
	h["Cache-Status"] = append(h["Cache-Status"][:len(h["Cache-Status"]):len(h["Cache-Status"])], w.state)
}

func (w *watcher) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		w.see(code)
	}
	w.Recorder.WriteHeader(code)
}

func (w *watcher) Write(p []byte) (int, error) {
	w.see(http.StatusOK)
	n, err := w.Recorder.Write(p)
	w.keep(p[:n], err)
	return n, err
}

func (w *watcher) WriteString(s string) (int, error) {
	w.see(http.StatusOK)
	n, err := w.Recorder.WriteString(s)
	if w.post != nil {
		w.keep([]byte(s[:n]), err)
	}
	return n, err
}

func (w *watcher) ReadFrom(src io.Reader) (int64, error) {
	w.see(http.StatusOK)
	if w.post != nil {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	return w.Recorder.ReadFrom(src)
}

// FlushError is not left to the Recorder, because a flush sends the header.
func (w *watcher) FlushError() error {
	w.see(http.StatusOK)
	return w.Recorder.FlushError()
}

// Flush serves callers that assert http.Flusher.
func (w *watcher) Flush() { _ = w.FlushError() }

// finish is called when the handler has returned.
func (w *watcher) finish() {
	if !w.Hijacked {
		w.see(http.StatusOK)
	}
	if w.post == nil || w.length >= 0 && w.length != int64(len(w.data)) {
		return
	}
	e := w.post
	e.Size = int64(len(w.data))
	if e.Size > 0 {
		e.Segments = []Segment{{Data: w.data}}
	}
	if len(e.Header["Content-Length"]) == 0 {
		e.Header["Content-Length"] = []string{strconv.FormatInt(e.Size, 10)}
	}
	x := w.x
	if x.c.put(x.r.Context(), x.keyFor(e), e) == nil {
		x.c.counts.stored.Add(1)
	}
}

// keep takes the body of a response to POST that will be stored.
func (w *watcher) keep(p []byte, err error) {
	if w.post == nil {
		return
	}
	if err != nil || int64(len(w.data)+len(p)) > w.x.c.cfg.MaxObject {
		w.post, w.data = nil, nil
		return
	}
	w.data = append(w.data, p...)
}
