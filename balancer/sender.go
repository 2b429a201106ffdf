package balancer

import (
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"
)

// flushDelay is how long a response may wait in net/http's buffers for more of itself. A header and
// a body that are there at once leave in one write, and one that comes late holds up neither.
const flushDelay = 2 * time.Millisecond

// A sender copies the bodies of responses to clients, one at a time. It has the buffer and the timer
// that this takes.
type sender struct {
	timer *time.Timer // flushes

	mu       sync.Mutex // guards the fields below
	w        http.ResponseWriter
	waiting  bool // w may hold something back
	armed    bool // the timer will call flushLate
	panicked any  // in w, on the timer's goroutine

	buf [32 << 10]byte
}

// copyBody copies the body of resp to w, whose header has been written. It returns an error if it
// could not copy all of it.
func (h *handler) copyBody(w http.ResponseWriter, resp *http.Response) error {
	s, ok := h.senders.Get().(*sender)
	if !ok {
		s = &sender{}
		s.timer = time.AfterFunc(time.Hour, s.flushLate)
		s.timer.Stop()
	}
	s.begin(w)
	defer func() {
		if s.end() {
			h.senders.Put(s)
		}
	}()
	return s.copy(resp.Body, isStream(resp))
}

// isStream reports whether each piece of a response is worth something by itself: its length is not
// known, or its type says so.
func isStream(resp *http.Response) bool {
	if resp.ContentLength < 0 {
		return true
	}
	ct := resp.Header.Get("Content-Type")
	if !strings.HasPrefix(ct, "text/event-stream") && !strings.HasPrefix(ct, "application/grpc") {
		return false
	}
	media, _, _ := mime.ParseMediaType(ct)
	return media == "text/event-stream" || strings.HasPrefix(media, "application/grpc")
}

// begin makes w's header leave within flushDelay.
func (s *sender) begin(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w = w
	s.waitLocked()
}

func (s *sender) waitLocked() {
	s.waiting = true
	if !s.armed {
		s.armed = true
		s.timer.Reset(flushDelay)
	}
}

// copy copies src to the client. Each piece of a stream is flushed as it comes.
func (s *sender) copy(src io.Reader, stream bool) error {
	for {
		n, err := src.Read(s.buf[:])
		if n > 0 {
			// What the body ends with leaves with whatever net/http writes after it.
			if err := s.write(s.buf[:n], stream && err == nil); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *sender) write(p []byte, flush bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panicked != nil {
		panic(s.panicked)
	}
	n, err := s.w.Write(p)
	switch {
	case err != nil:
		return err
	case n != len(p):
		return io.ErrShortWrite
	case flush:
		s.waiting = false
		_ = http.NewResponseController(s.w).Flush()
	case !s.waiting:
		s.waitLocked()
	}
	return nil
}

// flushLate runs when the timer fires.
func (s *sender) flushLate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	if !s.waiting {
		return
	}
	s.waiting = false
	defer func() { s.panicked = recover() }() // for the goroutine that copies
	_ = http.NewResponseController(s.w).Flush()
}

// end makes s leave w alone. It returns false if s cannot be used again: the timer's goroutine is
// about to look at it.
func (s *sender) end() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w, s.waiting = nil, false
	if s.armed && !s.timer.Stop() {
		return false
	}
	s.armed = false
	again := s.panicked == nil
	return again
}
