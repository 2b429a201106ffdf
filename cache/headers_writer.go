package cache

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/response"
)

// A headersState says how far a response has come.
type headersState int

const (
	headersOpen    headersState = iota // the handler has sent nothing
	headersHolding                     // it has, and all of it is held
	headersSent                        // the header is out; the body passes through
	headersDropped                     // answered with 304 or 412; the handler's body goes nowhere
)

// A headersWriter adds fields to a response before its header goes out, and holds its body for an
// entity tag. The handler has the header map of the writer below: what an outer middleware has set
// there counts as the response's own.
type headersWriter struct {
	response.Recorder
	owner  *Headers
	r      *http.Request
	state  headersState
	header http.Header // while the body is held: as it was when the handler sent it
	held   []byte
	broken bool // the body is not whole
}

func newHeadersWriter(h *Headers, w http.ResponseWriter, r *http.Request) *headersWriter {
	return &headersWriter{Recorder: *response.NewRecorder(w, r), owner: h, r: r}
}

// WriteHeader sends the header, or holds it if the body shall get an entity tag.
func (w *headersWriter) WriteHeader(code int) {
	switch {
	case code < 200: // informational or, as 101, no response of this protocol; or invalid, which panics
		w.Recorder.WriteHeader(code)
		if w.Status != 0 {
			w.state = headersSent
		}
	case w.state == headersOpen:
		spellPlainly(w.Header())
		if !w.holds(code) {
			w.send(code)
			return
		}
		w.state = headersHolding
		w.header = w.Header().Clone()
	}
}

// holds reports whether the body of a response with that status shall be held.
func (w *headersWriter) holds(code int) bool {
	header := w.Header()
	// With Trailer, what the handler sets later belongs to the end of the response.
	if code != http.StatusOK || w.owner.cfg.MaxBody < 0 ||
		len(header["Etag"]) > 0 || len(header["Trailer"]) > 0 ||
		listed(header["Cache-Control"], "no-store") && !w.owner.cfg.Override {
		return false
	}
	length, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	return err != nil || length <= w.owner.cfg.MaxBody
}

// send completes the header and sends it, or answers the request's conditions instead.
func (w *headersWriter) send(code int) {
	header := w.Header()
	w.owner.complete(header, w.r, code)
	w.state = headersSent
	// RFC 9110, section 13.2.1, lets conditions count if the response without them is a 2xx or a
	// 412. Here only 200 and 206, a deviation: no other has validators worth asking for.
	if code != http.StatusOK && code != http.StatusPartialContent {
		w.Recorder.WriteHeader(code)
		return
	}
	switch preconditions(w.r, header) {
	case http.StatusNotModified:
		w.state = headersDropped
		notModified(header)
		w.Recorder.WriteHeader(http.StatusNotModified)
		w.Recorder.Flush() // the client need not wait for a body that it does not get
	case http.StatusPreconditionFailed:
		w.state = headersDropped
		header["Cache-Control"] = []string{"no-store"} // what stands there is for another response
		problem.Write(&w.Recorder, problem.Details{
			Title:  http.StatusText(http.StatusPreconditionFailed),
			Status: http.StatusPreconditionFailed,
		})
	default:
		w.Recorder.WriteHeader(code)
	}
}

// release sends what is held. If tagged is true, that is the whole body, and gets an entity tag.
func (w *headersWriter) release(tagged bool) error {
	if w.state == headersOpen {
		w.WriteHeader(http.StatusOK)
	}
	if w.state != headersHolding {
		return nil
	}
	header, held := w.Header(), w.held
	w.restore(header)
	sniff(header, held)
	if tagged {
		header["Etag"] = []string{entityTag(header, held)}
		if len(header["Content-Length"]) == 0 && len(header["Transfer-Encoding"]) == 0 &&
			!hasTrailers(header) {
			header["Content-Length"] = []string{strconv.Itoa(len(held))}
		}
	}
	w.header, w.held = nil, nil
	w.send(http.StatusOK)
	if w.state == headersDropped || len(held) == 0 {
		return nil
	}
	_, err := w.Recorder.Write(held)
	return err
}

// restore makes header what it was when the handler sent it. What a handler sets later is not sent,
// except trailers.
func (w *headersWriter) restore(header http.Header) {
	for name := range header {
		if !strings.HasPrefix(name, http.TrailerPrefix) {
			delete(header, name)
		}
	}
	maps.Copy(header, w.header)
}

// finish sends what is held when the handler has returned.
func (w *headersWriter) finish() {
	if w.Hijacked {
		return
	}
	w.WriteHeader(http.StatusOK) // unless the handler has
	_ = w.release(w.whole())     // nobody is left to be told of an error
}

// whole reports whether the held body is a whole representation. A handler may write less than it
// has announced, and none of the body for HEAD.
func (w *headersWriter) whole() bool {
	if w.broken {
		return false
	}
	if length := w.header.Get("Content-Length"); length != "" {
		return length == strconv.Itoa(len(w.held))
	}
	return len(w.held) > 0 || w.r.Method != http.MethodHead
}

func (w *headersWriter) Write(p []byte) (int, error) {
	if w.state == headersOpen {
		w.begin(p)
	}
	switch pass, err := w.admit(len(p)); {
	case err != nil:
		return 0, err
	case pass:
		return w.Recorder.Write(p)
	case w.state == headersHolding:
		w.held = append(w.held, p...)
	}
	return len(p), nil
}

// WriteString lets io.WriteString write without copying s into a byte slice.
func (w *headersWriter) WriteString(s string) (int, error) {
	if w.state == headersOpen {
		w.begin([]byte(s[:min(len(s), sniffLength)]))
	}
	switch pass, err := w.admit(len(s)); {
	case err != nil:
		return 0, err
	case pass:
		return w.Recorder.WriteString(s)
	case w.state == headersHolding:
		w.held = append(w.held, s...)
	}
	return len(s), nil
}

// begin sends or holds the header of a body that begins with p. Rules may depend on its type, which
// net/http would find out later.
func (w *headersWriter) begin(p []byte) {
	if w.Hijacked {
		return
	}
	header := w.Header()
	spellPlainly(header)
	if w.owner.types && !w.holds(http.StatusOK) {
		sniff(header, p)
	}
	w.WriteHeader(http.StatusOK)
}

// admit prepares a write of n bytes. It reports whether they pass to the writer below. If not, they
// are held or dropped.
func (w *headersWriter) admit(n int) (pass bool, err error) {
	if w.Hijacked {
		return false, http.ErrHijacked
	}
	if w.state == headersHolding && int64(n) > w.owner.cfg.MaxBody-int64(len(w.held)) {
		if err := w.release(false); err != nil {
			return false, err
		}
	}
	return w.state == headersSent, nil
}

// ReadFrom keeps the way to sendfile open for bodies that are not held.
func (w *headersWriter) ReadFrom(src io.Reader) (n int64, err error) {
	if w.Hijacked {
		return 0, http.ErrHijacked
	}
	if w.state == headersOpen {
		w.WriteHeader(http.StatusOK)
	}
	for w.state == headersHolding {
		room := int(min(w.owner.cfg.MaxBody+1-int64(len(w.held)), 32<<10))
		w.held = slices.Grow(w.held, room)
		read, err := src.Read(w.held[len(w.held) : len(w.held)+room])
		w.held = w.held[:len(w.held)+read]
		n += int64(read)
		if int64(len(w.held)) > w.owner.cfg.MaxBody {
			if err := w.release(false); err != nil {
				return n, err
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			w.broken = true
			return n, err
		}
	}
	var rest int64
	if w.state == headersDropped {
		rest, err = io.Copy(io.Discard, src)
	} else {
		rest, err = w.Recorder.ReadFrom(src)
	}
	return n + rest, err
}

// FlushError sends what is held. A body that is flushed gets no entity tag.
func (w *headersWriter) FlushError() error {
	if w.Hijacked {
		return http.ErrHijacked
	}
	if err := w.release(false); err != nil {
		return err
	}
	return w.Recorder.FlushError()
}

// Flush is for callers that assert http.Flusher.
func (w *headersWriter) Flush() { _ = w.FlushError() }

// Hijack is for callers that assert http.Hijacker. What was written before goes out first.
func (w *headersWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.state == headersHolding {
		if err := w.FlushError(); err != nil {
			return nil, nil, err
		}
	}
	return w.Recorder.Hijack()
}
