package ratelimit

import (
	"errors"
	"fmt"
	"net/http"
)

// An Algorithm is a way to count.
type Algorithm int

const (
	// GCRA is a token bucket: bursts up to Rate.Burst, then the pace of the rate.
	GCRA Algorithm = iota

	// SlidingWindow counts in windows of Rate.Window, for quotas that a contract names.
	SlidingWindow
)

// Missing says what becomes of a request that has no key.
type Missing int

const (
	// MissingReject refuses the request with 400.
	MissingReject Missing = iota + 1

	// MissingSkip lets the request pass this policy uncounted.
	MissingSkip

	// MissingShared counts all such requests under one key, which is kept out of headers.
	MissingShared
)

// A Failure says what becomes of a request that the Store cannot decide.
// The zero Failure is FailLocal(1).
type Failure float64

const (
	// FailOpen admits the request.
	FailOpen Failure = -1

	// FailClosed refuses it with 503: for log-ins and for what costs money.
	FailClosed Failure = -2
)

// FailLocal decides in this process's memory, at the given share of the rate: with n
// processes a share of 1/n keeps the sum within the rate. It must be more than 0
// and at most 1.
func FailLocal(share float64) Failure { return Failure(share) }

// A Policy is one of the limits that a [Limiter] decides together.
type Policy struct {
	// Name names the policy in headers, metrics and the Store. Required: 1 to 64 letters,
	// digits, '_', '-' and '.'. Limiters on one Store share the counts of policies of one name.
	Name string

	// Rate is what each key may use. Required.
	Rate Rate

	// RateFor, if not nil, returns the Rate for a request, say of the caller's plan.
	// The zero Rate means the field Rate. A change keeps a key's debt in time: who had used up half
	// of a burst has then used up half of the other. For a SlidingWindow its
	// Window must be Rate's. An invalid Rate fails the request with an error.
	RateFor func(*http.Request) Rate

	// Key says whose request it is; ok is false if it has no key. Required: see [ByIP],
	// [ByHeader], [ByPattern], [Join]. To count all requests as one, return a constant.
	Key func(*http.Request) (key string, ok bool)

	// Missing says what becomes of requests without a key. Required.
	Missing Missing

	// Cost returns how much a request uses. If nil, every request costs 1. Zero is free; negative
	// fails the request with an error; more than Burst (of a sliding window: Limit) is never admitted.
	Cost func(*http.Request) int64

	// Window is the algorithm. Zero means [GCRA].
	Window Algorithm

	// OnError says what happens when the Store fails. Zero means FailLocal(1).
	OnError Failure

	// Hidden keeps the policy out of headers and problem documents: what is left of a
	// limit that strangers share tells each about the others.
	Hidden bool
}

// withDefaults validates p and fills in zero fields.
func (p Policy) withDefaults() (Policy, error) {
	var errs []error
	fault := func(field string, reason any) {
		errs = append(errs, fmt.Errorf("%s: %v", field, reason))
	}
	if !validName(p.Name) {
		fault("Name", fmt.Sprintf("%q is not 1 to 64 letters, digits, '_', '-' and '.'", p.Name))
	}
	if p.Key == nil {
		fault("Key", "is required")
	}
	if p.Missing < MissingReject || p.Missing > MissingShared {
		fault("Missing", "is required: MissingReject, MissingSkip or MissingShared")
	}
	if p.OnError == 0 {
		p.OnError = FailLocal(1)
	}
	if p.OnError != FailOpen && p.OnError != FailClosed && !(p.OnError > 0 && p.OnError <= 1) {
		fault("OnError", fmt.Sprintf("the share %v is not more than 0 and at most 1", float64(p.OnError)))
	}
	if p.Window != GCRA && p.Window != SlidingWindow {
		fault("Window", fmt.Sprintf("there is no algorithm %d", p.Window))
		return p, errors.Join(errs...)
	}
	rate, err := p.Rate.withDefaults(p.Window)
	if err != nil {
		for _, e := range flatten(err) {
			errs = append(errs, fmt.Errorf("Rate.%w", e))
		}
	}
	p.Rate = rate
	return p, errors.Join(errs...)
}

// flatten returns the errors that err joins.
func flatten(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
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
	grid  grid
	table *table // in the limiter's memory store, or in the one that it falls back on; nil if neither is needed

	local     Rate // for FailLocal
	localGrid grid

	item   string // its part of RateLimit up to the number
	header string // its part of RateLimit-Policy
}
