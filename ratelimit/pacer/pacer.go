package pacer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrQueueFull reports that Config.MaxQueue requests wait for the same key already.
	ErrQueueFull = errors.New("pacer: queue full")

	// ErrTooLong reports that a request's turn would come after its deadline or Config.MaxWait.
	ErrTooLong = errors.New("pacer: wait too long")
)

// An Error is a request that a [Pacer] did not send. It matches [ErrQueueFull], [ErrTooLong], or
// the end of the request's context and its cause.
type Error struct {
	Key  string
	Wait time.Duration // after which the request's turn would have come; zero if that is not known
	Err  error         // why: one of the above

	ended error // the error of the request's context
}

func (e *Error) Error() string { return fmt.Sprintf("%v (%s)", e.Err, e.Key) }
func (e *Error) Unwrap() error { return e.Err }

// Is matches [context.Canceled] and [context.DeadlineExceeded] too if the context has another
// cause.
func (e *Error) Is(target error) bool { return e.ended != nil && target == e.ended }

// NotSent tells balancer, and what else stands around the transport, that the request never left.
func (e *Error) NotSent() bool { return true }

// RetryAfter returns Wait.
func (e *Error) RetryAfter() time.Duration { return e.Wait }

// A Pacer makes a client keep to a rate for each host, and to what the host says about its limits,
// by waiting. Create one with [New]. A Pacer is safe for concurrent use and starts no goroutines.
type Pacer struct {
	cfg      Config // read-only after New
	overflow *pace  // of the keys beyond MaxKeys

	mu    sync.RWMutex // guards the field below; locked for writing only for a key that has no pace yet
	paces map[string]*pace

	sent, waited, refused, canceled, hints, overflowed atomic.Uint64
	waiting                                            atomic.Int64
}

// New returns a Pacer. The error, if any, names every invalid field of cfg.
func New(cfg Config) (*Pacer, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Pacer{cfg: cfg, paces: make(map[string]*pace)}
	p.overflow = newPace(cfg)
	return p, nil
}

// Stats is a snapshot of a [Pacer]'s counters and gauges.
type Stats struct {
	Sent       uint64 `json:"sent"`
	Waited     uint64 `json:"waited"`     // sent, but not at once
	Refused    uint64 `json:"refused"`    // queue full or wait too long
	Canceled   uint64 `json:"canceled"`   // left while waiting
	Hints      uint64 `json:"hints"`      // responses that asked for less, or for a pause
	Overflowed uint64 `json:"overflowed"` // requests that shared a pace because there are MaxKeys
	Keys       int    `json:"keys"`       // with a pace of their own
	Waiting    int    `json:"waiting"`
}

// Stats returns a snapshot.
func (p *Pacer) Stats() Stats {
	p.mu.RLock()
	keys := len(p.paces)
	p.mu.RUnlock()
	return Stats{
		Sent: p.sent.Load(), Waited: p.waited.Load(), Refused: p.refused.Load(), Canceled: p.canceled.Load(),
		Hints: p.hints.Load(), Overflowed: p.overflowed.Load(), Keys: keys, Waiting: int(p.waiting.Load()),
	}
}

// An Outcome says how a request's turn ended. It is the word in metrics.
type Outcome string

// The outcomes of a turn.
const (
	Sent      Outcome = "sent"
	QueueFull Outcome = "queue_full" // refused with ErrQueueFull
	TooLong   Outcome = "too_long"   // refused with ErrTooLong
	Canceled  Outcome = "canceled"   // its context ended while it waited
)

// An Event is one request's turn.
type Event struct {
	Outcome  Outcome
	Duration time.Duration // of the wait; zero if the request was sent or refused at once
	Key      string
}

// LogValue implements [slog.LogValuer]: the event's name, its bounded dimension, one measurement,
// and the key as detail.
func (e Event) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("event", "turn"),
		slog.String("outcome", string(e.Outcome)),
		slog.Duration("duration", e.Duration),
		slog.GroupAttrs("detail", slog.String("key", e.Key)),
	)
}

// Wait returns when a request of key may be sent. The error is an [*Error]; then nothing of the
// rate has been used.
func (p *Pacer) Wait(ctx context.Context, key string) error {
	h := p.pin(key)
	defer h.unpin()
	return p.wait(ctx, key, h)
}

func (p *Pacer) wait(ctx context.Context, key string, h *pace) error {
	waited, err := h.wait(ctx, p)
	outcome := Sent
	switch {
	case err == nil:
		p.sent.Add(1)
		if waited > 0 {
			p.waited.Add(1)
		}
	case errors.Is(err, ErrQueueFull):
		outcome = QueueFull
		p.refused.Add(1)
	case errors.Is(err, ErrTooLong):
		outcome = TooLong
		p.refused.Add(1)
	default:
		outcome = Canceled
		p.canceled.Add(1)
	}
	if err != nil {
		err.Key = key
	}
	if p.cfg.Observe != nil {
		p.cfg.Observe(context.WithoutCancel(ctx), Event{Outcome: outcome, Duration: waited, Key: key})
	}
	if err != nil {
		return err
	}
	return nil
}

// pin returns key's pace, which stays key's until unpin.
func (p *Pacer) pin(key string) *pace {
	p.mu.RLock()
	h := p.paces[key]
	if h != nil {
		h.pins.Add(1) // under mu, so that paceLocked does not take it away
	}
	p.mu.RUnlock()
	if h != nil {
		return h
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h = p.paceLocked(key)
	h.pins.Add(1)
	return h
}

func (p *Pacer) paceLocked(key string) *pace {
	if h := p.paces[key]; h != nil {
		return h
	}
	if len(p.paces) >= p.cfg.MaxKeys {
		p.evictLocked()
	}
	if len(p.paces) >= p.cfg.MaxKeys {
		p.overflowed.Add(1)
		return p.overflow
	}
	h := newPace(p.cfg)
	h.inherit(p.overflow) // key may have used it, or have been told to wait
	p.paces[key] = h
	return h
}

// evictLocked removes an unused pace, if there is one among the first few.
func (p *Pacer) evictLocked() {
	const most = 16 // a flood of keys must not make each request look at all paces
	now := time.Now()
	looked := 0
	for key, h := range p.paces {
		if h.pins.Load() == 0 && h.idle(now) {
			delete(p.paces, key)
			return
		}
		if looked++; looked == most {
			return
		}
	}
}
