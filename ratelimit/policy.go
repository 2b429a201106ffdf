package ratelimit

import (
	"net/http"

	"github.com/trivet-go/trivet/internal/settings"
)

// An Algorithm is a way to count.
type Algorithm string

const (
	// GCRA is a token bucket: bursts up to Rate.Burst, then the pace of the rate.
	GCRA Algorithm = "gcra"

	// SlidingWindow counts in windows of Rate.Window, for quotas that a contract names.
	SlidingWindow Algorithm = "sliding_window"
)

// Missing says what becomes of a request that has no key.
type Missing string

const (
	// MissingReject refuses the request with 400.
	MissingReject Missing = "reject"

	// MissingSkip lets the request pass this policy uncounted. With a key by [ByHeader] put
	// [Unambiguous] around the limiter: a client that sends the field twice has no key either.
	MissingSkip Missing = "skip"

	// MissingShared counts all such requests under one key, which is kept out of headers.
	MissingShared Missing = "shared"
)

func (m Missing) valid() bool { return m == MissingReject || m == MissingSkip || m == MissingShared }

const missingRequired = "is required: MissingReject, MissingSkip or MissingShared"

// OnError says what becomes of a request that the Store cannot decide.
type OnError string

const (
	// FailLocal decides in this process's memory, at the policy's LocalShare of the rate.
	FailLocal OnError = "local"

	// FailOpen admits the request.
	FailOpen OnError = "open"

	// FailClosed refuses the request with 503: for log-ins and for what costs money.
	FailClosed OnError = "closed"
)

// A Policy is one of the limits that a [Limiter] decides together. Name, Rate, Key and Missing are
// required. Its functions are called by many requests at a time: they must be safe for concurrent
// use.
type Policy struct {
	// Name names the policy in headers, metrics and the Store. Required: 1 to 64 letters, digits,
	// '_', '-' and '.'. Limiters on one Store share the counts of policies of one name.
	Name string

	// Rate is what each key may use. Required.
	Rate Rate

	// RateFor, if not nil, returns the Rate for a request, say of the caller's plan. The zero Rate
	// means the field Rate. A Limit of zero with a Window admits nothing: the request gets 429,
	// without Retry-After. After a change a key keeps the time until it is clear: half a burst
	// used stays half a burst used. For a [SlidingWindow] its Window must be Rate's. An invalid
	// Rate fails the request with an error.
	RateFor func(*http.Request) Rate

	// Key says whose request it is. Required: see [KeyFunc]. To count all requests as one, return a
	// constant.
	Key KeyFunc

	// Missing says what becomes of requests without a key. Required.
	Missing Missing

	// Cost returns how much a request uses. If nil, every request costs 1. Zero is free; negative
	// fails the request with an error; more than Burst (of a sliding window: Limit) is never
	// admitted.
	Cost func(*http.Request) int64

	// CountIf, if not nil, says by the status of the answer whether a request counts at all: for
	// limits on what fails, such as log-ins. A request is charged before it is served, so that
	// requests at the same time cannot exceed the limit together, and given back what it was
	// charged if its answer does not count: what time has paid meanwhile is not given back. A
	// handler that panics or aborts counts. [Limiter.Middleware] sees to all that; after
	// [Limiter.Take] and [Limiter.TakeKeys] call [Decision.Done].
	CountIf func(status int) bool

	// Algorithm is how requests are counted. Empty means [GCRA].
	Algorithm Algorithm

	// OnError says what happens when the Store fails. Empty means [FailLocal].
	OnError OnError

	// LocalShare is the part of Rate for this process while [FailLocal] decides: with n processes
	// 1/n keeps their sum within the Rate. Zero means 1, the whole Rate in each process. Negative
	// and more than 1 are invalid. Must be zero with another OnError.
	LocalShare float64

	// Hidden keeps the policy out of headers and problem documents: what is left of a limit that
	// strangers share tells each about the others.
	Hidden bool
}

// withDefaults validates p and fills in zero fields.
func (p Policy) withDefaults() (Policy, error) {
	f := settings.Of("ratelimit", "Policy")
	if !validName(p.Name) {
		f.Add("Name", "%q is not 1 to 64 letters, digits, '_', '-' and '.'", p.Name)
	}
	if p.Key == nil {
		f.Add("Key", "is required")
	}
	if !p.Missing.valid() {
		f.Add("Missing", missingRequired)
	}
	switch p.OnError {
	case "", FailLocal:
		p.OnError = FailLocal
		if p.LocalShare < 0 {
			f.Add("LocalShare", "%v is negative", p.LocalShare)
		}
		settings.Share(f, "LocalShare", &p.LocalShare, 1)
	case FailOpen, FailClosed:
		if p.LocalShare != 0 {
			f.Add("LocalShare", "has a meaning only with FailLocal")
		}
	default:
		f.Add("OnError", "%q is not FailLocal, FailOpen or FailClosed", p.OnError)
	}
	switch p.Algorithm {
	case "":
		p.Algorithm = GCRA
	case GCRA, SlidingWindow:
	default:
		f.Add("Algorithm", "%q is not GCRA or SlidingWindow", p.Algorithm)
		return p, f.Err()
	}
	rate, err := p.Rate.Validate(p.Algorithm)
	f.Nest("Rate", err)
	p.Rate = rate
	return p, f.Err()
}

func validName(name string) bool {
	if len(name) < 1 || len(name) > 64 {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// A policy is a Policy with what is derived from it.
type policy struct {
	Policy
	index int // in Config.Policies
	grid  grid
	table *table // of the store or the fallback, if that is a MemoryStore; nil if there is neither

	local     Rate // LocalShare of Rate, for FailLocal
	localGrid grid

	item   string // its part of RateLimit up to the number
	header string // its part of RateLimit-Policy
}
