package ratelimit

import (
	"sync/atomic"
	"unsafe"
)

// Stats is a snapshot of a [Limiter]'s counters and gauges.
type Stats struct {
	Admitted    uint64 `json:"admitted"`
	Limited     uint64 `json:"limited"`
	NoKey       uint64 `json:"no_key"`
	Unavailable uint64 `json:"unavailable"` // refused by FailClosed
	Errors      uint64 `json:"errors"`      // not decided: RateFor or Cost returned an invalid value
	Failures    uint64 `json:"failures"`    // calls of the store that failed: to decide, Charge or Done

	// StoreUp is false while the store fails and each policy's OnError decides.
	StoreUp bool `json:"store_up"`

	// Refused counts refusals by the name of the policy.
	Refused map[string]uint64 `json:"refused"`

	// Memory is of the store in this process: the Store, or the one that policies fall back on.
	Memory MemoryStoreStats `json:"memory"`
}

// Stats returns a snapshot.
func (l *Limiter) Stats() Stats {
	s := Stats{
		Errors: l.errors.Load(), Failures: l.failed.Load(), StoreUp: !l.degraded.Load(),
		Refused: make(map[string]uint64, len(l.policies)),
	}
	for i := range l.outcomes {
		o := &l.outcomes[i]
		s.Admitted += o.admitted.Load()
		s.Limited += o.limited.Load()
		s.NoKey += o.noKey.Load()
		s.Unavailable += o.unavailable.Load()
	}
	for i := range l.policies {
		s.Refused[l.policies[i].Name] = l.refused[i].Load()
	}
	if l.memory != nil {
		s.Memory = l.memory.Stats()
	} else if l.local != nil {
		s.Memory = l.local.Stats()
	}
	return s
}

// count counts d by its outcome and by the policies that refused it.
func (l *Limiter) count(d *Decision) {
	o := &l.outcomes[self()%uint32(len(l.outcomes))]
	switch d.Outcome {
	case Admitted:
		o.admitted.Add(1)
		return
	case Limited:
		o.limited.Add(1)
	case NoKey:
		o.noKey.Add(1)
	case Unavailable:
		o.unavailable.Add(1)
	}
	for v, i := d.violated, 0; v != 0; v, i = v>>1, i+1 {
		if v&1 != 0 {
			l.refused[i].Add(1)
		}
	}
}

// outcomes counts decisions in stripes, so that cores seldom write to one cache line.
type outcomes [16]struct {
	admitted, limited, noKey, unavailable atomic.Uint64

	_ [96]byte // two cache lines: the processor fetches pairs
}

// self returns a number for the calling goroutine, from the address of its stack. One goroutine
// mostly keeps its number, and those that run at the same time mostly differ. A pool of stripes
// would cost ten times as much.
func self() uint32 {
	var here byte
	return uint32(uintptr(unsafe.Pointer(&here))>>11) * 0x9e3779b1 >> 16
}
