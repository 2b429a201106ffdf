package cache

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// notify calls the observer with events on the goroutine of a caller, who gets its panics. No lock
// may be held.
func (m *Memory[K, V]) notify(ctx context.Context, events []MemoryEvent[K, V]) {
	if len(events) == 0 {
		return
	}
	m.observing.Add(1)
	defer m.observing.Add(-1)
	for _, e := range events {
		m.cfg.Observe(ctx, e)
	}
}

// notifyOfLoad calls the observer with the events of f, on a goroutine of m's own. A panic there
// fails f, as one of its loader would, and ends nothing else.
func (m *Memory[K, V]) notifyOfLoad(f *flight[K, V], events []MemoryEvent[K, V]) {
	f.call.observed.Store(true)
	returned := false
	fail := func(err error) {
		if f.err != nil {
			return
		}
		var none V
		f.value, f.err = none, err
		if events[len(events)-1].Err == nil { // the load's own: or else it is counted
			m.loads.failed.Add(1)
		}
	}
	defer func() {
		if !returned {
			fail(loadError(errObserverGoexit))
		}
	}()
	for i := range events {
		if err := m.tryNotify(f.call.ctx, events[i:i+1]); err != nil {
			fail(err)
		}
	}
	returned = true
}

func (m *Memory[K, V]) tryNotify(ctx context.Context, events []MemoryEvent[K, V]) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicError("panic of Observe", p)
		}
	}()
	m.notify(ctx, events)
	return nil
}

// panicError returns the error of a load that ended with a panic.
func panicError(what string, value any) error {
	err, ok := value.(error)
	if !ok {
		err = fmt.Errorf("%v", value)
	}
	return &LoadError{Err: fmt.Errorf("%s: %w", what, err), Panic: value, Stack: debug.Stack()}
}

// maxNested bounds how deep calls of the observer may stand in one another: what it stores can make
// something else leave, of which it is told, and so on without end. If it stores two values for
// each that leaves, so many steps are 65,536 values.
const maxNested = 16

// nested reports whether the calling goroutine is in maxNested calls of observers. Only if there
// are as many of m's at all, which can be those of other goroutines, does it look at the stack.
func (m *Memory[K, V]) nested() bool {
	if m.observing.Load() < maxNested {
		return false
	}
	pcs := make([]uintptr, 64*maxNested)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for n, more := 0, true; more; {
		var frame runtime.Frame
		if frame, more = frames.Next(); strings.HasSuffix(frame.Function, "/cache.(*Memory[...]).notify") {
			if n++; n >= maxNested {
				return true
			}
		}
	}
	return false
}
