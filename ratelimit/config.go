package ratelimit

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const maxPolicies = 8

// Config configures a [Limiter].
type Config struct {
	// Policies are the limits that each request must keep, 1 to 8. Required.
	Policies []Policy

	// Store keeps the counts. If nil, a [MemoryStore] with its defaults does.
	Store Store

	// Local keeps the counts of policies with [FailLocal] while Store fails. If nil, a MemoryStore
	// with its defaults does. It is not used if Store is a MemoryStore.
	Local *MemoryStore

	// LegacyHeaders adds X-RateLimit-Limit, -Remaining and -Reset (in seconds) of the policy with
	// the least left.
	LegacyHeaders bool

	// NoHeaders leaves out the RateLimit fields. Retry-After stays.
	NoHeaders bool

	// RetryJitter lengthens Retry-After by a random time up to this, so that clients which were
	// refused together do not return together. Zero means none. Negative is invalid.
	RetryJitter time.Duration

	// PassDecision puts each admitted request's [Decision] into its context for [FromContext].
	PassDecision bool

	// ErrorHandler answers requests that [Limiter.Middleware] refuses; the fields are set already.
	// err is a [*RefusedError], or what [Limiter.Take] returned. If nil, they get a problem
	// document (RFC 9457): 429, for a missing key 400, for [FailClosed] 503, for other errors 500.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)

	// Observe, if not nil, receives every decision. It is called on the request's goroutine with no
	// lock held, so it must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e Event)
}

// withDefaults validates c and fills in zero fields, Store and Local excepted.
func (c Config) withDefaults() (Config, error) {
	f := settings.Of("ratelimit", "Config")
	if n := len(c.Policies); n < 1 || n > maxPolicies {
		f.Add("Policies", "there are %d, not 1 to %d", n, maxPolicies)
	}
	c.Policies = slices.Clone(c.Policies)
	for i := range c.Policies {
		p, err := c.Policies[i].withDefaults()
		field := fmt.Sprintf("Policies[%d]", i)
		f.Nest(field, err)
		for _, other := range c.Policies[:i] {
			if p.Name != "" && other.Name == p.Name {
				f.Add(field+".Name", "%q is taken", p.Name)
			}
		}
		c.Policies[i] = p
	}
	settings.NotNegative(f, "RetryJitter", c.RetryJitter)
	return c, f.Err()
}
