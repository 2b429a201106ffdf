package balancer

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ProbingConfig configures [Probing]. The zero ProbingConfig is valid.
type ProbingConfig struct {
	// Rate is how many hosts are asked for their load when a request is sent. Zero means 3. More than 10 is
	// invalid. What is below 1 makes too few answers to go by.
	Rate float64

	// MaxAge is how long an answer counts. Zero means 1 s.
	MaxAge time.Duration

	// Next picks while no answers are at hand: at first, or if the hosts have no [Reporter]. If nil, it is [Adaptive].
	Next Policy
}

// Probing returns a policy after Prequal (Wydrowski et al., NSDI 2024): with every request sent, hosts drawn at random are
// asked for their load, and the next requests go by the answers, each of which is used once. Probes
// do not delay requests. It is for many clients of which each sees little of what the hosts do; the hosts
// need a [Reporter]. Where Prequal takes the least latency of the hosts that are not among the busiest, Probing takes the least
// of what [Adaptive] computes, with the host's own figures: in simulations that halves p99.9.
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

func (p probing) estimator() estimator { return estimatorOf(p.cfg.Next) }

func (p probing) prober() *probing { return &p }

func (p probing) validate() error {
	var errs []error
	if !(p.cfg.Rate > 0 && p.cfg.Rate <= 10) {
		errs = append(errs, errors.New("ProbingConfig.Rate: must be above 0 and at most 10"))
	}
	if p.cfg.MaxAge < 0 {
		errs = append(errs, errors.New("ProbingConfig.MaxAge: is negative"))
	}
	return errors.Join(errs...)
}

// proberOf returns what p probes with, if it does.
func proberOf(p Policy) *probing {
	if p, ok := p.(interface{ prober() *probing }); ok {
		return p.prober()
	}
	return nil
}

func (p probing) Pick(v *View, r *http.Request) int {
	if i := v.group.set.Load().probes.pick(v); i >= 0 {
		v.reason = "probe"
		return i
	}
	return p.cfg.Next.Pick(v, r)
}

const (
	// The pool holds a sixth of the hosts, within these bounds: of more, the best would often be an old answer.
	minAnswers, maxAnswers = 2, 16
	// probeWorkers bounds the probes of a target at once.
	probeWorkers = 8
	// After so many probes without an answer only one in so many is sent.
	probePatience = 64
)

// probes are the answers that a group has, and the questions it wants to ask.
type probes struct {
	cfg ProbingConfig
	ask chan *host // who is to be asked now; full when probes take too long

	mu     sync.Mutex // guards the fields below
	pool   []answer   // the oldest first, one a host
	owed   float64    // probes
	silent int        // probes asked for since the last answer
}

type answer struct {
	host *host
	load
	at int64
}

func newProbes(cfg ProbingConfig) *probes {
	return &probes{cfg: cfg, ask: make(chan *host, 2*probeWorkers)}
}

// pick returns the best host of v that has answered, or -1, and asks for more answers. It uses an answer once.
func (p *probes) pick(v *View) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.askLocked(v)
	for len(p.pool) > 0 {
		best, least := 0, math.Inf(1)
		for k := range p.pool {
			if s := p.pool[k].score(v); s < least {
				best, least = k, s
			}
		}
		h := p.pool[best].host
		p.pool = slices.Delete(p.pool, best, best+1)
		if i := slices.Index(v.hosts, h); i >= 0 && !v.Avoided(i) {
			return i
		}
	}
	return -1
}

// score is the third power of Adaptive's score, by what the host itself has said: (n+1) · ∛(latency/(n+1)) / weight.
// A host that has failed requests counts as that much slower.
func (a *answer) score(v *View) float64 {
	latency := float64(a.latency)
	if latency == 0 {
		latency = max(v.group.typical.Load(), 1)
	}
	n, w := float64(a.inflight+1), a.host.weight()
	return n * n * latency * max(a.host.penalty.Load(), 1) / (w * w * w)
}

func answers(n int) int { return min(max(n/6, minAnswers), maxAnswers) }

// askLocked draws the hosts to be asked.
func (p *probes) askLocked(v *View) {
	rate := p.cfg.Rate
	if p.silent > probePatience {
		rate /= probePatience
	}
	for p.owed += rate; p.owed >= 1; p.owed-- {
		select {
		case p.ask <- v.hosts[v.below(len(v.hosts))]:
			p.silent++
		default:
			p.owed = 1
		}
	}
}

// answered enters what h, one of so many hosts, has said of itself.
func (p *probes) answered(h *host, l load, now int64, hosts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = 0
	p.pool = slices.DeleteFunc(p.pool, func(a answer) bool { return a.host == h })
	for len(p.pool) >= answers(hosts) {
		p.pool = slices.Delete(p.pool, 0, 1)
	}
	p.pool = append(p.pool, answer{host: h, load: l, at: now})
}

// tick forgets answers that are too old.
func (p *probes) tick(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pool = slices.DeleteFunc(p.pool, func(a answer) bool { return now-a.at > int64(p.cfg.MaxAge) })
}

// heard takes note of the load that a response of h brings, and keeps it from going further.
func (g *group) heard(h *host, header http.Header, now int64) {
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
		probes.answered(h, l, now, len(g.current.Load().all))
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
	p.g.heard(h, resp.Header, p.b.now())
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) // so that the connection can be used again
	resp.Body.Close()
}
