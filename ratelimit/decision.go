package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// An Outcome says what became of a request. It is the word in metrics.
type Outcome string

// The outcomes of a decision. Busy is of a [Concurrency] alone, Limited and Unavailable of a
// [Limiter].
const (
	Admitted    Outcome = "admitted"    // within every policy
	Limited     Outcome = "limited"     // a policy's limit is used up
	NoKey       Outcome = "no_key"      // no key for a policy with MissingReject
	Unavailable Outcome = "unavailable" // the store failed and a policy says FailClosed
	Busy        Outcome = "busy"        // the key has as many requests in flight as it may
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

func (e *RefusedError) Error() string { return e.Unwrap().Error() }

// Is reports whether target is why the request was refused.
func (e *RefusedError) Is(target error) bool { return target == e.Unwrap() }

// Unwrap returns why the request was refused.
func (e *RefusedError) Unwrap() error {
	switch e.Decision.Outcome {
	case NoKey:
		return ErrNoKey
	case Unavailable:
		return ErrUnavailable
	}
	return ErrLimited
}

// RetryAfter returns when the request would be admitted; zero if that is unknown or never.
func (e *RefusedError) RetryAfter() time.Duration { return e.Decision.RetryAfter }

// A Decision is what a [Limiter] says to a request.
type Decision struct {
	Allowed  bool
	Outcome  Outcome
	Degraded bool // the store failed: each policy's OnError has decided

	// Remaining is the least that a policy has left. Negative means unknown.
	Remaining int64

	// RetryAfter is, if refused, when all policies would admit the request. Zero means never, or
	// unknown.
	RetryAfter time.Duration

	// Reset is when every policy would have everything left.
	Reset time.Duration

	violated uint8 // bit i: Config.Policies[i]
	n        uint8 // claims
	peeked   bool  // nothing was charged
	limiter  *Limiter
	settled  *atomic.Bool // whether Done was called, of all copies; nil if there is nothing to settle
	one      [1]Claim     // most limiters have one policy: its claim needs no allocation
	more     []Claim      // if not nil, instead of one
}

// init prepares d, which is zero, for the claims of l's policies.
func (d *Decision) init(l *Limiter) {
	d.limiter = l
	d.Outcome = Admitted
	if len(l.policies) > 1 {
		d.more = make([]Claim, len(l.policies))
	}
}

// ask adds the claims of r.
func (d *Decision) ask(r *http.Request) (err error) {
	for i := range d.limiter.policies {
		p := &d.limiter.policies[i]
		key, ok := p.Key(r)
		if !ok {
			key = ""
		}
		c := d.claim(p, key)
		if c == nil || p.Cost == nil && p.RateFor == nil {
			continue
		}
		err = errors.Join(err, c.price(r))
	}
	return err
}

// barred answers d's claims without a store if one of them has a rate that admits nothing.
func (d *Decision) barred() bool {
	claims := d.claims()
	if !slices.ContainsFunc(claims, func(c Claim) bool { return c.nothing }) {
		return false
	}
	for i := range claims {
		c := &claims[i]
		if c.Remaining = -1; c.nothing {
			c.Denied, c.Remaining = true, 0 // at no time will it fit
		}
	}
	return true
}

// askKeys adds a claim for each of keys; method is who asks.
func (d *Decision) askKeys(method string, keys []string) error {
	policies := d.limiter.policies
	if len(keys) != len(policies) {
		return fmt.Errorf("ratelimit: %s: %d keys for %d policies", method, len(keys), len(policies))
	}
	for i := range policies {
		d.claim(&policies[i], keys[i])
	}
	return nil
}

// claim adds a claim on p for key. It returns nil if there is nothing to claim.
func (d *Decision) claim(p *policy, key string) *Claim {
	if key == "" {
		switch p.Missing {
		case MissingReject:
			d.Outcome = NoKey
			d.violated |= 1 << p.index
			return nil
		case MissingSkip:
			return nil
		}
	}
	d.n++
	c := &d.claims()[d.n-1]
	c.policy = p
	c.Policy = &p.Policy
	c.Key = key
	c.shared = key == ""
	c.Rate = p.Rate
	c.grid = &p.grid
	c.Cost = 1
	return c
}

func (d *Decision) claims() []Claim {
	if d.more != nil {
		return d.more[:d.n]
	}
	return d.one[:d.n]
}

// sum fills d in from its claims' answers.
func (d *Decision) sum() {
	d.Remaining = -1
	never := false
	claims := d.claims()
	for i := range claims {
		c := &claims[i]
		if c.Denied {
			if d.Outcome == Admitted {
				d.Outcome = Limited
			}
			d.violated |= 1 << c.policy.index
			d.RetryAfter = max(d.RetryAfter, c.RetryAfter)
			never = never || c.RetryAfter == 0
		}
		if c.Remaining >= 0 && (d.Remaining < 0 || c.Remaining < d.Remaining) {
			d.Remaining = c.Remaining
		}
		d.Reset = max(d.Reset, c.Reset)
	}
	if never {
		d.RetryAfter = 0
	}
	d.Allowed = d.Outcome == Admitted
}

// Violated returns the names of the policies that refused the request.
func (d *Decision) Violated() []string {
	if d.violated == 0 {
		return nil
	}
	names := make([]string, 0, bits.OnesCount8(d.violated))
	for i := range d.limiter.policies {
		if d.violated&(1<<i) != 0 {
			names = append(names, d.limiter.policies[i].Name)
		}
	}
	return names
}

// Claims returns what each policy was asked and answered; policies that were skipped because the
// request has no key are left out. The keys in it are secrets of the clients.
func (d *Decision) Claims() []Claim { return slices.Clone(d.claims()) }

// Charge charges cost to every key that d was charged to, for costs that are known only afterwards;
// if policies are named, to the keys of those alone. It may drive a key into debt, which the key's
// later requests wait for. It saturates: at five years of debt, or at what a sliding window counts
// to. A negative cost is an error, as is a name that no policy has. If the store fails, the local
// count is charged and the error returned. A request that was refused is charged nothing.
//
// The charge does not end with ctx, which only lends its values: the client may have left when a
// cost is known. The store's own time limit bounds it.
func (d *Decision) Charge(ctx context.Context, cost int64, policies ...string) error {
	if cost < 0 {
		return fmt.Errorf("ratelimit: Charge: %d is negative", cost)
	}
	if cost == 0 || !d.Allowed || d.n == 0 || d.peeked {
		return nil
	}
	for _, name := range policies {
		if !slices.ContainsFunc(d.limiter.policies, func(p policy) bool { return p.Name == name }) {
			return fmt.Errorf("ratelimit: Charge: there is no policy %q", name)
		}
	}
	claims := make([]Claim, 0, d.n)
	for _, c := range d.claims() {
		if len(policies) == 0 || slices.Contains(policies, c.Policy.Name) {
			c.Cost = cost
			claims = append(claims, c)
		}
	}
	if len(claims) == 0 { // the request has no key for the named policies
		return nil
	}
	return d.limiter.charge(ctx, claims)
}

type contextKey struct{}

// FromContext returns the Decision that admitted the request; see [Config.PassDecision]. With
// several limiters it is the innermost one's.
func FromContext(ctx context.Context) (*Decision, bool) {
	d, ok := ctx.Value(contextKey{}).(*Decision)
	return d, ok
}
