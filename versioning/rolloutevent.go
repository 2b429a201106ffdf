package versioning

import (
	"log/slog"
	"sync/atomic"
)

// A RolloutEvent is a change of the state of a [Rollout], a call of its Store that failed when the
// one before had not or the other way round, or a panic of a callback.
type RolloutEvent struct {
	Kind     EventKind // RolloutChange, RolloutStoreChange or RolloutHookPanic
	Rollout  string    // its name
	Release  string
	From, To Phase
	Reason   Reason
	Text     string  // the reason as a sentence, with numbers
	Weight   float64 // the share of keys that get canary now

	Up  bool  // RolloutStoreChange: the Store answers
	Err error // RolloutStoreChange, RolloutHookPanic
}

// The kinds of a RolloutEvent.
const (
	RolloutChange      EventKind = "rollout"
	RolloutStoreChange EventKind = "store"
	RolloutHookPanic   EventKind = "hook_panic" // of Gate, Judge, OnRollback or the Store
)

// LogValue implements [slog.LogValuer].
func (e RolloutEvent) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("event", string(e.Kind))}
	detail := []slog.Attr{slog.String("rollout", e.Rollout), slog.String("release", e.Release)}
	switch e.Kind {
	case RolloutChange:
		attrs = append(attrs, slog.String("from", string(e.From)), slog.String("to", string(e.To)),
			slog.String("reason", string(e.Reason)))
		detail = append(detail, slog.Float64("weight", e.Weight), slog.String("text", e.Text))
	case RolloutStoreChange:
		attrs = append(attrs, slog.Bool("up", e.Up))
	}
	if e.Err != nil {
		detail = append(detail, slog.String("error", e.Err.Error()))
	}
	return slog.GroupValue(append(attrs, slog.GroupAttrs("detail", detail...))...)
}

// A Reason says why a [Rollout] is in its state, or what its verdict is about.
type Reason string

// The reasons.
const (
	ReasonStart    Reason = "start"    // a release is new
	ReasonStep     Reason = "step"     // a step has ended well
	ReasonPromoted Reason = "promoted" // the last one has
	ReasonErrors   Reason = "errors"   // canary fails more often
	ReasonLatency  Reason = "latency"  // canary is slower
	ReasonFloor    Reason = "floor"    // canary is broken
	ReasonJudge    Reason = "judge"    // RolloutConfig.Judge decided
	ReasonDeadline Reason = "deadline" // there was too little data for a verdict
	ReasonGate     Reason = "gate"     // RolloutConfig.Gate returned an error
	ReasonOperator Reason = "operator" // a person has called a method
	ReasonData     Reason = "data"     // a minimum of the step is not met
	ReasonDoubt    Reason = "doubt"    // there is evidence against the release, and not enough
)

type rolloutCounts struct {
	arms                     [2]armCounts
	forced, missing, cookies atomic.Uint64
	failures                 atomic.Uint64 // of the Store
	panics                   atomic.Uint64
}

// armCounts are what an arm was given. Each request costs two additions.
type armCounts struct {
	begun, ended atomic.Uint64
	skipped      atomic.Uint64 // of begun: by RolloutConfig.Skip
	_            [40]byte      // the arms share no cache line
}

// inFlight returns how many requests are in the arm. It is 0 only if at one moment there was none:
// ended, which is read first, is never more than begun.
func (c *armCounts) inFlight() int {
	ended := c.ended.Load()
	return int(c.begun.Load() - ended)
}

// RolloutStats is a snapshot of the counters and gauges of a [Rollout].
type RolloutStats struct {
	Requests map[string]uint64 `json:"requests"`  // given to each arm
	InFlight map[string]int    `json:"in_flight"` // in each arm
	Forced   uint64            `json:"forced"`    // whose arm Force chose
	Missing  uint64            `json:"missing"`   // without a key
	Cookies  uint64            `json:"cookies"`   // that were set
	Weight   float64           `json:"weight"`    // the share of canary
	Evidence float64           `json:"evidence"`  // against canary; at 1 it is rolled back
	StoreUp  bool              `json:"store_up"`
	Failures uint64            `json:"failures"` // calls of the Store that failed

	// Panics counts panics of Gate, Judge, OnRollback and the Store, and those of Observe on the
	// Rollout's own goroutines.
	Panics uint64 `json:"panics"`
}

// Stats returns a snapshot.
func (r *Rollout) Stats() RolloutStats {
	s := RolloutStats{
		Requests: map[string]uint64{}, InFlight: map[string]int{},
		Forced: r.counts.forced.Load(), Missing: r.counts.missing.Load(), Cookies: r.counts.cookies.Load(),
		Weight: shareOf(r.current.Load().weight), StoreUp: r.storeUp.Load(),
		Failures: r.counts.failures.Load(), Panics: r.counts.panics.Load(),
	}
	for i, arm := range [...]Arm{Stable, Canary} {
		c := &r.counts.arms[i]
		skipped := c.skipped.Load() // before begun, which is never less
		s.Requests[string(arm)] = c.begun.Load() - skipped
		s.InFlight[string(arm)] = c.inFlight()
	}
	v := r.Verdict()
	s.Evidence = max(v.Errors.Evidence, v.Latency.Evidence) / v.Needed
	return s
}
