package breaker

import (
	"log/slog"
	"time"
)

// A State is what a breaker does with requests.
type State string

// The states of a breaker.
const (
	Closed   State = "closed"    // all are admitted
	Open     State = "open"      // all are refused for a time
	HalfOpen State = "half_open" // some are admitted to see whether they succeed
	Ramping  State = "ramping"   // a share that grows to all is admitted
	Isolated State = "isolated"  // all are refused, by Isolate
)

// An EventKind says what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	Transition EventKind = "transition" // a key's state has changed
	Refused    EventKind = "refused"    // a request was refused, or would have been but for DryRun
)

// An Event is one thing that happened in a [Breaker].
type Event struct {
	Kind EventKind
	Key  string // "" if the key has no state of its own and the shared one has changed

	From, To State         // of a transition; both the present state if a request was refused
	Duration time.Duration // that the breaker stays open, of a transition to Open

	// What the window, or the probes, held at the transition. Failures are those that were not
	// Slow.
	Requests, Failures, Slow uint64
}

// LogValue implements [slog.LogValuer]: the event's name, its states, and the rest as detail.
func (e Event) LogValue() slog.Value {
	if e.Kind == Refused {
		return slog.GroupValue(
			slog.String("event", string(e.Kind)),
			slog.String("state", string(e.To)),
			slog.GroupAttrs("detail", slog.String("key", e.Key)),
		)
	}
	attrs := []slog.Attr{
		slog.String("event", string(e.Kind)),
		slog.String("from", string(e.From)),
		slog.String("to", string(e.To)),
	}
	if e.To == Open {
		attrs = append(attrs, slog.Duration("duration", e.Duration))
	}
	return slog.GroupValue(append(attrs, slog.GroupAttrs("detail",
		slog.String("key", e.Key),
		slog.Uint64("requests", e.Requests),
		slog.Uint64("failures", e.Failures),
		slog.Uint64("slow", e.Slow),
	))...)
}

// Stats is a snapshot of a [Breaker].
type Stats struct {
	Keys       map[string]KeyStats `json:"keys"`
	Shared     KeyStats            `json:"shared"` // of the keys beyond MaxKeys
	Open       int                 `json:"open"`   // keys that are open, half-open or isolated
	Refusals   uint64              `json:"refusals"`
	Probes     uint64              `json:"probes"`     // requests admitted while half-open
	Overflowed uint64              `json:"overflowed"` // requests that had to share a state
}

// KeyStats is the state of one key.
type KeyStats struct {
	State State   `json:"state"`
	Share float64 `json:"share"` // of the requests that are admitted: 1 if closed, 0 if open
}

// Stats returns a snapshot. It walks through all keys.
func (b *Breaker) Stats() Stats {
	now := b.now()
	s := Stats{
		Keys: make(map[string]KeyStats), Shared: b.shared.state(now),
		Refusals: b.refused.Load(), Probes: b.probes.Load(), Overflowed: b.overflowed.Load(),
	}
	b.circuits.all(func(key string, c *circuit) {
		k := c.state(now)
		if k.State == Open || k.State == HalfOpen || k.State == Isolated {
			s.Open++
		}
		s.Keys[key] = k
	})
	return s
}
