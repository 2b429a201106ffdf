package redislimit

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	defaultPrefix   = "trivet:ratelimit:"
	defaultTimeout  = 25 * time.Millisecond
	defaultFraction = 0.1
	maxLeaseTTL     = time.Second
)

// Config configures a [Store]. The zero Config is valid.
type Config struct {
	// Prefix begins every key. Empty means "trivet:ratelimit:". It must not contain braces.
	Prefix string

	// Timeout is the most that a decision may wait for Redis. Zero means 25 ms. Negative is invalid.
	Timeout time.Duration

	// HashTag, if not empty, puts all keys into one slot of a Cluster. It must not contain braces.
	HashTag string

	// SameKey promises that all policies of a limiter have the same key, so that the key
	// itself can choose the slot. A decision with different keys fails.
	SameKey bool

	// Leases are the policies, by name, that may be paid for in advance. A limiter with
	// such a policy can have no other one.
	Leases map[string]Lease
}

// A Lease says how much of a policy a process may buy in advance.
type Lease struct {
	// Fraction is the part of what a key has left that is bought at once. Zero means 0.1. It must not be negative or more than 0.5.
	Fraction float64

	// Max is the most that is bought at once. Zero means no other limit than Fraction. Negative is invalid.
	Max int64

	// TTL is how long it may be used. Zero means a second, or half of the time that a Burst takes to earn if that is
	// shorter. Negative is invalid.
	TTL time.Duration
}

// withDefaults validates c and fills in zero fields.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("redislimit: Config."+format, args...))
	}
	if c.Prefix == "" {
		c.Prefix = defaultPrefix
	}
	if strings.ContainsAny(c.Prefix, "{}") {
		fault("Prefix: %q contains braces, which choose the slot", c.Prefix)
	}
	if strings.ContainsAny(c.HashTag, "{}") {
		fault("HashTag: %q contains braces", c.HashTag)
	}
	if c.Timeout < 0 {
		fault("Timeout: %v is negative", c.Timeout)
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	c.Leases = maps.Clone(c.Leases)
	for _, name := range slices.Sorted(maps.Keys(c.Leases)) {
		l := c.Leases[name]
		if !(l.Fraction >= 0 && l.Fraction <= 0.5) {
			fault("Leases[%q].Fraction: %v is not between 0 and 0.5", name, l.Fraction)
		}
		if l.Max < 0 {
			fault("Leases[%q].Max: %d is negative", name, l.Max)
		}
		if l.TTL < 0 {
			fault("Leases[%q].TTL: %v is negative", name, l.TTL)
		}
		if l.Fraction == 0 {
			l.Fraction = defaultFraction
		}
		c.Leases[name] = l
	}
	return c, errors.Join(errs...)
}
