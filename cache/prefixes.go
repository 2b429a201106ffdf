package cache

import (
	"slices"
	"strings"
	"time"
)

// maxPrefixes bounds what is remembered of purges by prefix. Beyond it two of them become one, of
// what they have in common: more is purged than was asked for, never less.
const maxPrefixes = 128

// prefixes are the purges by prefix. A value is not changed once it is shared.
type prefixes struct {
	hard, soft []prefixPurge // sorted
}

type prefixPurge struct {
	prefix string
	seq    uint64
	at     int64 // Unix nanoseconds
}

// with returns p and one purge more.
func (p *prefixes) with(prefix string, how Invalidation, seq uint64, now time.Time) *prefixes {
	purge := prefixPurge{prefix: prefix, seq: seq, at: now.UnixNano()}
	next := &prefixes{hard: p.hard, soft: p.soft}
	if how == Hard {
		// Everything under the prefix is gone: older purges there have nothing left to do.
		next.hard = insert(outside(p.hard, prefix), purge)
		next.soft = outside(p.soft, prefix)
		return next
	}
	next.soft = insert(outside(p.soft, prefix), purge)
	for _, old := range p.soft {
		// What was stored before an old purge would count as stale since this one. Once it has been
		// so for long, it is gone.
		if strings.HasPrefix(old.prefix, prefix) && purge.at-old.at >= int64(softPurgeFor) {
			next.hard = insert(outside(next.hard, old.prefix), old)
		}
	}
	return next
}

// outside returns the purges of list that are not under prefix.
func outside(list []prefixPurge, prefix string) []prefixPurge {
	return slices.DeleteFunc(slices.Clone(list), func(p prefixPurge) bool {
		return strings.HasPrefix(p.prefix, prefix)
	})
}

// insert adds p to list, which the caller owns, and merges two purges if there are too many.
func insert(list []prefixPurge, p prefixPurge) []prefixPurge {
	at, _ := slices.BinarySearchFunc(list, p.prefix, func(q prefixPurge, prefix string) int {
		return strings.Compare(q.prefix, prefix)
	})
	list = slices.Insert(list, at, p)
	if len(list) <= maxPrefixes {
		return list
	}
	// Neighbors have most in common.
	best, common := 0, -1
	for i := range len(list) - 1 {
		if n := commonPrefix(list[i].prefix, list[i+1].prefix); n > common {
			best, common = i, n
		}
	}
	a, b := list[best], list[best+1]
	list[best] = prefixPurge{prefix: a.prefix[:common], seq: max(a.seq, b.seq), at: min(a.at, b.at)}
	list = slices.Delete(list, best+1, best+2)
	slices.SortFunc(list, func(a, b prefixPurge) int { return strings.Compare(a.prefix, b.prefix) })
	return list
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// match reports whether a hard purge after mark concerns url, and calls soft for the soft ones.
func (p *prefixes) match(url string, mark uint64, soft func(at int64)) (hard bool) {
	for _, q := range p.hard {
		if q.seq > mark && strings.HasPrefix(url, q.prefix) {
			return true
		}
	}
	for _, q := range p.soft {
		if q.seq > mark && strings.HasPrefix(url, q.prefix) {
			soft(q.at)
		}
	}
	return false
}
