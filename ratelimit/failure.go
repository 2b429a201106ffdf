package ratelimit

import (
	"context"
	"time"
)

// failClosedRetry is what a client is told that FailClosed refuses: the store may be up by then.
const failClosedRetry = time.Second

// decideRemote decides d's claims in the store or, if that fails, by each policy's OnError.
func (l *Limiter) decideRemote(ctx context.Context, d *Decision) {
	if d.more == nil { // passing claims to an interface moves them to the heap; d stays on the stack
		d.more = append(d.more, d.one[0])
	}
	claims := d.more[:d.n]
	var err error
	if d.peeked {
		err = l.store.Peek(ctx, claims)
	} else {
		err = l.store.Take(ctx, claims)
	}
	if err == nil {
		if !d.peeked {
			l.mirror(claims, false)
		}
		if l.degraded.Load() && !claims[0].Remembered && l.degraded.CompareAndSwap(true, false) {
			l.observeStore(ctx, nil)
		}
		return
	}
	l.failed.Add(1)
	// A caller that left says nothing about the store's health.
	if ctx.Err() == nil && l.degraded.CompareAndSwap(false, true) {
		l.observeStore(ctx, err)
	}
	d.Degraded = true
	d.Outcome = l.decideDegraded(claims, d.peeked)
}

// observeStore reports that the store failed with err, or is up again.
func (l *Limiter) observeStore(ctx context.Context, err error) {
	if l.cfg.Observe != nil {
		l.cfg.Observe(ctx, Event{Kind: StoreChanged, Up: err == nil, Err: err})
	}
}

// decideDegraded decides claims without the store, or if peek is true says how it would.
func (l *Limiter) decideDegraded(claims []Claim, peek bool) Outcome {
	var here [maxPolicies]Claim // those that are decided in this process
	var at [maxPolicies]int     // their index in claims
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
		case FailLocal:
			here[n] = c.local()
			at[n] = i
			n++
		}
	}
	if n == 0 || outcome == Unavailable {
		return outcome
	}
	if peek {
		peekIn(l.local, here[:n])
	} else {
		decideIn(l.local, here[:n])
	}
	for i, c := range here[:n] {
		c.Rate = claims[at[i]].Rate // clients are told the policy's rate
		c.grid = claims[at[i]].grid
		claims[at[i]] = c
	}
	return outcome
}

// mirror keeps the local counts close to the store's: never more left than this process's share of
// what the store has left. So a store that fails grants no client a fresh burst. If failed, the
// store could not be charged: claims are charged here in full, into debt.
func (l *Limiter) mirror(claims []Claim, failed bool) {
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
		if p.OnError != FailLocal {
			continue
		}
		c := claims[i].local()
		c.locate(p.table)
		switch {
		case failed:
			c.add(now)
		case c.Remaining >= 0:
			c.lower(now, int64(float64(c.Remaining)*p.LocalShare))
		case admitted:
			c.lower(now, -1)
		}
	}
}
