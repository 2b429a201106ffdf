package balancer

import (
	"log/slog"
	"time"
)

// EventKind says what an [Event] is about.
type EventKind uint8

// The kinds of events.
const (
	Attempted      EventKind = iota // an attempt has its header or its error
	HostChanged                     // an endpoint's state changed
	TargetResolved                  // the set of endpoints changed, or the resolver failed
	PanicChanged                    // a target entered or left panic mode
)

func (k EventKind) String() string {
	return [...]string{"attempt", "host", "resolve", "panic"}[k]
}

// An Event is one thing that happened in a [Balancer].
type Event struct {
	Kind     EventKind
	Target   string   // scheme://host
	Endpoint Endpoint // of an attempt or a host
	Err      error    // of a failed attempt, check or resolution

	// Attempted.
	Outcome  string        // "success", "failure", "busy", "refused", "canceled", "unsent"
	Reason   string        // why this endpoint was picked; with HostChanged, why it changed
	Retried  int           // attempts of the same RoundTrip before this one
	Duration time.Duration // to the header; with HostChanged, of an ejection

	// HostChanged.
	State State

	// TargetResolved and PanicChanged.
	Available, Endpoints int
	On                   bool // panic mode began
}

// LogValue implements [slog.LogValuer].
func (e Event) LogValue() slog.Value {
	detail := []any{slog.String("target", e.Target)}
	if e.Endpoint.Addr != "" {
		detail = append(detail, slog.String("endpoint", e.Endpoint.Addr))
	}
	if e.Err != nil {
		detail = append(detail, slog.String("error", e.Err.Error()))
	}
	attrs := []slog.Attr{slog.String("event", e.Kind.String())}
	switch e.Kind {
	case Attempted:
		attrs = append(attrs, slog.String("outcome", e.Outcome), slog.String("reason", e.Reason),
			slog.Bool("repicked", e.Retried > 0), slog.Duration("duration", e.Duration))
	case HostChanged:
		attrs = append(attrs, slog.String("state", string(e.State)), slog.String("reason", e.Reason))
		if e.Duration > 0 {
			detail = append(detail, slog.Duration("ejected_for", e.Duration))
		}
	case TargetResolved:
		attrs = append(attrs, slog.Bool("ok", e.Err == nil))
		detail = append(detail, slog.Int("endpoints", e.Endpoints))
	case PanicChanged:
		attrs = append(attrs, slog.Bool("on", e.On))
		detail = append(detail, slog.Int("available", e.Available), slog.Int("endpoints", e.Endpoints))
	}
	return slog.GroupValue(append(attrs, slog.Group("detail", detail...))...)
}
