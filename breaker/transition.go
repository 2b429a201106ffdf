package breaker

import (
	"context"
	"math"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	jitter     = 0.2 // of the open time, either way
	rampFewest = 5   // outcomes without which a ramping circuit does not open
)

type observed struct {
	ctx context.Context
	e   Event
}

// shouldOpen is called by gobreaker after a failure, so with mu held.
func (c *circuit) shouldOpen(counts gobreaker.Counts) bool {
	c.counts = counts
	cfg := &c.b.cfg
	fewest := float64(cfg.MinRequests)
	if c.phase() == ramping {
		fewest = min(fewest, max(rampFewest, math.Ceil(fewest*c.share(c.b.now()))))
	}
	n := float64(counts.Requests)
	return n >= fewest && float64(counts.TotalFailures) >= cfg.FailureRatio*n
}

// followLocked enters the state that gobreaker has entered.
func (c *circuit) followLocked(ctx context.Context, now int64) {
	if !c.turned {
		return
	}
	c.turned = false
	var e Event
	next := c.word.Load()>>phaseBits + 1
	switch c.to {
	case gobreaker.StateOpen:
		slow := c.slow.total(now)
		e.Requests, e.Failures = uint64(c.counts.Requests), uint64(c.counts.TotalFailures)
		if c.phase() == halfOpen {
			e.Requests, e.Failures = uint64(c.passed)+1, 1
		}
		e.Slow = min(slow, e.Failures) // gobreaker was told that they have failed
		e.Failures -= e.Slow
		if c.phase() == closed && now >= c.calm {
			c.series = 0
		}
		c.openTime = c.nextOpenTime()
		c.until.Store(now + int64(c.openTime))
		e.Duration = c.openTime
		c.enterLocked(ctx, open, next, e)
	case gobreaker.StateHalfOpen:
		c.until.Store(0)
		c.enterLocked(ctx, halfOpen, next, e)
	case gobreaker.StateClosed:
		e.Requests = uint64(c.passed)
		length := c.b.cfg.Ramp
		if length == 0 {
			length = c.openTime
		}
		length = max(0, length)
		c.until.Store(now + int64(length))
		c.ramp.Store(int64(length))
		c.calm = now + int64(length) + int64(c.openTime)
		if length == 0 {
			c.enterLocked(ctx, closed, next, e)
		} else {
			c.enterLocked(ctx, ramping, next, e)
		}
	}
}

// nextOpenTime returns how long the circuit, which is about to open, stays open.
func (c *circuit) nextOpenTime() time.Duration {
	cfg := &c.b.cfg
	d := cfg.OpenFor
	for range c.series {
		if d > cfg.MaxOpen/2 {
			d = cfg.MaxOpen
			break
		}
		d *= 2
	}
	c.series++
	return max(1, time.Duration(float64(d)*(1-jitter+2*jitter*c.b.rand())))
}

// enterLocked enters a phase, and begins with empty counts unless the generation stays.
func (c *circuit) enterLocked(ctx context.Context, p phase, generation uint64, e Event) {
	from := states[c.phase()]
	if generation != c.word.Load()>>phaseBits {
		c.passed = 0
		c.probes = c.probes[:0]
		c.slow.reset(c.b.now())
	}
	c.word.Store(generation<<phaseBits | uint64(p))
	if to := states[p]; c.b.cfg.Observe != nil && from != to {
		e.Kind, e.Key, e.From, e.To = Transition, c.key, from, to
		c.pending = append(c.pending, observed{context.WithoutCancel(ctx), e}) // the client may have left
	}
}

// command isolates the circuit, or closes it with everything that it knows forgotten. It returns
// false if the table no longer has the circuit.
func (c *circuit) command(ctx context.Context, p phase) bool {
	c.mu.Lock()
	if c.phase() == forgotten {
		c.mu.Unlock()
		return false
	}
	if p == closed {
		c.cb = c.machine()
		c.series, c.calm = 0, 0
	}
	c.turned = false
	c.enterLocked(ctx, p, c.word.Load()>>phaseBits+1, Event{})
	c.mu.Unlock()
	c.tell()
	return true
}

// tell delivers the pending events, one by one and in order, with no lock held. If another
// goroutine, or this one further up its stack, is at it, it delivers them.
func (c *circuit) tell() {
	for {
		c.mu.Lock()
		if c.telling || len(c.pending) == 0 {
			c.mu.Unlock()
			return
		}
		c.telling = true
		next := c.pending[0]
		c.pending = c.pending[1:]
		c.mu.Unlock()
		func() {
			defer func() { // also if Observe panics
				c.mu.Lock()
				c.telling = false
				c.mu.Unlock()
			}()
			c.b.cfg.Observe(next.ctx, next.e)
		}()
	}
}
