package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	defaultMaxEntries    = 10_000
	defaultEarlyRefresh  = 1
	defaultLoadTimeout   = time.Minute
	defaultMaxBackground = 64

	maxMaxWeight = 1 << 62 // with one entry more, of a quarter of it, there is no overflow
)

// An Eviction is a way to choose the entry that leaves a full cache.
type Eviction int

const (
	// TinyLFU keeps what is used often and lets a window of newcomers prove
	// themselves; it adapts the window to the traffic (adaptive W-TinyLFU). A
	// scan does not flush it.
	TinyLFU Eviction = iota
	// LRU evicts what was not used for the longest time. Of reads and overwrites between two
	// additions it does not always know which was the last.
	LRU
)

// MemoryConfig configures a [Memory]. The zero MemoryConfig is valid.
type MemoryConfig[K comparable, V any] struct {
	// MaxEntries bounds the number of entries. Zero means 10,000. Negative is
	// invalid, and so is any other value beside Weigher.
	MaxEntries int

	// Weigher, if not nil, makes the bound one of weight, such as bytes: it
	// returns what an entry adds to it, at least 1. It must be quick, always
	// return the same for the same arguments, and not use the cache.
	Weigher func(key K, value V) int64

	// MaxWeight bounds the sum of the weights, in the Weigher's unit. Required with
	// Weigher, invalid without; at most 1<<62. An entry heavier than a quarter
	// of it is refused.
	MaxWeight int64

	// Eviction chooses what leaves a full cache. Zero is [TinyLFU].
	Eviction Eviction

	// TTL returns for how long a value is fresh, from when it was set or loaded.
	// Zero or negative means for ever. If nil, all are. [Item] can override it.
	TTL func(key K, value V) time.Duration

	// Jitter shortens each TTL by a random share of up to this much, so that
	// what was stored together does not expire together. Zero means none; it
	// must be below 1.
	Jitter float64

	// IdleTTL removes an entry that was not read for so long, to a
	// millisecond or, if that is less, a sixteenth. Zero means never. Negative is invalid.
	IdleTTL time.Duration

	// Stale is for how long beyond its TTL, or beyond a soft invalidation,
	// [Memory.Load] returns a value at once while it refreshes it in the
	// background. Zero means not at all. Negative is invalid.
	Stale time.Duration

	// StaleIfError is for how long beyond its TTL, or beyond a soft
	// invalidation, a value is returned if loading a new one fails. Zero means
	// not at all. Negative is invalid.
	StaleIfError time.Duration

	// ErrorTTL returns for how long a loader's error is kept and returned
	// instead of loading again; with a value to return by StaleIfError, for how
	// long that is done without another try. Zero or negative means not at all.
	// If nil, no error is kept. An error has no tags: Set, Delete or Clear end it sooner, InvalidateTag does not. It weighs 1 or, with a Weigher, a
	// ten-thousandth of MaxWeight.
	ErrorTTL func(key K, err error) time.Duration

	// EarlyRefresh is the eagerness with which [Memory.Load] refreshes a value in
	// the background before its TTL ends: at 1 it begins about one typical
	// duration of its load ahead, at random, so that many processes do not do it
	// together (XFetch). Zero means 1. Negative means never.
	EarlyRefresh float64

	// Tags returns the tags of a value, for [Memory.InvalidateTag]. If nil, values
	// have none. [Item] can override it.
	Tags func(key K, value V) []string

	// LoadTimeout ends the context of a loader, which outlives the callers that
	// wait for it. A loader that goes on all the same has failed: its callers get
	// an error and the next one loads anew. Zero means one minute. Negative means no limit.
	LoadTimeout time.Duration

	// MaxBackground is the most loads at once that no caller waits for: refreshes,
	// and loads whose callers have all left. Beyond it, refreshes are put off and
	// abandoned loads are cancelled. Zero means 64. Negative means none.
	MaxBackground int

	// Observe, if not nil, receives loads, removals and refusals, but not hits
	// and misses: [Memory.Stats] counts those. It is called with no lock held,
	// must be quick, since the callers of a load wait for it, safe for concurrent use, and
	// may use the cache.
	Observe func(ctx context.Context, e MemoryEvent[K, V])
}

// withDefaults validates c and fills in zero fields.
func (c MemoryConfig[K, V]) withDefaults() (MemoryConfig[K, V], error) {
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("cache: MemoryConfig."+field+": "+format, args...))
	}
	switch {
	case c.Weigher == nil && c.MaxWeight != 0:
		fault("MaxWeight", "%d without a Weigher", c.MaxWeight)
	case c.Weigher != nil && c.MaxWeight <= 0:
		fault("MaxWeight", "%d is not positive, and there is a Weigher", c.MaxWeight)
	case c.MaxWeight > maxMaxWeight:
		fault("MaxWeight", "%d is more than %d", c.MaxWeight, int64(maxMaxWeight))
	}
	switch {
	case c.MaxEntries < 0:
		fault("MaxEntries", "%d is negative", c.MaxEntries)
	case c.Weigher != nil && c.MaxEntries != 0:
		fault("MaxEntries", "%d beside a Weigher: the bound is MaxWeight", c.MaxEntries)
	case int64(c.MaxEntries) > maxSlots:
		fault("MaxEntries", "%d is more than %d", c.MaxEntries, maxSlots)
	}
	if c.Eviction != TinyLFU && c.Eviction != LRU {
		fault("Eviction", "%d is unknown", c.Eviction)
	}
	if !(c.Jitter >= 0 && c.Jitter < 1) {
		fault("Jitter", "%v is not in [0, 1)", c.Jitter)
	}
	if c.IdleTTL < 0 {
		fault("IdleTTL", "%v is negative", c.IdleTTL)
	}
	if c.Stale < 0 {
		fault("Stale", "%v is negative", c.Stale)
	}
	if c.StaleIfError < 0 {
		fault("StaleIfError", "%v is negative", c.StaleIfError)
	}
	if math.IsNaN(c.EarlyRefresh) || math.IsInf(c.EarlyRefresh, 1) {
		fault("EarlyRefresh", "%v is not finite", c.EarlyRefresh)
	}
	if c.MaxEntries == 0 {
		c.MaxEntries = defaultMaxEntries
	}
	if c.EarlyRefresh == 0 {
		c.EarlyRefresh = defaultEarlyRefresh
	}
	if c.LoadTimeout == 0 {
		c.LoadTimeout = defaultLoadTimeout
	}
	if c.MaxBackground == 0 {
		c.MaxBackground = defaultMaxBackground
	}
	return c, errors.Join(errs...)
}
