package ratelimit

import "context"

// A Store keeps the counts. [NewMemoryStore] and package redislimit have one each.
// Implementations are safe for concurrent use.
type Store interface {
	// Prepare is called by [New] with the limiter's policies, which are valid. An error says why
	// the store cannot decide them together.
	Prepare(policies []Policy) error

	// Take decides claims, one per policy, at one instant. If no claim is denied, all are charged,
	// else none. An error means that nothing was decided.
	Take(ctx context.Context, claims []Claim) error

	// Charge adds each claim's cost whether it fits or not, saturating.
	Charge(ctx context.Context, claims []Claim) error
}
