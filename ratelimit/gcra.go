package ratelimit

import (
	"math/bits"
	"time"
)

// Time is counted in ticks of 1/16 ns since the store's base, so that an int64 reaches 18 years:
// ten of uptime, and debts of at most five beyond.
const (
	tickBits = 4
	maxDebt  = int64(5*maxWindow) << tickBits
)

func toTicks(d time.Duration) int64 { return int64(d) << tickBits }

// toDuration rounds up: a client that waits as told must not come too early.
func toDuration(ticks int64) time.Duration {
	if ticks <= 0 {
		return 0
	}
	return time.Duration((ticks + (1<<tickBits - 1)) >> tickBits)
}

// A grid divides a Rate's Window into n equal steps, of which each token takes 1<<shift. A key's
// word is its theoretical arrival time (TAT) in ticks, always the first tick of a step, from which
// the step is found again exactly. So the word is plain time, which survives a change of the rate,
// while tokens are counted in integers: the fraction of a tick that Window/Limit leaves over is
// never lost twice. Adding a rounded Window/Limit instead would be wrong by up to 43 % at 7·10⁸ a
// second.
type grid struct {
	n, d  uint64 // steps and ticks in one Window; d/2 < n <= d
	shift uint8
	burst uint64 // in steps
}

// grid returns r's grid; r is valid, Burst included.
func (r Rate) grid() grid {
	d := uint64(r.Window) << tickBits
	shift := uint8(bits.Len64(d/uint64(r.Limit)) - 1)
	return grid{n: uint64(r.Limit) << shift, d: d, shift: shift, burst: uint64(r.Burst) << shift}
}

// step returns the step that the tick t lies in.
func (g *grid) step(t int64) uint64 {
	hi, lo := bits.Mul64(uint64(t), g.n)
	q, _ := bits.Div64(hi, lo, g.d) // n <= d, so q <= t
	return q
}

// stepFrom returns the first step that does not begin before the tick t. A t from tick is the first
// of its step. A t from another rate's grid is rounded up, against the caller.
func (g *grid) stepFrom(t int64) uint64 {
	hi, lo := bits.Mul64(uint64(t), g.n)
	q, r := bits.Div64(hi, lo, g.d)
	if r >= g.n { // t-1 lies in step q too
		q++
	}
	return q
}

// tick returns the first tick of step s.
func (g *grid) tick(s uint64) int64 {
	hi, lo := bits.Mul64(s, g.d)
	q, r := bits.Div64(hi, lo, g.n)
	if r != 0 {
		q++
	}
	return int64(q)
}

// An answer is what an algorithm says to one cost and one key's word.
type answer struct {
	word         int64 // the key's word after the cost has been charged, whether it fits or not
	ok           bool
	remaining    int64
	retry, reset time.Duration
}

// answer says whether cost fits at the tick now if the key's word is tat.
func (g *grid) answer(tat, now, cost int64) (a answer) {
	at := g.step(now)
	used := at // the step up to which tokens are spent
	if tat > now {
		used = max(at, g.stepFrom(tat))
	}
	line := at + g.burst
	if cost == 0 {
		a.ok = true
		a.word = tat
	} else {
		after := g.add(at, used, cost)
		if cost <= int64(g.burst>>g.shift) { // a greater one never fits: there is no time to retry at
			if after <= line {
				a.ok = true
			} else {
				a.retry = toDuration(g.tick(after-g.burst) - now)
			}
		}
		a.word = g.tick(after)
		if a.ok {
			used = after
			tat = a.word
		}
	}
	if used < line {
		a.remaining = int64((line - used) >> g.shift)
	}
	a.reset = toDuration(tat - now)
	return a
}

// add returns used plus cost, at most maxDebt beyond the step at.
func (g *grid) add(at, used uint64, cost int64) uint64 {
	most := at + g.step(maxDebt)
	hi, lo := bits.Mul64(uint64(cost), 1<<g.shift)
	if hi != 0 || lo > most || used+lo > most {
		return max(most, used)
	}
	return used + lo
}

// atMost returns the tat from which at most remaining tokens are left at now.
func (g *grid) atMost(now, remaining int64) int64 {
	keep := g.burst
	if uint64(remaining) < g.burst>>g.shift {
		keep = uint64(remaining) << g.shift
	}
	return g.tick(g.step(now) + g.burst - keep)
}
