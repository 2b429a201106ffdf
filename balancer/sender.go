package balancer

import (
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// flushDelay is how long a response may wait in net/http's buffers for more of itself. A header and
// a body that are there at once leave in one write, and one that comes late holds up neither.
const flushDelay = 2 * time.Millisecond

// A sender copies the bodies of responses to clients, one at a time. It has the buffer and the
// timer that this takes.
type sender struct {
	timer *time.Timer // flushes

	mu       sync.Mutex // guards the fields below
	w        http.ResponseWriter
	status   int  // of the header, until it is written
	waiting  bool // w may hold something back
	armed    bool // the timer will call flushLate
	panicked any  // in w, on the timer's goroutine
	failed   bool // w has: net/http may still read buf, for a stream that the client has reset

	buf [32 << 10]byte
}

// holdDelay is flushDelay for refusals of which only the end tells the length. net/http's transport
// waits 50 ms for the rest of a request before it tells of the end of the answer.
const holdDelay = 100 * time.Millisecond

// copyBody writes the header of resp to w, and copies the body. With hold it tries to have the
// whole of it first, and to state its length. It returns an error if it could not copy all of it,
// and whether it has written nothing then.
func (h *handler) copyBody(w http.ResponseWriter, resp *http.Response, hold bool) (unsent bool, err error) {
	s, ok := h.senders.Get().(*sender)
	if !ok {
		s = &sender{}
		s.timer = time.AfterFunc(time.Hour, s.flushLate)
		s.timer.Stop()
	}
	defer func() {
		if s.end() {
			h.senders.Put(s)
		}
	}()
	s.begin(w, resp.StatusCode, hold)
	if hold {
		if done, err := s.hold(resp.Body); done || err != nil {
			return err != nil && s.withdraw(), err
		}
	}
	return false, s.copy(resp.Body, isStream(resp))
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

// begin makes w's header leave within flushDelay, and with hold within holdDelay.
func (s *sender) begin(w http.ResponseWriter, status int, hold bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w, s.status = w, status
	if hold {
		s.waitLocked(holdDelay)
		return
	}
	s.writeHeaderLocked()
	s.waitLocked(flushDelay)
}

func (s *sender) writeHeaderLocked() {
	if s.status != 0 {
		s.w.WriteHeader(s.status)
		s.status = 0
	}
}

func (s *sender) waitLocked(d time.Duration) {
	s.waiting = true
	if !s.armed {
		s.armed = true
		s.timer.Reset(d)
	}
}

// hold reads all of src, and then writes header and body. It returns false if src does not end in
// time, or is too long; the rest is to be copied then.
func (s *sender) hold(src io.Reader) (done bool, err error) {
	n := 0
	for n < len(s.buf) && err == nil && s.holding() {
		var m int
		m, err = src.Read(s.buf[n:])
		n += m
	}
	if err != nil && err != io.EOF {
		return false, err
	}
	s.state(n, err == io.EOF)
	if n > 0 {
		if err := s.write(s.buf[:n], err == nil); err != nil {
			return false, err
		}
	}
	return err == io.EOF, nil
}

// state writes the header, unless it has been: with the length n if that is known.
func (s *sender) state(n int, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known && s.status != 0 {
		s.w.Header().Set("Content-Length", strconv.Itoa(n))
	}
	s.writeHeaderLocked()
}

// withdraw makes s write no header any more. It returns false if it has written it.
func (s *sender) withdraw() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.status != 0
	s.status, s.waiting = 0, false
	return held
}

// holding reports whether the header has still not been written.
func (s *sender) holding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status != 0
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
			s.flush() // the client gets as much as there is
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
		s.failed = true
		return err
	case n != len(p):
		return io.ErrShortWrite
	case flush:
		s.waiting = false
		_ = http.NewResponseController(s.w).Flush()
	case !s.waiting:
		s.waitLocked(flushDelay)
	}
	return nil
}

func (s *sender) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting {
		s.waiting = false
		_ = http.NewResponseController(s.w).Flush()
	}
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
	s.writeHeaderLocked()
	_ = http.NewResponseController(s.w).Flush()
}

// end makes s leave w alone. It returns false if s cannot be used again: the timer's goroutine is
// about to look at it, or w has panicked or failed.
func (s *sender) end() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w, s.status, s.waiting = nil, 0, false
	if s.armed && !s.timer.Stop() {
		return false
	}
	s.armed = false
	return s.panicked == nil && !s.failed
}
