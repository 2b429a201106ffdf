package redislimit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
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

	// Timeout is the most that a decision may wait for Redis. Zero means 25 ms. Negative is
	// invalid.
	Timeout time.Duration

	// HashTag, if not empty, puts all keys into one slot of a Cluster. It must not contain braces.
	HashTag string

	// SameKey promises that all policies of a limiter have the same key, so that the key itself can
	// choose the slot. A decision with different keys fails.
	SameKey bool

	// Leases are the policies, by name, that may be paid for in advance. A limiter with such a
	// policy can have no other one. Its Algorithm must be ratelimit.GCRA, without a CountIf.
	Leases map[string]LeaseConfig
}

// A LeaseConfig says how much of a policy a process may buy in advance. The zero LeaseConfig is
// valid.
type LeaseConfig struct {
	// Fraction is the part of what a key has left that is bought at once. Zero means 0.1. Negative
	// and more than 0.5 are invalid.
	Fraction float64

	// Max is the most that is bought at once. Zero means no other limit than Fraction. Negative is
	// invalid.
	Max int64

	// TTL is how long a lease may be used. Zero means a second, or half of the time that a Burst
	// takes to earn if that is shorter. Negative is invalid.
	TTL time.Duration
}

// withDefaults validates c and fills in zero fields.
func (c Config) withDefaults() (Config, error) {
	f := settings.Of("redislimit", "Config")
	c.Prefix = cmp.Or(c.Prefix, defaultPrefix)
	if strings.ContainsAny(c.Prefix, "{}") {
		f.Add("Prefix", "%q contains braces, which choose the slot", c.Prefix)
	}
	if strings.ContainsAny(c.HashTag, "{}") {
		f.Add("HashTag", "%q contains braces", c.HashTag)
	}
	settings.Positive(f, "Timeout", &c.Timeout, defaultTimeout)
	c.Leases = maps.Clone(c.Leases)
	for _, name := range slices.Sorted(maps.Keys(c.Leases)) {
		l, err := c.Leases[name].withDefaults()
		f.Nest(fmt.Sprintf("Leases[%q]", name), err)
		c.Leases[name] = l
	}
	return c, f.Err()
}

func (l LeaseConfig) withDefaults() (LeaseConfig, error) {
	f := settings.Of("redislimit", "LeaseConfig")
	if !(l.Fraction >= 0 && l.Fraction <= 0.5) {
		f.Add("Fraction", "%v is not between 0 and 0.5", l.Fraction)
	}
	l.Fraction = cmp.Or(l.Fraction, defaultFraction)
	settings.NotNegative(f, "Max", l.Max)
	settings.NotNegative(f, "TTL", l.TTL)
	return l, f.Err()
}
