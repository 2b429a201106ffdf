package breaker

import "time"

// abandoned is how long nobody must have asked for an open circuit, after its open time, before
// it is forgotten: hosts that died and were given up would fill the table one by one. For as
// long a circuit with requests in flight must have had no outcome: their end may be lost.
const abandoned = time.Hour

// forget makes the circuit unusable. If only idle ones are to go, it reports whether it was one.
func (c *circuit) forget(onlyIdle bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	word := c.word.Load()
	lost := c.inFlight.Load() // if the circuit is idle
	if onlyIdle && !c.idleLocked(c.b.now(), lost) {
		return false
	}
	return c.forgetLocked(word, onlyIdle, lost)
}

func (c *circuit) forgetLocked(word uint64, onlyIdle bool, lost int64) bool {
	c.word.Store((word>>phaseBits+1)<<phaseBits | uint64(forgotten))
	if onlyIdle && c.inFlight.Load() > lost { // it came between; whoever saw forgotten looks up again
		c.word.Store(word)
		return false
	}
	return true
}

// idleLocked reports whether nothing is lost with the circuit: two sweeps, far enough apart, have
// found it unused.
func (c *circuit) idleLocked(now, inFlight int64) bool {
	long := int64(c.b.cfg.Window)
	if inFlight > 0 {
		long = max(long, int64(abandoned))
	}
	busy := c.used || inFlight > 0 && !c.held
	c.held = inFlight > 0
	switch c.phase() {
	case isolated:
		return false
	case closed, ramping:
		busy = busy || now < c.calm // which a ramp's end is before
	case open, halfOpen:
		long = int64(abandoned)
		busy = busy || now < c.until.Load()
	}
	c.used = false
	if busy {
		c.unused = 0
		return false
	}
	if c.unused == 0 {
		c.unused = now
	}
	return now-c.unused >= long
}
