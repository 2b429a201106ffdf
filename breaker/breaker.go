package breaker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// ErrOpen reports that a request was refused because its breaker is not closed. [*OpenError] has
// the details.
var ErrOpen = errors.New("breaker: open")

// An OpenError describes a refused request. It matches [ErrOpen].
type OpenError struct {
	Key   string
	State State         // Open, HalfOpen, Ramping or Isolated
	Wait  time.Duration // after which another attempt makes sense; zero if the key is isolated
}

func (e *OpenError) Error() string { return fmt.Sprintf("breaker: %s (%s)", e.State, e.Key) }

// Is makes errors.Is(err, ErrOpen) true, also through the *url.Error that [net/http.Client] adds.
func (e *OpenError) Is(target error) bool { return target == ErrOpen }

// NotSent tells retry and balancer around the transport that the request never left.
func (e *OpenError) NotSent() bool { return true }

// RetryAfter returns Wait.
func (e *OpenError) RetryAfter() time.Duration { return e.Wait }

// An Outcome is how a guarded request has ended. One that is none of the constants is a Failure.
type Outcome string

// The outcomes of a request.
const (
	Success Outcome = "success"
	Failure Outcome = "failure"
	Neutral Outcome = "neutral" // says nothing, as after the caller has left; it gives a probe's place back
)

// A Breaker stops requests to what keeps failing, and tries with a few whether it works again. It
// keeps a state for each key. Create one with [New]. A Breaker is safe for concurrent use and
// starts no goroutines.
type Breaker struct {
	cfg      Config // read-only after New
	base     time.Time
	rand     func() float64 // in [0, 1)
	circuits *table[circuit]
	shared   *circuit // of the keys beyond MaxKeys

	refused, probes, overflowed atomic.Uint64
}

// New returns a Breaker. The error, if any, names every invalid field of cfg.
func New(cfg Config) (*Breaker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Breaker{cfg: cfg, base: time.Now(), rand: rand.Float64}
	b.circuits = newTable(cfg.MaxKeys, int64(step(cfg.Window)),
		func(key string) *circuit { return newCircuit(b, key) },
		func(c *circuit) bool { return c.forget(true) })
	b.shared = newCircuit(b, "")
	return b, nil
}

// Acquire admits a request of key, whatever it is a request for, or refuses it with an
// [*OpenError]. If ctx is over, the error is its cause. The caller must call done when the request
// has ended, also if it panics: calls after the first do nothing.
func (b *Breaker) Acquire(ctx context.Context, key string) (done func(Outcome), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var k call
	if err := b.enter(ctx, key, &k); err != nil {
		return nil, err
	}
	c := &struct {
		call
		ended atomic.Bool
	}{call: k}
	return func(o Outcome) {
		if !c.ended.Swap(true) {
			c.leave(ctx, o, o == Success && b.tooSlow(&c.call))
		}
	}, nil
}

// enter admits a request and describes it in k. In a dry run a refused request is admitted
// unguarded.
func (b *Breaker) enter(ctx context.Context, key string, k *call) *OpenError {
	var c *circuit
	for {
		c = b.circuit(key)
		ok, state, wait := c.admit(ctx, k)
		if ok {
			if b.cfg.SlowAfter > 0 {
				k.begun = b.now()
			}
			return nil
		}
		if state == Closed {
			continue // it has just been forgotten
		}
		*k = call{}
		b.refused.Add(1)
		if b.cfg.Observe != nil {
			b.cfg.Observe(ctx, Event{Kind: Refused, Key: key, From: state, To: state})
		}
		if b.cfg.DryRun {
			return nil
		}
		return &OpenError{Key: key, State: state, Wait: wait}
	}
}

func (b *Breaker) circuit(key string) *circuit {
	if c := b.circuits.find(key); c != nil {
		return c
	}
	if c := b.circuits.add(key, b.now); c != nil {
		return c
	}
	b.overflowed.Add(1)
	return b.shared
}

// leave ends a request that enter has admitted.
func (k *call) leave(ctx context.Context, o Outcome, slow bool) {
	if k.circuit != nil {
		k.circuit.end(ctx, k, o, slow)
	}
}

func (b *Breaker) tooSlow(k *call) bool {
	return k.begun != 0 && b.now()-k.begun > int64(b.cfg.SlowAfter)
}

func (b *Breaker) now() int64 { return 1 + int64(time.Since(b.base)) } // never 0: that means unset

// soon returns what a refused request is told to wait where nobody knows when it would be admitted.
func (b *Breaker) soon() time.Duration { return max(time.Millisecond, b.cfg.OpenFor/10) }

// Isolate refuses all requests of key until [Breaker.Reset]. An isolated key has a state of its own
// even if [Config.MaxKeys] are taken.
func (b *Breaker) Isolate(key string) {
	for !b.circuits.pin(key).command(context.Background(), isolated) {
	}
}

// Reset closes the breaker of key, whatever its state, and forgets all outcomes. A key that is not
// known stays so.
func (b *Breaker) Reset(key string) {
	if c := b.circuits.find(key); c != nil {
		c.command(context.Background(), closed)
	}
}

// Forget removes key, open or not: it is for who knows that nobody will ask for it again. Requests
// in flight are not counted.
func (b *Breaker) Forget(key string) {
	if c := b.circuits.remove(key); c != nil {
		c.forget(false)
	}
}
