package balancer

import (
	"log/slog"
	"time"
)

// An EventKind says what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	Attempted       EventKind = "attempt"  // an attempt has its header or its error
	EndpointChanged EventKind = "endpoint" // the state of an endpoint changed
	TargetResolved  EventKind = "resolve"  // the set of endpoints changed, or the resolver failed
	PanicChanged    EventKind = "panic"    // a target entered or left panic mode
)

// An Outcome says what became of an attempt.
type Outcome string

// The outcomes of attempts.
const (
	Success  Outcome = "success"
	Failure  Outcome = "failure"  // the endpoint is at fault: [OutlierConfig] says when
	Busy     Outcome = "busy"     // 503 with Retry-After: no fault, the endpoint asks for a pause
	Rejected Outcome = "rejected" // 429, or net/http would not send it: the request is at fault
	Canceled Outcome = "canceled" // by the caller, or by a failure of the body that the caller gave
	NotSent  Outcome = "not_sent" // a wrapper of [Config.Wrap] refused it and says NotSent
)

// An Event is one thing that happened in a [Balancer].
type Event struct {
	Kind     EventKind
	Target   string   // scheme://host
	Endpoint Endpoint // of Attempted and EndpointChanged
	Err      error    // of a failed attempt, check or resolution

	// Reason says why an attempt went to this endpoint, or why an endpoint's state changed.
	Reason Reason

	// Attempted.
	Outcome  Outcome
	Repicked int           // attempts of the same RoundTrip before this one, all in vain
	Duration time.Duration // until the header or the error

	// EndpointChanged.
	State      State
	EjectedFor time.Duration

	// TargetResolved and PanicChanged.
	Available, Endpoints int
	Panicking            bool // panic mode began
}

// LogValue implements [slog.LogValuer].
func (e Event) LogValue() slog.Value {
	detail := append(make([]slog.Attr, 0, 4), slog.String("target", e.Target))
	if e.Endpoint.Addr != "" {
		detail = append(detail, slog.String("endpoint", e.Endpoint.Addr))
	}
	if e.Err != nil {
		detail = append(detail, slog.String("error", e.Err.Error()))
	}
	attrs := append(make([]slog.Attr, 0, 6), slog.String("event", string(e.Kind)))
	switch e.Kind {
	case Attempted:
		attrs = append(attrs, slog.String("outcome", string(e.Outcome)),
			slog.String("reason", string(e.Reason)), slog.Bool("repicked", e.Repicked > 0),
			slog.Duration("duration", e.Duration))
	case EndpointChanged:
		attrs = append(attrs, slog.String("state", string(e.State)), slog.String("reason", string(e.Reason)))
		if e.EjectedFor > 0 {
			detail = append(detail, slog.Duration("ejected_for", e.EjectedFor))
		}
	case TargetResolved:
		attrs = append(attrs, slog.Bool("ok", e.Err == nil))
		detail = append(detail, slog.Int("endpoints", e.Endpoints))
	case PanicChanged:
		attrs = append(attrs, slog.Bool("panicking", e.Panicking))
		detail = append(detail, slog.Int("available", e.Available), slog.Int("endpoints", e.Endpoints))
	}
	return slog.GroupValue(append(attrs, slog.GroupAttrs("detail", detail...))...)
}
