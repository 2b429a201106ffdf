package cache

import (
	"context"
	"sync"
	"sync/atomic"
)

// loads is what a Memory knows of its loader calls.
type loads struct {
	ctx  context.Context // ends with Close
	stop context.CancelFunc

	stale, fallbacks, slow, done, failed atomic.Uint64

	mu         sync.Mutex // guards the fields below and those of every call
	closed     bool
	background int // calls that no caller waits for
	running    sync.WaitGroup
}

func (l *loads) init() { l.ctx, l.stop = context.WithCancel(context.Background()) }

// A call is one call of a loader, for one key or for many.
type call struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	outer   *call  // the call whose loader waits for this one; may be nil
	seq     uint64 // reading of tagIndex.clock when the loader was called: what it brings is not older
	started int64

	observed atomic.Bool // the observer is being told of it: whoever loads with ctx is the observer
	nested   int         // how many observers wait for this load, one for the other

	waitsMu sync.Mutex // guards waits
	waits   []*call    // that the loader waits for; one may be there twice

	// loads.mu guards the fields below.
	waiters    int
	background bool // counted in loads.background
	ended      bool
}

type callKey struct{}

// callOf returns the call that ctx was made for, or nil.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// within reports whether c is part of the call other: to wait for other would be to wait for ever.
func (c *call) within(other *call) bool {
	for ; c != nil; c = c.outer {
		if c == other {
			return true
		}
	}
	return false
}

// newCall returns a call that a caller will wait for, or one in the background.
func (m *Memory[K, V]) newCall(ctx context.Context, background bool) (*call, error) {
	l := &m.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if background && l.background >= m.cfg.MaxBackground {
		return nil, errAbandoned
	}
	c := &call{background: background}
	if !background {
		c.outer = callOf(ctx)
		if c.outer != nil && c.outer.observed.Load() {
			c.nested = c.outer.nested + 1
		}
		if c.nested > maxNested {
			return nil, loadError(errNested)
		}
	}
	// The load outlives the caller that happens to be first, but keeps its values: the trace of a
	// request, say. A nil ctx panics here, where nothing is counted yet.
	c.ctx, c.cancel = context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), callKey{}, c))
	if background {
		l.background++
	}
	l.running.Add(1)
	m.tags.loading.Add(1) // before protect reads the clock: see tagIndex.invalidate
	c.started = m.now()
	return c, nil
}

// endCall accounts for a call whose loader has returned.
func (m *Memory[K, V]) endCall(c *call) {
	m.tags.loading.Add(-1)
	c.cancel(nil)
	m.loads.mu.Lock()
	c.ended = true
	if c.background {
		m.loads.background--
	}
	m.loads.mu.Unlock()
	m.loads.running.Done()
}

// addWaiter makes its caller a waiter of c. It reports false if c has been given up.
func (l *loads) addWaiter(c *call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.waiters++
	return true
}

// removeWaiter is called by a waiter that gives up. After the last one c goes on in the background
// or, if there is too much of that, is canceled.
func (m *Memory[K, V]) removeWaiter(c *call) {
	m.loads.mu.Lock()
	defer m.loads.mu.Unlock()
	if c.waiters--; c.waiters > 0 || c.background || c.ended {
		return
	}
	if m.loads.background >= m.cfg.MaxBackground {
		c.cancel(errAbandoned)
		return
	}
	c.background = true
	m.loads.background++
}

// protect calls fn with the context of c, and then done with fn's error, or with the error that
// describes its panic. If fn goes on beyond LoadTimeout, done is called at that time already, and
// once more when fn has returned.
func (m *Memory[K, V]) protect(c *call, fn func(context.Context) error, done func(error)) {
	c.seq = m.tags.clock.Load()
	ctx := c.ctx
	if m.cfg.LoadTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.cfg.LoadTimeout)
		defer cancel()
		settled := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(settled)
			if c.ctx.Err() == nil {
				done(loadError(errTimeout))
			}
		})
		defer func() {
			if !stop() {
				<-settled
			}
		}()
	}
	defer context.AfterFunc(m.loads.ctx, func() { c.cancel(ErrClosed) })()
	err := errGoexit
	defer func() {
		if p := recover(); p != nil {
			err = panicError("panic", p)
		}
		if err != nil {
			err = loadError(err)
		}
		done(err)
	}()
	err = fn(ctx)
}

// Close ends all loads: their contexts are canceled, and their callers get [ErrClosed]. It returns
// when all loaders have returned; if ctx ends before, it returns the cause of that. What is stored
// stays readable; Load no longer calls loaders. Close must not be called by a loader. If no load is
// running, Close is optional.
func (m *Memory[K, V]) Close(ctx context.Context) error {
	m.loads.mu.Lock()
	m.loads.closed = true
	m.loads.mu.Unlock()
	m.loads.stop()
	ended := make(chan struct{})
	go func() {
		m.loads.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
