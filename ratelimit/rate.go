package ratelimit

import (
	"math"
	"math/bits"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

const (
	maxRate         = 1_000_000_000 // per second: one a nanosecond
	minWindow       = time.Millisecond
	maxWindow       = 366 * 24 * time.Hour
	maxDrain        = 4 * maxWindow // longest time in which a full burst is earned
	maxSlidingLimit = countMask
)

// A Rate is Limit requests, or units of cost, per Window.
type Rate struct {
	// Limit is how much one Window admits: at least 1, at most one per nanosecond of Window, and
	// with [SlidingWindow] at most 16,777,215. Zero and negative are invalid.
	Limit int64

	// Window is the time in which Limit is earned: 1 ms to 366 days. Zero and negative are invalid.
	Window time.Duration

	// Burst is how much may be used at once after a pause. Zero means a tenth of Limit, at least 1.
	// Negative is invalid, as is a Burst that takes longer than four years to earn. In any Window a
	// key is admitted at most Limit + Burst, so with a Burst of Limit twice the Limit. Must be zero
	// with [SlidingWindow].
	Burst int64
}

// PerSecond returns the Rate of n a second, with a Burst of a tenth of n, at least 1: see
// [Rate.WithBurst].
func PerSecond(n int64) Rate { return Rate{Limit: n, Window: time.Second} }

// PerMinute returns the Rate of n a minute, with a Burst of a tenth of n, at least 1: see
// [Rate.WithBurst].
func PerMinute(n int64) Rate { return Rate{Limit: n, Window: time.Minute} }

// PerHour returns the Rate of n an hour, with a Burst of a tenth of n, at least 1: see
// [Rate.WithBurst].
func PerHour(n int64) Rate { return Rate{Limit: n, Window: time.Hour} }

// PerDay returns the Rate of n in 24 hours, with a Burst of a tenth of n, at least 1: see
// [Rate.WithBurst].
func PerDay(n int64) Rate { return Rate{Limit: n, Window: 24 * time.Hour} }

// WithBurst returns r with the given Burst: PerMinute(60) admits 6 requests at once, one more each
// second, and PerMinute(60).WithBurst(60) the whole minute's at once.
func (r Rate) WithBurst(burst int64) Rate {
	r.Burst = burst
	return r
}

// Validate returns r with the Burst that zero means for a policy of algorithm a. The error, if any,
// names every invalid field.
func (r Rate) Validate(a Algorithm) (Rate, error) {
	f := settings.Of("ratelimit", "Rate")
	if r.Limit < 1 {
		f.Add("Limit", "%d is less than 1", r.Limit)
	}
	if r.Window < minWindow || r.Window > maxWindow {
		f.Add("Window", "%v is not between %v and %v", r.Window, minWindow, maxWindow)
	}
	if r.Burst < 0 {
		f.Add("Burst", "%d is negative", r.Burst)
	}
	if err := f.Err(); err != nil {
		return r, err
	}
	if a == SlidingWindow {
		if r.Limit > maxSlidingLimit {
			f.Add("Limit", "%d is more than a sliding window counts to (%d)", r.Limit, maxSlidingLimit)
		}
		if r.Burst != 0 {
			f.Add("Burst", "has no meaning for a sliding window")
		}
		return r, f.Err()
	}
	if r.Limit > int64(r.Window) {
		f.Add("Limit", "%d in %v is more than %d a second", r.Limit, r.Window, maxRate)
		return r, f.Err()
	}
	if r.Burst == 0 {
		r.Burst = max(r.Limit/10, 1)
	}
	// Burst * Window / Limit is the time to earn a burst. If hi >= Limit, it does not fit a word.
	hi, lo := bits.Mul64(uint64(r.Burst), uint64(r.Window))
	earned := uint64(math.MaxUint64)
	if hi < uint64(r.Limit) {
		earned, _ = bits.Div64(hi, lo, uint64(r.Limit))
	}
	if earned > uint64(maxDrain) {
		f.Add("Burst", "%d takes longer than %v to earn", r.Burst, maxDrain)
	}
	return r, f.Err()
}

// scaled returns r at the given share of its pace and burst, for one of several processes that each
// count for themselves. Its burst, or a sliding window's limit, is at least 1.
func (r Rate) scaled(share float64, a Algorithm) Rate {
	if share == 1 {
		return r
	}
	if a == SlidingWindow {
		r.Limit = max(int64(float64(r.Limit)*share), 1)
		return r
	}
	r.Burst = max(int64(float64(r.Burst)*share), 1)
	// The pace is scaled through the Window, so that a Limit of 1 has a share too, unless the
	// Window gets too long.
	if window := float64(r.Window) / share; window < float64(maxWindow) {
		r.Window = time.Duration(window) + 1
	} else {
		r.Limit = max(int64(float64(r.Limit)*share), 1)
		r.Burst = max(min(r.Burst, mulDiv(int64(maxDrain), r.Limit, int64(r.Window))), 1)
	}
	return r
}
