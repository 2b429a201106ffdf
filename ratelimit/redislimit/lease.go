package redislimit

import (
	"context"
	"sync"
	"time"

	"github.com/trivet-go/trivet/ratelimit"
)

const (
	maxLeases   = 65_536
	leaseShards = 16
)

// A lease is what this process has bought of one key.
type lease struct {
	turn chan struct{} // a send locks the fields below, a receive unlocks: a waiter may leave

	balance int64
	expires int64 // since the store's base

	remaining int64 // in Redis, when the lease was bought
	reset     time.Duration
}

// leases holds the leases of all keys, bounded.
type leases struct{ shards [leaseShards]leaseShard }

type leaseShard struct {
	mu sync.Mutex // guards the fields below
	m  map[uint64]*lease
}

func newLeases() *leases {
	ls := new(leases)
	for i := range ls.shards {
		ls.shards[i].m = make(map[uint64]*lease)
	}
	return ls
}

// get returns tag's lease, or nil if there is no room for another one.
func (ls *leases) get(tag uint64, now int64) *lease {
	s := &ls.shards[tag%leaseShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.m[tag]
	if l != nil {
		return l
	}
	if len(s.m) >= maxLeases/leaseShards && !s.evictLocked(now) {
		return nil
	}
	l = &lease{turn: make(chan struct{}, 1)}
	s.m[tag] = l
	return l
}

// evictLocked removes expired leases among the first few, and reports whether it found one.
func (ls *leaseShard) evictLocked(now int64) bool {
	looked, found := 0, false
	for tag, l := range ls.m {
		if looked++; looked > 8 {
			break
		}
		select {
		case l.turn <- struct{}{}:
			if now >= l.expires {
				delete(ls.m, tag) // a call that waits for the turn uses l once more, which is harmless
				found = true
			}
			<-l.turn
		default: // in use
		}
	}
	return found
}

// takeLeased decides the one claim out of its lease, buying a new one if that is used up.
func (s *Store) takeLeased(ctx context.Context, claims []ratelimit.Claim, terms LeaseConfig) error {
	c := &claims[0]
	r, err := s.request(c)
	if err != nil {
		return err
	}
	l := s.leases.get(r.tag, s.now())
	if l == nil {
		_, err := s.ask(ctx, s.deadline(), "take", []request{r}, claims, LeaseConfig{})
		return err
	}
	deadline := s.deadline() // the wait for a call that is buying counts as a wait for Redis
	if err := l.lock(ctx, deadline); err != nil {
		return err
	}
	defer func() { <-l.turn }()

	// The time of sending, not of the answer: Redis charges later than this.
	sent := s.now()
	if sent >= l.expires {
		l.balance = 0
	}
	if sent < l.expires && l.balance >= c.Cost {
		l.balance -= c.Cost
		s.leaseHits.Add(1)
		c.Denied, c.RetryAfter = false, 0
		c.Remaining, c.Reset, c.Remembered = l.remaining+l.balance, l.reset, true
		return nil
	}
	// What is left pays its part of the cost, so that nothing outlives the lease that it came with.
	// But what exceeds the burst is not admitted by being paid for bit by bit.
	if r.cost <= r.rate.costsOfMost {
		r.cost -= l.balance
	}
	bought, err := s.ask(ctx, deadline, "take", []request{r}, claims, terms)
	if err != nil || c.Denied {
		return err
	}
	l.balance, l.expires = bought, sent+int64(terms.ttl(c))
	s.leased.Add(uint64(bought))
	l.remaining, l.reset = c.Remaining, c.Reset
	c.Remaining += l.balance
	return nil
}

// lock waits for l's turn.
func (l *lease) lock(ctx context.Context, deadline time.Time) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	default: // only now is a timer worth its cost
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (terms LeaseConfig) ttl(c *ratelimit.Claim) time.Duration {
	if terms.TTL > 0 {
		return terms.TTL
	}
	earned := float64(c.Rate.Burst) / float64(c.Rate.Limit) * float64(c.Rate.Window)
	return min(maxLeaseTTL, time.Duration(earned/2))
}
