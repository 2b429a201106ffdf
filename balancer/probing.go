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

// Probing returns the policy of Prequal (Wydrowski et al., NSDI 2024): with every request sent, hosts drawn at random are asked
// for their load, and the next ones go by the answers. Of the hosts that have not more requests in
// flight than most do, it takes the one with the least latency; if all have more, the one with the fewest. Its probes
// do not delay requests. It is for many clients of which each sees little of
// what the hosts do; the hosts need a [Reporter].
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
	// Of the answers' requests in flight, hotShare are no more than what makes a host hot. Prequal's 2^-0.25.
	hotShare = 0.84
	// The pool holds a sixth of the hosts, within these bounds: of more, the best would often be an old answer.
	minAnswers, maxAnswers = 2, 16
	// An answer is used again if fewer come than go: so many requests beyond their number may be.
	spareUses = 1
	// probeWorkers bounds the probes of a target at once.
	probeWorkers = 8
	// After so many probes without an answer only one in so many is sent.
	probePatience = 64
)

// probes are the answers that a group has.
type probes struct {
	cfg ProbingConfig
	ask chan *host // who is to be asked now; full when probes take too long

	mu      sync.Mutex // guards the fields below
	pool    []answer   // the oldest first, one a host
	owed    float64    // probes
	silent  int        // probes asked for since the last answer
	oldest  bool       // what the next removal takes, else the worst
	seen    [64]uint8  // the last answers' requests in flight, a ring
	at, all int        // its next place, and how full it is
	count   [256]uint8 // of each value in the ring
}

type answer struct {
	host *host
	load
	at   int64
	uses int
}

func newProbes(cfg ProbingConfig) *probes {
	return &probes{cfg: cfg, ask: make(chan *host, 2*probeWorkers)}
}

// pick returns the best host of v that has answered, or -1, and asks for more answers.
func (p *probes) pick(v *View) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.askLocked(v)
	n := len(v.hosts)
	hot := p.hotLocked()
	for len(p.pool) > 0 {
		a := 0
		for k := range p.pool[1:] {
			if p.pool[k+1].before(&p.pool[a], hot) {
				a = k + 1
			}
		}
		h := p.pool[a].host
		i := slices.Index(v.hosts, h)
		if i < 0 || v.Avoided(i) {
			p.removeLocked(a)
			continue
		}
		p.pool[a].inflight++
		p.pool[a].uses++
		if p.pool[a].uses >= p.budget(n, v.Rand()) {
			p.removeLocked(a)
		}
		p.trimLocked(hot)
		return i
	}
	return -1
}

// budget returns how often an answer may be used, so that they last: Prequal's formula, rounded at random.
func (p *probes) budget(n int, bits uint64) int {
	m := float64(answers(n))
	left := (1-m/float64(n))*p.cfg.Rate - 1
	if left <= 0 {
		return math.MaxInt // MaxAge ends it
	}
	return int(max(1, (1+spareUses)/left) + unit(bits))
}

func answers(n int) int { return min(max(n/6, minAnswers), maxAnswers) }

// before reports whether a is the better answer. A host that has failed requests counts as that much busier and slower.
func (a *answer) before(b *answer, hot float64) bool {
	pa, pb := max(a.host.penalty.Load(), 1), max(b.host.penalty.Load(), 1)
	ra, rb := float64(a.inflight+1)*pa, float64(b.inflight+1)*pb
	switch ha, hb := ra > hot+1, rb > hot+1; {
	case ha != hb:
		return hb
	case ha:
		return ra < rb
	}
	return float64(a.latency)*pa < float64(b.latency)*pb
}

// hotLocked returns the number of requests in flight above which a host is hot.
func (p *probes) hotLocked() float64 {
	below, want := 0, int(math.Ceil(hotShare*float64(p.all)))
	for v, c := range p.count {
		if below += int(c); below >= want {
			return float64(v)
		}
	}
	return 0
}

// trimLocked takes one answer out with every pick, by turns the oldest and the worst: else the pool would fill with bad ones.
func (p *probes) trimLocked(hot float64) {
	if len(p.pool) < minAnswers {
		return
	}
	a := 0
	if p.oldest = !p.oldest; !p.oldest {
		for k := range p.pool[1:] {
			if p.pool[a].before(&p.pool[k+1], hot) {
				a = k + 1
			}
		}
	}
	p.removeLocked(a)
}

func (p *probes) removeLocked(a int) { p.pool = slices.Delete(p.pool, a, a+1) }

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

// answered enters what h has said of itself, among hosts others.
func (p *probes) answered(h *host, l load, now int64, hosts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = 0
	if p.all == len(p.seen) {
		p.count[p.seen[p.at]]--
	} else {
		p.all++
	}
	p.seen[p.at] = uint8(min(l.inflight, 255))
	p.count[p.seen[p.at]]++
	p.at = (p.at + 1) % len(p.seen)

	if a := slices.IndexFunc(p.pool, func(a answer) bool { return a.host == h }); a >= 0 {
		p.removeLocked(a)
	}
	for len(p.pool) >= answers(hosts) {
		p.removeLocked(0)
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
