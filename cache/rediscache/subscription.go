package rediscache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	minPause = 50 * time.Millisecond // between attempts to connect, at most; doubled for each failure
	maxPause = 2 * time.Second       // up to here
)

var (
	errConnected = errors.New("connected anew: what was announced before is not known")
	errMissing   = errors.New("a message is missing, or the server has forgotten its numbers")
	errOverflow  = errors.New("messages came faster than they were handled")
	errSilent    = errors.New("the server confirms nothing")
)

// A subscription hears what an announcer says, by this process or by another. It promises: what was
// announced has been told to onMessage, or onGap has been called since, at most maxSilence later.
// The time that the two functions take comes on top.
//
// onGap is called each time that messages may have been missed: when a connection is made, and when
// it is lost; when a number is missing; when a message is malformed; when messages come faster than
// onMessage returns; and while there is no connection again each maxSilence.
type subscription struct {
	announcer
	maxSilence time.Duration
	onMessage  func(body string)
	onGap      func(err error) // connected says whether messages come from now on
	random     func() float64  // in [0, 1)

	up atomic.Bool
}

// newSubscription returns a subscription to what a says.
func newSubscription(
	a announcer, maxSilence time.Duration, onMessage func(body string), onGap func(err error),
) *subscription {
	return &subscription{
		announcer: a, maxSilence: maxSilence, onMessage: onMessage, onGap: onGap, random: rand.Float64,
	}
}

// connected reports whether what is announced now will be heard, or its loss be noticed.
func (s *subscription) connected() bool { return s.up.Load() }

// Run keeps the subscription up and calls onMessage and onGap, in order and on the goroutine of its
// caller, who gets their panics. It returns when ctx ends, with its cause, or when the client has
// been closed. It calls neither once ctx has ended. Its goroutines end as soon as the client lets
// them.
func (s *subscription) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // also when a callback panics
	defer s.up.Store(false)
	var l *link        // nil during a pause
	lost := errSilent  // why there is no connection
	told := time.Now() // what was announced before is told, or a gap since
	pause := time.NewTimer(0)
	defer pause.Stop()
	silence := time.NewTimer(s.maxSilence)
	defer silence.Stop()
	gap := func(err error, up bool) {
		told = time.Now()
		s.up.Store(up)
		if ctx.Err() == nil { // else the link may have ended for that
			s.onGap(err)
		}
	}
	deliver := func() {
		for _, it := range l.take() {
			switch {
			case it.gap != nil:
				gap(it.gap, s.up.Load() || it.gap == errConnected)
			case ctx.Err() == nil:
				s.onMessage(it.body)
			}
		}
	}
	for failures := 0; ; {
		if s.up.Load() {
			failures = 0
			if at := l.confirmedAt(); at.After(told) {
				told = at
			}
		}
		silence.Reset(time.Until(told.Add(s.maxSilence)))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-pause.C:
			l = s.connect(ctx)
		case <-l.ready():
			deliver()
		case <-l.ended():
			deliver()
			lost = l.err
			l = nil
			if s.up.Load() {
				gap(lost, false)
			}
			if errors.Is(lost, redis.ErrClosed) && ctx.Err() == nil {
				return fmt.Errorf("rediscache: %w", lost)
			}
			most := min(maxPause, minPause<<min(failures, 10))
			pause.Reset(time.Duration(s.random() * float64(most)))
			failures++
		case <-silence.C:
			switch {
			case !s.up.Load():
				gap(lost, false)
			case time.Since(l.confirmedAt()) >= s.maxSilence && time.Since(told) >= s.maxSilence:
				lost = l.silent()
				l.end(lost)
				gap(lost, false)
			}
		}
	}
}
