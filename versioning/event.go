package versioning

import (
	"log/slog"
	"net/http"
	"sync/atomic"
)

// An EventKind says what an [Event] is about. It is the word in metrics.
type EventKind string

// The kinds of events.
const (
	Request    EventKind = "request"    // a request was given a version, or refused
	Conversion EventKind = "conversion" // a request or response could not be converted
)

// An Event is a request that was given a version or refused, or a conversion that failed.
type Event struct {
	Kind    EventKind
	Version string // "" if there is none

	// Request.
	Source    string // where the version was named, as in Resolved
	Status    Status // of the version, or why there is none
	Requested string // as the client named it: anything, of any length

	// Conversion.
	Direction Direction
	Change    string // the one that failed; "" if none did
	Err       error
}

// LogValue implements [slog.LogValuer]: the event's name, its bounded dimensions, and the rest as
// detail.
func (e Event) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("event", string(e.Kind)), slog.String("version", e.Version)}
	if e.Kind == Conversion {
		detail := []slog.Attr{}
		if e.Err != nil {
			detail = append(detail, slog.String("error", e.Err.Error()))
		}
		attrs = append(attrs, slog.String("direction", string(e.Direction)), slog.String("change", e.Change),
			slog.GroupAttrs("detail", detail...))
		return slog.GroupValue(attrs...)
	}
	attrs = append(attrs, slog.String("source", e.Source), slog.String("status", string(e.Status)))
	if e.Requested != "" {
		attrs = append(attrs, slog.GroupAttrs("detail", slog.String("requested", shorten(e.Requested))))
	}
	return slog.GroupValue(attrs...)
}

// A Direction is one in which a chain of changes is run.
type Direction string

// Requests go up to the head version, responses come down from it.
const (
	Up   Direction = "up"
	Down Direction = "down"
)

// refusing are the statuses that refuse, in the order of counts.refused.
var refusing = [...]Status{Missing, Malformed, Duplicate, Conflicting, Unsupported, Gone, BrownedOut}

type counts struct {
	versions []versionCounts
	refused  [len(refusing)]atomic.Uint64
	failures atomic.Uint64
}

type versionCounts struct {
	requests  atomic.Uint64
	converted atomic.Uint64
}

// Stats is a snapshot of counters and gauges.
type Stats struct {
	Requests   map[string]uint64 `json:"requests"`   // that were answered, by version
	Refused    map[string]uint64 `json:"refused"`    // by why, a Status
	Converted  map[string]uint64 `json:"converted"`  // requests with a chain of changes, by version
	Failures   uint64            `json:"failures"`   // conversions that failed
	Keys       int               `json:"keys"`       // combinations of version, route and client
	Overflowed uint64            `json:"overflowed"` // requests that MaxKeys left no place for
}

// Stats returns a snapshot.
func (v *Versions) Stats() Stats {
	s := Stats{
		Requests: map[string]uint64{}, Refused: map[string]uint64{}, Converted: map[string]uint64{},
		Failures: v.counts.failures.Load(), Keys: int(v.ledger.keys.Load()),
	}
	for i := range v.versions {
		c := &v.counts.versions[i]
		s.Requests[v.versions[i].Name] = c.requests.Load()
		s.Converted[v.versions[i].Name] = c.converted.Load()
		s.Overflowed += v.ledger.overflow[i].requests.Load()
	}
	for i, status := range refusing {
		s.Refused[string(status)] = v.counts.refused[i].Load()
	}
	return s
}

// observe counts and reports a decision about r.
func (v *Versions) observe(r *http.Request, d *decision) {
	name := ""
	if d.index >= 0 {
		name = v.versions[d.index].Name
	}
	if d.refused() {
		for i, status := range refusing {
			if status == d.status {
				v.counts.refused[i].Add(1)
			}
		}
	} else {
		v.counts.versions[d.index].requests.Add(1)
	}
	if v.cfg.Observe != nil {
		v.cfg.Observe(r.Context(), Event{
			Kind: Request, Version: name, Source: d.source.String(), Status: d.status, Requested: d.requested,
		})
	}
}
