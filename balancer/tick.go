package balancer

// tick is the upkeep of a group. It is due every tickInterval while there are requests.
func (g *group) tick(now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	config := g.config.Load()
	since := now - g.lastTick
	g.lastTick = now
	typical := g.medianCostLocked()
	g.typical.Store(typical)
	changed := false
	for _, e := range g.endpoints {
		if e.ejectedUntil != 0 && e.ejectedUntil <= now {
			g.endEjectionLocked(config, e, now, typical)
			changed = true
		}
		if e.restricted.Load() {
			g.tickRestrictedLocked(config, e, now)
		}
		if config.keepsCosts() {
			g.tickCostLocked(config, e, now, since, typical)
		}
	}
	g.tickFailuresLocked(now)
	if now-g.lastInterval >= int64(config.Outlier.Interval) {
		g.lastInterval = now
		g.judgeLocked(config, now)
		changed = true
	}
	if g.adaptSpillLocked(config) || changed {
		g.publishLocked(now)
	}
}

// endEjectionLocked lets e come back slowly, with a typical cost.
func (g *group) endEjectionLocked(config *groupConfig, e *endpoint, now int64, typical float64) {
	e.ejectedUntil = 0
	e.failures.Store(0)
	e.brokenBodies.Store(0)
	e.reason = ""
	e.returning = true
	e.slow.Store(0)
	if typical > 0 && config.keepsCosts() {
		g.setCost(config, e, typical)
	}
	g.startSlowlyLocked(config, e, now)
	g.emitLocked(e.changeLocked(now, ReasonEndOfEjection))
}
