package ratelimit

import (
	"context"
	"log/slog"
	"math/bits"
	"time"
)

// An Outcome says what became of a request.
type Outcome uint8

const (
	Admitted    Outcome = iota // within every policy
	Limited                    // a policy's limit is used up
	NoKey                      // no key for a policy with MissingReject
	Unavailable                // the store failed and a policy says FailClosed
)

// String returns the outcome's name in metrics.
func (o Outcome) String() string {
	names := [...]string{"admitted", "limited", "no_key", "unavailable"}
	if int(o) >= len(names) {
		return "unknown"
	}
	return names[o]
}

// A Decision is what a [Limiter] says to a request.
type Decision struct {
	Allowed    bool
	Outcome    Outcome
	Degraded   bool          // the store failed: each policy's OnError has decided
	Remaining  int64         // the least that a policy has left; negative means unknown
	RetryAfter time.Duration // if refused, when all policies would admit the request; zero means never, or unknown
	Reset      time.Duration // when every policy would have everything left

	violated uint8 // bit i: Config.Policies[i]
	n        uint8 // claims
	limiter  *Limiter
	one      [1]Claim // most limiters have one policy: its claim needs no allocation
	more     []Claim
}

// room returns space for at most n claims.
func (d *Decision) room(n int) []Claim {
	if n > 1 {
		d.more = make([]Claim, n)
		return d.more
	}
	return d.one[:]
}

func (d *Decision) claims() []Claim {
	if d.more != nil {
		return d.more[:d.n]
	}
	return d.one[:d.n]
}

// sum fills d in from its claims' answers.
func (d *Decision) sum() {
	d.Allowed = d.Outcome == Admitted
	d.Remaining = -1
	claims := d.claims()
	never := false
	for i := range claims {
		c := &claims[i]
		if c.Denied {
			if d.Outcome == Admitted {
				d.Outcome = Limited
			}
			d.Allowed = false
			d.violated |= 1 << d.limiter.index(c.policy)
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
}

func (l *Limiter) index(p *policy) int {
	for i := range l.policies {
		if &l.policies[i] == p {
			return i
		}
	}
	return 0
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

// Claims returns what each policy was asked and answered; policies that were skipped for want
// of a key are left out. The keys in it are secrets of the clients.
func (d *Decision) Claims() []Claim { return append([]Claim(nil), d.claims()...) }

type contextKey struct{}

// FromContext returns the Decision that admitted the request; see [Config.PassDecision]. With several
// limiters it is the innermost one's.
func FromContext(ctx context.Context) (*Decision, bool) {
	d, ok := ctx.Value(contextKey{}).(*Decision)
	return d, ok
}

// An Event is a decision, or a change of the store's health.
type Event struct {
	Kind       string        // "decision", or of the store: "store_failed", "store_recovered"
	Outcome    Outcome       // of a decision
	Policy     string        // the first that refused; empty if none did
	Degraded   bool          // decided without the store
	Took       time.Duration // the decision
	Remaining  int64         // the least that a policy has left; negative means unknown
	RetryAfter time.Duration // if refused
	Err        error         // why the store failed
}

func (d *Decision) event(took time.Duration) Event {
	e := Event{
		Kind: "decision", Outcome: d.Outcome, Degraded: d.Degraded,
		Took: took, Remaining: d.Remaining, RetryAfter: d.RetryAfter,
	}
	if d.violated != 0 {
		e.Policy = d.limiter.policies[bits.TrailingZeros8(d.violated)].Name
	}
	return e
}

// LogValue implements [slog.LogValuer]: the event's name, its bounded dimensions, the time
// it took, and the rest as detail. Keys stay out.
func (e Event) LogValue() slog.Value {
	if e.Kind != "decision" {
		attrs := []slog.Attr{slog.String("event", e.Kind)}
		if e.Err != nil {
			attrs = append(attrs, slog.Group("detail", slog.String("error", e.Err.Error())))
		}
		return slog.GroupValue(attrs...)
	}
	return slog.GroupValue(
		slog.String("event", "decision"),
		slog.String("outcome", e.Outcome.String()),
		slog.String("policy", e.Policy),
		slog.Bool("degraded", e.Degraded),
		slog.Duration("took", e.Took),
		slog.Group("detail",
			slog.Int64("remaining", e.Remaining),
			slog.Duration("retry_after", e.RetryAfter)),
	)
}
