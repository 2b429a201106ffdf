package balancer

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

// ProbingConfig configures [Probing]. The zero ProbingConfig is valid.
type ProbingConfig struct {
	// Rate is how many hosts are asked for their load when a request is sent. Zero means 3. More than 10 is
	// invalid. What is below 1 makes too few answers to go by.
	Rate float64

	// MaxAge is how long an answer counts at all. Zero means 1 s.
	MaxAge time.Duration

	// Next picks while no answers are at hand: at first, or if the hosts have no [Reporter]. If nil, it is [Adaptive]. It cannot be
	// [Sticky], or Probing.
	Next Policy
}

// Probing returns a policy after Prequal (Wydrowski et al., NSDI 2024): with every request sent, hosts drawn at random are
// asked for their load, and every response tells its host's. Probes do not delay requests. It is for many clients of which each
// sees little of what the hosts do; the hosts need a [Reporter]. Where Prequal takes the least latency of those among a few
// answers that are not the busiest, Probing takes the least (requests in flight + 1)² · latency / weight³, the third
// power of what [Adaptive] computes. Of the requests in flight, the client's own are known exactly and those of others as the host last
// said. An answer loses its force within the time that a request takes, since other clients go by what they have heard too. A host
// that fails the requests of others is passed over before it fails one's own. Hosts are asked if the policy is that of a [Config],
// itself or as the Next of one from this package; to a user's own policy that calls it, it is its Next.
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

// estimator is never one of nothing: what it keeps of failures and pauses, and forgives, is for hosts that have been asked too.
func (p probing) estimator() estimator {
	if e := estimatorOf(p.cfg.Next); e.decay > 0 {
		return e
	}
	return adaptive{}.estimator()
}

func (p probing) prober() *probing { return &p }

func (p probing) validate() error {
	f := settings.Of("balancer", "ProbingConfig")
	if !(p.cfg.Rate > 0 && p.cfg.Rate <= 10) {
		f.Add("Rate", "%v is not above 0 and at most 10", p.cfg.Rate)
	}
	settings.NotNegative(f, "MaxAge", p.cfg.MaxAge)
	if err := validateNext(p.cfg.Next); err != nil {
		f.Nest("Next", err)
	} else if proberOf(p.cfg.Next) != nil {
		f.Add("Next", "is Probing itself, and would ask no others")
	}
	return f.Err()
}

// proberOf returns what p probes with, if it does.
func proberOf(p Policy) *probing {
	if p, ok := p.(interface{ prober() *probing }); ok {
		return p.prober()
	}
	return nil
}

func (p probing) Pick(v *View, r *http.Request) int {
	// There are none if a Reload has just taken p away, or if it is a user's own policy that calls p.
	if probes := v.group.set.Load().probes; probes != nil {
		probes.want(v)
		if i := probes.pick(v); i >= 0 {
			v.reason = "probe"
			return i
		}
	}
	return p.cfg.Next.Pick(v, r)
}

const (
	// probeWorkers bounds the probes of a target at once.
	probeWorkers = 8
	// After so many probes without an answer only one in so many is sent.
	probePatience = 64
	// answerShare is what an answer counts in the mean of all.
	answerShare = 1.0 / 64
)

// probes are what a group knows of all hosts by their answers, and the questions it wants to ask.
type probes struct {
	cfg ProbingConfig
	ask chan *host // who is to be asked now; full when probes take too long

	silent  atomic.Int64 // probes asked for since the last answer
	last    atomic.Int64 // when that came; zero if none has
	others  atomicFloat  // mean of the answers: requests of other clients at a host
	latency atomicFloat  // ns: mean of the answers
	failing atomicFloat  // mean of the answers
}

// A report is what a host has last said.
type report struct {
	at      atomic.Int64  // when; zero if it has not
	others  atomicFloat32 // requests there that were not ours
	latency atomicFloat32 // ns
	failing atomicFloat32 // share of the requests there that failed lately
}

func newProbes(cfg ProbingConfig) *probes {
	return &probes{cfg: cfg, ask: make(chan *host, 2*probeWorkers)}
}

// pick returns the best host by what the hosts have said, or -1 if none has of late.
func (p *probes) pick(v *View) int {
	if p.last.Load() < v.now-int64(p.cfg.MaxAge) || p.last.Load() == 0 {
		return -1
	}
	mean, typical, failing := p.others.Load(), max(p.latency.Load(), 1), p.failing.Load()
	shared := v.group.shared.Load()
	best, least := -1, 0.0
	look := func(i int) {
		h := v.hosts[i]
		at := h.report.at.Load()
		if at == 0 || v.now-at > int64(p.cfg.MaxAge) || v.avoids && v.Avoided(i) {
			return
		}
		// Older news are nearer to the mean: the best of many answers would else be an old one, and many would go by it.
		age := float64(max(v.now-at, 0)) / typical
		fresh := 1 / (1 + age + age*age/2) // about exp(-age)
		others := mean + (h.report.others.Load()-mean)*fresh
		latency := typical + (h.report.latency.Load()-typical)*fresh
		if f := h.penalty.Load(); f > 1 { // who fails at once must not look idle and fast
			others = max(others, mean)
			if !shared {
				latency = max(latency, typical)
			}
			latency *= f
		}
		if h.coolUntil.Load() != 0 {
			latency *= maxCost
		}
		if !shared { // what most fail is the fault of what they share
			latency *= 1 + (maxCost-1)*max(h.report.failing.Load()-3*failing, 0)
		}
		w := h.weight()
		n := (float64(h.inflight.Load()) + others + 1) / w
		if s := n * n * latency / w; best < 0 || s < least {
			best, least = i, s
		}
	}
	if n := len(v.hosts); n > scanLimit {
		start := v.below(n)
		for k := range scanLimit {
			look((start + k) % n)
		}
		return best
	}
	for i := range v.hosts {
		look(i)
	}
	return best
}

// want draws the hosts to be asked.
func (p *probes) want(v *View) {
	rate := p.cfg.Rate
	if p.silent.Load() > probePatience {
		rate /= probePatience
	}
	for n := int(rate + unit(v.Rand())); n > 0; n-- {
		select {
		case p.ask <- v.hosts[v.below(len(v.hosts))]:
			p.silent.Add(1)
		default:
			return
		}
	}
}

// answered enters what h has said of itself when it had own requests of ours.
func (p *probes) answered(h *host, l load, own, now int64) {
	others, latency := float64(max(l.inflight-own, 0)), float64(l.latency)
	share := answerShare
	if p.last.Load() == 0 {
		share = 1
	}
	if latency == 0 { // nothing is known yet
		latency = p.latency.Load()
	}
	p.others.Store(p.others.Load() + (others-p.others.Load())*share)
	p.latency.Store(p.latency.Load() + (latency-p.latency.Load())*share)
	p.failing.Store(p.failing.Load() + (l.failing-p.failing.Load())*answerShare) // one that fails does not stand for all
	h.report.others.Store(others)
	h.report.latency.Store(latency)
	h.report.failing.Store(l.failing)
	h.report.at.Store(now)
	p.last.Store(max(now, 1))
	p.silent.Store(0)
}

// heard takes note of the load that a response of h brings, and keeps it from going further. own is how many requests of ours h
// had when it spoke.
func (g *group) heard(h *host, header http.Header, own, now int64) {
	values := header[LoadHeader]
	if len(values) == 0 {
		return
	}
	delete(header, LoadHeader)
	probes := g.set.Load().probes
	if probes == nil || len(values) != 1 {
		return
	}
	if l, err := parseLoad(values[0]); err == nil {
		probes.answered(h, l, own, now)
	}
}

// askLoads asks hosts for their loads until ctx ends.
func (p *pool) askLoads(ctx context.Context, probes *probes) {
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-probes.ask:
			p.askLoad(ctx, probes, h)
		}
	}
}

func (p *pool) askLoad(ctx context.Context, probes *probes, h *host) {
	ctx, cancel := context.WithTimeout(ctx, min(probes.cfg.MaxAge, time.Second))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.name+LoadPath, nil)
	if err != nil {
		return
	}
	req.Header.Set("User-Agent", "Trivet-Probe")
	resp, err := h.wire.Load().conns.RoundTrip(req)
	if err != nil {
		return // who does not answer is not in the pool
	}
	p.g.heard(h, resp.Header, h.inflight.Load(), p.b.now())
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) // so that the connection can be used again
	resp.Body.Close()
}
