package balancer

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

// ProbingConfig configures [Probing]. The zero ProbingConfig is valid.
type ProbingConfig struct {
	// Rate is how many endpoints are asked for their load when a request is sent. Zero means 3.
	// Negative is invalid, and so is more than 10. Less than 1 gives too few answers to go by.
	Rate float64

	// MaxAge is how long an answer counts at all. Zero means 1 s. Negative is invalid.
	MaxAge time.Duration

	// Next picks while no answers are at hand: at first, or if the endpoints have no [Reporter]. If
	// nil, it is [Adaptive]. It cannot be [Sticky], or Probing.
	Next Policy
}

// Probing returns a policy after Prequal (Wydrowski et al., NSDI 2024). With every request sent,
// endpoints drawn at random are asked for their load, and every response tells its endpoint's.
// Probes do not delay requests. Probing is for many clients of which each sees little of what the
// endpoints do. The endpoints need a [Reporter].
//
// Of a few answers, Prequal takes the least latency among those that are not the busiest. Probing
// takes the least (requests in flight + 1)² · latency / weight³, the third power of what [Adaptive]
// computes. Of the requests in flight, the client's own are known exactly and those of others as
// the endpoint last said. An answer loses its force within the time that a request takes, since
// other clients go by what they have heard too. An endpoint that fails the requests of others is
// passed over before it fails one's own.
//
// Probes are sent only if Probing is [Config.Policy] or the Next of [Hash] or [Sticky]. Called from
// your own policy, it acts as its Next.
func Probing(cfg ProbingConfig) Policy {
	if cfg.Rate == 0 {
		cfg.Rate = 3
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = time.Second
	}
	if cfg.Next == nil {
		cfg.Next = Adaptive()
	}
	return probing{cfg}
}

type probing struct{ cfg ProbingConfig }

func (p probing) validate() error {
	f := settings.Of("balancer", "ProbingConfig")
	if !(p.cfg.Rate > 0 && p.cfg.Rate <= 10) {
		f.Add("Rate", "%v is not above 0 and at most 10", p.cfg.Rate)
	}
	settings.NotNegative(f, "MaxAge", p.cfg.MaxAge)
	if err := validateNext(p.cfg.Next); err != nil {
		f.Nest("Next", err)
	} else if traitsOf(p.cfg.Next).probing != nil {
		f.Add("Next", "is Probing itself, and would ask no others")
	}
	return f.Err()
}

// traits always have an estimator: the penalties that it keeps must reach endpoints that are picked
// by their answers too.
func (p probing) traits() traits {
	t := traits{estimator: traitsOf(p.cfg.Next).estimator, probing: &p.cfg}
	if t.estimator.decay == 0 {
		t.estimator = rootEstimator
	}
	return t
}

func (p probing) Pick(v *View, r *http.Request) int {
	if probes := v.config.probes; probes != nil { // nil if a user's own policy calls p
		probes.want(v)
		if i := probes.pick(v); i >= 0 {
			v.reason = ReasonProbe
			return i
		}
	}
	return p.cfg.Next.Pick(v, r)
}

const (
	// probeWorkers bounds the probes of a target at once.
	probeWorkers = 8

	// After probePatience probes without an answer only one in as many is sent.
	probePatience = 64

	// answerWeight is the weight of one answer in the mean of all.
	answerWeight = 1.0 / 64
)

// probes are what a group knows of all endpoints by their answers, and the endpoints that it wants
// to ask.
type probes struct {
	cfg  ProbingConfig
	asks chan *endpoint // to be asked now; full when probes take too long

	unanswered atomic.Int64 // probes asked for since the last answer
	last       atomic.Int64 // when that came; zero if none has
	others     atomicFloat  // mean of the answers: requests of other clients at an endpoint
	latency    atomicFloat  // ns: mean of the answers
	failing    atomicFloat  // mean of the answers
}

func newProbes(cfg ProbingConfig) *probes {
	return &probes{cfg: cfg, asks: make(chan *endpoint, 2*probeWorkers)}
}

// want draws the endpoints to be asked.
func (p *probes) want(v *View) {
	rate := p.cfg.Rate
	if p.unanswered.Load() > probePatience {
		rate /= probePatience
	}
	for n := int(rate + unit(v.Rand())); n > 0; n-- {
		select {
		case p.asks <- v.endpoints[v.below(len(v.endpoints))]:
			p.unanswered.Add(1)
		default:
			return
		}
	}
}

// pick returns the best endpoint by the answers, or -1 if there is none that is young enough.
func (p *probes) pick(v *View) int {
	if p.last.Load() < v.now-int64(p.cfg.MaxAge) || p.last.Load() == 0 {
		return -1
	}
	mean, typical, failing := p.others.Load(), max(p.latency.Load(), 1), p.failing.Load()
	commonFault := v.group.commonFault.Load()
	best, least := -1, 0.0
	look := func(i int) {
		e := v.endpoints[i]
		at := e.answer.at.Load()
		if at == 0 || v.now-at > int64(p.cfg.MaxAge) || v.avoids && v.Avoided(i) {
			return
		}
		// The older an answer, the nearer it is taken to be to the mean. Otherwise the best of many
		// answers would be an old one, and many clients would go by it.
		age := float64(max(v.now-at, 0)) / typical
		fresh := 1 / (1 + age + age*age/2) // about exp(-age)
		others := mean + (e.answer.others.Load()-mean)*fresh
		latency := typical + (e.answer.latency.Load()-typical)*fresh
		if f := e.penalty.Load(); f > 1 { // what fails at once must not look idle and fast
			others = max(others, mean)
			if !commonFault {
				latency = max(latency, typical)
			}
			latency *= f
		}
		if e.pauseUntil.Load() != 0 {
			latency *= maxCost
		}
		if !commonFault { // otherwise failures say nothing of the endpoint
			latency *= 1 + (maxCost-1)*max(e.answer.failing.Load()-3*failing, 0)
		}
		w := e.weight()
		n := (float64(e.inFlight.Load()) + others + 1) / w
		if s := n * n * latency / w; best < 0 || s < least {
			best, least = i, s
		}
	}
	if n := len(v.endpoints); n > scanLimit {
		start := v.below(n)
		for k := range scanLimit {
			look((start + k) % n)
		}
		return best
	}
	for i := range v.endpoints {
		look(i)
	}
	return best
}

// answered enters what e has said of itself when it had ours requests of this client.
func (p *probes) answered(e *endpoint, l load, ours, now int64) {
	others, latency := float64(max(l.inFlight-ours, 0)), float64(l.latency)
	weight := answerWeight
	if p.last.Load() == 0 {
		weight = 1
	}
	if latency == 0 { // e does not know it yet
		latency = p.latency.Load()
	}
	p.others.Store(p.others.Load() + (others-p.others.Load())*weight)
	p.latency.Store(p.latency.Load() + (latency-p.latency.Load())*weight)
	// The first answer may be that of the one endpoint that fails, and does not stand for all.
	p.failing.Store(p.failing.Load() + (l.failing-p.failing.Load())*answerWeight)
	e.answer.others.Store(others)
	e.answer.latency.Store(latency)
	e.answer.failing.Store(l.failing)
	e.answer.at.Store(now)
	p.last.Store(max(now, 1))
	p.unanswered.Store(0)
}

// noteLoad takes the load that a response of e brings out of its header: it is not meant for the
// client. ours is how many requests of this client e had when it answered.
func (c *groupConfig) noteLoad(e *endpoint, header http.Header, ours, now int64) {
	values := header[LoadHeader]
	delete(header, LoadHeader)
	if c.probes == nil || len(values) != 1 {
		return
	}
	if l, err := parseLoad(values[0]); err == nil {
		c.probes.answered(e, l, ours, now)
	}
}

// probe asks endpoints for their loads until ctx ends.
func (p *pool) probe(ctx context.Context, probes *probes) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-probes.asks:
			p.probeOnce(ctx, probes, e)
		}
	}
}

func (p *pool) probeOnce(ctx context.Context, probes *probes, e *endpoint) {
	ctx, cancel := context.WithTimeout(ctx, min(probes.cfg.MaxAge, time.Second))
	defer cancel()
	rt := checkConns{e.transport.Load().conns}
	resp, err := ask(ctx, rt, p.target, "", http.MethodGet, LoadPath, "Trivet-Probe")
	if err != nil {
		return // an endpoint that does not answer has no answer to be picked by
	}
	p.group.config.Load().noteLoad(e, resp.Header, e.inFlight.Load(), p.balancer.now())
}
