package cache

import (
	"log/slog"
	"time"
)

// An EventKind says what an [Event] is about. It is the word in metrics.
type EventKind string

// The kinds of events.
const (
	Requested    EventKind = "request" // a request was answered
	Refreshed    EventKind = "refresh" // a fetch that no client waited for has ended
	Purged       EventKind = "purge"   // something was purged or invalidated
	StoreChanged EventKind = "store"   // the Store failed, or is up again
)

// An Outcome says how a request was answered.
type Outcome string

// The outcomes of requests.
const (
	Hit         Outcome = "hit"         // with a stored response that was fresh
	Stale       Outcome = "stale"       // with a stored response that was not, as it allows
	Revalidated Outcome = "revalidated" // with a stored response that was validated first
	Miss        Outcome = "miss"        // with one that was fetched and may be stored
	Pass        Outcome = "pass"        // with one that was fetched and is not stored
	Skip        Outcome = "skip"        // untouched: Config.Skip said so
	Error       Outcome = "error"       // fetching failed
)

// A Reason is the bounded word that tells why a request had its outcome. It is the detail in
// Cache-Status.
type Reason string

// The reasons.
const (
	ReasonNone          Reason = ""
	ReasonNoStore       Reason = "no-store"       // the response forbids to store it
	ReasonPrivate       Reason = "private"        // the response is for one user
	ReasonSetCookie     Reason = "set-cookie"     // the response sets a cookie
	ReasonAuthorization Reason = "authorization"  // the request has credentials
	ReasonVaryStar      Reason = "vary-star"      // the response depends on anything
	ReasonNoFreshness   Reason = "no-freshness"   // the response has neither freshness nor validator
	ReasonStatus        Reason = "status"         // responses of this status are not stored
	ReasonTooLarge      Reason = "too-large"      // larger than MaxObject, or there is no room
	ReasonPass          Reason = "pass"           // a response of this URL could not be shared lately
	ReasonSkip          Reason = "skip"           // Config.Skip said so
	ReasonMethod        Reason = "method"         // the method cannot be answered from a cache
	ReasonRequest       Reason = "request"        // the request asks for a fetch, or no key fits it
	ReasonURIMiss       Reason = "uri-miss"       // nothing is stored for the URL
	ReasonVaryMiss      Reason = "vary-miss"      // only other variants are stored
	ReasonPartial       Reason = "partial"        // the stored response lacks a part
	ReasonStale         Reason = "stale"          // the stored response is stale
	ReasonNoCache       Reason = "no-cache"       // the stored response must be validated each time
	ReasonIfCached      Reason = "only-if-cached" // the client wants no fetch
	ReasonWait          Reason = "wait"           // the fetch of another took too long
	ReasonFailure       Reason = "failure"        // fetching failed
)

// An Event is something that happened in a [Cache].
type Event struct {
	Kind EventKind

	// Requested and Refreshed.
	Outcome  Outcome
	Reason   Reason
	Status   int           // of the response; 0 if there was none
	Age      time.Duration // of the stored response, if one was used
	Duration time.Duration // until the header was written; of a refresh, until its end
	Key      string        // the URL; unbounded, and told in details only

	// Purged.
	By   string // "url", "prefix", "tag", "group", "method"
	Soft bool

	// StoreChanged.
	Up bool // the Store works again

	Err error // of a fetch or of the Store
}

// LogValue implements [slog.LogValuer]: the event's name, its bounded dimensions, the measurement,
// and the rest as detail.
func (e Event) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 5)
	attrs = append(attrs, slog.String("event", string(e.Kind)))
	detail := make([]slog.Attr, 0, 4)
	switch e.Kind {
	case Requested, Refreshed:
		attrs = append(attrs, slog.String("outcome", string(e.Outcome)),
			slog.String("reason", string(e.Reason)), slog.Duration("duration", e.Duration))
		detail = append(detail, slog.Int("status", e.Status), slog.Duration("age", e.Age))
	case Purged:
		attrs = append(attrs, slog.String("by", e.By), slog.Bool("soft", e.Soft))
	case StoreChanged:
		attrs = append(attrs, slog.Bool("up", e.Up))
	}
	if e.Key != "" {
		detail = append(detail, slog.String("key", e.Key))
	}
	if e.Err != nil {
		detail = append(detail, slog.String("error", e.Err.Error()))
	}
	if len(detail) > 0 {
		attrs = append(attrs, slog.GroupAttrs("detail", detail...))
	}
	return slog.GroupValue(attrs...)
}
