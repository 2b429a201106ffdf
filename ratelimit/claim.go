package ratelimit

import (
	"fmt"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

// A Claim is one policy's part of a decision: a question to a [Store], and its answer.
type Claim struct {
	Policy *Policy // read-only
	Key    string  // of the client; unbounded, and not to be shown to anybody
	Rate   Rate    // valid, Burst filled in
	Cost   int64   // zero or more

	// Denied says that the cost does not fit. It and the fields below are the answer, which
	// [Store.Take] sets.
	Denied bool

	// Remaining is what may be used now, after this decision. Negative means unknown.
	Remaining int64

	// RetryAfter is, if Denied, when the cost would fit. Zero means never, or unknown.
	RetryAfter time.Duration

	// Reset is when nothing would be in use any more.
	Reset time.Duration

	// Remembered says that the store answered without asking its backend, so the answer does not
	// show that the backend is up.
	Remembered bool

	// Receipt is the Store's: what it notes in Take for Refund.
	Receipt [2]int64

	policy *policy // nil if somebody else than a Limiter made the claim
	grid   *grid   // of Rate; unused by a sliding window
	shared bool    // the key stands for all requests without one

	nothing bool // the rate admits nothing: RateFor returned a Limit of zero
	cell    cell // where a MemoryStore counts
}

// price asks c's policy for the cost and the rate of r.
func (c *Claim) price(r *http.Request) error {
	p := c.policy
	if p.Cost != nil {
		c.Cost = p.Cost(r)
	}
	var err error
	if p.RateFor != nil {
		err = c.override(p.RateFor(r))
	}
	if err == nil && c.Cost >= 0 {
		return nil
	}
	f := settings.Of("ratelimit", fmt.Sprintf("Config.Policies[%d]", p.index))
	if c.Cost < 0 {
		f.Add("Cost", "returned %d", c.Cost)
	}
	f.Nest("RateFor", err)
	return f.Err()
}

// override gives c another rate.
func (c *Claim) override(rate Rate) error {
	if rate == (Rate{}) || rate == c.Rate {
		return nil
	}
	p := c.policy
	if rate.Limit == 0 && rate.Window > 0 && rate.Burst >= 0 {
		c.Rate, c.nothing = rate, true
		return nil
	}
	rate, err := rate.Validate(p.Algorithm)
	if err == nil && p.Algorithm == SlidingWindow && rate.Window != p.Rate.Window {
		f := settings.Of("ratelimit", "Rate")
		f.Add("Window", "%v is not the policy's %v", rate.Window, p.Rate.Window)
		err = f.Err()
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
	if c.Policy.Algorithm != SlidingWindow {
		g := r.grid()
		c.grid = &g
	}
}

// local returns c at this process's share of the rate.
func (c *Claim) local() Claim {
	s := *c
	p := c.policy
	if c.Rate == p.Rate {
		s.Rate, s.grid = p.local, &p.localGrid
		return s
	}
	s.setRate(c.Rate.scaled(p.LocalShare, p.Algorithm))
	return s
}

// set writes the answer a.
func (c *Claim) set(a answer) {
	c.Denied = !a.ok
	c.Remaining = a.remaining
	c.RetryAfter = a.retry
	c.Reset = a.reset
}

// hidden reports whether c would tell the client about others.
func (c *Claim) hidden() bool { return c.shared || c.Policy.Hidden }
