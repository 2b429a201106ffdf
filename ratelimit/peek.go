package ratelimit

import (
	"context"
	"net/http"
)

// Peek says what [Limiter.Take] would say to r now, and charges nothing. Remaining is what each
// policy has left. A peek is neither counted in Stats nor observed, and its Decision cannot be
// charged. The answer may be out of date when it arrives: what must not exceed a limit is decided
// by Take.
func (l *Limiter) Peek(ctx context.Context, r *http.Request) (d Decision, err error) {
	d.init(l)
	if err := d.ask(r); err != nil {
		return Decision{Outcome: Unavailable, limiter: l}, err
	}
	l.peek(ctx, &d)
	return d, nil
}

// PeekKeys is to [Limiter.TakeKeys] what [Limiter.Peek] is to Take.
func (l *Limiter) PeekKeys(ctx context.Context, keys []string) (d Decision, err error) {
	d.init(l)
	if err := d.askKeys("PeekKeys", keys); err != nil {
		return Decision{Outcome: Unavailable, limiter: l}, err
	}
	l.peek(ctx, &d)
	return d, nil
}

// peek is decide without a charge.
func (l *Limiter) peek(ctx context.Context, d *Decision) {
	d.peeked = true
	switch {
	case d.Outcome == NoKey:
		d.n = 0
	case d.n == 0, d.barred():
	case l.memory != nil:
		peekIn(l.memory, d.claims())
	default:
		l.decideRemote(ctx, d)
	}
	d.sum()
}

// peekIn answers claims in m, in the tables of their policies, and charges nothing.
func peekIn(m *MemoryStore, claims []Claim) {
	now := m.now()
	for i := range claims {
		claims[i].locate(claims[i].policy.table)
		claims[i].peek(now)
	}
}

// peek is decide without a charge.
func (c *Claim) peek(now int64) {
	c.lock(now)
	a := c.ask(now, c.Cost)
	if a.ok {
		a = c.ask(now, 0) // what is left is not yet charged
	}
	c.cell.set.mu.Unlock()
	c.set(a)
}
