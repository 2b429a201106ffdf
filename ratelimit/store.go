package ratelimit

import "context"

// A Store keeps the counts. [NewMemoryStore] and package redislimit have one each.
// Implementations are safe for concurrent use. Take and Peek end with ctx. Charge and Refund come
// after the answer, when the client may have left: the ctx that a [Limiter] gives them has the
// request's values and no end, so a Store bounds them by a time of its own.
type Store interface {
	// Prepare is called by [New] with the limiter's policies, which are valid. An error says why
	// the store cannot decide them together.
	Prepare(policies []Policy) error

	// Take decides claims, one per policy, at one instant. If no claim is denied, all are charged,
	// else none. An error means that nothing was decided.
	Take(ctx context.Context, claims []Claim) error

	// Peek answers claims as Take would now, but charges nothing. Remaining is what may be used.
	Peek(ctx context.Context, claims []Claim) error

	// Charge adds each claim's cost whether it fits or not, saturating.
	Charge(ctx context.Context, claims []Claim) error

	// Refund takes back what Take charged for each of claims, as far as time has not paid it. It is
	// called at most once for a claim.
	Refund(ctx context.Context, claims []Claim) error
}
