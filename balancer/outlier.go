package balancer

import (
	"math"
	"time"
)

const (
	// minGap is how far below the mean a success rate must lie, however small the deviation is:
	// when all endpoints are good, a single failure is many standard deviations.
	minGap = 0.05

	// Replies count as recent with a weight that falls by recentDecay at every tick: they are
	// forgotten within seconds. An endpoint is failing if more than failingShare of its recent
	// replies failed.
	recentDecay  = 0.8
	failingShare = 0.1
)

// tickFailuresLocked finds out which endpoints are failing, and whether that is a common fault.
func (g *group) tickFailuresLocked(now int64) {
	failing, known := 0, 0
	for _, e := range g.endpoints {
		replied, failed := e.replied.Load(), e.failed.Load()
		e.recentReplies = e.recentReplies*recentDecay + float64(replied-e.tickReplied)
		e.recentFailures = e.recentFailures*recentDecay + float64(failed-e.tickFailed)
		e.tickReplied, e.tickFailed = replied, failed
		if e.recentReplies < 0.5 || e.stateLocked(now) != Healthy {
			continue
		}
		if known++; e.failingLocked() {
			failing++
		}
	}
	g.commonFault.Store(known > 1 && failing*2 > known)
}

// failingLocked reports whether e is failing, by the replies since the last tick alone or together
// with those before it.
func (e *endpoint) failingLocked() bool {
	failed, replied := float64(e.failed.Load()-e.tickFailed), float64(e.replied.Load()-e.tickReplied)
	all := failed + e.recentFailures
	return failed > 0 && failed > failingShare*replied ||
		all > 0.5 && all > failingShare*(replied+e.recentReplies)
}

// ejectFailing ejects e for its failures in a row, or for failing as it comes back.
func (g *group) ejectFailing(e *endpoint, now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, limit := int(e.failures.Load()), g.config.Load().Outlier.Consecutive
	if limit < 0 || n == 0 || n < limit && !e.returning {
		return // another goroutine, or a Reload, was here first
	}
	// While all endpoints fail, every request comes as far as this. It is enough that one of them
	// looks now and then.
	if e.ejectedUntil > now {
		e.ejectableAt.Store(e.ejectedUntil)
		return
	}
	e.ejectableAt.Store(now + int64(tickInterval))
	if !g.isMemberLocked(e) || e.public().Drain {
		return
	}
	// If most of the others fail as well, the fault is in what they share, and with fewer endpoints
	// the rest would only have more to do.
	failing, others := 0, 0
	for _, o := range g.endpoints {
		if o == e || o.stateLocked(now) != Healthy {
			continue
		}
		others++
		if o.failures.Load() > 0 || o.failingLocked() {
			failing++
		}
	}
	if others > 0 && failing*2 > others {
		g.commonFault.Store(true)
		return
	}
	if g.ejectLocked(e, now, ReasonConsecutiveFailures) {
		g.publishLocked(now)
	}
}

// ejectLocked ejects e if MaxEjected allows it.
func (g *group) ejectLocked(e *endpoint, now int64, reason Reason) bool {
	o := &g.config.Load().Outlier
	ejected, available, all := 0, 0, 0
	for _, other := range g.endpoints {
		if other.public().Drain {
			continue
		}
		all++
		switch {
		case other.ejectedUntil > now:
			ejected++
		case other != e && other.stateLocked(now) == Healthy:
			available++
		}
	}
	if available == 0 || ejected >= max(1, int(o.MaxEjected*float64(all))) {
		return false
	}
	e.ejections++
	d := min(time.Duration(e.ejections)*o.Base, o.Max)
	if d <= 0 { // overflow
		d = o.Max
	}
	d += time.Duration((unit(g.random()) - 0.5) * 0.2 * float64(d))
	e.ejectedUntil = now + int64(d)
	e.reason = reason
	g.ejections.Add(1)
	g.emitLocked(Event{
		Kind: EndpointChanged, Endpoint: e.public(), State: Ejected, Reason: reason, EjectedFor: d,
	})
	return true
}

// judgeLocked compares the success rates of the interval that has just ended.
func (g *group) judgeLocked(config *groupConfig, now int64) {
	o := &config.Outlier
	type window struct {
		endpoint *endpoint
		rate     float64
	}
	var known []window
	for _, e := range g.endpoints {
		replied, failed := e.replied.Load(), e.failed.Load()
		n, f := replied-e.windowReplied, failed-e.windowFailed
		e.windowReplied, e.windowFailed = replied, failed
		if e.ejectedUntil > now || e.public().Drain {
			continue
		}
		if e.ejections > 0 && n > 0 && f*10 < n { // a good interval
			e.ejections--
			e.returning = false
		}
		if n >= uint64(o.MinRequests) {
			known = append(known, window{e, 1 - math.Min(float64(f)/float64(n), 1)})
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
			g.ejectLocked(w.endpoint, now, ReasonSuccessRate)
		}
	}
}
