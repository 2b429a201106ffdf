package cache

import (
	"context"
	"sync"
	"time"
)

// work is the fetches that no client waits for.
type work struct {
	mu     sync.Mutex // guards the fields below
	fills  map[*fill]*time.Timer
	closed bool
	idle   chan struct{} // closed when fills is empty, once Close waits
}

func (w *work) init() { w.fills = make(map[*fill]*time.Timer) }

// begin reports whether there is room for a refresh, and takes it.
func (w *work) begin(f *fill) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.fills) >= f.c.cfg.MaxBackground {
		f.c.counts.putOff.Add(1)
		return false
	}
	w.addLocked(f)
	return true
}

func (w *work) addLocked(f *fill) {
	w.fills[f] = time.AfterFunc(f.c.cfg.FetchTimeout, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, has := w.fills[f]; has { // still nobody waits for it
			f.cancel(context.DeadlineExceeded)
		}
	})
	f.c.counts.background.Add(1)
}

// adopt takes a fill whose last reader has left. It is canceled if nobody would profit, or if there
// is no room.
func (w *work) adopt(f *fill, worth bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, has := w.fills[f]; has {
		return
	}
	if full := w.closed || len(w.fills) >= f.c.cfg.MaxBackground; full || !worth {
		if full && worth {
			f.c.counts.putOff.Add(1)
		}
		f.cancel(errUnneeded)
	}
	w.addLocked(f)
}

// claim tells that somebody waits for a fill. It reports false if the fill was given up.
func (w *work) claim(f *fill) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.ctx.Err() != nil {
		return false
	}
	w.removeLocked(f)
	return true
}

// remove tells that a fill has ended.
func (w *work) remove(f *fill) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removeLocked(f)
}

func (w *work) removeLocked(f *fill) {
	timer, has := w.fills[f]
	if !has {
		return
	}
	timer.Stop()
	delete(w.fills, f)
	f.c.counts.background.Add(-1)
	if len(w.fills) == 0 && w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// close cancels all fills here and waits for them.
func (w *work) close(ctx context.Context) error {
	w.mu.Lock()
	w.closed = true
	for f := range w.fills {
		f.cancel(ErrClosed)
	}
	for len(w.fills) > 0 {
		if w.idle == nil {
			w.idle = make(chan struct{})
		}
		idle := w.idle
		w.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		w.mu.Lock()
	}
	w.mu.Unlock()
	return nil
}
