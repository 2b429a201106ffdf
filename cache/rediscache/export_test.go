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
