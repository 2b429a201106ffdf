package breaker

import (
	"context"
	"time"
)

// A probe is a request in flight of a half-open circuit.
type probe struct {
	ticket   uint64
	begun    int64
	answered bool // its answer has begun, and is no failure so far
}

// watchLocked ends the probes whose time is over.
func (c *circuit) watchLocked(ctx context.Context, now int64) {
	for len(c.probes) > 0 && c.phase() == halfOpen {
		oldest := c.probes[0] // they are in order
		if now-oldest.begun < int64(c.probeTimeLocked()) {
			return
		}
		c.probes = c.probes[1:]
		c.verdictLocked(ctx, oldest.answered, false, true)
	}
}

// probeTimeLocked returns how long a probe may take. By default that grows with the open time: one
// that is always the same would never let a service close that answers, but takes longer.
func (c *circuit) probeTimeLocked() time.Duration {
	if c.b.cfg.ProbeTimeout > 0 {
		return c.b.cfg.ProbeTimeout
	}
	return c.openTime
}

// fullLocked makes admit refuse without a lock while there is no room for a probe.
func (c *circuit) fullLocked() {
	until := int64(0)
	if len(c.probes) > 0 && c.passed+len(c.probes) >= c.b.cfg.Probes {
		until = c.probes[0].begun + int64(c.probeTimeLocked())
	}
	c.until.Store(until)
}

// answered notes that k's answer has begun.
func (c *circuit) answered(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.probes {
		if c.probes[i].ticket == k.ticket {
			c.probes[i].answered = true
		}
	}
}
