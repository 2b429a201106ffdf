package breaker

import "time"

// steps is in how many steps a window rolls.
const steps = 10

// step returns the length of a step, rounded up, so that steps of them cover the window.
func step(length time.Duration) time.Duration { return (length + steps - 1) / steps }

// A window counts what happened in its length of time, which rolls in steps as gobreaker's does.
// Times must not go back; an earlier one counts as the latest.
type window struct {
	step    int64
	start   int64
	age     int64 // of the current bucket, in steps since start
	buckets [steps]uint32
}

func newWindow(length time.Duration) window { return window{step: int64(step(length))} }

func (w *window) add(now int64) {
	w.roll(now)
	w.buckets[w.age%steps]++
}

func (w *window) total(now int64) (n uint64) {
	w.roll(now)
	for _, b := range w.buckets {
		n += uint64(b)
	}
	return n
}

func (w *window) reset(now int64) { *w = window{step: w.step, start: now} }

func (w *window) roll(now int64) {
	age := max(w.age, (now-w.start)/w.step)
	for i := range min(steps, age-w.age) {
		w.buckets[(age-i)%steps] = 0
	}
	w.age = age
}

// takeBack takes back what add has counted at a time, if that is still in the window.
func (w *window) takeBack(now, at int64) {
	w.roll(now)
	age := max(0, (at-w.start)/w.step)
	if w.age-age < steps && w.buckets[age%steps] > 0 {
		w.buckets[age%steps]--
	}
}
