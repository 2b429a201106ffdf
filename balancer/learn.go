package balancer

import (
	"math"
	"slices"
	"time"
)

const (
	// A reply that takes more than slowFactor times the typical cost is slow. An endpoint with two
	// of them in a row is a slow one: its estimate no longer drifts back by itself.
	slowFactor = 4

	// driftTime is the time constant with which the estimate of an endpoint that gets no requests,
	// and is not slow, moves to the typical one.
	driftTime = 2 * time.Second

	// maxCost bounds what silence can make of a cost, in multiples of the typical one, and
	// 2^maxPenalty what failures can make of it. Failures are forgiven with the time constant
	// forgiveTime.
	maxCost     = 1 << maxPenalty
	maxPenalty  = 6
	forgiveTime = 2 * time.Second

	// minSilence is how long requests must have gone without any reply to count as a sample.
	minSilence = 100 * time.Millisecond

	maxPause = 10 * time.Second
)

// reply teaches the group what became of an attempt, when its header or its error came. took is how
// long that was; pause is the Retry-After of a busy endpoint. What it teaches goes by the present
// configuration, even if there was a Reload since the pick: mean and score are as its estimator
// keeps them.
func (g *group) reply(c *choice, now, took int64, out Outcome, pause time.Duration) {
	e, config := c.endpoint, g.config.Load()
	switch out {
	case Success:
		if e.failures.Load() != 0 {
			e.failures.Store(0)
		}
		g.sample(config, c, now, took)
	case Canceled:
		// The reply would have taken longer still.
		cost := e.cost.Load()
		if config.keepsCosts() && cost > 0 && float64(took) > cost*float64(c.inFlight) {
			g.setCost(config, e, config.estimator.costOf(took, c.inFlight))
		}
	case Busy:
		pause = min(max(pause, tickInterval), maxPause) // a pause without length would be none
		e.pauseUntil.Store(now + int64(pause))
		g.penalize(config, e)
		if !config.keepsCosts() && !e.restricted.Load() {
			g.restrictPausing(e)
		}
	case Failure:
		g.fail(config, c, now, took)
	}
	e.replied.Add(1)
	if e.probation.Load() && (out == Success || out == Failure || out == Busy) {
		g.endProbation(e)
	}
}

// finish ends an attempt, with its body if it has one. broken says that the body broke off and that
// the endpoint is to blame.
func (g *group) finish(c *choice, now int64, broken bool) {
	e := c.endpoint
	e.inFlight.Add(-1)
	c.gate.leave()
	if broken {
		// The header was a success, which has ended the failures in a row.
		if n := e.brokenBodies.Add(1); n > e.failures.Load()+1 {
			e.failures.Store(n - 1)
		}
		g.fail(g.config.Load(), c, now, 0)
	} else if e.brokenBodies.Load() != 0 {
		e.brokenBodies.Store(0)
	}
}

func (g *group) fail(config *groupConfig, c *choice, now, took int64) {
	e := c.endpoint
	e.failed.Add(1)
	n := int64(e.failures.Add(1))
	switch {
	case !g.commonFault.Load():
		g.penalize(config, e)
	case took > 0: // most endpoints fail: what tells them apart is how fast they do
		g.sample(config, c, now, took)
	}
	limit := int64(config.Outlier.Consecutive)
	if limit > 0 && (n >= limit || e.probation.Load()) && now >= e.ejectableAt.Load() {
		g.ejectFailing(e, now)
	}
}

// sample enters a latency into the endpoint's cost.
func (g *group) sample(config *groupConfig, c *choice, now, took int64) {
	e, est := c.endpoint, &config.estimator
	if !config.keepsCosts() {
		return
	}
	cost := max(est.costOf(took, c.inFlight), 1)
	if typical := g.typical.Load(); typical > 0 && cost > slowFactor*typical {
		e.slow.Add(1)
	} else if e.slow.Load() != 0 {
		e.slow.Store(0)
	}
	old, novelty := est.oldWeight(now-e.sampled.Load()), e.cost.novelty()
	if !est.peak {
		// Until there are as many replies as the time constant covers they count alike: one that
		// comes after a long time, or is the first of many in a row, does not stand for all.
		old = min(old, 1/(1+novelty))
		novelty = novelty*old*old + (1-old)*(1-old)
	}
	mean := est.average(e.mean.Load(), est.toMean(cost), old)
	e.mean.Store(mean)
	e.cost.set(est.fromMean(mean), novelty)
	e.sampled.Store(now)
	g.rescore(config, e)
}

// penalize makes e look worse than its latency says, and more so with every failure in a row: an
// endpoint that fails at once must not look fast.
func (g *group) penalize(config *groupConfig, e *endpoint) {
	if !config.keepsCosts() {
		return
	}
	penalty := math.Exp2(float64(min(e.failures.Load()+1, maxPenalty)))
	e.penalty.Store(max(e.penalty.Load(), penalty))
	g.rescore(config, e)
}

// setCost sets what is known of e's latency; zero for nothing.
func (g *group) setCost(config *groupConfig, e *endpoint, cost float64) {
	e.mean.Store(config.estimator.toMean(cost))
	e.cost.Store(cost)
	g.rescore(config, e)
}

// rescore makes a score of what is known of e, for picks to go by.
func (g *group) rescore(config *groupConfig, e *endpoint) {
	est := &config.estimator
	score := e.mean.Load()
	if score == 0 { // unknown: typical until proven otherwise
		score = est.toMean(max(g.typical.Load(), 1))
	}
	if e.pauseUntil.Load() != 0 {
		score *= est.toMean(maxCost)
	} else if p := e.penalty.Load(); p > 1 {
		score *= est.toMean(p)
	}
	if w := e.weight(); w != 1 {
		score /= w
	}
	e.score.Store(score)
}

// tickCostLocked moves the cost of an endpoint that says nothing.
func (g *group) tickCostLocked(config *groupConfig, e *endpoint, now, since int64, typical float64) {
	if until := e.pauseUntil.Load(); until != 0 && until <= now {
		e.pauseUntil.Store(0)
		g.setCost(config, e, e.cost.Load())
	}
	if p := e.penalty.Load(); g.commonFault.Load() || p < 1.1 {
		e.penalty.Store(1)
	} else {
		e.penalty.Store(1 + (p-1)*math.Exp(-float64(since)/float64(forgiveTime)))
	}
	// Requests that wait longer than a reply should take are a sample of at least that.
	replied, awaiting := e.replied.Load(), e.awaiting()
	if awaiting == 0 || replied != e.silentReplied || e.silentSince == 0 {
		e.silentReplied, e.silentSince = replied, 0
		if awaiting > 0 {
			e.silentSince = now
		}
	} else if silent := now - e.silentSince; silent >= int64(minSilence) {
		waited := config.estimator.costOf(silent, awaiting)
		if cost := max(e.cost.Load(), typical); waited > 2*cost && typical > 0 {
			g.setCost(config, e, min(waited, maxCost*typical))
			e.sampled.Store(now)
		}
		return
	}
	quiet := now-e.sampled.Load() > int64(driftTime)/2
	if cost := e.cost.Load(); cost > 0 && typical > 0 && quiet && e.slow.Load() < 2 {
		e.cost.Store(typical + (cost-typical)*math.Exp(-float64(since)/float64(driftTime)))
		e.mean.Store(config.estimator.toMean(e.cost.Load()))
	}
	g.rescore(config, e)
}

// medianCostLocked returns the lower median of the costs that are known.
func (g *group) medianCostLocked() float64 {
	costs := make([]float64, 0, len(g.endpoints))
	for _, e := range g.endpoints {
		if c := e.cost.Load(); c > 0 {
			costs = append(costs, c)
		}
	}
	return lowerMedian(costs)
}

// lowerMedian returns the median of values, of two values the lesser, and zero of none. It sorts
// them.
func lowerMedian(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)-1)/2]
}

// An estimator turns latencies into costs. The zero estimator keeps none.
type estimator struct {
	decay       time.Duration // time constant of the moving average
	perDecay    float64       // 1/decay, in 1/ns
	perInFlight bool          // divide a latency by the requests in flight as it was sent
	cubeRoots   bool          // average the cube roots, and score by them
	peak        bool          // a latency above the average replaces it: the simulation's peak EWMA
}

// rootEstimator is Adaptive's.
var rootEstimator = estimator{decay: 1500 * time.Millisecond, perInFlight: true, cubeRoots: true}

// costOf returns the cost that one reply shows.
func (e *estimator) costOf(took, inFlight int64) float64 {
	if e.perInFlight && inFlight > 1 {
		return float64(took) / float64(inFlight)
	}
	return float64(took)
}

// toMean returns what is averaged instead of a cost; fromMean undoes that.
func (e *estimator) toMean(cost float64) float64 {
	if e.cubeRoots {
		return math.Cbrt(cost)
	}
	return cost
}

func (e *estimator) fromMean(mean float64) float64 {
	if e.cubeRoots {
		return mean * mean * mean
	}
	return mean
}

// oldWeight returns the weight of what is known against a sample that comes dt nanoseconds later.
// It is about exp(-dt/decay), and cheaper.
func (e *estimator) oldWeight(dt int64) float64 {
	x := float64(max(dt, 0)) * e.perDecay
	return 1 / (1 + x*(1+x*(1.0/2+x*(1.0/6))))
}

// average returns the mean after a further sample.
func (e *estimator) average(mean, sample, oldWeight float64) float64 {
	if mean == 0 || e.peak && sample > mean {
		return sample
	}
	return mean*oldWeight + sample*(1-oldWeight)
}
