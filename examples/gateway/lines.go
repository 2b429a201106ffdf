package main

import (
	"io"
	"sync"
	"time"
)

// A lineBuffer gathers the lines of the access log, so that a line costs no system call. What it
// holds is written when it is full, within lineDelay, and at the end: a crash can lose as much.
type lineBuffer struct {
	to io.Writer

	mu    sync.Mutex // guards the fields below
	held  []byte
	timer *time.Timer
	armed bool
	ended bool // every line is written at once
}

const (
	lineBytes = 64 << 10
	lineDelay = 100 * time.Millisecond
)

// Write takes one line.
func (b *lineBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = append(b.held, line...)
	if b.ended || len(b.held) >= lineBytes {
		return len(line), b.flushLocked()
	}
	if !b.armed {
		b.armed = true
		if b.timer == nil {
			b.timer = time.AfterFunc(lineDelay, b.flush)
		} else {
			b.timer.Reset(lineDelay)
		}
	}
	return len(line), nil
}

func (b *lineBuffer) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed = false
	_ = b.flushLocked() // there is nobody to tell
}

// flushLocked writes all lines that are held, in their order: a slow output holds up those who
// write lines, as it would without a buffer.
func (b *lineBuffer) flushLocked() error {
	if len(b.held) == 0 {
		return nil
	}
	_, err := b.to.Write(b.held)
	b.held = b.held[:0]
	if cap(b.held) > 2*lineBytes {
		b.held = nil
	}
	return err
}

// close writes what is held. Lines that come later are written at once.
func (b *lineBuffer) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.timer != nil {
		b.timer.Stop()
	}
	return b.flushLocked()
}
