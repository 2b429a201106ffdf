package versioning

import (
	"math/bits"
	"slices"
	"sync/atomic"
	"time"
)

// Bins of a histogram of durations: 32 for each doubling from 1 µs to over an hour, so that a bin
// is 1/32 wide and its middle at most 1.6 % off.
const (
	binBits  = 5
	firstBit = 10 // 1,024 ns: all below are in the first bin
	lastBit  = 42 // 4,398 s: all from there on are in the last bin
	bins     = (lastBit-firstBit)<<binBits + 1
)

// binOf returns the bin that d falls into.
func binOf(d time.Duration) int {
	if d < 1<<firstBit {
		return 0
	}
	if d >= 1<<lastBit {
		return bins - 1
	}
	bit := bits.Len64(uint64(d)) - 1
	return (bit-firstBit)<<binBits + int(uint64(d)>>(bit-binBits)&(1<<binBits-1))
}

// binFrom returns where a bin begins.
func binFrom(bin int) time.Duration {
	bit, part := bin>>binBits+firstBit, bin&(1<<binBits-1)
	return time.Duration(1<<bit + part<<(bit-binBits))
}

// binMiddle returns the duration that stands for those in a bin.
func binMiddle(bin int) time.Duration { return binFrom(bin) + (binFrom(bin+1)-binFrom(bin))/2 }

// A histogram counts durations. It may be used concurrently.
type histogram struct{ counts [bins]atomic.Uint64 }

func (h *histogram) add(d time.Duration) { h.counts[binOf(d)].Add(1) }

// addTo adds what h has counted to counts, and returns how much that is.
func (h *histogram) addTo(counts []uint64) (n uint64) {
	for i := range h.counts {
		c := h.counts[i].Load()
		counts[i] += c
		n += c
	}
	return n
}

// sum returns how many durations are counted.
func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// quantile returns the duration below which the share q of what is counted lies; 0 if nothing is,
// or if q is not a share.
func quantile(counts []uint64, q float64) time.Duration {
	n := sum(counts)
	if n == 0 || q < 0 || q >= 1 {
		return 0
	}
	rank := min(uint64(q*float64(n)), n-1)
	i := slices.IndexFunc(counts, func(c uint64) bool {
		if rank < c {
			return true
		}
		rank -= c
		return false
	})
	return binMiddle(i)
}
