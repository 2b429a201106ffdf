package ratelimit

import (
	"log/slog"
	"math/bits"
	"time"
)

// An EventKind says what an [Event] is about. It is the word in metrics.
type EventKind string

// The kinds of events.
const (
	Decided      EventKind = "decision" // a request was admitted or refused
	StoreChanged EventKind = "store"    // the Store failed, or is up again
)

// An Event is a decision, or a change of the store's health.
type Event struct {
	Kind EventKind

	// Decided.
	Outcome    Outcome
	Policy     string        // the first that refused; empty if none did
	Degraded   bool          // decided without the Store
	Duration   time.Duration // of the decision
	Remaining  int64         // the least that a policy has left; negative means unknown
	RetryAfter time.Duration // if refused; zero means never, or unknown

	// StoreChanged.
	Up  bool  // the Store decides again
	Err error // why it does not
}

func (d *Decision) event(took time.Duration) Event {
	e := Event{
		Kind: Decided, Outcome: d.Outcome, Degraded: d.Degraded,
		Duration: took, Remaining: d.Remaining, RetryAfter: d.RetryAfter,
	}
	if d.violated != 0 {
		e.Policy = d.limiter.policies[bits.TrailingZeros8(d.violated)].Name
	}
	return e
}

// LogValue implements [slog.LogValuer]: the event's name, its bounded dimensions, the time that the
// decision took, and the rest as detail. Keys stay out.
func (e Event) LogValue() slog.Value {
	if e.Kind == StoreChanged {
		attrs := []slog.Attr{slog.String("event", string(e.Kind)), slog.Bool("up", e.Up)}
		if e.Err != nil {
			attrs = append(attrs, slog.GroupAttrs("detail", slog.String("error", e.Err.Error())))
		}
		return slog.GroupValue(attrs...)
	}
	return slog.GroupValue(
		slog.String("event", string(e.Kind)),
		slog.String("outcome", string(e.Outcome)),
		slog.String("policy", e.Policy),
		slog.Bool("degraded", e.Degraded),
		slog.Duration("duration", e.Duration),
		slog.GroupAttrs("detail",
			slog.Int64("remaining", e.Remaining),
			slog.Duration("retry_after", e.RetryAfter)),
	)
}
