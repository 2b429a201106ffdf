package cache

import (
	"context"
	"errors"
	"io"
	"time"
)

const (
	firstChunk   = 4 << 10
	largestChunk = 256 << 10
	windowChunk  = 32 << 10
	window       = 256 << 10 // how far the writer of a body that is not kept may be ahead of readers
	stallFor     = 10 * time.Second
)

// A stream is a body on its way from one writer to several readers. While it is kept, it grows
// until it is whole, and nobody waits for a reader. When it is not, what all have read is dropped,
// and the writer waits for the slowest. The fill's lock guards it.
type stream struct {
	chunks   [][]byte // only grow at the end of the last one
	base     int64    // offset of the first chunk
	size     int64    // bytes written
	expected int64    // of a first chunk
	reserved int64    // of the room for bodies that are being fetched
	kept     bool
	spare    []byte // a chunk to use again
	ours     int64  // offset: chunks that begin before it may be in others' hands
	flushes  int    // asked for by the writer
	flushAt  int64  // size at the last of them
	ended    bool
	err      error // why the body ended early
	room     chan struct{}
}

var (
	errUnneeded = errors.New("cache: nobody waits for the response")
	errDropped  = errors.New("cache: the client was too slow for the others")
	errWait     = errors.New("cache: waited too long")
)

// A reader reads what a fill fetches. It is used by one goroutine.
type reader struct {
	f       *fill
	off     int64 // guarded by the fill's lock, for others read it
	interim int   // responses seen
	flushes int   // seen
	dropped bool  // guarded by the fill's lock
	closed  bool
	taken   bool // the response that is handed over is in use; guarded by the fill's lock
}

// write adds p to the body. It blocks while the readers of a body that is not kept are behind.
func (f *fill) write(p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.stream
	if size := s.size + int64(len(p)); s.kept && (size > f.c.cfg.MaxObject || !f.reserveLocked(size)) {
		f.tooLargeLocked()
	}
	for len(p) > 0 {
		if !s.kept {
			if err := f.waitForRoomLocked(); err != nil {
				return err
			}
		}
		n := s.appendLocked(p)
		p = p[n:]
	}
	f.moved = time.Now()
	if f.length >= 0 && s.size == f.length {
		// A client that knows the length may send its next request at once.
		f.keepLocked()
	}
	f.wakeLocked()
	return nil
}

// reserveLocked takes room for a body of that size, or of the length that was announced. All bodies
// that are being fetched have together as much room as the store. It reports false if there is none
// left.
func (f *fill) reserveLocked(size int64) bool {
	s := &f.stream
	more := max(size, s.expected) - s.reserved
	if more <= 0 {
		return true
	}
	if f.c.counts.buffered.Add(more) > f.c.store.Capacity() {
		f.c.counts.buffered.Add(-more)
		return false
	}
	s.reserved += more
	return true
}

// unreserveLocked gives the room back.
func (f *fill) unreserveLocked() {
	f.c.counts.buffered.Add(-f.stream.reserved)
	f.stream.reserved = 0
}

// appendLocked adds as much of p as there is room for in one chunk.
func (s *stream) appendLocked(p []byte) int {
	last := len(s.chunks) - 1
	if last < 0 || len(s.chunks[last]) == cap(s.chunks[last]) {
		s.chunks = append(s.chunks, s.newChunkLocked(len(p)))
		last++
	}
	chunk := s.chunks[last]
	n := min(len(p), cap(chunk)-len(chunk))
	if !s.kept {
		n = min(n, windowChunk)
	}
	// Readers have slices that end before what is written here.
	s.chunks[last] = append(chunk, p[:n]...)
	s.size += int64(n)
	return n
}

func (s *stream) newChunkLocked(want int) []byte {
	switch {
	case !s.kept:
		if c := s.spare; c != nil {
			s.spare = nil
			return c[:0]
		}
		return make([]byte, 0, windowChunk)
	case len(s.chunks) == 0 && s.expected > 0:
		return make([]byte, 0, s.expected)
	}
	return make([]byte, 0, max(want, min(largestChunk, max(firstChunk, int(s.size)))))
}

// waitForRoomLocked waits until the readers have caught up, so far that a chunk more fits.
func (f *fill) waitForRoomLocked() error {
	s := &f.stream
	var stalled *time.Timer
	for {
		slowest := f.trimLocked()
		if slowest == nil {
			return errUnneeded
		}
		if s.size-slowest.off < window {
			return nil
		}
		f.wakeLocked() // there is something to read
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		var stall <-chan time.Time
		if len(f.readers) > 1 {
			if stalled == nil {
				stalled = time.NewTimer(stallFor)
				defer stalled.Stop()
			}
			stall = stalled.C
		}
		f.mu.Unlock()
		select {
		case <-room:
		case <-f.ctx.Done():
		case <-stall:
			stalled.Reset(stallFor)
			f.mu.Lock()
			f.dropSlowLocked()
			continue
		}
		f.mu.Lock()
		if f.ctx.Err() != nil {
			return context.Cause(f.ctx)
		}
	}
}

// dropSlowLocked gives up the readers for which the writer has waited for long: all at once, for
// each would hold up the others as long again. The one that has read most stays.
func (f *fill) dropSlowLocked() {
	var best *reader
	for rd := range f.readers {
		if best == nil || rd.off > best.off || rd.off == best.off && rd == f.leader {
			best = rd
		}
	}
	for rd := range f.readers {
		if rd != best && f.stream.size-rd.off >= window {
			rd.dropped = true
			delete(f.readers, rd)
		}
	}
	f.stream.ours = f.stream.size // they may still hold what they were given last
	f.wakeLocked()
}

// trimLocked drops the chunks that every reader has read, and returns the slowest of them.
func (f *fill) trimLocked() *reader {
	var slowest *reader
	for rd := range f.readers {
		if slowest == nil || rd.off < slowest.off {
			slowest = rd
		}
	}
	s := &f.stream
	for slowest != nil && len(s.chunks) > 0 && s.base+int64(len(s.chunks[0])) <= slowest.off &&
		len(s.chunks[0]) == cap(s.chunks[0]) {
		if s.base >= s.ours {
			s.spare = s.chunks[0]
		}
		s.base += int64(len(s.chunks[0]))
		s.chunks[0] = nil
		s.chunks = s.chunks[1:]
	}
	return slowest
}

// flush asks the readers to flush what there is.
func (f *fill) flush() {
	f.mu.Lock()
	f.stream.flushes++
	f.stream.flushAt = f.stream.size
	f.wakeLocked()
	f.mu.Unlock()
}

// next returns more of the body, or asks for a flush, or returns how the body ended: with io.EOF if
// it is whole. The bytes are valid until the next call. It waits until ctx ends at most.
func (rd *reader) next(ctx context.Context, last int) (p []byte, flush bool, err error) {
	f := rd.f
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.stream
	rd.off += int64(last)
	if last > 0 && s.room != nil {
		close(s.room)
		s.room = nil
	}
	for {
		switch {
		case rd.dropped:
			return nil, false, errDropped
		case rd.flushes != s.flushes && rd.off >= s.flushAt:
			rd.flushes = s.flushes
			return nil, true, nil
		case rd.off < s.size:
			return s.atLocked(rd.off), false, nil
		case s.ended && s.err != nil:
			return nil, false, s.err
		case s.ended:
			return nil, false, io.EOF
		}
		if err := f.sleepLocked(ctx, nil); err != nil {
			return nil, false, err
		}
	}
}

// atLocked returns the bytes from off to the end of a chunk.
func (s *stream) atLocked(off int64) []byte {
	at := off - s.base
	for _, c := range s.chunks {
		if at < int64(len(c)) {
			return c[at:len(c):len(c)]
		}
		at -= int64(len(c))
	}
	return nil
}

// bytesLocked returns the whole body, which is kept, in one piece of little more than its size.
func (s *stream) bytesLocked() []byte {
	if s.size == 0 {
		return nil
	}
	if len(s.chunks) == 1 && cap(s.chunks[0])-len(s.chunks[0]) <= len(s.chunks[0])/16 {
		c := s.chunks[0]
		return c[:len(c):len(c)]
	}
	whole := make([]byte, 0, s.size)
	for _, c := range s.chunks {
		whole = append(whole, c...)
	}
	return whole
}

// wakeLocked wakes those who sleep.
func (f *fill) wakeLocked() {
	if f.wake != nil {
		close(f.wake)
		f.wake = nil
	}
}

// sleepLocked sleeps until something happens, ctx ends or the limit passes. It gives up the lock
// meanwhile.
func (f *fill) sleepLocked(ctx context.Context, limit <-chan time.Time) error {
	if f.wake == nil {
		f.wake = make(chan struct{})
	}
	wake := f.wake
	f.mu.Unlock()
	defer f.mu.Lock()
	select {
	case <-wake:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-limit:
		return errWait
	}
}
