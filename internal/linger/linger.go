// Package linger brings answers to clients that are still sending their request. A connection that
// is closed while data of the client's lies unread is reset, and the reset may overtake the answer.
// So whoever answers early reads on for a while (RFC 9112, section 9.6). net/http does so for
// bodies of up to 256 KiB, and only if the client means to keep the connection.
package linger

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// The bounds of what is read of a client that has its answer. The times are nginx's: a client that
// sends what it has buffered is done by then, and one that does not read answers before it has sent
// all has got some time. Few servers take bodies of more than the size.
const (
	maxTime  = 30 * time.Second
	maxPause = 5 * time.Second // between two pieces
	maxBytes = 64 << 20
)

// maxSmall is the size up to which net/http reads the rest of a body before it answers.
const maxSmall = 256 << 10

// Needed reports whether the connection of r, whose body has not been read to its end, needs to
// linger after the answer: net/http would close it with data unread.
func Needed(r *http.Request) bool {
	if r.ProtoMajor != 1 || r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return false // an HTTP/2 client gets RST_STREAM with NO_ERROR behind its answer
	}
	small := r.ContentLength > 0 && r.ContentLength <= maxSmall
	return !small || r.Close || r.Header["Expect"] != nil
}

// Answer lets write answer r, whose body has not been read to its end, and sees to it that the
// client gets the answer. The connection is closed after it.
func Answer(w http.ResponseWriter, r *http.Request, write func(w http.ResponseWriter)) {
	if !Needed(r) {
		write(w)
		return
	}
	Prepare(w)
	a := &answer{ResponseWriter: w}
	write(a)
	if !a.finish() || !Close(w) {
		Read(w, r)
	}
}

// Prepare makes w answer at once, and close the connection then. It must be called before the
// header is written.
func Prepare(w http.ResponseWriter) {
	// net/http would read of the body before it writes the header, as long as the client likes.
	_ = http.NewResponseController(w).EnableFullDuplex()
	// It must not look for the next request in what is left of the body.
	w.Header().Set("Connection", "close")
}

// Close closes the connection of w, whose answer has been written whole and flushed, and which
// Prepare has prepared. It reads on before that, on a goroutine of its own. It returns false if it
// cannot have the connection.
func Close(w http.ResponseWriter) bool {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	go drain(conn)
	return true
}

// drain reads on, within the bounds, and closes conn.
func drain(conn net.Conn) {
	defer conn.Close()
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // the client may wait for the end of the connection
	}
	_, _ = io.Copy(io.Discard, &bounded{Reader: conn, setDeadline: conn.SetReadDeadline})
}

// Read reads the rest of r's body, within the bounds. It is for answers that are complete only when
// the handler has returned.
func Read(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	_, _ = io.Copy(io.Discard, &bounded{Reader: r.Body, setDeadline: rc.SetReadDeadline})
}

// A bounded reader ends at the bounds.
type bounded struct {
	io.Reader
	setDeadline func(time.Time) error
	begun       time.Time
	n           int64
}

func (b *bounded) Read(p []byte) (int, error) {
	now := time.Now()
	if b.begun.IsZero() {
		b.begun = now
	}
	left := maxTime - now.Sub(b.begun)
	if left <= 0 || b.n >= maxBytes {
		return 0, io.EOF
	}
	if err := b.setDeadline(now.Add(min(left, maxPause))); err != nil {
		return 0, err // without one the client could hold us for ever
	}
	n, err := b.Reader.Read(p)
	b.n += int64(n)
	return n, err
}

// maxAnswer is the size up to which an answer is kept back until it is whole.
const maxAnswer = 64 << 10

// An answer keeps an answer back until its length is known: only then is it whole before the
// handler has returned.
type answer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
	sent   bool // the header has been: the answer is too long, or flushed
}

// Unwrap lets http.ResponseController reach the writer below.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(code int) {
	switch {
	case code < 200:
		a.ResponseWriter.WriteHeader(code)
	case a.status == 0:
		a.status = code
		a.Header().Set("Connection", "close") // whoever answers may have cleared the header
	}
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.sent || a.body.Len()+len(p) > maxAnswer {
		if err := a.send(); err != nil {
			return 0, err
		}
		return a.ResponseWriter.Write(p)
	}
	return a.body.Write(p)
}

// FlushError flushes. http.ResponseController finds it before Unwrap.
func (a *answer) FlushError() error {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if err := a.send(); err != nil {
		return err
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// send sends what has been kept back.
func (a *answer) send() error {
	if a.sent {
		return nil
	}
	a.sent = true
	a.ResponseWriter.WriteHeader(a.status)
	if a.body.Len() == 0 {
		return nil
	}
	_, err := a.ResponseWriter.Write(a.body.Bytes())
	return err
}

// finish sends the answer with its length. It returns false if it has been sent without.
func (a *answer) finish() bool {
	if a.sent {
		return false
	}
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if h := a.Header(); h["Content-Length"] == nil && a.status != http.StatusNoContent &&
		a.status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(a.body.Len()))
	}
	return a.send() == nil && http.NewResponseController(a.ResponseWriter).Flush() == nil
}
