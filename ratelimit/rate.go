package ratelimit

import (
	"errors"
	"fmt"
	"math/bits"
	"time"
)

const (
	maxRate       = 1_000_000_000 // per second: one a nanosecond
	minWindow     = time.Millisecond
	maxWindow     = 366 * 24 * time.Hour
	maxDrain      = 4 * maxWindow // longest time in which a full burst may refill
	maxSlidingMax = 1<<countBits - 1
)

// A Rate is Limit requests, or units of cost, per Window.
type Rate struct {
	// Limit is how much one Window admits, at least 1 and at most one per nanosecond.
	Limit int64

	// Window is the time in which Limit is earned: 1 ms to 366 days.
	Window time.Duration

	// Burst is how much may be used at once after a pause. Zero means a tenth of Limit,
	// at least 1: in any Window a key passes at most Limit + Burst, so a Burst of Limit
	// may pass twice the Limit. The time to earn a Burst must not exceed four years.
	// Must be zero with [SlidingWindow].
	Burst int64
}

// PerSecond returns the Rate of n a second.
func PerSecond(n int64) Rate { return Rate{Limit: n, Window: time.Second} }

// PerMinute returns the Rate of n a minute.
func PerMinute(n int64) Rate { return Rate{Limit: n, Window: time.Minute} }

// PerHour returns the Rate of n an hour.
func PerHour(n int64) Rate { return Rate{Limit: n, Window: time.Hour} }

// PerDay returns the Rate of n in 24 hours.
func PerDay(n int64) Rate { return Rate{Limit: n, Window: 24 * time.Hour} }

// WithBurst returns r with the given Burst.
func (r Rate) WithBurst(burst int64) Rate {
	r.Burst = burst
	return r
}

// withDefaults validates r for the given algorithm and fills in Burst.
func (r Rate) withDefaults(a Algorithm) (Rate, error) {
	var errs []error
	if r.Limit < 1 {
		errs = append(errs, fmt.Errorf("Limit: %d is less than 1", r.Limit))
	}
	if r.Window < minWindow || r.Window > maxWindow {
		errs = append(errs, fmt.Errorf("Window: %v is not between %v and %v", r.Window, minWindow, maxWindow))
	}
	if r.Burst < 0 {
		errs = append(errs, fmt.Errorf("Burst: %d is negative", r.Burst))
	}
	if len(errs) > 0 {
		return r, errors.Join(errs...)
	}
	if a == SlidingWindow {
		if r.Limit > maxSlidingMax {
			errs = append(errs, fmt.Errorf("Limit: %d is more than a sliding window counts to (%d)", r.Limit, maxSlidingMax))
		}
		if r.Burst != 0 {
			errs = append(errs, errors.New("Burst: has no meaning for a sliding window"))
		}
		return r, errors.Join(errs...)
	}
	if r.Limit > int64(r.Window) {
		return r, fmt.Errorf("Limit: %d in %v is more than %d a second", r.Limit, r.Window, maxRate)
	}
	if r.Burst == 0 {
		r.Burst = max(r.Limit/10, 1)
	}
	hi, lo := bits.Mul64(uint64(r.Burst), uint64(r.Window))
	if hi >= uint64(r.Limit) { // the quotient would not fit
		return r, fmt.Errorf("Burst: %d takes longer than %v to earn", r.Burst, maxDrain)
	}
	if drain, _ := bits.Div64(hi, lo, uint64(r.Limit)); drain > uint64(maxDrain) {
		return r, fmt.Errorf("Burst: %d takes longer than %v to earn", r.Burst, maxDrain)
	}
	return r, nil
}

// scaled returns r at the given share of its pace and burst, for one of several
// processes that each count for themselves. Its burst, or a sliding window's limit, is at least 1.
func (r Rate) scaled(share float64, a Algorithm) Rate {
	if share == 1 {
		return r
	}
	if a == SlidingWindow {
		r.Limit = max(int64(float64(r.Limit)*share), 1)
		return r
	}
	r.Burst = max(int64(float64(r.Burst)*share), 1)
	// The pace is scaled through the Window, so that a Limit of 1 has a share too, unless that gets too long.
	if window := float64(r.Window) / share; window < float64(maxWindow) {
		r.Window = time.Duration(window) + 1
	} else {
		r.Limit = max(int64(float64(r.Limit)*share), 1)
		r.Burst = max(min(r.Burst, mulDiv(int64(maxDrain), r.Limit, int64(r.Window))), 1)
	}
	return r
}
