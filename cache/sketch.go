package cache

import (
	"math/bits"
	"slices"
)

// A sketch estimates how often a key was used of late. It is a count-min sketch: a use is counted
// in four 4-bit counters, all in one cache line, which other keys share. All counters are halved
// after ten uses per entry of the cache.
type sketch struct {
	blocks []block // a power of two
	keys   int     // how many keys it is made for
	sample int     // uses between halvings
	uses   int     // counted since the last halving
}

// A block is one cache line: for each of four rows 32 counters in two words.
type block [8]uint64

const (
	maxFrequency = 15
	keysPerBlock = 8 // of 128 counters: 16 per key, with which an estimate is rarely wrong
	minSketch    = 64
	firstSketch  = 1024 // keys; where a sketch grows, more of them collide, which counts in small caches
)

func newSketch(keys int) sketch {
	n := 1
	for n*keysPerBlock < keys {
		n *= 2
	}
	return sketch{blocks: make([]block, n), keys: n * keysPerBlock, sample: 10 * n * keysPerBlock}
}

// grow makes s one for twice the keys, and forgets nothing: a key's block is the one that it was,
// or the copy of that.
func (s *sketch) grow() {
	s.blocks = slices.Concat(s.blocks, s.blocks)
	s.keys *= 2
}

// spread turns the 32 hash bits that an entry carries into a block and the place of a counter in
// each of its rows.
func (s *sketch) spread(tag uint32) (b *block, places uint32) {
	h := uint64(tag) * 0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xff51afd7ed558ccd
	h ^= h >> 29
	return &s.blocks[uint(h)&uint(len(s.blocks)-1)], uint32(h >> 40)
}

// count notes one use.
func (s *sketch) count(tag uint32) {
	b, places := s.spread(tag)
	added := false
	for row := range 4 {
		word := &b[row*2+int(places&1)]
		shift := places >> 1 & 15 * 4
		if *word>>shift&maxFrequency != maxFrequency {
			*word += 1 << shift
			added = true
		}
		places >>= 5
	}
	if !added {
		return
	}
	if s.uses++; s.uses >= s.sample {
		s.halve()
	}
}

// frequency returns the estimate, from 0 to maxFrequency.
func (s *sketch) frequency(tag uint32) int {
	b, places := s.spread(tag)
	least := uint64(maxFrequency)
	for row := range 4 {
		word := b[row*2+int(places&1)]
		least = min(least, word>>(places>>1&15*4)&maxFrequency)
		places >>= 5
	}
	return int(least)
}

// halve makes past uses count for less than present ones.
func (s *sketch) halve() {
	odd := 0 // counters that lose half a use; a use is in four counters
	for i := range s.blocks {
		for j, word := range s.blocks[i] {
			odd += bits.OnesCount64(word & 0x1111111111111111)
			s.blocks[i][j] = word >> 1 & 0x7777777777777777
		}
	}
	s.uses = max(0, s.uses-odd/4) / 2 // grow copies counters, so they can hold more than was counted
}
