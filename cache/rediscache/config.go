package rediscache

import (
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultTimeout      = 20 * time.Millisecond
	defaultPurgeTimeout = 250 * time.Millisecond
	defaultMaxTTL       = 24 * time.Hour
	defaultMaxBody      = 1 << 20
	maxMaxBody          = 64 << 20
	maxPrefix           = 64
)

// Config configures a [Store].
type Config struct {
	// Prefix begins every key and channel. Required: services that have the same one share what
	// they store. It has at most 64 bytes and no braces.
	Prefix string

	// Timeout is the most that a request may wait for Redis each time: when it looks for a
	// response, and when one is stored. A request that has waited in vain asks no more. Zero means
	// 20 ms. Negative is invalid.
	Timeout time.Duration

	// PurgeTimeout is the most that a purge may wait for Redis. Zero means 250 ms. Negative is
	// invalid.
	PurgeTimeout time.Duration

	// MaxTTL is for how long a response stays in Redis at most. A shorter time is taken from its
	// freshness and from how long it may be used beyond. Zero means 24 hours. Negative is invalid.
	MaxTTL time.Duration

	// MaxBody is the size in bytes of the largest body that is stored. The variants of one URL
	// together have four times as much. Zero means 1 MiB. Negative and more than 64 MiB are
	// invalid.
	MaxBody int64
}

// withDefaults validates c and fills in zero fields.
func (c Config) withDefaults() (Config, error) {
	f := settings.Of("rediscache", "Config")
	checkPrefix(f, c.Prefix, "services that have the same one share what they store")
	settings.Positive(f, "Timeout", &c.Timeout, defaultTimeout)
	settings.Positive(f, "PurgeTimeout", &c.PurgeTimeout, defaultPurgeTimeout)
	settings.Positive(f, "MaxTTL", &c.MaxTTL, defaultMaxTTL)
	settings.Positive(f, "MaxBody", &c.MaxBody, defaultMaxBody)
	if c.MaxBody > maxMaxBody {
		f.Add("MaxBody", "%d is more than %d", c.MaxBody, maxMaxBody)
	}
	return c, f.Err()
}

// checkPrefix adds a fault if prefix cannot begin the names of keys and channels. It is required,
// for the reason why.
func checkPrefix(f *settings.Faults, prefix, why string) {
	switch {
	case prefix == "":
		f.Add("Prefix", "is required: %s", why)
	case strings.ContainsAny(prefix, "{}"):
		f.Add("Prefix", "%q contains braces, which choose the slot", prefix)
	case len(prefix) > maxPrefix:
		f.Add("Prefix", "has %d bytes, more than %d", len(prefix), maxPrefix)
	}
}
