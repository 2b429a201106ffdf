package ratelimit

import (
	"math/bits"
	"time"
)

// A key's word of a sliding window packs the number of a window, modulo 2^16, and the counts of the
// window before and of its own. A key that comes back exactly 65,536 windows later finds its old
// counts again: that errs against the caller, for one window.
const (
	countBits = 24
	countMask = 1<<countBits - 1
)

func packWindow(k uint64, prev, cur int64) int64 {
	return int64(k<<(2*countBits)) | prev<<countBits | cur
}

// A slide is a sliding window of fixed length at one instant.
type slide struct {
	limit  int64
	length uint64 // ns
	k      uint64 // the window that now lies in
	offset uint64 // ns since its start
}

func newSlide(limit int64, length time.Duration, now int64) slide {
	ns := uint64(now) >> tickBits
	return slide{limit: limit, length: uint64(length), k: ns / uint64(length), offset: ns % uint64(length)}
}

// counts returns word's counts as seen from s. A word of a later window was written by a goroutine
// that read the clock after this one: s moves to the start of that window, which gives the caller
// nothing.
func (s *slide) counts(word int64) (prev, cur int64) {
	if word == 0 {
		return 0, 0
	}
	prev, cur = word>>countBits&countMask, word&countMask
	switch uint16(s.k) - uint16(uint64(word)>>(2*countBits)) {
	case 0:
		return prev, cur
	case 1:
		return cur, 0
	case 0xffff:
		s.k++
		s.offset = 0
		return prev, cur
	}
	return 0, 0
}

// weight returns what is left of prev, rounded up: the share of the previous window that the
// sliding one still covers.
func (s *slide) weight(prev int64) int64 {
	hi, lo := bits.Mul64(uint64(prev), s.length-s.offset)
	q, r := bits.Div64(hi, lo, s.length)
	if r != 0 {
		q++
	}
	return int64(q)
}

// freeAt returns the offset from which at most left of count still weigh.
func (s *slide) freeAt(count, left int64) uint64 {
	if count <= left {
		return 0
	}
	hi, lo := bits.Mul64(uint64(left), s.length)
	q, _ := bits.Div64(hi, lo, uint64(count))
	return s.length - q
}

func (s *slide) answer(word, cost int64) (a answer) {
	prev, cur := s.counts(word)
	used := s.weight(prev) + cur
	if cost == 0 {
		a.ok = true
		a.word = word
	} else {
		a.word = packWindow(s.k, prev, min(cur+min(cost, countMask), countMask))
		switch {
		case cost > s.limit: // it never fits: there is no time to retry at
		case used+cost <= s.limit:
			a.ok = true
			used += cost
			cur += cost
		case cur+cost <= s.limit:
			a.retry = time.Duration(s.freeAt(prev, s.limit-cur-cost) - s.offset)
		default:
			a.retry = time.Duration(s.length - s.offset + s.freeAt(cur, s.limit-cost))
		}
	}
	a.remaining = max(s.limit-used, 0)
	switch {
	case cur > 0:
		a.reset = time.Duration(2*s.length - s.offset)
	case prev > 0:
		a.reset = time.Duration(s.length - s.offset)
	}
	return a
}

// atMost returns word with so much counted that at most remaining are left.
func (s *slide) atMost(word, remaining int64) int64 {
	prev, cur := s.counts(word)
	if more := s.limit - remaining - s.weight(prev) - cur; more > 0 {
		cur = min(cur+more, countMask)
	}
	return packWindow(s.k, prev, cur)
}
