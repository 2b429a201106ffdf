package versioning

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// A Decision is what a [Verdict] comes to.
type Decision string

const (
	// Hold leaves the rollout at its step.
	Hold Decision = "hold"

	// Advance ends the step.
	Advance Decision = "advance"

	// RejectRelease says that the release is worse.
	RejectRelease Decision = "reject"
)

// A Verdict is what is known of a release at its present weight.
type Verdict struct {
	Decision Decision  `json:"decision"`
	Reason   Reason    `json:"reason"`
	Text     string    `json:"text"`    // the reason as a sentence, with numbers
	Missing  []string  `json:"missing"` // what the step still needs; not null
	At       time.Time `json:"at"`

	Epoch    uint64        `json:"epoch"`    // of the state
	Weight   float64       `json:"weight"`   // the share of keys that get canary
	Time     time.Duration `json:"time_ns"`  // at this weight
	Replicas int           `json:"replicas"` // whose evidence is in it

	// Needed is the evidence against canary that rejects it, 1/Alpha, in either test. Without a
	// difference, the chance that it is ever reached is at most Alpha.
	Needed  float64    `json:"needed"`
	Errors  TestResult `json:"errors"`
	Latency TestResult `json:"latency"`

	Stable ArmReport `json:"stable"`
	Canary ArmReport `json:"canary"`
}

// A TestResult is what a test of a [Rollout] has found at all weights so far.
type TestResult struct {
	Evidence float64 `json:"evidence"` // against canary: 1 says nothing, Verdict.Needed rejects it
	Stable   uint64  `json:"stable"`   // events that count at this weight: one for each bucket
	Canary   uint64  `json:"canary"`
}

// An ArmReport is what one arm did at the present weight, of the requests that are compared.
type ArmReport struct {
	Requests uint64        `json:"requests"` // without those that were shed or canceled
	Failed   uint64        `json:"failed"`
	Shed     uint64        `json:"shed"`
	Canceled uint64        `json:"canceled"`
	P50      time.Duration `json:"p50_ns"` // until the answer began
	P95      time.Duration `json:"p95_ns"`
	P99      time.Duration `json:"p99_ns"`
}

func (a *ArmReport) rate() string {
	return fmt.Sprintf("%.4g %%", 100*float64(a.Failed)/float64(max(a.Requests, 1)))
}

func (t *armTally) report() ArmReport {
	return ArmReport{
		Requests: t.requests, Failed: t.failed, Shed: t.shed, Canceled: t.canceled,
		P50: quantile(t.durations[:], 0.50), P95: quantile(t.durations[:], 0.95),
		P99: quantile(t.durations[:], 0.99),
	}
}

// A position is where a rollout is, for a verdict about it.
type position struct {
	cfg   *RolloutConfig
	state *RolloutState
	time  time.Duration // at this weight
	floor string        // what the floor has found; "" if nothing

	judged      Decision
	judgedSaid  string
	replicas    int
	storeIsDown bool
}

// verdict judges a release by all that is known of it at its present weight.
func (p *position) verdict(t *tally, now time.Time) Verdict {
	v := Verdict{
		Decision: Hold, Missing: []string{}, At: now, Epoch: p.state.Epoch, Weight: p.state.Weight,
		Time: p.time, Replicas: p.replicas, Needed: 1 / p.cfg.Alpha,
		Errors:  p.test(&t.errors, p.state.ErrorsBefore),
		Latency: p.test(&t.slow, p.state.LatencyBefore),
		Stable:  t.arms[0].report(), Canary: t.arms[1].report(),
	}
	tail, ratio := p.slower(t)
	switch {
	case p.floor != "":
		v.reject(ReasonFloor, "canary is broken: "+p.floor)
	case v.Errors.Evidence >= v.Needed:
		v.reject(ReasonErrors, fmt.Sprintf("canary fails more often: %s of its %d requests failed and %s of "+
			"stable's %d; errors in %d and %d buckets of keys are evidence of %.0f, and %.0f is enough",
			v.Canary.rate(), v.Canary.Requests, v.Stable.rate(), v.Stable.Requests, v.Errors.Canary,
			v.Errors.Stable, v.Errors.Evidence, v.Needed))
	case v.Latency.Evidence >= v.Needed && tail != "":
		v.reject(ReasonLatency, fmt.Sprintf("canary is slower: its %s of %d requests is %.2f times that of "+
			"stable's %d; slow requests in %d and %d buckets of keys are evidence of %.0f, and %.0f is "+
			"enough",
			tail, v.Canary.Requests, ratio, v.Stable.Requests, v.Latency.Canary, v.Latency.Stable,
			v.Latency.Evidence, v.Needed))
	case p.judged == RejectRelease:
		v.reject(ReasonJudge, p.judgedSaid)
	case p.state.Step < 0:
		v.advance("no step has begun")
	default:
		p.minimums(&v, tail)
	}
	return v
}

func (v *Verdict) reject(reason Reason, text string) {
	v.Decision, v.Reason, v.Text = RejectRelease, reason, text
}

func (v *Verdict) advance(text string) { v.Decision, v.Reason, v.Text = Advance, ReasonStep, text }

// test returns what one test has found, with the evidence of earlier weights.
func (p *position) test(t *testTally, before float64) TestResult {
	canary, stable := t.buckets.count(p.state.weight())
	r := TestResult{
		Evidence: before, Canary: uint64(canary) + t.singles[1], Stable: uint64(stable) + t.singles[0],
	}
	if p.state.Period > 0 {
		r.Evidence += share(p.state.Period) * math.Exp(min(logEvidence(p.state.weight(), t), 600))
	}
	return r
}

// slower returns the percentile whose ratio exceeds Tolerance by more than its own uncertainty,
// with the ratio; "" if there is none.
func (p *position) slower(t *tally) (tail string, ratio float64) {
	stable, canary := t.arms[0].durations[:], t.arms[1].durations[:]
	for _, q := range percentiles {
		low := quantile(canary, q.at-spread(q.at, sum(canary)))
		high := quantile(stable, q.at+spread(q.at, sum(stable)))
		if low == 0 || high == 0 || float64(low) <= p.cfg.Tolerance*float64(high) {
			continue
		}
		if x := float64(quantile(canary, q.at)) / float64(quantile(stable, q.at)); x > ratio {
			tail, ratio = q.name, x
		}
	}
	return tail, ratio
}

var percentiles = [...]struct {
	name string
	at   float64
}{{"median", 0.5}, {"95th percentile", 0.95}, {"99th percentile", 0.99}}

// spread returns how far the share of n durations that lie below their quantile q may be from q:
// 2.5 standard deviations. A release that is slower by less than Tolerance must not be rejected
// because its percentile is that of a few requests, at one of many looks.
func spread(q float64, n uint64) float64 {
	if n == 0 {
		return 1
	}
	return 2.5 * math.Sqrt(q*(1-q)/float64(n))
}

// minimums judges whether a step whose release nothing rejects may end.
func (p *position) minimums(v *Verdict, tail string) {
	step := p.cfg.Steps[max(nextStep(p.cfg.Steps, p.state.weight())-1, 0)]
	v.Reason = ReasonData
	if step.MinTime > p.time {
		v.Missing = append(v.Missing, fmt.Sprintf("time: %v of %v", p.time.Round(time.Second), step.MinTime))
	}
	if n := v.Canary.Requests; step.MinRequests > 0 && n < uint64(step.MinRequests) {
		v.Missing = append(v.Missing, fmt.Sprintf("requests to canary: %d of %d", n, step.MinRequests))
	}
	// A release that is as good as stable reaches doubt with a chance of at most 1/doubt. It then
	// waits until the evidence has become less.
	doubt := math.Sqrt(v.Needed)
	if e := v.Errors.Evidence; e >= doubt {
		v.Reason = ReasonDoubt
		v.Missing = append(v.Missing, fmt.Sprintf("an answer about errors: evidence of %.1f is not under "+
			"%.1f and not %.0f", e, doubt, v.Needed))
	}
	if e := v.Latency.Evidence; e >= doubt && tail != "" {
		v.Reason = ReasonDoubt
		v.Missing = append(v.Missing, fmt.Sprintf("an answer about latency: evidence of %.1f is not under "+
			"%.1f and not %.0f", e, doubt, v.Needed))
	}
	if p.judged != Advance {
		v.Reason = ReasonJudge
		v.Missing = append(v.Missing, "the judge: "+p.judgedSaid)
	}
	if len(v.Missing) == 0 {
		if p.storeIsDown {
			v.Missing = append(v.Missing, "the store, which does not answer")
			return
		}
		v.advance(fmt.Sprintf("canary is no worse, as far as %d requests to it and %d to stable tell",
			v.Canary.Requests, v.Stable.Requests))
		return
	}
	v.Text = "it is too early: missing are " + strings.Join(v.Missing, "; ")
	if step.Deadline > 0 && p.time >= step.Deadline+p.state.Extended {
		v.Reason = ReasonDeadline
		v.Text = fmt.Sprintf("%v have not been enough to judge: missing are %s",
			p.time.Round(time.Second), strings.Join(v.Missing, "; "))
	}
}

// A floor watches whether canary is broken, whatever stable does. It looks at stretches of at least
// minFloor requests in minFloorKeys buckets of keys: what was good before does not hide it, and one
// client that fails at everything is no proof.
type floor struct {
	before [2]armTally // without durations
}

const (
	minFloor     = 20
	minFloorKeys = 5
)

// look returns what it has found since the last stretch, as a sentence; "" if canary is not broken,
// or the stretch is too short.
func (f *floor) look(e *evidence, share float64) string {
	if share < 0 {
		return ""
	}
	var failed, unserved, n [2]uint64
	var now [2]armTally
	for i := range e.arms {
		a := &e.arms[i]
		now[i].requests, now[i].failed, now[i].shed = a.requests(), a.failed.Load(), a.shed.Load()
		failed[i] = now[i].failed - f.before[i].failed
		unserved[i] = failed[i] + now[i].shed - f.before[i].shed
		n[i] = now[i].requests - f.before[i].requests + now[i].shed - f.before[i].shed
	}
	var seen, bad, none bucketSet
	e.floorSeen.addTo(&seen)
	keys, _ := seen.count(fullWeight)
	if n[1] < minFloor || keys < minFloorKeys {
		return ""
	}
	defer func() {
		f.before = now
		e.floorSeen.clear()
		e.floorFailed.clear()
		e.floorUnserved.clear()
	}()
	e.floorFailed.addTo(&bad)
	e.floorUnserved.addTo(&none)
	badKeys, _ := bad.count(fullWeight)
	noneKeys, _ := none.count(fullWeight)
	exceeds := func(part, whole uint64) bool { return float64(part) >= share*float64(whole) }
	switch {
	// One client that fails at everything is not a broken release, so its share of keys counts too.
	case exceeds(failed[1], n[1]) && exceeds(uint64(badKeys), uint64(keys)):
		return fmt.Sprintf("%d of its last %d requests failed, in %d of %d buckets of keys", failed[1], n[1],
			badKeys, keys)
	// Requests that were shed count for nothing, unless canary sheds nearly all and stable does
	// not: then it is down, and the breaker or the balancer in front of it says so.
	case exceeds(unserved[1], n[1]) && exceeds(uint64(noneKeys), uint64(keys)) &&
		n[0] > 0 && float64(unserved[0]) < share/2*float64(n[0]):
		return fmt.Sprintf("%d of its last %d requests were not served, in %d of %d buckets of keys, and %d "+
			"of stable's %d", unserved[1], n[1], noneKeys, keys, unserved[0], n[0])
	}
	return ""
}

// A slowness decides which requests are slow: those above the 95th percentile of both arms together
// in the last window.
type slowness struct {
	before [bins]uint64 // of both arms, when the window began
	begun  time.Time
}

const (
	slowWindow  = 10 * time.Second
	minSlowness = 100 // requests, below which a window goes on
)

// look ends a window if it is over.
func (s *slowness) look(e *evidence, now time.Time) {
	if s.begun.IsZero() {
		s.begun = now
	}
	if now.Sub(s.begun) < slowWindow {
		return
	}
	var counts [bins]uint64
	for i := range e.arms {
		e.arms[i].durations.addTo(counts[:])
	}
	window := counts
	for i := range window {
		window[i] -= s.before[i]
	}
	if sum(window[:]) < minSlowness {
		return
	}
	e.slowFrom.Store(int64(binFrom(binOf(quantile(window[:], 0.95)) + 1)))
	s.before, s.begun = counts, now
}
