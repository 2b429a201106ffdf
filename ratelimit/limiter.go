package ratelimit

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

// A Limiter decides which requests are within their policies. Create one with [New].
// A Limiter is safe for concurrent use and starts no goroutines.
type Limiter struct {
	cfg      Config // read-only after New
	policies []policy
	bodies   [][]byte // problem documents of 429, by the set of violated policies
	jitter   func() float64

	memory   *MemoryStore // Config.Store, if it is a MemoryStore
	store    Store        // Config.Store, if it is another
	local    *MemoryStore // what FailLocal policies fall back on; nil if there is none
	degraded atomic.Bool  // the last decision of store failed

	conditional bool // a policy has CountIf

	outcomes outcomes
	errors   atomic.Uint64
	failed   atomic.Uint64
	refused  [maxPolicies]atomic.Uint64 // by policy
}

// New returns a Limiter. The error, if any, names every invalid field of cfg. New copies cfg:
// changing it afterwards has no effect.
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
		return nil, configFault("Store", err)
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
		l.policies[i] = l.derive(i, cfg.Policies[i])
		l.conditional = l.conditional || cfg.Policies[i].CountIf != nil
	}
	l.bodies = problems(cfg.Policies)
	return l, nil
}

// configFault returns err as a fault of a field of Config.
func configFault(field string, err error) error {
	f := settings.Of("ratelimit", "Config")
	f.Add(field, "%w", err)
	return f.Err()
}

// prepareLocal makes the store that FailLocal policies fall back on, if there are such policies.
func (l *Limiter) prepareLocal() error {
	var policies []Policy
	for _, p := range l.cfg.Policies {
		if p.OnError == FailLocal {
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
		return configFault("Local", err)
	}
	return nil
}

// derive returns p, the i-th policy, with what decisions need.
func (l *Limiter) derive(i int, p Policy) policy {
	d := policy{Policy: p, index: i, item: `"` + p.Name + `";r=`, header: policyItem(p.Name, p.Rate)}
	if p.Algorithm == GCRA {
		d.grid = p.Rate.grid()
	}
	if l.memory != nil {
		d.table = l.memory.table(p.Name)
	} else if p.OnError == FailLocal {
		d.table = l.local.table(p.Name)
		d.local = p.Rate.scaled(p.LocalShare, p.Algorithm)
		if p.Algorithm == GCRA {
			d.localGrid = d.local.grid()
		}
	}
	return d
}

// Take decides r and, if it is admitted, charges it to its keys. It does not read the body. The
// error is not nil if the request cannot be decided at all: a Policy's RateFor or Cost returned an
// invalid value. A store that fails is no error; see [Policy].OnError.
func (l *Limiter) Take(ctx context.Context, r *http.Request) (d Decision, err error) {
	err = l.take(ctx, r, &d)
	return d, err
}

// take is Take into d, which is zero: a Decision is too big to be copied for nothing.
func (l *Limiter) take(ctx context.Context, r *http.Request, d *Decision) error {
	d.init(l)
	if err := d.ask(r); err != nil {
		l.errors.Add(1)
		*d = Decision{Outcome: Unavailable, limiter: l}
		return err
	}
	l.decide(ctx, d)
	return nil
}

// TakeKeys decides a request that costs 1 of each policy's Rate and has the given keys, one per
// policy in the order of [Config].Policies; an empty one is missing. RateFor, Key and Cost are not
// called, but Key is required all the same: without it a [Limiter.Middleware] around the limiter
// would find no key.
func (l *Limiter) TakeKeys(ctx context.Context, keys []string) (d Decision, err error) {
	d.init(l)
	if err := d.askKeys("TakeKeys", keys); err != nil {
		l.errors.Add(1)
		return Decision{Outcome: Unavailable, limiter: l}, err
	}
	l.decide(ctx, &d)
	return d, nil
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
	case d.n == 0, d.barred():
	case l.memory != nil:
		decideIn(l.memory, d.claims())
	default:
		l.decideRemote(ctx, d)
	}
	d.sum()
	if l.conditional && d.Allowed {
		d.settled = new(atomic.Bool)
	}
	l.count(d)
	if l.cfg.Observe != nil {
		l.cfg.Observe(ctx, d.event(time.Since(start)))
	}
}

// decideIn decides claims in m, in the tables of their policies.
func decideIn(m *MemoryStore, claims []Claim) {
	for i := range claims {
		claims[i].locate(claims[i].policy.table)
	}
	decideAll(m, claims)
}

// charge adds the claims' costs, whether they fit or not.
func (l *Limiter) charge(ctx context.Context, claims []Claim) error {
	if l.memory == nil {
		err := l.store.Charge(context.WithoutCancel(ctx), claims)
		if err != nil {
			l.failed.Add(1)
		}
		l.mirror(claims, err != nil)
		return err
	}
	now := l.memory.now()
	for i := range claims {
		claims[i].locate(claims[i].policy.table)
		claims[i].add(now)
	}
	return nil
}
