package balancer

import (
	"math"
	"time"
)

// minGap is how far below the mean a success rate must lie, however small the deviation is: when
// all hosts are good, a single failure is many standard deviations.
const minGap = 0.05

// Replies count for the present with a weight that falls by keep at every tick: they are forgotten in seconds.
// A host fails lately if one of failShare of them failed.
const (
	keep      = 0.8
	failShare = 0.1
)

// tickFailuresLocked finds out who fails lately.
func (g *group) tickFailuresLocked(now int64) {
	failing, known := 0, 0
	for _, h := range g.hosts {
		replied, failed := h.replied.Load(), h.failed.Load()
		h.lately = h.lately*keep + float64(replied-h.tickReplied)
		h.failedLately = h.failedLately*keep + float64(failed-h.tickFailed)
		h.tickReplied, h.tickFailed = replied, failed
		if h.lately < 0.5 || h.stateLocked(now) != Healthy {
			continue
		}
		if known++; h.failsLatelyLocked() {
			failing++
		}
	}
	g.shared.Store(known > 1 && failing*2 > known)
}

// failsLatelyLocked looks at the time since the last tick, and that with what is remembered from before.
func (h *host) failsLatelyLocked() bool {
	failed, replied := float64(h.failed.Load()-h.tickFailed), float64(h.replied.Load()-h.tickReplied)
	all := failed + h.failedLately
	return failed > 0 && failed > failShare*replied || all > 0.5 && all > failShare*(replied+h.lately)
}

// trip ejects h for its failures in a row, or for failing as it comes back.
func (g *group) trip(h *host, now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := int(h.failures.Load())
	if n == 0 || n < g.set.Load().cfg.Outlier.Consecutive && !h.returning {
		return // another goroutine was here first
	}
	// While all hosts fail, every request comes as far as this: now and then one that finds out is enough.
	if h.ejectedUntil > now {
		h.spared.Store(h.ejectedUntil)
		return
	}
	h.spared.Store(now + int64(tickInterval))
	if !g.memberLocked(h) {
		return
	}
	// If the others fail as well, the fault is in what they share, and fewer hosts would only have
	// more to do.
	failing, others := 0, 0
	for _, o := range g.hosts {
		if o == h || o.stateLocked(now) != Healthy {
			continue
		}
		others++
		if o.failures.Load() > 0 || o.failsLatelyLocked() {
			failing++
		}
	}
	if others > 0 && failing*2 > others {
		g.shared.Store(true)
		return
	}
	if g.ejectLocked(h, now, "consecutive failures") {
		g.publishLocked(now)
	}
}

func (g *group) memberLocked(h *host) bool {
	for _, o := range g.hosts {
		if o == h {
			return true
		}
	}
	return false
}

// ejectLocked ejects h if the share allows it.
func (g *group) ejectLocked(h *host, now int64, reason string) bool {
	set := g.set.Load()
	o := set.cfg.Outlier
	ejected, available := 0, 0
	for _, other := range g.hosts {
		switch {
		case other.ejectedUntil > now:
			ejected++
		case other != h && other.stateLocked(now) == Healthy:
			available++
		}
	}
	if available == 0 || ejected >= max(1, int(o.MaxEjected*float64(len(g.hosts)))) {
		return false
	}
	h.ejections++
	d := min(time.Duration(h.ejections)*o.Base, o.Max)
	if d <= 0 { // overflow
		d = o.Max
	}
	d += time.Duration((unit(g.random()) - 0.5) * 0.2 * float64(d))
	h.ejectedUntil = now + int64(d)
	h.reason = reason
	g.ejectTotal++
	g.emitLocked(Event{Kind: EndpointChanged, Endpoint: h.endpoint(), State: Ejected, Reason: reason, EjectedFor: d})
	return true
}

// judgeLocked looks at the interval that has just ended.
func (g *group) judgeLocked(now int64) {
	set := g.set.Load()
	o := set.cfg.Outlier
	type window struct {
		h        *host
		requests uint64
		rate     float64
	}
	var known []window
	for _, h := range g.hosts {
		replied, failed := h.replied.Load(), h.failed.Load()
		n, f := replied-h.windowReplied, failed-h.windowFailed
		h.windowReplied, h.windowFailed = replied, failed
		if h.ejectedUntil > now {
			continue
		}
		if h.ejections > 0 && n > 0 && f*10 < n { // a good interval
			h.ejections--
			h.returning = false
		}
		if n >= uint64(o.MinRequests) {
			known = append(known, window{h, n, 1 - math.Min(float64(f)/float64(n), 1)})
		}
	}
	if o.Deviations < 0 || len(known) < o.MinEndpoints {
		return
	}
	var sum, squares float64
	for _, w := range known {
		sum += w.rate
	}
	mean := sum / float64(len(known))
	for _, w := range known {
		squares += (w.rate - mean) * (w.rate - mean)
	}
	limit := mean - max(o.Deviations*math.Sqrt(squares/float64(len(known))), minGap)
	for _, w := range known {
		if w.rate < limit {
			g.ejectLocked(w.h, now, "success rate")
		}
	}
}
