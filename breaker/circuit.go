package breaker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// A phase is a State in a form that fits into a word beside the generation.
type phase uint64

const (
	closed phase = iota
	ramping
	open
	halfOpen
	isolated
	forgotten // the table no longer has it: look the key up anew

	phaseBits = 3
)

var states = [...]State{Closed, Ramping, Open, HalfOpen, Isolated, Closed}

const rampFloor = 0.1 // share of requests that a ramp begins with

// errFailed is what gobreaker is told.
var errFailed = errors.New("breaker: failure")

func pass() (struct{}, error) { return struct{}{}, nil }
func fail() (struct{}, error) { return struct{}{}, errFailed }

// A circuit is the state of one key.
//
// gobreaker keeps the window, the states, and the verdict of the probes. It hears of a request when
// that has ended, in one step: it counts an outcome where its request began, and drops it when that
// bucket has left the window, so that it never opens on timeouts which are longer than its window.
// Who is admitted, and how long the circuit stays open, is decided here.
type circuit struct {
	b   *Breaker
	key string

	word     atomic.Uint64 // generation and phase; written with mu held
	until    atomic.Int64  // open, half-open: nobody is admitted before; ramping: its end
	ramp     atomic.Int64  // how long the ramp takes
	inFlight atomic.Int64  // admitted and not ended

	mu       sync.Mutex // guards the fields below
	cb       *gobreaker.CircuitBreaker[struct{}]
	turned   bool             // cb has changed its state in this call, to:
	to       gobreaker.State  //
	counts   gobreaker.Counts // of the window when cb was last asked whether to open
	slow     window
	series   int           // openings without a calm time between them
	openTime time.Duration // of the last opening, with jitter
	calm     int64         // when series starts anew, while closed
	probes   []probe       // those in flight, while half-open
	tickets  uint64        // given to probes
	passed   int           // probes that have succeeded
	used     bool          // an outcome has come since the last sweep
	unused   int64         // the first sweep that found used false; 0 if the last one did not
	held     bool          // the last sweep found requests in flight
	pending  []observed    // events that wait for their turn
	telling  bool          // some goroutine is delivering pending
}

// A call is one admitted request. The zero call is of a request that is not guarded.
type call struct {
	circuit *circuit
	gen     uint64
	ticket  uint64 // of a probe, else 0
	begun   int64  // if answers can be too slow, else 0
}

func newCircuit(b *Breaker, key string) *circuit {
	c := &circuit{b: b, key: key, slow: newWindow(b.cfg.Window)}
	c.cb = c.machine()
	return c
}

// machine returns a closed gobreaker.
func (c *circuit) machine() *gobreaker.CircuitBreaker[struct{}] {
	cfg := &c.b.cfg
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  uint32(cfg.Probes),
		Interval:     cfg.Window,
		BucketPeriod: step(cfg.Window),
		Timeout:      1, // until says when the open time is over
		ReadyToTrip:  c.shouldOpen,
		// gobreaker calls this with its lock held.
		OnStateChange: func(_ string, _, to gobreaker.State) { c.turned, c.to = true, to },
	})
}

func (c *circuit) phase() phase { return phase(c.word.Load() & (1<<phaseBits - 1)) }

// share returns which share of the requests a ramp admits.
func (c *circuit) share(now int64) float64 {
	left := float64(c.until.Load()-now) / float64(max(1, c.ramp.Load()))
	return 1 - (1-rampFloor)*min(1, max(0, left))
}

// admit admits a request and describes it in k, or refuses it. It takes no lock unless the circuit
// may change its state.
func (c *circuit) admit(ctx context.Context, k *call) (ok bool, refused State, wait time.Duration) {
	c.inFlight.Add(1) // before the phase is read: so a circuit with requests is not forgotten
	word := c.word.Load()
	p := phase(word & (1<<phaseBits - 1))
	k.circuit, k.gen = c, word>>phaseBits
	if p == closed {
		return true, "", 0
	}
	now := c.b.now()
	switch until := c.until.Load(); {
	case p == ramping && now < until:
		if c.b.rand() < c.share(now) {
			return true, "", 0
		}
		refused, wait = Ramping, c.b.soon()
	case p == open && now < until:
		refused, wait = Open, time.Duration(until-now)
	case p == halfOpen && now < until:
		refused, wait = HalfOpen, c.b.soon()
	case p == isolated:
		refused = Isolated
	case p == forgotten:
		refused = Closed
	default:
		return c.turn(ctx, k)
	}
	c.inFlight.Add(-1)
	return false, refused, wait
}

// turn admits a request at a moment at which the circuit may change its state.
func (c *circuit) turn(ctx context.Context, k *call) (ok bool, refused State, wait time.Duration) {
	c.mu.Lock()
	now := c.b.now()
	if c.phase() == open && now >= c.until.Load() {
		c.cb.State() // gobreaker becomes half-open by being asked
		c.followLocked(ctx, now)
	}
	if c.phase() == halfOpen {
		c.watchLocked(ctx, now)
	}
	if c.phase() == ramping && now >= c.until.Load() {
		c.enterLocked(ctx, closed, c.word.Load()>>phaseBits, Event{})
	}
	until := c.until.Load()
	switch p := c.phase(); {
	case p == closed, p == ramping && c.b.rand() < c.share(now):
		ok = true
	case p == halfOpen && c.passed+len(c.probes) < c.b.cfg.Probes:
		c.tickets++
		k.ticket = c.tickets
		c.probes = append(c.probes, probe{ticket: k.ticket, begun: now})
		c.fullLocked()
		c.b.probes.Add(1)
		ok = true
	case p == open:
		refused, wait = Open, time.Duration(max(1, until-now))
	case p == isolated:
		refused = Isolated
	default:
		refused, wait = states[p], c.b.soon()
	}
	k.gen = c.word.Load() >> phaseBits
	c.mu.Unlock()
	if !ok {
		c.inFlight.Add(-1)
		c.tell()
		return false, refused, wait
	}
	told := false
	defer func() {
		if !told { // Observe has panicked: nobody will end this request
			c.end(ctx, k, Neutral, false)
		}
	}()
	c.tell()
	told = true
	return true, "", 0
}

// end counts how the request k has ended. Each admitted request ends once.
func (c *circuit) end(ctx context.Context, k *call, o Outcome, slow bool) {
	if o == Neutral && k.ticket == 0 { // it proves nothing and holds nothing
		c.inFlight.Add(-1)
		return
	}
	c.mu.Lock()
	turned := c.endLocked(ctx, k, o, slow)
	c.mu.Unlock()
	c.inFlight.Add(-1)
	if turned {
		c.tell()
	}
}

func (c *circuit) endLocked(ctx context.Context, k *call, o Outcome, slow bool) (turned bool) {
	if c.word.Load()>>phaseBits != k.gen {
		return false // of another generation: it says nothing of this one
	}
	if k.ticket != 0 {
		i := 0
		for i < len(c.probes) && c.probes[i].ticket != k.ticket {
			i++
		}
		if i == len(c.probes) {
			return false // watchLocked has ended it
		}
		c.probes = append(c.probes[:i], c.probes[i+1:]...)
		if o == Neutral {
			c.fullLocked()
			return false
		}
	}
	c.used = true
	return c.verdictLocked(ctx, o == Success, slow, k.ticket != 0)
}

// verdictLocked tells gobreaker of an outcome and does what follows from it.
func (c *circuit) verdictLocked(ctx context.Context, success, slow, probe bool) (turned bool) {
	if slow {
		c.slow.add(c.b.now())
	}
	report := fail
	if success && !slow {
		report = pass
		if probe {
			c.passed++
		}
	}
	_, _ = c.cb.Execute(report) // the error is report's
	if c.turned {
		c.followLocked(ctx, c.b.now())
		return true
	}
	if probe {
		c.fullLocked()
	}
	return false
}

// state returns the state in which a request that comes now would find the circuit.
func (c *circuit) state(now int64) KeyStats {
	switch p := c.phase(); {
	case p == ramping && now >= c.until.Load():
		return KeyStats{State: Closed, Share: 1}
	case p == ramping:
		return KeyStats{State: Ramping, Share: c.share(now)}
	case p == closed:
		return KeyStats{State: Closed, Share: 1}
	case p == open && now >= c.until.Load():
		return KeyStats{State: HalfOpen}
	default:
		return KeyStats{State: states[p]}
	}
}
