package pacer

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// A pace is one key's. Only the request whose turn it is looks for a token, and takes it when it
// goes. So a request that is canceled has used nothing, and a hint takes effect on all that wait.
type pace struct {
	most  rate.Limit
	burst int
	turn  chan struct{} // a send takes the turn, in order of arrival; a receive passes it on
	pins  atomic.Int64  // requests that use the pace; raised under Pacer.mu

	// mu guards the fields below. Times are read under it: x/time/rate mints tokens if they go
	// back.
	mu           sync.Mutex
	limiter      *rate.Limiter
	queue        int       // requests that wait
	blockedUntil time.Time // by a hint
	slowedUntil  time.Time // by a hint; zero if limiter has the configured rate
}

func newPace(cfg Config) *pace {
	most := rate.Limit(float64(cfg.Rate.Limit) / cfg.Rate.Window.Seconds())
	burst := int(cfg.Rate.Burst)
	return &pace{
		most: most, burst: burst,
		turn:    make(chan struct{}, 1),
		limiter: rate.NewLimiter(most, burst),
	}
}

func (h *pace) unpin() { h.pins.Add(-1) }

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

// restoreLocked goes back to the configured rate when a hint's time is over, as of that time: what
// was earned since then is earned at the configured rate. Nothing has used the limiter since then.
func (h *pace) restoreLocked(now time.Time) {
	if !h.slowedUntil.IsZero() && !now.Before(h.slowedUntil) {
		h.limiter.SetLimitAt(h.slowedUntil, h.most)
		h.limiter.SetBurstAt(h.slowedUntil, h.burst)
		h.slowedUntil = time.Time{}
	}
}

// expectLocked returns how long a request that comes now would wait.
func (h *pace) expectLocked(now time.Time) time.Duration {
	h.restoreLocked(now)
	missing := float64(h.queue+1) - h.limiter.TokensAt(now)
	wait := max(h.blockedUntil.Sub(now), 0)
	if missing > 0 { // tokens are earned during a block too, so the longer of the two counts
		wait = max(wait, h.earnLocked(missing))
	}
	return wait
}

// wait waits for a request's turn. It returns for how long.
func (h *pace) wait(ctx context.Context, p *Pacer) (waited time.Duration, _ *Error) {
	if ctx.Err() != nil {
		return 0, &Error{Err: context.Cause(ctx), ended: ctx.Err()}
	}
	cfg := &p.cfg
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
	case h.queue >= cfg.MaxQueue:
		h.mu.Unlock()
		return 0, &Error{Err: ErrQueueFull, Wait: expected}
	case ok && start.Add(expected).After(deadline), cfg.MaxWait > 0 && expected > cfg.MaxWait:
		h.mu.Unlock()
		return 0, &Error{Err: ErrTooLong, Wait: expected}
	}
	h.queue++
	h.mu.Unlock()
	p.waiting.Add(1)
	defer p.waiting.Add(-1)

	limited := ctx
	if cfg.MaxWait > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, cfg.MaxWait, ErrTooLong)
		defer cancel()
	}
	err := h.waitTurn(limited)
	h.mu.Lock()
	h.queue--
	now := time.Now()
	expected = h.expectLocked(now)
	h.mu.Unlock()
	if err != nil {
		return now.Sub(start), &Error{Err: err, Wait: expected, ended: ctx.Err()}
	}
	return now.Sub(start), nil
}

// waitTurn waits in the queue and then for a token. Its caller is counted in h.queue.
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
		wait := h.tokenLocked(time.Now())
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

// tokenLocked takes a token and returns zero, or returns when to try again.
func (h *pace) tokenLocked(now time.Time) time.Duration {
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
	const most = math.MaxInt64 / 2 // so that adding it to another time does not overflow
	return time.Duration(min(math.Ceil(tokens/float64(h.limiter.Limit())*float64(time.Second)), most))
}

// obey makes h heed a hint.
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
