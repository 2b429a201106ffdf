package cache

import (
	"log/slog"
	"time"
)

// A MemoryKind tells which kind of event a [MemoryEvent] is.
type MemoryKind string

const (
	// MemoryLoaded is the end of a load. Err is what went wrong, if anything did.
	MemoryLoaded MemoryKind = "load"
	// MemoryRemoved means that Key with Value is no longer in the cache, for Reason.
	MemoryRemoved MemoryKind = "removal"
	// MemoryRefused means that Key with Value was not stored: it was too heavy, its TTL was over
	// already, or Key is not equal to itself (NaN).
	MemoryRefused MemoryKind = "refusal"
)

// A MemoryReason tells why an entry left a [Memory].
type MemoryReason string

const (
	// MemoryEvicted means that the cache was full.
	MemoryEvicted MemoryReason = "evicted"
	// MemoryExpired means that the time of the entry was over. The next write notices that.
	MemoryExpired MemoryReason = "expired"
	// MemoryReplaced means that the value was overwritten.
	MemoryReplaced MemoryReason = "replaced"
	// MemoryDeleted means [Memory.Delete] or [Memory.Clear].
	MemoryDeleted MemoryReason = "deleted"
	// MemoryInvalidated means that a tag of the entry was invalidated. The entry left when its key
	// was next stored.
	MemoryInvalidated MemoryReason = "invalidated"
)

// A cause is a MemoryReason as a small number, by which shards count.
type cause uint8

const (
	evicted cause = iota
	expired
	replaced
	deleted
	invalidated

	causes = iota
)

func (c cause) reason() MemoryReason {
	return [causes]MemoryReason{
		MemoryEvicted, MemoryExpired, MemoryReplaced, MemoryDeleted, MemoryInvalidated,
	}[c]
}

// A MemoryEvent is something that happened in a [Memory]. It is a plain value that nobody changes.
type MemoryEvent[K comparable, V any] struct {
	Kind       MemoryKind
	Key        K
	Value      V             // of a removal or refusal; the zero value for a load
	Reason     MemoryReason  // of a removal; empty for others
	Duration   time.Duration // of a load; 0 for others
	Background bool          // no caller waits for the load: it is a refresh, or all have left
	Err        error         // of a load; nil if it succeeded, and for others
}

// LogValue implements [slog.LogValuer]. It does not show values.
func (e MemoryEvent[K, V]) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("event", string(e.Kind))}
	detail := []slog.Attr{slog.Any("key", e.Key)}
	switch e.Kind {
	case MemoryLoaded:
		attrs = append(attrs, slog.Bool("failed", e.Err != nil), slog.Bool("background", e.Background),
			slog.Duration("duration", e.Duration))
		if e.Err != nil {
			detail = append(detail, slog.Any("error", e.Err))
		}
	case MemoryRemoved:
		attrs = append(attrs, slog.String("reason", string(e.Reason)))
	}
	return slog.GroupValue(append(attrs, slog.GroupAttrs("detail", detail...))...)
}
