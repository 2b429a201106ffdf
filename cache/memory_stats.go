package cache

// MemoryStats is a snapshot of the counters and gauges of a [Memory]. It belongs to its reader.
type MemoryStats struct {
	Hits       uint64  `json:"hits"`        // a fresh value or a kept error was there
	StaleHits  uint64  `json:"stale_hits"`  // a stale value was returned without waiting
	Misses     uint64  `json:"misses"`      // neither
	Fallbacks  uint64  `json:"fallbacks"`   // loads that failed and were answered with a stale value
	Slow       uint64  `json:"slow"`        // callers that got a stale value after StaleAfter
	HitRatio   float64 `json:"hit_ratio"`   // (Hits + StaleHits) / all; 0 if nothing was read
	Loads      uint64  `json:"loads"`       // that have ended; LoadMany counts one per key
	LoadErrors uint64  `json:"load_errors"` // of these, failed
	Loading    int     `json:"loading"`     // calls of loaders, and of Restore, under way

	Removals map[MemoryReason]uint64 `json:"removals"` // has every reason
	Refusals uint64                  `json:"refusals"` // values not stored: see MemoryRefused

	// Entries counts kept errors and entries whose tag was invalidated, as long as they take up
	// room. It leaves out entries that have expired.
	Entries int `json:"entries"`
	// Weight is the sum of the weights of Entries: without a Weigher the same number.
	Weight int64 `json:"weight"`

	// WindowShare tells what the policy has learned of the traffic: in which share of the cache the
	// latest entries stay for being recent, whatever their use. 0.01 suits loops, scans and steady
	// favorites, 1 is LRU. It is the mean of the shards, each of which learns by itself.
	WindowShare float64 `json:"window_share"`
}

// Stats returns a snapshot. It removes nothing and calls nobody: an entry that has expired is not
// counted any more, but stays in memory until something is written, and is reported then.
func (m *Memory[K, V]) Stats() MemoryStats {
	st := MemoryStats{
		StaleHits:  m.loads.stale.Load(),
		Fallbacks:  m.loads.fallbacks.Load(),
		Slow:       m.loads.slow.Load(),
		Loads:      m.loads.done.Load(),
		LoadErrors: m.loads.failed.Load(),
		Loading:    int(m.tags.loading.Load()),
		Removals:   make(map[MemoryReason]uint64, causes),
	}
	for i := range m.counters {
		st.Hits += m.counters[i].hits.Load()
		st.Misses += m.counters[i].misses.Load()
		st.Removals[MemoryReplaced] += m.counters[i].swaps.Load()
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock() // one at a time: to count what has expired can take milliseconds
		now := m.now()
		for why, n := range s.removed {
			st.Removals[cause(why).reason()] += n
		}
		st.Refusals += s.refused
		entries, weight := s.expiredLocked(now)
		st.Entries += s.count - entries
		st.Weight += s.weight - weight
		st.WindowShare += s.policy.share() / float64(len(m.shards))
		s.mu.Unlock()
	}
	if hits, all := st.Hits+st.StaleHits, st.Hits+st.StaleHits+st.Misses; all > 0 {
		st.HitRatio = float64(hits) / float64(all)
	}
	return st
}
