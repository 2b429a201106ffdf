package cache

import (
	"context"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultMaxEntries    = 10_000
	defaultEarlyRefresh  = 1.0
	defaultLoadTimeout   = time.Minute
	defaultMaxBackground = 64

	maxMaxWeight = 1 << 62 // with one entry more, of a quarter of it, there is no overflow
)

// An Eviction is a way to choose the entry that leaves a full cache.
type Eviction int

const (
	// TinyLFU keeps what is used often and lets a window of newcomers prove themselves (W-TinyLFU).
	// It learns from the traffic how large a window pays, from a hundredth of the cache, where a
	// scan flushes nothing, to all of it, which is LRU. See the package comment.
	TinyLFU Eviction = iota
	// LRU evicts what was not used for the longest time. When several entries were read or
	// overwritten between two additions, it does not always know which of them was used last.
	LRU
)

func (e Eviction) String() string {
	switch e {
	case TinyLFU:
		return "TinyLFU"
	case LRU:
		return "LRU"
	}
	return "unknown"
}

// MemoryConfig configures a [Memory]. The zero MemoryConfig is valid. Its functions must be safe
// for concurrent use.
type MemoryConfig[K comparable, V any] struct {
	// MaxEntries bounds the number of entries. Zero means 10,000. Negative is invalid. With a
	// Weigher it must be zero, and does not count.
	MaxEntries int

	// Weigher, if not nil, makes the bound one of weight, such as bytes. It returns what an entry
	// adds to the weight; zero counts as 1, and a value with a negative weight, as of an overflow,
	// is refused. It must be quick, always return the same for the same arguments, and not use the
	// cache.
	Weigher func(key K, value V) int64

	// MaxWeight bounds the sum of the weights, in the Weigher's unit. An entry heavier than a
	// quarter of it is refused. With a Weigher it is required: zero and negative are invalid, and
	// so is more than 1<<62. Without a Weigher it must be zero.
	MaxWeight int64

	// Eviction chooses what leaves a full cache. Zero is [TinyLFU].
	Eviction Eviction

	// TTL returns for how long a value is fresh, from when it was set or loaded: [Forever], for
	// ever. Zero and negative mean that its time is over (a deadline has passed): Load returns
	// the value, and it is not stored. If nil, all values are fresh for ever. [MemoryItem] can
	// override it.
	TTL func(key K, value V) time.Duration

	// Jitter shortens each TTL by a random share of up to this much, so that what was stored
	// together does not expire together. Zero means none. Negative is invalid, and so are 1 and
	// more.
	Jitter float64

	// IdleTTL removes an entry that was not read for this long, accurate to a millisecond or to
	// IdleTTL/16, whichever is less. Zero means never. Negative is invalid.
	IdleTTL time.Duration

	// Stale is for how long beyond its TTL, or beyond a soft invalidation, [Memory.Load] returns a
	// value at once while it refreshes it in the background. Zero means not at all. Negative is
	// invalid.
	Stale time.Duration

	// StaleIfError is for how long beyond its TTL, or beyond a soft invalidation, a value is
	// returned if loading a new one fails. Zero means not at all. Negative is invalid.
	StaleIfError time.Duration

	// StaleAfter is how long a caller waits for a load that is slow, counted from when that began:
	// then it gets the value that StaleIfError would give it if the load failed. The load goes on,
	// within MaxBackground, and what it brings is stored. Zero means that a caller waits as long as
	// its ctx allows. Negative is invalid, and so is any without a StaleIfError.
	StaleAfter time.Duration

	// ErrorTTL returns for how long a loader's error is kept and returned instead of loading
	// again. If a stale value is returned for the error (StaleIfError), it is for how long that is
	// done without another try. Zero and negative mean not at all. If nil, no error is kept.
	//
	// An error has no tags: Set, Delete and Clear end it sooner, InvalidateTag does not. It weighs
	// 1 or, with a Weigher, a ten-thousandth of MaxWeight.
	ErrorTTL func(key K, err error) time.Duration

	// EarlyRefresh is the eagerness with which [Memory.Load] refreshes a value in the background
	// before its TTL ends. At 1 a refresh begins about as long ahead as loading the value took, at
	// random, so that many processes do not do it together (XFetch). Zero means 1. Negative means
	// never.
	EarlyRefresh float64

	// Tags returns the tags of a value, for [Memory.InvalidateTag]. If nil, values have none.
	// [MemoryItem] can override it.
	Tags func(key K, value V) []string

	// LoadTimeout ends the context of a loader, which outlives the callers that wait for it. A
	// loader that goes on all the same has failed: its callers get an error, and the next caller
	// loads anew. Zero means one minute. Negative means no limit.
	LoadTimeout time.Duration

	// MaxBackground is the most loads at once that no caller waits for: refreshes, and loads whose
	// callers have all left. Beyond it, refreshes are put off and abandoned loads are canceled.
	// Zero means 64. Negative means none.
	MaxBackground int

	// Schema names what keys and values mean, for snapshots: [Memory.Restore] refuses one that was
	// saved under another. Change it when the same fields come to mean something else (cents that
	// were euros), or when a type does that stands in an interface. It may be empty.
	Schema string

	// Observe, if not nil, receives loads, removals and refusals. It does not receive hits and
	// misses: [Memory.Stats] counts those. It is called with no lock held and may use the cache. It
	// must be quick, since the callers of a load wait for it, and safe for concurrent use.
	Observe func(ctx context.Context, e MemoryEvent[K, V])
}

// withDefaults validates c and fills in zero fields.
func (c MemoryConfig[K, V]) withDefaults() (MemoryConfig[K, V], error) {
	f := settings.Of("cache", "MemoryConfig")
	switch {
	case c.Weigher == nil && c.MaxWeight != 0:
		f.Add("MaxWeight", "%d without a Weigher", c.MaxWeight)
	case c.Weigher != nil && c.MaxWeight <= 0:
		f.Add("MaxWeight", "%d is not positive, and there is a Weigher", c.MaxWeight)
	case c.MaxWeight > maxMaxWeight:
		f.Add("MaxWeight", "%d is more than %d", c.MaxWeight, int64(maxMaxWeight))
	}
	switch {
	case c.Weigher != nil && c.MaxEntries > 0:
		f.Add("MaxEntries", "%d beside a Weigher: the bound is MaxWeight", c.MaxEntries)
	case int64(c.MaxEntries) > maxSlots:
		f.Add("MaxEntries", "%d is more than %d", c.MaxEntries, maxSlots)
	}
	settings.Positive(f, "MaxEntries", &c.MaxEntries, defaultMaxEntries)
	if c.Eviction != TinyLFU && c.Eviction != LRU {
		f.Add("Eviction", "%d is unknown", int(c.Eviction))
	}
	if !(c.Jitter >= 0 && c.Jitter < 1) { // NaN is neither
		f.Add("Jitter", "%v is not in [0, 1)", c.Jitter)
	}
	settings.NotNegative(f, "IdleTTL", c.IdleTTL)
	settings.NotNegative(f, "Stale", c.Stale)
	settings.NotNegative(f, "StaleIfError", c.StaleIfError)
	settings.NotNegative(f, "StaleAfter", c.StaleAfter)
	if c.StaleAfter > 0 && c.StaleIfError == 0 {
		f.Add("StaleAfter", "%v without a StaleIfError", c.StaleAfter)
	}
	settings.Default(f, "EarlyRefresh", &c.EarlyRefresh, defaultEarlyRefresh)
	settings.Default(f, "LoadTimeout", &c.LoadTimeout, defaultLoadTimeout)
	settings.Default(f, "MaxBackground", &c.MaxBackground, defaultMaxBackground)
	return c, f.Err()
}
