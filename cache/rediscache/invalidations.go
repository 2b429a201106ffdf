package rediscache

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/internal/redisguard"
	"github.com/trivet-go/trivet/internal/settings"
)

const (
	defaultNoticeTimeout = 500 * time.Millisecond
	defaultMaxSilence    = 2 * time.Second
	leastMaxSilence      = 100 * time.Millisecond
)

// InvalidationsConfig configures [Invalidations].
type InvalidationsConfig struct {
	// Prefix begins the names of the channel and of the one key that are used. Required: all that
	// have the same one hear one another, also in different databases of a server. It has at most
	// 64 bytes and no braces.
	Prefix string

	// Timeout is the most that Key and Tag may wait for Redis. Zero means 500 ms. Negative is
	// invalid.
	Timeout time.Duration

	// MaxSilence is how long Run goes without a confirmation from the server that no notice is
	// missing, before it tells a gap. Four times in it Run asks for one. Zero means 2 s. Less than
	// 100 ms is invalid.
	MaxSilence time.Duration
}

// Invalidations tell all replicas of a service which values have changed, so that the caches in
// their memory forget them together. Create them with [NewInvalidations].
//
// What holds once Key or Tag has returned nil: every replica whose Run is running has been told the
// notice, or a gap after it, within [InvalidationsConfig].MaxSilence and the time that its function
// takes. If nothing fails, that is a round trip and not MaxSilence. An error means that the notice
// may have reached nobody.
//
// Invalidations are safe for concurrent use. They start no goroutines but one for each notice,
// which ends with the client's own time limits at the latest, and those of Run.
type Invalidations struct {
	cfg       InvalidationsConfig // read-only after NewInvalidations
	announcer announcer
	guard     *redisguard.Guard

	published, failures, refused, notices, gaps atomic.Uint64
	running, connected                          atomic.Int64
}

// NewInvalidations returns Invalidations on client, which remains the caller's to close. It does
// not call Redis, which may come up later. A Ring is refused: its clients decide each for itself
// which server is down, and would not meet. The error, if any, names every invalid field of cfg.
func NewInvalidations(client redis.UniversalClient, cfg InvalidationsConfig) (*Invalidations, error) {
	f := settings.Of("rediscache", "InvalidationsConfig")
	checkPrefix(f, cfg.Prefix, "it keeps apart the services that use one Redis")
	settings.Positive(f, "Timeout", &cfg.Timeout, defaultNoticeTimeout)
	settings.Positive(f, "MaxSilence", &cfg.MaxSilence, defaultMaxSilence)
	if cfg.MaxSilence > 0 && cfg.MaxSilence < leastMaxSilence {
		f.Add("MaxSilence", "%v is less than %v", cfg.MaxSilence, leastMaxSilence)
	}
	if err := errors.Join(checkSubscriber(client), f.Err()); err != nil {
		return nil, err
	}
	return &Invalidations{
		cfg:       cfg,
		announcer: newAnnouncer(client, cfg.Prefix, "invalidations"),
		guard:     redisguard.New(),
	}, nil
}

// checkSubscriber returns why client cannot serve a subscription, if it cannot.
func checkSubscriber(client redis.UniversalClient) error {
	if redisguard.IsNil(client) {
		return errors.New("rediscache: client: is nil")
	}
	if _, ok := client.(*redis.Ring); ok {
		return errors.New("rediscache: client: is a Ring, whose clients may use different servers")
	}
	return nil
}

// Key tells all replicas, this one included, that the value of key has changed. Call it after the
// change, which a replica may read the moment it is told. The key may have up to 8 KiB.
//
// Key waits for [InvalidationsConfig].Timeout at most, and does not end with ctx: a client that has
// left after its write must not leave the old value with the others. An error of Redis, or that it
// was not asked since it has just failed three times, may be tried again: a notice that is told
// twice does no harm.
func (v *Invalidations) Key(ctx context.Context, key string) error {
	return v.publish(ctx, string(keyText), key)
}

// Tag tells all replicas, this one included, that the values with tag have changed. It is an error
// if how is neither cache.Soft nor cache.Hard. All else is as with [Invalidations.Key].
func (v *Invalidations) Tag(ctx context.Context, tag string, how cache.Invalidation) error {
	switch how {
	case cache.Soft:
		return v.publish(ctx, string(softTagText), tag)
	case cache.Hard:
		return v.publish(ctx, string(hardTagText), tag)
	}
	return fmt.Errorf("rediscache: %d is neither cache.Soft nor cache.Hard", int(how))
}

func (v *Invalidations) publish(ctx context.Context, kind, name string) error {
	if len(name) > maxName {
		return fmt.Errorf("rediscache: a name of %d bytes is longer than %d", len(name), maxName)
	}
	deadline := time.Now().Add(v.cfg.Timeout)
	err := v.guard.Do(context.WithoutCancel(ctx), deadline, func(ctx context.Context) error {
		return v.announcer.announce(ctx, kind+name)
	})
	switch {
	case err == nil:
		v.published.Add(1)
		return nil
	case errors.Is(err, redisguard.ErrOpen):
		v.refused.Add(1)
	default:
		v.failures.Add(1)
	}
	return fmt.Errorf("rediscache: %w", err)
}

// Run calls handle with each notice, in the order in which Redis got them, and with each gap. It
// blocks until ctx ends and returns its cause, or an error if the client has been closed. Each call
// of Run has a connection of its own, which it makes anew until it succeeds: after up to 50 ms, at
// random, and each time after up to twice as long, up to 2 s.
//
// A gap is told each time that notices may have been missed: when a connection is made, the first
// one included, and when it is lost; when a number is missing or Redis has forgotten its numbers;
// when a notice is malformed; when more than 4096 notices or 1 MiB wait for handle; when Redis has
// confirmed nothing for [InvalidationsConfig].MaxSilence; and while it does so, again each
// MaxSilence. A handle that drops everything at a gap keeps no old value for longer than that, also
// if Redis is down. One that drops nothing while Connected is false keeps what it has, and drops
// all when it is true.
//
// Run calls handle on the goroutine of its caller, who gets its panics, and no more once ctx has
// ended. What handle does should be quick: notices wait meanwhile. It may call Key and Tag.
// Run panics if handle is nil.
func (v *Invalidations) Run(ctx context.Context, handle func(Notice)) error {
	if handle == nil {
		panic("rediscache: nil handle")
	}
	v.running.Add(1)
	defer v.running.Add(-1)
	var sub *subscription
	connected := false
	tell := func(n Notice) {
		n.Connected = sub.connected()
		if n.Connected != connected {
			connected = n.Connected
			v.connected.Add(step(connected))
		}
		if n.Kind == NoticeGap {
			v.gaps.Add(1)
		} else {
			v.notices.Add(1)
		}
		handle(n)
	}
	defer func() {
		if connected {
			v.connected.Add(-1)
		}
	}()
	onMessage := func(body string) {
		n, err := parseNotice(body)
		if err != nil {
			n = Notice{Kind: NoticeGap, Err: err}
		}
		tell(n)
	}
	onGap := func(err error) { tell(Notice{Kind: NoticeGap, Err: err}) }
	sub = newSubscription(v.announcer, v.cfg.MaxSilence, onMessage, onGap)
	return sub.Run(ctx)
}

func step(up bool) int64 {
	if up {
		return 1
	}
	return -1
}

// InvalidationsStats is a snapshot of the counters and gauges of [Invalidations].
type InvalidationsStats struct {
	Published uint64 `json:"published"` // notices that Redis has taken
	Failures  uint64 `json:"failures"`  // notices that failed or took too long
	Refused   uint64 `json:"refused"`   // notices not sent while the breaker was open
	Notices   uint64 `json:"notices"`   // told by Run
	Gaps      uint64 `json:"gaps"`      // told by Run
	Running   int    `json:"running"`   // calls of Run
	Connected int    `json:"connected"` // of them, those that hear what is sent now
	Open      bool   `json:"open"`      // the breaker is open
	InFlight  int    `json:"in_flight"` // calls that have not ended, those included that nobody waits for
}

// Stats returns a snapshot.
func (v *Invalidations) Stats() InvalidationsStats {
	return InvalidationsStats{
		Published: v.published.Load(), Failures: v.failures.Load(), Refused: v.refused.Load(),
		Notices: v.notices.Load(), Gaps: v.gaps.Load(),
		Running: int(v.running.Load()), Connected: int(v.connected.Load()),
		Open: v.guard.Open(), InFlight: v.guard.InFlight(),
	}
}
