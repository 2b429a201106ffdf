package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	defaultMaxWait       = 30 * time.Second
	defaultMaxQueue      = 64
	defaultMaxHosts      = 1024
	defaultMaxRetryAfter = 5 * time.Minute
)

var (
	// ErrQueueFull reports that PacerConfig.MaxQueue requests already wait for the host.
	ErrQueueFull = errors.New("ratelimit: pacer queue full")

	// ErrTooLong reports that a request's turn would come after its deadline or PacerConfig.MaxWait.
	ErrTooLong = errors.New("ratelimit: pacer wait too long")
)

// A PaceError is a request that a [Pacer] did not send. It matches [ErrQueueFull], [ErrTooLong], or the
// cause of the end of its context.
type PaceError struct {
	Host string
	Wait time.Duration // after which its turn would have come, if known
	Err  error
}

func (e *PaceError) Error() string { return fmt.Sprintf("%v (%s)", e.Err, e.Host) }
func (e *PaceError) Unwrap() error { return e.Err }

// NotSent tells retry and balancer around the transport that the request never left.
func (e *PaceError) NotSent() bool { return true }

// RetryAfter returns Wait.
func (e *PaceError) RetryAfter() time.Duration { return e.Wait }

// PacerConfig configures a [Pacer].
type PacerConfig struct {
	// Rate is what each host is asked at most, whatever it allows. Required.
	Rate Rate

	// MaxWait is the longest that a request waits for its turn. Zero means 30 s. Negative
	// means until its context ends.
	MaxWait time.Duration

	// MaxQueue is how many requests may wait for one host. Zero means 64. Negative means none: what cannot be
	// sent at once fails.
	MaxQueue int

	// MaxHosts is how many hosts are paced separately. Zero means 1,024. Negative is invalid. The rest
	// share one more pace. A host that gets a place later begins with what that one has used and was told.
	MaxHosts int

	// MaxRetryAfter is the longest that a server's Retry-After or RateLimit field is obeyed.
	// Zero means 5 minutes. Negative means that servers are not asked.
	MaxRetryAfter time.Duration

	// Observe, if not nil, receives every request's turn. It is called on the request's goroutine with no lock
	// held, so it must be quick and safe for concurrent use.
	Observe func(ctx context.Context, e PacerEvent)
}

func (c PacerConfig) withDefaults() (PacerConfig, error) {
	var errs []error
	r, err := c.Rate.withDefaults(GCRA)
	if err != nil {
		for _, e := range flatten(err) {
			errs = append(errs, fmt.Errorf("ratelimit: PacerConfig.Rate.%w", e))
		}
	}
	if r.Burst > math.MaxInt32 {
		errs = append(errs, fmt.Errorf("ratelimit: PacerConfig.Rate.Burst: %d is more than %d", r.Burst, math.MaxInt32))
	}
	c.Rate = r
	if c.MaxHosts < 0 {
		errs = append(errs, fmt.Errorf("ratelimit: PacerConfig.MaxHosts: %d is negative", c.MaxHosts))
	}
	if c.MaxHosts == 0 {
		c.MaxHosts = defaultMaxHosts
	}
	if c.MaxWait == 0 {
		c.MaxWait = defaultMaxWait
	}
	if c.MaxQueue == 0 {
		c.MaxQueue = defaultMaxQueue
	}
	if c.MaxRetryAfter == 0 {
		c.MaxRetryAfter = defaultMaxRetryAfter
	}
	return c, errors.Join(errs...)
}

// A Pacer makes a client keep to a rate for each host, and to what the host says about its limits, by waiting. What a RateLimit
// field says is taken to count requests. It counts whole seconds, so where less than a second's worth is left it asks for
// a slower pace than the server would bear, and is obeyed.
// Create one with [NewPacer]. A Pacer is safe for concurrent use and starts no goroutines.
type Pacer struct {
	cfg      PacerConfig // read-only after NewPacer
	overflow *pace       // of the hosts beyond MaxHosts

	mu    sync.RWMutex // guards the fields below; locked for writing only for a host that has no pace yet
	hosts map[string]*pace

	sent, waited, refused, cancelled, hints, overflowed atomic.Uint64
	waiting                                             atomic.Int64
}

// NewPacer returns a Pacer. The error, if any, names every invalid field of cfg.
func NewPacer(cfg PacerConfig) (*Pacer, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Pacer{cfg: cfg, hosts: make(map[string]*pace)}
	p.overflow = p.newPace()
	return p, nil
}

// PacerStats is a snapshot of a [Pacer]'s counters and gauges.
type PacerStats struct {
	Sent       uint64 `json:"sent"`
	Waited     uint64 `json:"waited"`     // sent, but not at once
	Refused    uint64 `json:"refused"`    // queue full or wait too long
	Cancelled  uint64 `json:"cancelled"`  // left while waiting
	Hints      uint64 `json:"hints"`      // responses that told us to slow down or wait
	Overflowed uint64 `json:"overflowed"` // requests that shared a pace for want of room
	Hosts      int    `json:"hosts"`
	Waiting    int    `json:"waiting"`
}

// Stats returns a snapshot.
func (p *Pacer) Stats() PacerStats {
	p.mu.RLock()
	hosts := len(p.hosts)
	p.mu.RUnlock()
	return PacerStats{
		Sent: p.sent.Load(), Waited: p.waited.Load(), Refused: p.refused.Load(), Cancelled: p.cancelled.Load(),
		Hints: p.hints.Load(), Overflowed: p.overflowed.Load(), Hosts: hosts, Waiting: int(p.waiting.Load()),
	}
}

// A PacerEvent is one request's turn.
type PacerEvent struct {
	Outcome string        // "sent", "queue_full", "too_long", "cancelled"
	Waited  time.Duration // zero if it was sent or refused at once
	Host    string
}

// LogValue implements [slog.LogValuer]: the event's name, its bounded dimension, one measurement,
// and the host as detail.
func (e PacerEvent) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("event", "turn"),
		slog.String("outcome", e.Outcome),
		slog.Duration("waited", e.Waited),
		slog.Group("detail", slog.String("host", e.Host)),
	)
}

// Wait returns when a request to host may be sent. The error is a [*PaceError]; then nothing of
// the rate has been used.
func (p *Pacer) Wait(ctx context.Context, host string) error {
	h := p.pin(host)
	defer h.unpin()
	return p.wait(ctx, host, h)
}

func (p *Pacer) wait(ctx context.Context, host string, h *pace) error {
	waited, err := h.wait(ctx, p)
	outcome := "sent"
	switch {
	case err == nil:
		p.sent.Add(1)
		if waited > 0 {
			p.waited.Add(1)
		}
	case errors.Is(err, ErrQueueFull):
		outcome = "queue_full"
		p.refused.Add(1)
	case errors.Is(err, ErrTooLong):
		outcome = "too_long"
		p.refused.Add(1)
	default:
		outcome = "cancelled"
		p.cancelled.Add(1)
	}
	if err != nil {
		err.Host = host
	}
	if p.cfg.Observe != nil {
		p.cfg.Observe(ctx, PacerEvent{Outcome: outcome, Waited: waited, Host: host})
	}
	if err != nil {
		return err
	}
	return nil
}

// pin returns host's pace, which stays host's until unpin.
func (p *Pacer) pin(host string) *pace {
	p.mu.RLock()
	h := p.hosts[host]
	if h != nil {
		h.pins.Add(1) // under mu, so that nobody takes the place away
	}
	p.mu.RUnlock()
	if h != nil {
		return h
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h = p.paceLocked(host)
	h.pins.Add(1)
	return h
}

func (h *pace) unpin() { h.pins.Add(-1) }

func (p *Pacer) paceLocked(host string) *pace {
	if h := p.hosts[host]; h != nil {
		return h
	}
	if len(p.hosts) >= p.cfg.MaxHosts {
		now := time.Now()
		looked := 0
		for name, h := range p.hosts {
			if h.pins.Load() == 0 && h.idle(now) {
				delete(p.hosts, name)
				break
			}
			if looked++; looked == 16 {
				break // a flood of hosts shall not make each request look at all of them
			}
		}
		if len(p.hosts) >= p.cfg.MaxHosts {
			p.overflowed.Add(1)
			return p.overflow
		}
	}
	h := p.newPace()
	h.inherit(p.overflow) // host may have used it, or have been told to wait
	p.hosts[host] = h
	return h
}

func (p *Pacer) newPace() *pace {
	most := rate.Limit(float64(p.cfg.Rate.Limit) / p.cfg.Rate.Window.Seconds())
	burst := int(p.cfg.Rate.Burst)
	return &pace{
		most: most, burst: burst,
		turn:    make(chan struct{}, 1),
		limiter: rate.NewLimiter(most, burst),
	}
}

// A pace is one host's. Only the request whose turn it is looks for a token, and takes it when it goes: so a request that is
// cancelled has used nothing, and what the host says takes effect on everybody who waits.
type pace struct {
	most  rate.Limit
	burst int
	turn  chan struct{} // a send takes the turn, in order of arrival; a receive passes it on
	pins  atomic.Int64  // requests that use it; raised under Pacer.mu

	mu           sync.Mutex // guards the fields below; x/time/rate mints tokens if its times go back, so they are read under it
	limiter      *rate.Limiter
	queue        int       // requests that wait
	blockedUntil time.Time // by the host
	slowedUntil  time.Time // by the host; zero if limiter is at most
}

// idle reports whether h is as good as new.
func (h *pace) idle(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restoreLocked(now)
	return h.slowedUntil.IsZero() && !h.blockedUntil.After(now) && h.limiter.TokensAt(now) >= float64(h.burst)
}

// inherit makes h, which is new, owe what from owes and heed what from has been told.
func (h *pace) inherit(from *pace) {
	from.mu.Lock()
	defer from.mu.Unlock()
	now := time.Now()
	from.restoreLocked(now)
	if used := math.Ceil(float64(h.burst) - from.limiter.TokensAt(now)); used > 0 {
		h.limiter.AllowN(now, min(int(used), h.burst))
	}
	h.blockedUntil = from.blockedUntil
	if h.slowedUntil = from.slowedUntil; !h.slowedUntil.IsZero() {
		h.limiter.SetLimitAt(now, from.limiter.Limit())
		h.limiter.SetBurstAt(now, from.limiter.Burst())
	}
}

// restoreLocked ends what the host's hint began when its time is over.
func (h *pace) restoreLocked(now time.Time) {
	if !h.slowedUntil.IsZero() && !now.Before(h.slowedUntil) {
		h.slowedUntil = time.Time{}
		h.limiter.SetLimitAt(now, h.most)
		h.limiter.SetBurstAt(now, h.burst)
	}
}

// expectLocked returns how long a request that comes now would wait.
func (h *pace) expectLocked(now time.Time) time.Duration {
	h.restoreLocked(now)
	missing := float64(h.queue+1) - h.limiter.TokensAt(now)
	wait := max(h.blockedUntil.Sub(now), 0)
	if missing > 0 {
		// After a block there are tokens again; both count only if the block is short.
		wait = max(wait, h.earnLocked(missing))
	}
	return wait
}

// wait waits for the turn of a request. It returns for how long.
func (h *pace) wait(ctx context.Context, p *Pacer) (waited time.Duration, _ *PaceError) {
	if ctx.Err() != nil {
		return 0, &PaceError{Err: context.Cause(ctx)}
	}
	h.mu.Lock()
	start := time.Now()
	expected := h.expectLocked(start)
	if expected == 0 && h.queue == 0 {
		h.limiter.AllowN(start, 1) // there is a token
		h.mu.Unlock()
		return 0, nil
	}
	deadline, ok := ctx.Deadline()
	switch {
	case h.queue >= p.cfg.MaxQueue:
		h.mu.Unlock()
		return 0, &PaceError{Err: ErrQueueFull, Wait: expected}
	case ok && start.Add(expected).After(deadline), p.cfg.MaxWait > 0 && expected > p.cfg.MaxWait:
		h.mu.Unlock()
		return 0, &PaceError{Err: ErrTooLong, Wait: expected}
	}
	h.queue++
	h.mu.Unlock()
	p.waiting.Add(1)
	defer p.waiting.Add(-1)

	if p.cfg.MaxWait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.cfg.MaxWait, ErrTooLong)
		defer cancel()
	}
	err := h.waitTurn(ctx)
	h.mu.Lock()
	h.queue--
	now := time.Now()
	expected = h.expectLocked(now)
	h.mu.Unlock()
	if err != nil {
		return now.Sub(start), &PaceError{Err: err, Wait: expected}
	}
	return now.Sub(start), nil
}

// waitTurn waits in the queue and then for a token. It is counted in queue.
func (h *pace) waitTurn(ctx context.Context) error {
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-h.turn }()
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	for {
		h.mu.Lock()
		wait := h.takeLocked(time.Now())
		h.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// takeLocked takes a token, or returns when to try again.
func (h *pace) takeLocked(now time.Time) time.Duration {
	h.restoreLocked(now)
	if wait := h.blockedUntil.Sub(now); wait > 0 {
		return wait
	}
	if h.limiter.AllowN(now, 1) {
		return 0
	}
	wait := h.earnLocked(1 - h.limiter.TokensAt(now))
	if !h.slowedUntil.IsZero() {
		wait = min(wait, h.slowedUntil.Sub(now))
	}
	return max(wait, 1)
}

// earnLocked returns how long tokens take to earn, rounded up.
func (h *pace) earnLocked(tokens float64) time.Duration {
	return time.Duration(min(math.Ceil(tokens/float64(h.limiter.Limit())*float64(time.Second)), math.MaxInt64/2))
}

// obey makes h heed what a host has said.
func (h *pace) obey(s hint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.restoreLocked(now)
	if until := now.Add(s.wait); s.wait > 0 && until.After(h.blockedUntil) {
		h.blockedUntil = until
	}
	if s.per > 0 {
		h.slowedUntil = now.Add(s.per)
		h.limiter.SetLimitAt(now, min(h.most, rate.Limit(float64(s.units)/s.per.Seconds())))
		h.limiter.SetBurstAt(now, int(min(int64(h.burst), s.units)))
	}
}
