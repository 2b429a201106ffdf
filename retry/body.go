package retry

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// maxBuffered is what the bodies that all Retriers keep may take together.
const maxBuffered = 64 << 20

// buffered is what they take now. It is the one variable of the package, because the memory that it
// bounds is the process's.
var buffered atomic.Int64

// errSpent is what a second reader of a body gets that was too long to be kept.
var errSpent = errors.New("retry: the request's body is too long to be sent again")

// errPanicked is what a body is read as that has panicked.
var errPanicked = errors.New("retry: reading the request's body panicked")

// A spool is a request's body that can be read several times: what has been read of it is kept, up
// to a limit. A body beyond the limit goes to the reader that got so far, and to no other. It is
// safe for concurrent use: transports read and close on goroutines of their own.
type spool struct {
	src   io.ReadCloser
	limit int

	mu      sync.Mutex // guards the fields below; it is not held while src is read
	ready   sync.Cond  // of mu: fetch has ended, or a reader was closed
	buf     []byte     // what has been read of src, until there is an owner
	held    int64      // of buffered
	err     error      // of src; io.EOF at its end
	reading bool       // fetch runs
	owner   *reader    // reads src alone from now on
	attempt int        // only readers of the latest attempt get anything
	open    int        // readers of that attempt that are not closed
	over    bool       // no reader will be asked for any more
	closed  bool       // src is
}

func newSpool(src io.ReadCloser, limit int64) *spool {
	s := &spool{src: src, limit: int(limit)}
	s.ready.L = &s.mu
	return s
}

// A reader reads a spool from its beginning.
type reader struct {
	spool   *spool
	attempt int
	off     int
	closed  bool
}

// next returns the body of a further attempt. Those of the attempts before it are read no more.
func (s *spool) next() (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.freshLocked() {
		return nil, errSpent
	}
	s.attempt++
	s.open = 0
	s.ready.Broadcast()
	return s.openLocked(), nil
}

// again returns the same body for the same attempt, or for a hedge beside it. It is GetBody.
func (s *spool) again() (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.freshLocked() {
		return nil, errSpent
	}
	return s.openLocked(), nil
}

func (s *spool) openLocked() io.ReadCloser {
	if s.err == io.EOF && len(s.buf) == 0 {
		return http.NoBody // net/http need not find out once more
	}
	s.open++
	return &reader{spool: s, attempt: s.attempt}
}

// freshLocked is also false if the body could not be read: that is its sender's fault, and would be
// again.
func (s *spool) freshLocked() bool {
	return s.owner == nil && !s.closed && len(s.buf) <= max(s.limit, 0) && (s.err == nil || s.err == io.EOF)
}

// fresh reports whether the body can be read from its beginning.
func (s *spool) fresh() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freshLocked()
}

// whole reports whether all of the body is here.
func (s *spool) whole() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freshLocked() && s.err == io.EOF
}

// finish says that nobody will read the body again. It is closed when its last reader is.
func (s *spool) finish() {
	s.mu.Lock()
	s.over = true
	buffered.Add(-s.held)
	s.held = 0
	last := s.lastLocked()
	s.mu.Unlock()
	if last {
		s.src.Close()
	}
}

// lastLocked reports whether it is time to close src, and that only once.
func (s *spool) lastLocked() bool {
	if !s.over || s.open > 0 || s.closed {
		return false
	}
	s.closed = true
	return true
}

func (r *reader) Close() error {
	s := r.spool
	s.mu.Lock()
	if !r.closed {
		r.closed = true
		if r.attempt == s.attempt {
			s.open--
		}
	}
	last := s.lastLocked()
	if s.owner == r && !s.closed { // nobody can read src after it
		s.closed, last = true, true
	}
	s.ready.Broadcast()
	s.mu.Unlock()
	if last {
		return s.src.Close()
	}
	return nil
}

// Read ends when r is closed, whatever src does: HTTP/2 waits for that before it lets go of a
// stream.
func (r *reader) Read(p []byte) (int, error) {
	s := r.spool
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case r.closed || r.attempt != s.attempt:
			return 0, http.ErrBodyReadAfterClose
		case len(p) == 0:
			return 0, nil
		case r.off < len(s.buf):
			n := copy(p, s.buf[r.off:])
			r.off += n
			return n, nil
		case s.owner != nil && s.owner != r: // before the end: it is the owner's, and not where this one is
			return 0, errSpent
		case s.err != nil:
			return 0, s.err
		case s.reading:
			s.ready.Wait()
		case s.owner == r:
			n, err := s.readLocked(p) // which r's Close ends
			s.err = err
			return n, err
		default:
			if n := s.roomLocked(max(len(p), 512)); n > 0 {
				s.reading = true
				go s.fetch(s.buf[len(s.buf) : len(s.buf)+n])
			} else {
				s.owner = r
			}
		}
	}
}

// readLocked reads src without the lock.
func (s *spool) readLocked(p []byte) (int, error) {
	s.mu.Unlock()
	defer s.mu.Lock()
	return s.src.Read(p)
}

// fetch reads src into room, which lies behind buf. It has a goroutine of its own, because a reader
// must not wait for src once it is closed, and src must stay open for the next one.
func (s *spool) fetch(room []byte) {
	n, err := 0, error(nil)
	defer func() {
		if recover() != nil {
			err = errPanicked
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.buf = s.buf[:len(s.buf)+n]
		s.err = err
		s.reading = false
		s.ready.Broadcast()
	}()
	n, err = s.src.Read(room)
}

// roomLocked returns how many of n bytes more can be kept. It is one more than the limit, or a body
// that just fits would look as if it did not. A limit below zero is that of a body known to be too
// long.
func (s *spool) roomLocked(n int) int {
	if s.owner != nil || s.over || s.limit < 0 {
		return 0
	}
	n = min(n, s.limit+1-len(s.buf))
	if spare := cap(s.buf) - len(s.buf); spare > 0 {
		return min(n, spare)
	}
	if n > 0 {
		size := min(max(len(s.buf)+n, 2*cap(s.buf)), s.limit+1)
		more := int64(size) - s.held
		if buffered.Add(more) > maxBuffered {
			buffered.Add(-more)
			return 0
		}
		s.held += more
		s.buf = append(make([]byte, 0, size), s.buf...)
	}
	return n
}
