package ratelimit

import (
	"context"
	"slices"
)

// Done tells with what status the request was answered, for policies with a CountIf: they are given
// back what d charged if that does not count. Without Done the request counts. Only the first call
// for a decision does something, whichever copy of it makes it; of a request that was refused or
// peeked at, none does. Costs that Charge added stay. The error is the store's: then the request
// counts.
func (d *Decision) Done(status int) error { return d.settle(context.Background(), status) }

// settle is Done with the values of ctx, whose end does not matter.
func (d *Decision) settle(ctx context.Context, status int) error {
	if d.settled == nil || !d.settled.CompareAndSwap(false, true) {
		return nil
	}
	var back []Claim
	for _, c := range d.claims() {
		if c.Policy.CountIf == nil || c.Cost == 0 || c.Policy.CountIf(status) {
			continue
		}
		back = append(back, c)
	}
	if len(back) == 0 {
		return nil
	}
	return d.limiter.refund(ctx, back, d.Degraded)
}

// refund gives back what claims were charged. If degraded, that was done in this process, for those
// with FailLocal.
func (l *Limiter) refund(ctx context.Context, claims []Claim, degraded bool) error {
	m := l.memory
	switch {
	case m != nil:
	case degraded:
		m = l.local
		claims = slices.DeleteFunc(claims, func(c Claim) bool { return c.policy.OnError != FailLocal })
		for i := range claims {
			claims[i] = claims[i].local()
		}
	default:
		err := l.store.Refund(context.WithoutCancel(ctx), claims)
		if err != nil {
			l.failed.Add(1)
		}
		return err
	}
	for i := range claims {
		claims[i].locate(claims[i].policy.table)
		claims[i].refund(m.now())
	}
	return nil
}

// note keeps where in time c was charged. The set is locked, and c's word is in it.
func (c *Claim) note(now int64) {
	c.Receipt[0] = c.cell.word
	if length := c.cell.table.length; length != 0 {
		s := newSlide(0, length, now)
		s.counts(c.cell.word) // which may lie in the next window
		c.Receipt[0] = int64(s.k)
	}
}

// refund takes c's cost back from its key, as far as time has not paid it.
func (c *Claim) refund(now int64) {
	if c.lock(now) { // otherwise another key took the place, with the debt
		at := &c.cell
		if at.table.length == 0 {
			at.word = c.grid.refund(at.old, now, c.Cost, c.Receipt[0])
		} else {
			s := newSlide(0, at.table.length, now)
			at.word = s.refund(at.old, c.Cost, uint64(c.Receipt[0]))
		}
		c.put()
	}
	c.cell.set.mu.Unlock()
}

// refund returns tat without a cost that was charged when the word became until. Debts are paid in
// the order in which they were made: of this one, what lies before now is paid.
func (g *grid) refund(tat, now, cost, until int64) int64 {
	if tat <= now || until <= now {
		return tat
	}
	at := g.step(now)
	back := min(g.add(0, 0, cost), g.stepFrom(until)-at)
	return g.tick(max(g.stepFrom(tat)-min(back, g.stepFrom(tat)), at))
}

// refund returns word without a cost that was charged in window k, unless that has passed.
func (s *slide) refund(word, cost int64, k uint64) int64 {
	prev, cur := s.counts(word)
	switch k {
	case s.k:
		cur = max(cur-cost, 0)
	case s.k - 1:
		prev = max(prev-cost, 0)
	}
	return packWindow(s.k, prev, cur)
}
