package balancer

import (
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// shunFactor times the typical cost is slow: a host that is so twice in a row is shunned, and
	// its estimate no longer drifts back by itself.
	shunFactor = 4
	// explore is how many picks bring one request to a shunned host (0.2 %), where no active
	// check tells whether it has recovered.
	explore = 512
	// drift is the time constant with which the estimate of a host that gets no requests, and is not shunned, moves to
	// the typical one.
	drift = 2 * time.Second
	// maxCost bounds what silence can make of a cost, in multiples of the typical one, and 2^maxPenalty
	// what failures can make of it. They are forgiven with the time constant forgive.
	maxCost    = 1 << maxPenalty
	maxPenalty = 6
	forgive    = 2 * time.Second
	// silence is how long requests must have gone without any reply to count as a sample.
	silence = 100 * time.Millisecond
	// probationTime bounds how long nothing may be known of a host that gets no requests.
	probationTime = 10 * time.Second

	tickInterval = 100 * time.Millisecond

	// checkKeep is the weight of earlier checks against a further one in the average of their latencies.
	checkKeep = 1 / math.E
)

// A group decides which of a target's hosts gets a request, and learns from what became of it. It
// has no goroutines, reads no clock and opens no connection: the times are arguments, so that a simulator can
// drive it.
type group struct {
	random func() uint64

	set     atomic.Pointer[groupConfig]
	current atomic.Pointer[snapshot]
	held    atomic.Int64 // hosts for which held is true
	shared  atomic.Bool  // most hosts have failed requests of late: the fault is in what they share
	typical atomicFloat  // the lower median of the hosts' costs; zero when nothing is known

	sequence atomic.Uint64 // for policies that go round

	mu           sync.Mutex // guards the fields below, and what host says
	hosts        []*host    // sorted by address
	panicking    bool
	spill        float64 // share moved from the first tier to the next by load
	loadRatio    float64 // of those tiers, lately
	lastInterval int64
	lastTick     int64
	ejectTotal   uint64
	events       []Event // collected under mu, sent by whoever unlocks

	pending atomic.Bool // there are events: who has no other business with mu need not look
}

// A groupConfig is what a group reads of its Config. Reload replaces them as a whole.
type groupConfig struct {
	cfg    *Config
	est    estimator
	health bool
	probes *probes // nil unless the policy is Probing
	// What the policy can do beyond Pick; nil if it cannot.
	finder interface {
		find(s *snapshot, r *http.Request) (tier, index int)
	}
	drawer interface {
		draw(r *http.Request) (uint64, bool)
	}
}

func newGroupConfig(cfg *Config) *groupConfig {
	s := &groupConfig{cfg: cfg, est: estimatorOf(cfg.Policy), health: cfg.Health.enabled()}
	s.est.perDecay = 1 / max(float64(s.est.decay), 1)
	s.finder, _ = cfg.Policy.(interface {
		find(s *snapshot, r *http.Request) (tier, index int)
	})
	if p := proberOf(cfg.Policy); p != nil {
		s.probes = newProbes(p.cfg)
	}
	s.drawer, _ = cfg.Policy.(interface {
		draw(r *http.Request) (uint64, bool)
	})
	return s
}

// A snapshot is what picks see of a group. It never changes.
type snapshot struct {
	tiers []tier // at least one; the first is the preferred one
	all   []*host
	panic bool
}

type tier struct {
	hosts     []*host
	maxWeight uint32  // of hosts
	uniform   bool    // all weights are the same
	upTo      float64 // the tier gets the draws from its predecessor's upTo to its own
}

func newGroup(cfg *Config) *group {
	g := &group{random: rand.Uint64}
	g.set.Store(newGroupConfig(cfg))
	g.sequence.Store(g.random() >> 1) // so that many clients do not all start at the first host
	return g
}

// updateLocked makes endpoints the group's set and returns the hosts that are new, those that are not quite what
// they were, and those that have left. connect prepares a host for requests before anybody can see it.
func (g *group) updateLocked(endpoints []Endpoint, now int64, connect func(*host)) (added, changed, removed []*host) {
	first := g.current.Load() == nil
	old := make(map[string]*host, len(g.hosts))
	for _, h := range g.hosts {
		old[h.endpoint().Addr] = h
	}
	hosts := make([]*host, 0, len(endpoints))
	seen := make(map[string]bool, len(endpoints))
	for _, e := range endpoints {
		if seen[e.Addr] {
			continue
		}
		seen[e.Addr] = true
		h := old[e.Addr]
		switch {
		case h == nil:
			h = g.newHost(e, now)
			if !first {
				h.down = g.set.Load().health || g.set.Load().cfg.Warm > 0 // until its first check or warm-up
				g.rampLocked(h, now)
			}
			connect(h)
			added = append(added, h)
		case !h.endpoint().equal(e):
			g.castLocked(h, e)
			changed = append(changed, h)
		}
		hosts = append(hosts, h)
	}
	for addr, h := range old {
		if !seen[addr] {
			removed = append(removed, h)
			g.releaseLocked(h)
		}
	}
	slices.SortFunc(hosts, func(a, b *host) int { return strings.Compare(a.endpoint().Addr, b.endpoint().Addr) })
	g.hosts = hosts
	g.publishLocked(now)
	return added, changed, removed
}

func (g *group) newHost(e Endpoint, now int64) *host {
	h := &host{hash: hashString(e.Addr), probationAt: now}
	h.ramp.Store(1)
	h.cost.set(0, 1)
	h.probation.Store(true)
	h.held.Store(true)
	g.held.Add(1)
	g.castLocked(h, e)
	return h
}

// castLocked gives h its role under the present settings.
func (g *group) castLocked(h *host, e Endpoint) {
	set := g.set.Load()
	r := &role{endpoint: e, weight: float64(max(e.Weight, 1))}
	if s, ok := set.cfg.Policy.(interface{ hostID(addr string) string }); ok {
		r.sticky = s.hostID(e.Addr)
	}
	h.role.Store(r)
	g.setCost(h, h.cost.Load())
}

// rampLocked starts the slow start of h.
func (g *group) rampLocked(h *host, now int64) {
	h.probation.Store(true)
	h.probationAt = now
	if g.set.Load().cfg.SlowStart > 0 {
		h.rampFrom = now
		h.ramp.Store(rampStart)
	}
	if !h.held.Swap(true) {
		g.held.Add(1)
	}
}

// rampStart is the share with which a slow start begins.
const rampStart = 0.1

// releaseLocked ends h's probation and ramp.
func (g *group) releaseLocked(h *host) {
	h.ramp.Store(1)
	h.probation.Store(false)
	if h.held.Swap(false) {
		g.held.Add(-1)
	}
}

// A picked is one attempt that a group has dispatched.
type picked struct {
	host     *host
	at       int64 // when
	inflight int64 // of the host, this attempt included
	reason   string
	others   int // hosts that the policy chose from
	panic    bool
}

// giveBack undoes what pick has counted.
func (p *picked) giveBack() {
	p.host.picked.Add(^uint64(0))
	p.host.inflight.Add(-1)
}

// pick chooses a host for r (nil in simulations) that is not among tried, if any is left. It returns
// false if the group has no host to offer.
func (g *group) pick(v *View, r *http.Request, tried []*host, now int64) (picked, bool) {
	set, s := g.set.Load(), g.current.Load()
	t, i := 0, -1
	if set.finder != nil && len(tried) == 0 {
		t, i = set.finder.find(s, r)
	}
	if i < 0 {
		t = g.draw(set, s, r)
	}
	v.reset(g, &s.tiers[t], now)
	if len(v.hosts) == 0 {
		return picked{}, false
	}
	if len(tried) > 0 {
		g.avoid(v, s, t, tried)
	} else if i < 0 && g.held.Load() != 0 {
		v.avoid(nil)
	}
	if i >= 0 {
		v.reason = "sticky"
	} else {
		i = g.choose(v, set, r)
	}
	h := v.hosts[i]
	h.picked.Add(1)
	return picked{host: h, at: now, inflight: h.inflight.Add(1), reason: v.reason, others: len(v.hosts), panic: s.panic}, true
}

// draw chooses a tier.
func (g *group) draw(set *groupConfig, s *snapshot, r *http.Request) int {
	if len(s.tiers) == 1 {
		return 0
	}
	bits := g.random()
	if set.drawer != nil {
		if b, ok := set.drawer.draw(r); ok {
			bits = b
		}
	}
	x, t := unit(bits), 0
	for t < len(s.tiers)-1 && x >= s.tiers[t].upTo {
		t++
	}
	return t
}

// choose asks the policy, or explores.
func (g *group) choose(v *View, set *groupConfig, r *http.Request) int {
	if len(v.hosts) == 1 {
		v.reason = "only"
		return 0
	}
	if set.est.decay > 0 && !set.health && v.bits%explore == 0 {
		if i := g.exploreShunned(v); i >= 0 {
			v.reason = "explore"
			return i
		}
	}
	if i := set.cfg.Policy.Pick(v, r); i >= 0 && i < len(v.hosts) {
		return i
	}
	v.reason = "any" // the policy has no opinion
	return v.any()
}

// unit maps random bits to [0, 1).
func unit(bits uint64) float64 { return float64(bits>>11) / (1 << 53) }

// avoid prepares v for a request that has tried some hosts: the rest of its tier, or else of any
// other tier, or else all again.
func (g *group) avoid(v *View, s *snapshot, t int, tried []*host) {
	for k := range s.tiers {
		other := &s.tiers[(t+k)%len(s.tiers)]
		for _, h := range other.hosts {
			if !slices.Contains(tried, h) {
				v.tier, v.hosts = other, other.hosts
				v.avoid(tried)
				return
			}
		}
	}
}

// exploreShunned returns the shunned host that has gone longest without a reply, or -1.
func (g *group) exploreShunned(v *View) int {
	best, oldest := -1, int64(math.MaxInt64)
	for i, h := range v.hosts {
		if at := h.sampled.Load(); h.slow.Load() > 1 && at < oldest && h.inflight.Load() == 0 && !v.Avoided(i) {
			best, oldest = i, at
		}
	}
	return best
}

// reply tells the group what became of an attempt, when its header or error came. took is how long
// that was. cool is the Retry-After of a busy host.
func (g *group) reply(p *picked, now, took int64, out Outcome, cool time.Duration) {
	h := p.host
	switch out {
	case Success:
		if h.failures.Load() != 0 {
			h.failures.Store(0)
		}
		g.sample(h, now, took, p.inflight)
	case Canceled:
		// The reply would have taken longer still.
		if c := h.cost.Load(); c > 0 && float64(took) > c*float64(p.inflight) {
			g.setCost(h, g.set.Load().est.sampleOf(took, p.inflight))
		}
	case Busy:
		h.coolUntil.Store(now + int64(min(max(cool, tickInterval), 10*time.Second))) // one without length is none
		g.penalize(h)
		if g.set.Load().est.decay == 0 && !h.held.Load() { // the policy looks at no score: picks have to pass h over
			g.hold(h)
		}
	case Failure:
		g.fail(p, now, took)
	}
	h.replied.Add(1)
	if (out == Success || out == Failure || out == Busy) && h.probation.Load() {
		g.seen(h)
	}
}

// hold makes picks look closer at h.
func (g *group) hold(h *host) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.memberLocked(h) && !h.held.Swap(true) {
		g.held.Add(1)
	}
}

// finish tells the group that an attempt's body has ended. broken says that it broke off by the host's fault.
func (g *group) finish(p *picked, now int64, broken bool) {
	h := p.host
	h.inflight.Add(-1)
	if broken {
		// Its header was a success, which ended the failures in a row.
		if cut := h.cut.Add(1); cut > h.failures.Load()+1 {
			h.failures.Store(cut - 1)
		}
		g.fail(p, now, 0)
	} else if h.cut.Load() != 0 {
		h.cut.Store(0)
	}
}

func (g *group) fail(p *picked, now, took int64) {
	h := p.host
	h.failed.Add(1)
	n := h.failures.Add(1)
	switch {
	case !g.shared.Load():
		g.penalize(h)
	case took > 0: // that it fails is nothing special
		g.sample(h, now, took, p.inflight)
	}
	if limit := g.set.Load().cfg.Outlier.Consecutive; limit > 0 && (int64(n) >= int64(limit) || h.probation.Load()) && now >= h.spared.Load() {
		g.trip(h, now)
	}
}

func (e *estimator) sampleOf(took, inflight int64) float64 {
	if e.perInflight && inflight > 1 {
		return float64(took) / float64(inflight)
	}
	return float64(took)
}

func (g *group) sample(h *host, now, took, inflight int64) {
	set := g.set.Load()
	if set.est.decay == 0 {
		return
	}
	s := max(set.est.sampleOf(took, inflight), 1)
	if typical := g.typical.Load(); typical > 0 && s > shunFactor*typical {
		h.slow.Add(1)
	} else if h.slow.Load() != 0 {
		h.slow.Store(0)
	}
	est := &set.est
	keep, n := est.keep(now-h.sampled.Load()), h.cost.novelty()
	if !est.peak {
		// Until there are as many replies as the time constant covers they count alike: one that comes after long, or is
		// the first of many in a row, does not stand for all.
		keep = min(keep, 1/(1+n))
		n = n*keep*keep + (1-keep)*(1-keep)
	}
	mean := est.update(h.mean.Load(), est.term(s), keep)
	h.mean.Store(mean)
	h.cost.set(est.latency(mean), n)
	h.sampled.Store(now)
	g.rescore(h, set)
}

// penalize makes h look worse than its latency says, and more so with every failure in a row: a host that fails at once
// must not look fast.
func (g *group) penalize(h *host) {
	set := g.set.Load()
	if set.est.decay == 0 {
		return
	}
	h.penalty.Store(max(h.penalty.Load(), math.Exp2(float64(min(h.failures.Load()+1, maxPenalty)))))
	g.rescore(h, set)
}

// setCost sets what is known of h's latency; zero for nothing.
func (g *group) setCost(h *host, cost float64) {
	set := g.set.Load()
	h.mean.Store(set.est.term(cost))
	h.cost.Store(cost)
	g.rescore(h, set)
}

// rescore enters what is known of h for picks to go by.
func (g *group) rescore(h *host, set *groupConfig) {
	score := h.mean.Load()
	if score == 0 { // unseen: typical until proven otherwise
		score = set.est.term(max(g.typical.Load(), 1))
	}
	if h.coolUntil.Load() != 0 {
		score *= set.est.term(maxCost)
	} else if p := h.penalty.Load(); p > 1 {
		score *= set.est.term(p)
	}
	if w := h.weight(); w != 1 {
		score /= w
	}
	h.score.Store(score)
}

// seen ends h's probation after its first reply. A ramp goes on, and so does a pause.
func (g *group) seen(h *host) {
	h.probation.Store(false)
	if h.ramp.Load() >= 1 && h.coolUntil.Load() == 0 && h.held.Swap(false) {
		g.held.Add(-1)
	}
}

// tickLocked is the upkeep of a group, called every tickInterval while there are requests.
func (g *group) tickLocked(now int64) {
	since := now - g.lastTick
	g.lastTick = now
	g.typical.Store(g.medianLocked())
	typical := g.typical.Load()
	changed := false
	for _, h := range g.hosts {
		if h.ejectedUntil != 0 && h.ejectedUntil <= now {
			h.ejectedUntil = 0
			h.failures.Store(0)
			h.cut.Store(0)
			h.reason = ""
			h.returning = true
			h.slow.Store(0)
			if typical > 0 && g.set.Load().est.decay > 0 {
				g.setCost(h, typical)
			}
			g.rampLocked(h, now)
			g.emitLocked(Event{Kind: EndpointChanged, Endpoint: h.endpoint(), State: h.stateLocked(now), Reason: "ejection ended"})
			changed = true
		}
		if h.held.Load() {
			g.tickHeldLocked(h, now)
		}
		if g.set.Load().est.decay > 0 {
			g.tickCostLocked(h, now, since, typical)
		}
	}
	g.tickFailuresLocked(now)
	if o := g.set.Load().cfg.Outlier; now-g.lastInterval >= int64(o.Interval) {
		g.lastInterval = now
		g.judgeLocked(now)
		changed = true
	}
	if g.spillLocked() || changed {
		g.publishLocked(now)
	}
}

func (g *group) tickHeldLocked(h *host, now int64) {
	if h.rampFrom != 0 {
		share := 1.0 // a Reload may have switched slow start off
		if slow := g.set.Load().cfg.SlowStart; slow > 0 {
			share = rampStart + (1-rampStart)*float64(now-h.rampFrom)/float64(slow)
		}
		h.ramp.Store(min(share, 1))
		if share >= 1 {
			h.rampFrom = 0
		}
	}
	if h.probation.Load() && now-h.probationAt > int64(probationTime) {
		h.probation.Store(false)
	}
	if c := h.coolUntil.Load(); c != 0 && c <= now && g.set.Load().est.decay == 0 { // else tickCostLocked ends it
		h.coolUntil.Store(0)
	}
	if !h.probation.Load() && h.ramp.Load() >= 1 && h.coolUntil.Load() == 0 && h.held.Swap(false) {
		g.held.Add(-1)
	}
}

// tickCostLocked moves the cost of hosts that say nothing.
func (g *group) tickCostLocked(h *host, now, since int64, typical float64) {
	if c := h.coolUntil.Load(); c != 0 && c <= now {
		h.coolUntil.Store(0)
		g.setCost(h, h.cost.Load())
	}
	if p := h.penalty.Load(); g.shared.Load() || p < 1.1 {
		h.penalty.Store(1)
	} else {
		h.penalty.Store(1 + (p-1)*math.Exp(-float64(since)/float64(forgive)))
	}
	// Requests that wait longer than a reply should take are a sample of at least that.
	if replied, awaiting := h.replied.Load(), h.awaiting(); awaiting == 0 || replied != h.silentCount || h.silentSince == 0 {
		h.silentCount, h.silentSince = replied, 0
		if awaiting > 0 {
			h.silentSince = now
		}
	} else if silent := now - h.silentSince; silent >= int64(silence) {
		s := g.set.Load().est.sampleOf(silent, awaiting)
		if cost := max(h.cost.Load(), typical); s > 2*cost && typical > 0 {
			g.setCost(h, min(s, maxCost*typical))
			h.sampled.Store(now)
		}
		return
	}
	set, cost := g.set.Load(), h.cost.Load()
	if cost > 0 && typical > 0 && h.slow.Load() < 2 && now-h.sampled.Load() > int64(drift)/2 {
		h.cost.Store(typical + (cost-typical)*math.Exp(-float64(since)/float64(drift)))
		h.mean.Store(set.est.term(h.cost.Load()))
	}
	g.rescore(h, set)
}

// medianLocked returns the lower median of the costs that are known: of two hosts, the faster one's.
func (g *group) medianLocked() float64 {
	costs := make([]float64, 0, len(g.hosts))
	for _, h := range g.hosts {
		if c := h.cost.Load(); c > 0 {
			costs = append(costs, c)
		}
	}
	if len(costs) == 0 {
		return 0
	}
	slices.Sort(costs)
	return costs[(len(costs)-1)/2]
}

func (g *group) emitLocked(e Event) {
	if g.set.Load().cfg.Observe != nil {
		g.events = append(g.events, e)
		g.pending.Store(true)
	}
}

// takeEventsLocked returns the events collected so far, for the caller to send after unlocking.
func (g *group) takeEventsLocked() []Event {
	e := g.events
	g.events = nil
	g.pending.Store(false)
	return e
}

// checkedLocked tells the group how an active check of h went.
func (g *group) checkedLocked(h *host, err error, took, now int64) {
	if !g.memberLocked(h) {
		return
	}
	set := g.set.Load()
	first := !h.checked
	h.checked = true
	if err != nil {
		h.checks, h.checkError = min(h.checks, 0)-1, err.Error()
		if h.down && first || !h.down && -h.checks >= set.cfg.Health.Fall { // pending or available until now
			h.down = true
			g.emitLocked(Event{Kind: EndpointChanged, Endpoint: h.endpoint(), State: Down, Reason: "health check", Err: err})
			g.publishLocked(now)
		}
		return
	}
	h.checks, h.checkError = max(h.checks, 0)+1, ""
	h.probeCost = estimator{}.update(h.probeCost, float64(max(took, 1)), checkKeep)
	if h.down && (first || h.checks >= set.cfg.Health.Rise) {
		h.down = false
		h.failures.Store(0)
		h.cut.Store(0)
		g.rampLocked(h, now)
		g.emitLocked(Event{Kind: EndpointChanged, Endpoint: h.endpoint(), State: h.stateLocked(now), Reason: "health check"})
		g.publishLocked(now)
	}
	g.reviseLocked(h, now)
}

// reviseLocked refreshes the estimate of a shunned host by how its checks compare to those of the others: users' requests
// are not spent on finding out. Should its checks be good and its replies slow, it meets one request per check.
func (g *group) reviseLocked(h *host, now int64) {
	set, typical := g.set.Load(), g.typical.Load()
	if h.slow.Load() < 2 || typical == 0 || set.est.decay == 0 {
		return
	}
	var probes []float64
	for _, o := range g.hosts {
		if o != h && o.probeCost > 0 {
			probes = append(probes, o.probeCost)
		}
	}
	if len(probes) == 0 {
		return
	}
	slices.Sort(probes)
	ratio := h.probeCost / probes[(len(probes)-1)/2]
	if ratio > shunFactor/2 {
		return
	}
	h.slow.Store(0)
	g.setCost(h, typical*max(ratio, 1))
	h.sampled.Store(now)
	h.probation.Store(true)
	h.probationAt = now
	if !h.held.Swap(true) {
		g.held.Add(1)
	}
}

// admit lets a host that waited for its warm-up have requests.
func (g *group) admit(h *host, now int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h.down && !g.set.Load().health {
		h.down = false
		g.emitLocked(Event{Kind: EndpointChanged, Endpoint: h.endpoint(), State: h.stateLocked(now), Reason: "warm-up"})
		g.publishLocked(now)
	}
}
