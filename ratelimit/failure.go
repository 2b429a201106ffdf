package ratelimit

import (
	"context"
	"time"
)

// failClosedRetry is what a client is told that FailClosed refuses: the store may be back by then.
const failClosedRetry = time.Second

// takeRemote decides d's claims in the store or, if that fails, by each policy's OnError.
func (l *Limiter) takeRemote(ctx context.Context, d *Decision) {
	if d.more == nil { // what crosses an interface lives on the heap; d shall not
		d.more = append(d.more, d.one[0])
	}
	claims := d.more[:d.n]
	err := l.store.Take(ctx, claims)
	if err == nil {
		l.warm(claims, false)
		if l.degraded.Load() && !claims[0].Remembered && l.degraded.CompareAndSwap(true, false) && l.cfg.Observe != nil {
			l.cfg.Observe(ctx, Event{Kind: "store_recovered"})
		}
		return
	}
	l.failed.Add(1)
	// A caller who left says nothing about the store's health.
	if ctx.Err() == nil && l.degraded.CompareAndSwap(false, true) && l.cfg.Observe != nil {
		l.cfg.Observe(ctx, Event{Kind: "store_failed", Err: err})
	}
	d.Degraded = true
	d.Outcome = l.takeDegraded(claims)
}

// takeDegraded decides claims without the store.
func (l *Limiter) takeDegraded(claims []Claim) Outcome {
	var here [maxPolicies]Claim
	var at [maxPolicies]int
	n, outcome := 0, Admitted
	for i := range claims {
		c := &claims[i]
		c.Denied, c.Remaining, c.RetryAfter, c.Reset, c.Remembered = false, -1, 0, 0, false
		switch c.policy.OnError {
		case FailOpen:
		case FailClosed:
			c.Denied = true
			c.RetryAfter = failClosedRetry
			outcome = Unavailable
		default:
			here[n] = c.scaled()
			at[n] = i
			n++
		}
	}
	if n == 0 || outcome == Unavailable {
		return outcome
	}
	l.takeLocal(l.local, here[:n])
	for i, c := range here[:n] {
		c.Rate = claims[at[i]].Rate
		c.grid = claims[at[i]].grid
		claims[at[i]] = c
	}
	return outcome
}

// scaled returns c at its share of the rate.
func (c *Claim) scaled() Claim {
	s := *c
	p := c.policy
	if c.Rate == p.Rate {
		s.Rate, s.grid = p.local, &p.localGrid
		return s
	}
	s.setRate(c.Rate.scaled(float64(p.OnError), p.Window))
	return s
}

// warm keeps the local counts close to the store's: never more left than this process's share of what the
// store has left. So a store that fails grants nobody a fresh burst. If failed, the store
// could not be charged: claims are charged here in full, into debt.
func (l *Limiter) warm(claims []Claim, failed bool) {
	if l.local == nil {
		return
	}
	admitted := true
	for i := range claims {
		admitted = admitted && !claims[i].Denied
	}
	now := l.local.now()
	for i := range claims {
		p := claims[i].policy
		if !(p.OnError > 0) {
			continue
		}
		c := claims[i].scaled()
		var w charge
		w.fill(p.table, &c)
		switch {
		case failed:
			p.table.charge(now, &w)
		case c.Remaining >= 0:
			p.table.leave(now, &w, int64(float64(c.Remaining)*float64(p.OnError)))
		case admitted:
			p.table.leave(now, &w, -1)
		}
	}
}
