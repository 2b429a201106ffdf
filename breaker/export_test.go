package breaker

import "time"

// SetRand replaces b's randomness, which is in [0, 1).
func (b *Breaker) SetRand(f func() float64) { b.rand = f }

// SetRand replaces t's randomness, which is in [0, 1).
func (t *Throttle) SetRand(f func() float64) { t.rand = f }

// Base is what all times are measured from.
func (b *Breaker) Base() time.Time { return b.base }

// Abandoned is how long nobody must have asked for an open key until it may be forgotten.
const Abandoned = abandoned

// InFlight returns how many requests of key have not ended.
func (b *Breaker) InFlight(key string) int64 { return b.circuits.find(key).inFlight.Load() }
