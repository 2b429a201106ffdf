package rediscache

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

type (
	Subscription = subscription
	Message      = message
	Mark         = mark
	Announcer    = announcer
)

var (
	NewAnnouncer = newAnnouncer
	ParseMessage = parseMessage
	ErrConnected = errConnected
	ErrMissing   = errMissing
	ErrMalformed = errMalformed
	ErrOverflow  = errOverflow
	ErrSilent    = errSilent
)

const MaxQueue = maxQueue

// NewSubscription returns a subscription to what is announced with the prefix "test:".
func NewSubscription(
	client redis.UniversalClient, maxSilence time.Duration, onMessage func(string), onGap func(error),
) *Subscription {
	return newSubscription(newAnnouncer(client, "test:", "said"), maxSilence, onMessage, onGap)
}

// SetRandom replaces the source of the jitter.
func (s *Subscription) SetRandom(f func() float64) { s.random = f }

func (s *Subscription) Connected() bool { return s.connected() }

func (s *Subscription) Channel() (key, channel string) { return s.key, s.channel }

func (a Announcer) Announce(ctx context.Context, body string) error { return a.announce(ctx, body) }

var ParseNotice = parseNotice

func NewMessage(number uint64, before, id string) Message {
	return message{mark: mark{number: number, id: id}, before: before}
}

func (m Message) Number() uint64 { return m.number }
func (m Message) ID() string     { return m.id }
func (m Message) Before() string { return m.before }
func (m Message) Body() string   { return m.body }

// A History is a history.
type History struct{ h history }

func (h *History) Next(m Message) bool { return h.h.next(m) }

func (h *History) Compare(number uint64, id string) relation {
	return h.h.compare(mark{number: number, id: id})
}

const Known = known
