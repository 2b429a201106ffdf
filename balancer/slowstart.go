package balancer

import "time"

const (
	// slowStartShare is the share with which a slow start begins.
	slowStartShare = 0.1

	// maxProbation bounds the probation of an endpoint that gets no requests.
	maxProbation = 10 * time.Second
)

// restrict makes picks look closer at e; unrestrict ends that.
func (g *group) restrict(e *endpoint) {
	if !e.restricted.Swap(true) {
		g.restricted.Add(1)
	}
}

func (g *group) unrestrict(e *endpoint) {
	if e.restricted.Swap(false) {
		g.restricted.Add(-1)
	}
}

// startProbationLocked lets e have one request at a time until its first reply.
func (g *group) startProbationLocked(e *endpoint, now int64) {
	e.probation.Store(true)
	e.probationFrom = now
	g.restrict(e)
}

// startSlowlyLocked begins the probation and the slow start of e.
func (g *group) startSlowlyLocked(config *groupConfig, e *endpoint, now int64) {
	g.startProbationLocked(e, now)
	if config.SlowStart > 0 {
		e.slowStartFrom = now
		e.slowStart.Store(slowStartShare)
	}
}

// endSlowStartLocked ends the probation and the slow start of e.
func (g *group) endSlowStartLocked(e *endpoint) {
	e.slowStart.Store(1)
	e.probation.Store(false)
	g.unrestrict(e)
}

// endProbation ends the probation of e after its first reply. A slow start goes on, and so does a
// pause.
func (g *group) endProbation(e *endpoint) {
	e.probation.Store(false)
	if e.slowStart.Load() >= 1 && e.pauseUntil.Load() == 0 {
		g.unrestrict(e)
	}
}

// restrictPausing makes picks pass e over while it pauses, for policies that do not see that in the
// cost.
func (g *group) restrictPausing(e *endpoint) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isMemberLocked(e) {
		g.restrict(e)
	}
}

// tickRestrictedLocked lets the slow start of e go on and lifts what has ended.
func (g *group) tickRestrictedLocked(config *groupConfig, e *endpoint, now int64) {
	if e.slowStartFrom != 0 {
		share := 1.0 // a Reload may have switched slow start off
		if config.SlowStart > 0 {
			passed := float64(now-e.slowStartFrom) / float64(config.SlowStart)
			share = slowStartShare + (1-slowStartShare)*passed
		}
		e.slowStart.Store(min(share, 1))
		if share >= 1 {
			e.slowStartFrom = 0
		}
	}
	if e.probation.Load() && now-e.probationFrom > int64(maxProbation) {
		e.probation.Store(false)
	}
	if until := e.pauseUntil.Load(); until != 0 && until <= now && !config.keepsCosts() {
		e.pauseUntil.Store(0) // if there are costs, tickCostLocked does this
	}
	if !e.probation.Load() && e.slowStart.Load() >= 1 && e.pauseUntil.Load() == 0 {
		g.unrestrict(e)
	}
}
