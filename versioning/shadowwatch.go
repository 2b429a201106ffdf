package versioning

import (
	"bufio"
	"cmp"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/response"
)

// A shadowBuffer keeps a copy of bytes that pass, within the bounds of its Shadow.
type shadowBuffer struct {
	shadow *Shadow
	b      []byte
	failed ShadowOutcome // why the copy is given up; "" if it is not
}

const firstBuffer = 1024

// add copies p, or gives the copy up.
func (b *shadowBuffer) add(p []byte) {
	if b.failed != "" || len(p) == 0 {
		return
	}
	need := len(b.b) + len(p)
	if int64(need) > b.shadow.cfg.MaxBody {
		b.fail(ShadowTooLarge)
		return
	}
	if need > cap(b.b) {
		room := int(min(int64(max(2*cap(b.b), need, firstBuffer)), b.shadow.cfg.MaxBody))
		if !b.shadow.reserve(int64(room)) {
			b.fail(ShadowDropped)
			return
		}
		before := b.b
		b.b = append(make([]byte, 0, room), before...)
		b.shadow.release(int64(cap(before)))
	}
	b.b = append(b.b, p...)
}

// fail gives the copy up.
func (b *shadowBuffer) fail(reason ShadowOutcome) {
	if b.failed == "" {
		b.failed = reason
	}
	b.free()
}

func (b *shadowBuffer) free() {
	b.shadow.release(int64(cap(b.b)))
	b.b = nil
}

// A shadowBody copies a request's body while it is read. A transport may go on to read it when the
// handler has returned.
type shadowBody struct {
	body  io.ReadCloser
	there bool

	mu     sync.Mutex // guards the fields below
	buffer shadowBuffer
	eof    bool
	over   bool // the copy has been taken
}

func (b *shadowBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.buffer.add(p[:n])
		b.eof = b.eof || err == io.EOF
	}
	return n, err
}

func (b *shadowBody) Close() error { return b.body.Close() }

// take returns the copy, or why there is none.
func (b *shadowBody) take(length int64) ([]byte, ShadowOutcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	if b.buffer.failed == "" && !b.eof && int64(len(b.buffer.b)) != length {
		b.buffer.fail(ShadowPartial)
	}
	return b.buffer.b, b.buffer.failed
}

// A shadowWatch copies a request and its answer while they pass.
type shadowWatch struct {
	response.Recorder
	shadow   *Shadow
	next     http.Handler
	in       *http.Request
	out      http.Request // in with another body, if it has one
	url      url.URL
	header   http.Header // of the request, as it came
	body     shadowBody
	reserved int64

	begun, took int64 // took is until the answer began; -1 before
	fields      []string
	coding      string    // Content-Encoding
	room        [2]string // for fields
	answer      shadowBuffer
}

// answers notes the header of the answer, which is about to be sent.
func (x *shadowWatch) answers() {
	if x.took >= 0 {
		return
	}
	x.took = x.shadow.now() - x.begun
	h := x.Header()
	x.fields = fieldValues(x.room[:0], h, x.shadow.cfg.Fields)
	x.coding = h.Get("Content-Encoding")
	if grammar.MediaType(h) == "text/event-stream" {
		x.answer.fail(ShadowStream)
	}
}

// fieldValues appends the values of fields to list.
func fieldValues(list []string, h http.Header, names []string) []string {
	for _, name := range names {
		value := ""
		if values := h[name]; len(values) == 1 {
			value = values[0]
		} else if len(values) > 1 {
			value = strings.Join(values, ", ")
		}
		list = append(list, value)
	}
	return list
}

func (x *shadowWatch) WriteHeader(code int) {
	if x.Status == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		x.answers()
	}
	x.Recorder.WriteHeader(code)
}

func (x *shadowWatch) Write(p []byte) (int, error) {
	x.answers()
	n, err := x.Recorder.Write(p)
	x.answer.add(p[:n])
	return n, err
}

// WriteString spares io.WriteString the copy into a byte slice, but not the one for the candidate.
func (x *shadowWatch) WriteString(s string) (int, error) {
	x.answers()
	n, err := x.Recorder.WriteString(s)
	if x.answer.failed == "" {
		x.answer.add([]byte(s[:n]))
	}
	return n, err
}

// ReadFrom copies what is small enough, and keeps the sendfile path for the rest.
func (x *shadowWatch) ReadFrom(src io.Reader) (int64, error) {
	x.answers()
	if x.answer.failed == "" {
		// One byte more than fits gives the copy up.
		most := x.shadow.cfg.MaxBody - int64(len(x.answer.b)) + 1
		n, err := io.Copy(struct{ io.Writer }{x}, io.LimitReader(src, most))
		if err != nil || n < most {
			return n, err
		}
		more, err := x.Recorder.ReadFrom(src)
		return n + more, err
	}
	return x.Recorder.ReadFrom(src)
}

// FlushError notes the header, which a flush sends.
func (x *shadowWatch) FlushError() error {
	x.answers()
	return x.Recorder.FlushError()
}

// Flush serves callers that assert http.Flusher.
func (x *shadowWatch) Flush() { _ = x.FlushError() }

// Hijack gives the copy up.
func (x *shadowWatch) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := x.Recorder.Hijack()
	if err == nil {
		x.answer.fail(ShadowUpgrade)
	}
	return conn, rw, err
}

// finish makes a job of what has been copied, or counts why it cannot be.
func (x *shadowWatch) finish(returned bool) {
	s := x.shadow
	if returned && x.Status == 0 {
		x.answers()
	}
	var body []byte
	reason := x.answer.failed
	if x.body.there {
		var failed ShadowOutcome
		if body, failed = x.body.take(x.in.ContentLength); reason == "" {
			reason = failed
		}
	}
	ctx := x.in.Context()
	switch {
	case reason != "":
	case !returned:
		reason = ShadowPanic
	case ctx.Err() != nil:
		reason = ShadowCanceled
	}
	if x.took >= 0 {
		s.primary.add(time.Duration(x.took))
	}
	if reason != "" {
		s.release(x.reserved + int64(cap(body)))
		x.answer.free()
		s.count(ctx, reason)
		return
	}
	j := &shadowJob{
		shadow: s, next: x.next, ctx: ctx, method: x.in.Method, url: x.url, host: x.in.Host,
		remote: x.in.RemoteAddr, route: x.in.Pattern, header: x.header, body: body, size: x.reserved,
		primary: shadowAnswer{
			status: cmp.Or(x.Status, http.StatusOK), coding: x.coding, body: x.answer,
			took: time.Duration(x.took),
		},
	}
	j.primary.fields = append(j.room[:0], x.fields...) // x must not live as long as the job
	s.enqueue(j)
}
