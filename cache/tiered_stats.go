package cache

import "time"

// TieredStats is a snapshot of a [Tiered]'s counters and gauges.
type TieredStats struct {
	Near      MemoryStats `json:"near"`
	FarHits   uint64      `json:"far_hits"`  // looks that were answered by far
	Misses    uint64      `json:"misses"`    // looks that found nothing
	Failures  uint64      `json:"failures"`  // of far
	Unreached uint64      `json:"unreached"` // purges that did not reach far
	Owed      int         `json:"owed"`      // of them, those that Run is to repeat
	Locks     uint64      `json:"locks"`     // that this process has had, to fetch for all
	Waits     uint64      `json:"waits"`     // for what another process was fetching
	Takeovers uint64      `json:"takeovers"` // of locks that ended before their fetch did
	Confirmed bool        `json:"confirmed"` // the near tier is used without asking far
	Connected bool        `json:"connected"` // announcements are heard
}

// Stats returns a snapshot.
func (t *Tiered) Stats() TieredStats {
	return TieredStats{
		Near: t.near.Stats(), FarHits: t.farHits.Load(),
		Misses: t.misses.Load(), Failures: t.failures.Load(), Unreached: t.unreached.Load(),
		Owed:  int(t.owed.size.Load()),
		Locks: t.turns.locks.Load(), Waits: t.turns.waits.Load(),
		Takeovers: t.turns.takeovers.Load(), Confirmed: t.isConfirmed(), Connected: t.up.Load(),
	}
}

func (t *Tiered) isConfirmed() bool {
	return time.Since(t.base) < time.Duration(t.confirmed.Load())+t.ttl
}
