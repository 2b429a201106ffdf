package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"
)

var (
	// ErrLimited reports that a policy's limit is used up.
	ErrLimited = errors.New("ratelimit: limit used up")

	// ErrNoKey reports that a request has no key for a policy with [MissingReject].
	ErrNoKey = errors.New("ratelimit: request has no key")

	// ErrUnavailable reports that the store failed and a policy says [FailClosed].
	ErrUnavailable = errors.New("ratelimit: store unavailable")
)

// A RefusedError is a refused request. It matches [ErrLimited], [ErrNoKey] or [ErrUnavailable].
type RefusedError struct{ Decision Decision }

func (e *RefusedError) Error() string { return e.reason().Error() }

// Is makes errors.Is tell why.
func (e *RefusedError) Is(target error) bool { return target == e.reason() }

// RetryAfter returns when the request would be admitted; zero if that is unknown or never.
func (e *RefusedError) RetryAfter() time.Duration { return e.Decision.RetryAfter }

func (e *RefusedError) reason() error {
	switch e.Decision.Outcome {
	case NoKey:
		return ErrNoKey
	case Unavailable:
		return ErrUnavailable
	}
	return ErrLimited
}

// A Limiter decides which requests are within their policies. Create one with [New].
// A Limiter is safe for concurrent use and starts no goroutines.
type Limiter struct {
	cfg      Config // read-only after New
	policies []policy
	bodies   [][]byte // problem documents of 429, by the set of violated policies
	jitter   func() float64

	memory   *MemoryStore // the store, if it is one
	store    Store        // the store, if it is another
	local    *MemoryStore // what FailLocal policies fall back on; nil if there is none
	degraded atomic.Bool  // the last decision of store failed

	counts [countStripes]counts // so that cores seldom write to one cache line
	errors atomic.Uint64
	failed atomic.Uint64
	perPol [maxPolicies]atomic.Uint64 // refusals
}

const countStripes = 16

// self returns a number for the calling goroutine. Goroutines have stacks of their own: one mostly keeps
// its number, and those that run at the same time mostly differ. A pool of stripes would cost ten times as much.
func self() uint32 {
	var here byte
	return uint32(uintptr(unsafe.Pointer(&here))>>11) * 0x9e3779b1 >> 16
}

type counts struct {
	outcome [4]atomic.Uint64
	_       [96]byte // two cache lines: the processor fetches pairs
}

// New returns a Limiter. The error, if any, names every invalid field of cfg.
// New copies cfg: changing it afterwards has no effect.
func New(cfg Config) (*Limiter, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Limiter{cfg: cfg, jitter: rand.Float64}
	if cfg.Store == nil {
		if cfg.Store, err = NewMemoryStore(MemoryStoreConfig{}); err != nil {
			return nil, err
		}
	}
	if err := cfg.Store.Prepare(cfg.Policies); err != nil {
		return nil, fmt.Errorf("ratelimit: Config.Store: %w", err)
	}
	if m, ok := cfg.Store.(*MemoryStore); ok {
		l.memory = m
	} else {
		l.store = cfg.Store
		if err := l.prepareLocal(); err != nil {
			return nil, err
		}
	}
	l.policies = make([]policy, len(cfg.Policies))
	for i := range cfg.Policies {
		l.policies[i] = l.derive(cfg.Policies[i])
	}
	l.bodies = problems(cfg.Policies)
	return l, nil
}

// prepareLocal makes what FailLocal policies need.
func (l *Limiter) prepareLocal() error {
	var policies []Policy
	for _, p := range l.cfg.Policies {
		if p.OnError > 0 {
			policies = append(policies, p)
		}
	}
	if policies == nil {
		return nil
	}
	l.local = l.cfg.Local
	if l.local == nil {
		var err error
		if l.local, err = NewMemoryStore(MemoryStoreConfig{}); err != nil {
			return err
		}
	}
	if err := l.local.Prepare(policies); err != nil {
		return fmt.Errorf("ratelimit: Config.Local: %w", err)
	}
	return nil
}

func (l *Limiter) derive(p Policy) policy {
	d := policy{Policy: p, item: `"` + p.Name + `";r=`, header: policyItem(p.Name, p.Rate)}
	if p.Window == GCRA {
		d.grid = p.Rate.grid()
	}
	if l.memory != nil {
		d.table = l.memory.table(p.Name)
	} else if p.OnError > 0 {
		d.table = l.local.table(p.Name)
		d.local = p.Rate.scaled(float64(p.OnError), p.Window)
		if p.Window == GCRA {
			d.localGrid = d.local.grid()
		}
	}
	return d
}

// Take decides r and, if it is admitted, charges it to its keys. It does not read the body. The error
// is not nil if the request cannot be decided at all: a Policy's RateFor or Cost returned an invalid
// value. A store that fails is no error; see [Policy.OnError].
func (l *Limiter) Take(ctx context.Context, r *http.Request) (d Decision, err error) {
	err = l.take(ctx, r, &d)
	return d, err
}

// take is Take into a zero Decision, which is too big to be handed around for nothing.
func (l *Limiter) take(ctx context.Context, r *http.Request, d *Decision) (err error) {
	d.limiter = l
	claims := d.room(len(l.policies))
	n := 0
	for i := range l.policies {
		p := &l.policies[i]
		key, ok := p.Key(r)
		if !ok {
			key = ""
		}
		c := &claims[n]
		keep, outcome := c.start(p, key)
		if outcome == NoKey {
			d.Outcome = NoKey
			d.violated |= 1 << i
		}
		if !keep {
			continue
		}
		n++
		if p.Cost != nil {
			if c.Cost = p.Cost(r); c.Cost < 0 {
				err = errors.Join(err, fmt.Errorf("ratelimit: Config.Policies[%d].Cost: returned %d", i, c.Cost))
			}
		}
		if p.RateFor != nil {
			if e := c.override(p.RateFor(r)); e != nil {
				err = errors.Join(err, fmt.Errorf("ratelimit: Config.Policies[%d].RateFor: returned %w", i, e))
			}
		}
	}
	d.n = uint8(n)
	if err != nil {
		l.errors.Add(1)
		*d = Decision{Outcome: Unavailable, limiter: l}
		return err
	}
	l.decide(ctx, d)
	return nil
}

// TakeKeys decides a request that costs 1 of each policy's Rate and has the given
// keys, one per policy in the order of [Config.Policies]; an empty one is missing.
func (l *Limiter) TakeKeys(ctx context.Context, keys []string) (d Decision, err error) {
	d.limiter = l
	if len(keys) != len(l.policies) {
		l.errors.Add(1)
		d.Outcome = Unavailable
		return d, fmt.Errorf("ratelimit: TakeKeys: %d keys for %d policies", len(keys), len(l.policies))
	}
	claims := d.room(len(l.policies))
	n := 0
	for i := range l.policies {
		keep, outcome := claims[n].start(&l.policies[i], keys[i])
		if outcome == NoKey {
			d.Outcome = NoKey
			d.violated |= 1 << i
		}
		if keep {
			n++
		}
	}
	d.n = uint8(n)
	l.decide(ctx, &d)
	return d, nil
}

// start begins c for key, and reports whether there is anything to claim.
func (c *Claim) start(p *policy, key string) (keep bool, outcome Outcome) {
	if key == "" {
		switch p.Missing {
		case MissingReject:
			return false, NoKey
		case MissingSkip:
			return false, Admitted
		}
		c.shared = true
	}
	c.policy = p
	c.Policy = &p.Policy
	c.Key = key
	c.Rate = p.Rate
	c.grid = &p.grid
	c.Cost = 1
	return true, Admitted
}

// override gives c another rate.
func (c *Claim) override(rate Rate) error {
	if rate == (Rate{}) || rate == c.Rate {
		return nil
	}
	p := c.policy
	rate, err := rate.withDefaults(p.Window)
	if err == nil && p.Window == SlidingWindow && rate.Window != p.Rate.Window {
		err = fmt.Errorf("Window: %v is not the policy's %v", rate.Window, p.Rate.Window)
	}
	if err != nil {
		return err
	}
	c.setRate(rate)
	return nil
}

// setRate gives c the valid rate r.
func (c *Claim) setRate(r Rate) {
	c.Rate = r
	if c.Policy.Window == GCRA {
		g := r.grid()
		c.grid = &g
	}
}

// decide takes d's claims from the store and sums the answers up.
func (l *Limiter) decide(ctx context.Context, d *Decision) {
	var start time.Time
	if l.cfg.Observe != nil {
		start = time.Now()
	}
	switch {
	case d.Outcome == NoKey:
		d.n = 0
	case d.n == 0:
	case l.memory != nil:
		l.takeLocal(l.memory, d.claims())
	default:
		l.takeRemote(ctx, d)
	}
	d.sum()
	l.count(d)
	if l.cfg.Observe != nil {
		l.cfg.Observe(ctx, d.event(time.Since(start)))
	}
}

// takeLocal decides claims in m, at the policies' own rates.
func (l *Limiter) takeLocal(m *MemoryStore, claims []Claim) {
	now := m.now()
	if len(claims) == 1 {
		var w charge
		w.fill(claims[0].policy.table, &claims[0])
		takeOne(now, &w, &claims[0])
		return
	}
	var work [maxPolicies]charge
	for i := range claims {
		work[i].fill(claims[i].policy.table, &claims[i])
	}
	takeAll(now, work[:len(claims)], claims)
}

// Charge charges cost, to every key that d was charged to, for costs that are known only
// afterwards; if policies are named, to the keys of those alone. It may drive a key into debt, which the key's later
// requests wait for. It saturates: at five years of debt, or at what a sliding window counts to. A negative cost
// and the name of no policy are errors: nothing is ever given back. If the store fails, the local count is
// charged and the error returned. A request that was refused is charged nothing.
func (d *Decision) Charge(ctx context.Context, cost int64, policies ...string) error {
	if cost < 0 {
		return fmt.Errorf("ratelimit: Charge: %d is negative", cost)
	}
	if cost == 0 || !d.Allowed || d.n == 0 {
		return nil
	}
	claims := make([]Claim, 0, d.n)
	for _, name := range policies {
		if !slices.ContainsFunc(d.limiter.policies, func(p policy) bool { return p.Name == name }) {
			return fmt.Errorf("ratelimit: Charge: there is no policy %q", name)
		}
	}
	for _, c := range d.claims() {
		if len(policies) == 0 || slices.Contains(policies, c.Policy.Name) {
			c.Cost = cost
			claims = append(claims, c)
		}
	}
	if len(claims) == 0 { // skipped for want of a key
		return nil
	}
	return d.limiter.charge(ctx, claims)
}

func (l *Limiter) charge(ctx context.Context, claims []Claim) error {
	if l.memory == nil {
		err := l.store.Charge(ctx, claims)
		if err != nil {
			l.failed.Add(1)
		}
		l.warm(claims, err != nil)
		return err
	}
	now := l.memory.now()
	for i := range claims {
		var w charge
		w.fill(claims[i].policy.table, &claims[i])
		w.table.charge(now, &w)
	}
	return nil
}

func (l *Limiter) count(d *Decision) {
	l.counts[self()%countStripes].outcome[d.Outcome].Add(1)
	for v, i := d.violated, 0; v != 0; v, i = v>>1, i+1 {
		if v&1 != 0 {
			l.perPol[i].Add(1)
		}
	}
}

// Stats is a snapshot of a [Limiter]'s counters and gauges.
type Stats struct {
	Admitted    uint64 `json:"admitted"`
	Limited     uint64 `json:"limited"`
	NoKey       uint64 `json:"no_key"`
	Unavailable uint64 `json:"unavailable"` // refused by FailClosed
	Errors      uint64 `json:"errors"`      // not decided: RateFor or Cost returned an invalid value
	Failures    uint64 `json:"failures"`    // decisions that the store failed to make, or Charge to write

	// Degraded is 1 while the store fails and each policy's OnError decides.
	Degraded float64 `json:"degraded"`

	// Refused counts refusals by the name of the policy.
	Refused map[string]uint64 `json:"refused"`

	// Memory is of the store in this process: the Store, or the one that policies fall back on.
	Memory MemoryStoreStats `json:"memory"`
}

// Stats returns a snapshot.
func (l *Limiter) Stats() Stats {
	var sum [4]uint64
	for i := range l.counts {
		for j := range sum {
			sum[j] += l.counts[i].outcome[j].Load()
		}
	}
	s := Stats{
		Admitted: sum[Admitted], Limited: sum[Limited], NoKey: sum[NoKey], Unavailable: sum[Unavailable],
		Errors: l.errors.Load(), Failures: l.failed.Load(),
		Refused: make(map[string]uint64, len(l.policies)),
	}
	if l.degraded.Load() {
		s.Degraded = 1
	}
	for i := range l.policies {
		s.Refused[l.policies[i].Name] = l.perPol[i].Load()
	}
	if l.memory != nil {
		s.Memory = l.memory.Stats()
	} else if l.local != nil {
		s.Memory = l.local.Stats()
	}
	return s
}
