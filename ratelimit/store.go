package ratelimit

import (
	"context"
	"time"
)

// A Claim is one policy's part of a decision: what is asked of a [Store], and its answer.
type Claim struct {
	Policy *Policy // read-only
	Key    string  // of the client; unbounded, and not to be shown to anybody
	Rate   Rate    // valid, Burst filled in
	Cost   int64   // zero or more

	// Set by [Store.Take].

	Denied     bool          // the cost does not fit
	Remaining  int64         // what may be used now, after this decision; negative means unknown
	RetryAfter time.Duration // if denied, when the cost would fit; zero means never, or unknown
	Reset      time.Duration // when nothing would be in use any more
	Remembered bool          // answered out of the store's memory: no sign that what it stands on is well

	grid   *grid // of Rate; unused by a sliding window
	policy *policy
	shared bool // the key stands for all requests without one
}

// A Store keeps the counts. [NewMemoryStore] and package redislimit have one each.
// Implementations are safe for concurrent use.
type Store interface {
	// Prepare is called by [New] with the limiter's policies, which are valid. An
	// error says why the store cannot decide them together.
	Prepare(policies []Policy) error

	// Take decides claims, one per policy, at one instant. If no claim is denied,
	// all are charged, else none. An error means that nothing was decided.
	Take(ctx context.Context, claims []Claim) error

	// Charge adds each claim's cost whether it fits or not, saturating.
	Charge(ctx context.Context, claims []Claim) error
}
