package cache

import "sync/atomic"

// Stats is a snapshot of the counters and gauges of a [Cache]. It belongs to its reader.
type Stats struct {
	Requests map[Outcome]uint64 `json:"requests"`  // has every outcome
	HitRatio float64            `json:"hit_ratio"` // hit, stale, revalidated of all but skip

	Coalesced uint64 `json:"coalesced"` // requests that were answered by another's fetch
	Fetches   uint64 `json:"fetches"`   // begun
	Stored    uint64 `json:"stored"`    // responses handed to the store
	Refreshes uint64 `json:"refreshes"` // that have ended

	RefreshFailures uint64 `json:"refresh_failures"` // refreshes that failed

	PutOff   uint64 `json:"put_off"`  // refreshes and abandoned fills beyond MaxBackground
	Purges   uint64 `json:"purges"`   // by any means
	Panics   uint64 `json:"panics"`   // of handlers and hooks on goroutines of the cache
	Failures uint64 `json:"failures"` // calls of the Store that failed

	StoreUp    bool `json:"store_up"`   // the store's last answer was no error
	Filling    int  `json:"filling"`    // fetches under way
	Background int  `json:"background"` // of these, those that no client waits for
}

// outcomes gives each outcome the place of its counter.
var outcomes = [...]Outcome{Hit, Stale, Revalidated, Miss, Pass, Skip, Error}

func (o Outcome) index() int {
	for i := range outcomes {
		if outcomes[i] == o {
			return i
		}
	}
	return len(outcomes) - 1
}

// A tally counts the requests of some goroutines, on cache lines of its own.
type tally struct {
	outcomes [len(outcomes)]atomic.Uint64
	_        [128 - 8*len(outcomes)]byte
}

// counts are the counters that are not on the hit path.
type counts struct {
	coalesced, fetches, stored     atomic.Uint64
	refreshes, failed, putOff      atomic.Uint64
	purges, panics, failures       atomic.Uint64
	filling, background, storeDown atomic.Int64
	buffered                       atomic.Int64 // bytes of bodies that are being fetched and stored
}

// Stats returns a snapshot.
func (c *Cache) Stats() Stats {
	s := Stats{
		Requests:        make(map[Outcome]uint64, len(outcomes)),
		Coalesced:       c.counts.coalesced.Load(),
		Fetches:         c.counts.fetches.Load(),
		Stored:          c.counts.stored.Load(),
		Refreshes:       c.counts.refreshes.Load(),
		RefreshFailures: c.counts.failed.Load(),
		PutOff:          c.counts.putOff.Load(),
		Purges:          c.counts.purges.Load(),
		Panics:          c.counts.panics.Load(),
		Failures:        c.counts.failures.Load(),
		StoreUp:         c.counts.storeDown.Load() == 0,
		Filling:         int(c.counts.filling.Load()),
		Background:      int(c.counts.background.Load()),
	}
	var all uint64
	for i, o := range outcomes {
		for j := range c.tallies {
			s.Requests[o] += c.tallies[j].outcomes[i].Load()
		}
		all += s.Requests[o]
	}
	if all -= s.Requests[Skip]; all > 0 {
		s.HitRatio = float64(s.Requests[Hit]+s.Requests[Stale]+s.Requests[Revalidated]) / float64(all)
	}
	return s
}

func (c *Cache) count(o Outcome) {
	c.tallies[int(self())&(len(c.tallies)-1)].outcomes[o.index()].Add(1)
}
