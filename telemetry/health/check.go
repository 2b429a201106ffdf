package health

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

var (
	errTimeout = errors.New("health: check timed out")
	errGone    = errors.New("health: check called runtime.Goexit")
)

// A check runs its function at most once at a time and keeps the last result.
type check struct {
	cfg CheckConfig // read-only after New

	mu       sync.Mutex    // guards the fields below
	running  chan struct{} // closed at the end of the run; nil if there is none
	started  time.Time     // of the run
	ended    time.Time     // of the last run; zero before the first
	duration time.Duration // of the last run
	err      error         // of the last run
}

// refresh starts a run if there is none and the last result is too old. It returns the channel that
// is closed when a new result is there, or nil if the last one is to be used.
func (c *check) refresh() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil {
		return c.running
	}
	if !c.ended.IsZero() && c.cfg.TTL > 0 && time.Since(c.ended) < c.cfg.TTL {
		return nil
	}
	c.running = make(chan struct{})
	c.started = time.Now()
	go c.run()
	return c.running
}

// run runs the check once. It is not part of the probe's request: others wait for it too.
func (c *check) run() {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.Timeout)
	defer cancel()
	err := errGone
	defer func() { // also after runtime.Goexit, which testing's FailNow calls
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended = time.Now()
		c.duration = c.ended.Sub(c.started)
		c.err = err
		close(c.running)
		c.running = nil
	}()
	err = c.call(ctx)
}

func (c *check) call(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("check panicked: %v", v)
		}
	}()
	return c.cfg.Func(ctx)
}

// result returns the result of the run that done belongs to, or the last one if done is nil. It
// waits until that run has taken the check's timeout, or until ctx ends.
func (c *check) result(ctx context.Context, done <-chan struct{}) CheckResult {
	r := CheckResult{Name: c.cfg.Name, Optional: c.cfg.Optional}
	if ran, _ := c.last(); ran && c.cfg.Optional {
		done = nil
	}
	if done != nil {
		c.mu.Lock()
		left := c.cfg.Timeout - time.Since(c.started)
		c.mu.Unlock()
		t := time.NewTimer(max(left, 0))
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			select {
			case <-done: // at the same moment
			default:
				r.Duration, r.Err = c.cfg.Timeout, errTimeout
				return r
			}
		case <-ctx.Done():
			r.Err = context.Cause(ctx)
			return r
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.OK, r.Duration, r.Err = c.err == nil, c.duration, c.err
	return r
}

// last reports whether the check has run, and with what error.
func (c *check) last() (ran bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.ended.IsZero(), c.err
}
