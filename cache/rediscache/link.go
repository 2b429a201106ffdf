package rediscache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/internal/redisguard"
)

const (
	maxConnect    = 5 * time.Second // from the dial until the server confirms
	maxQueue      = 4096            // messages that wait for onMessage
	maxQueueBytes = 1 << 20         // of them
)

var errReconnected = errors.New("the client has connected anew")

// An item is what a link hands to its subscription: a message, or a gap.
type item struct {
	body string
	gap  error
}

// A link is one connection of a subscription. PubSub of go-redis repairs a connection that has
// failed, but what is published meanwhile is lost: here an error ends the link, and what PubSub has
// repaired with it.
type link struct {
	announcer
	interval time.Duration // between a confirmation and the next question
	end      context.CancelCauseFunc
	patience *time.Timer // ends the link if it is not confirmed in time
	done     chan struct{}
	err      error // why the link ended; set before done is closed

	asked    chan question // which waits for its pong
	answered chan struct{}

	// only the goroutine that receives uses these
	seen    history
	waiting *question // whose mark has not come yet

	mu        sync.Mutex // guards the fields below
	confirmed time.Time  // all that was announced before has come
	trouble   error      // why the last question got no answer
	items     []item
	bytes     int
	wake      chan struct{}
}

// A question is whether all messages have come: the server said at a time after at that the last
// one has this mark.
type question struct {
	at   time.Time
	mark mark
}

// connect starts a link.
func (s *subscription) connect(ctx context.Context) *link {
	ctx, end := context.WithCancelCause(ctx)
	l := &link{
		announcer: s.announcer, interval: s.maxSilence / 4, end: end,
		done: make(chan struct{}), wake: make(chan struct{}, 1),
		asked: make(chan question, 1), answered: make(chan struct{}, 1),
	}
	l.patience = time.AfterFunc(max(maxConnect, s.maxSilence), func() { l.end(l.silent()) })
	go func() {
		defer close(l.done)
		l.err = errors.New("runtime.Goexit in the client") // of a dialer's, say
		defer l.end(nil)
		defer l.patience.Stop()
		err := l.run(ctx)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		l.err = err
	}()
	return l
}

// run receives until something fails.
func (l *link) run(ctx context.Context) (err error) {
	defer recovered(&err)
	ps := l.client.Subscribe(ctx)
	// Not on this goroutine: PubSub keeps its lock if a dialer panics.
	context.AfterFunc(ctx, func() { ps.Close() })
	if err := ps.Subscribe(ctx, l.channel); err != nil {
		return err
	}
	for subscribed := false; ; {
		received, err := ps.Receive(ctx)
		if err != nil {
			return err
		}
		switch r := received.(type) {
		case *redis.Subscription:
			if subscribed {
				return errReconnected
			}
			subscribed = true
			go l.ask(ctx, ps)
		case *redis.Message:
			l.receive(r.Payload)
		case *redis.Pong:
			select {
			case q := <-l.asked:
				l.waiting = &q
				l.answered <- struct{}{}
			default: // nobody has asked
			}
		}
		if err := l.confirm(); err != nil {
			return err
		}
	}
}

// ask asks again and again whether all messages have come: what the last one is it asks as the
// announcers do, by the client's pool, and that the connection lives by a ping.
func (l *link) ask(ctx context.Context, ps *redis.PubSub) {
	guard := redisguard.New()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		at := time.Now()
		var last mark
		err := guard.Do(ctx, at.Add(4*l.interval), func(ctx context.Context) (err error) {
			last, err = l.last(ctx)
			return err
		})
		if !errors.Is(err, redisguard.ErrOpen) { // which hides why
			l.mu.Lock()
			l.trouble = err
			l.mu.Unlock()
		}
		if err == nil {
			l.asked <- question{at: at, mark: last}
			if err := l.ping(ctx, ps); err != nil {
				l.end(err)
				return
			}
			select {
			case <-l.answered:
			case <-ctx.Done():
				return
			}
		}
		tick.Reset(l.interval)
	}
}

// ping asks for a pong.
func (l *link) ping(ctx context.Context, ps *redis.PubSub) (err error) {
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(ctx, 4*l.interval)
	defer cancel()
	return ps.Ping(ctx)
}

// recovered makes a panic an error. What panics is the client, when a reply makes no sense to it,
// and a user's dialer.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the client panicked: %v", p)
	}
}

// receive takes a message in.
func (l *link) receive(payload string) {
	m, err := parseMessage(payload)
	if err != nil {
		l.push(item{gap: err})
		return
	}
	if !l.seen.next(m) {
		l.push(item{gap: errMissing})
	}
	l.push(item{body: m.body})
}

// confirm looks whether what the server said was the last message has come. It returns an error if
// that server is not the one whose messages come here.
func (l *link) confirm() error {
	if l.waiting == nil {
		return nil
	}
	switch l.seen.compare(l.waiting.mark) {
	case foreign:
		return errMissing
	case known:
		l.mu.Lock()
		first := l.confirmed.IsZero()
		l.confirmed = l.waiting.at
		l.mu.Unlock()
		l.waiting = nil
		if first {
			l.patience.Stop()
			l.push(item{gap: errConnected})
		}
	}
	return nil
}

// push appends it to what take returns. If that is too much, a gap takes the place of what is
// there.
func (l *link) push(it item) {
	l.mu.Lock()
	if len(l.items) >= maxQueue || l.bytes+len(it.body) > maxQueueBytes {
		first := item{gap: errOverflow}
		if slices.Contains(l.items, item{gap: errConnected}) {
			first.gap = errConnected
		}
		l.items, l.bytes = append(l.items[:0], first), 0
	}
	l.items = append(l.items, it)
	l.bytes += len(it.body)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns the items that have come, and leaves none.
func (l *link) take() []item {
	l.mu.Lock()
	defer l.mu.Unlock()
	items := l.items
	l.items, l.bytes = nil, 0
	return items
}

// ready returns the channel that says that items have come. A nil link has none.
func (l *link) ready() <-chan struct{} {
	if l == nil {
		return nil
	}
	return l.wake
}

// ended returns the channel that is closed when l has ended. A nil link does not end.
func (l *link) ended() <-chan struct{} {
	if l == nil {
		return nil
	}
	return l.done
}

// confirmedAt returns the time before which all that was announced has come; zero if none is known.
func (l *link) confirmedAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.confirmed
}

// silent returns why the server has confirmed nothing.
func (l *link) silent() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trouble == nil {
		return errSilent
	}
	return fmt.Errorf("%w: %w", errSilent, l.trouble)
}
