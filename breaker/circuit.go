package breaker

import (
	"context"
	"errors"
	"math"
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

const (
	jitter     = 0.2 // of the open time, either way
	rampFloor  = 0.1 // share of requests that a ramp begins with
	rampFewest = 5   // outcomes without which a ramping circuit does not open

	// abandoned is how long nobody must have asked for an open circuit, after its open time, before
	// it is forgotten: hosts that died and were given up would fill the table one by one. For as
	// long a circuit with requests in flight must have had no outcome: their end may be lost.
	abandoned = time.Hour
)

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

// A probe is a request in flight of a half-open circuit.
type probe struct {
	ticket   uint64
	begun    int64
	answered bool // its answer has begun, and is no failure so far
}

type observed struct {
	ctx context.Context
	e   Event
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

// shouldOpen is called by gobreaker after a failure, so with mu held.
func (c *circuit) shouldOpen(counts gobreaker.Counts) bool {
	c.counts = counts
	cfg := &c.b.cfg
	fewest := float64(cfg.MinRequests)
	if c.phase() == ramping {
		fewest = min(fewest, max(rampFewest, math.Ceil(fewest*c.share(c.b.now()))))
	}
	n := float64(counts.Requests)
	return n >= fewest && float64(counts.TotalFailures) >= cfg.FailureRatio*n
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

// watchLocked ends the probes whose time is over.
func (c *circuit) watchLocked(ctx context.Context, now int64) {
	for len(c.probes) > 0 && c.phase() == halfOpen {
		oldest := c.probes[0] // they are in order
		if now-oldest.begun < int64(c.probeTimeLocked()) {
			return
		}
		c.probes = c.probes[1:]
		c.verdictLocked(ctx, oldest.answered, false, true)
	}
}

// probeTimeLocked returns how long a probe may take. By default that grows with the open time: one
// that is always the same would never let a service close that answers, but takes longer.
func (c *circuit) probeTimeLocked() time.Duration {
	if c.b.cfg.ProbeTimeout > 0 {
		return c.b.cfg.ProbeTimeout
	}
	return c.openTime
}

// fullLocked makes admit refuse without a lock while there is no room for a probe.
func (c *circuit) fullLocked() {
	until := int64(0)
	if len(c.probes) > 0 && c.passed+len(c.probes) >= c.b.cfg.Probes {
		until = c.probes[0].begun + int64(c.probeTimeLocked())
	}
	c.until.Store(until)
}

// answered notes that k's answer has begun.
func (c *circuit) answered(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.probes {
		if c.probes[i].ticket == k.ticket {
			c.probes[i].answered = true
		}
	}
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

// followLocked enters the state that gobreaker has entered.
func (c *circuit) followLocked(ctx context.Context, now int64) {
	if !c.turned {
		return
	}
	c.turned = false
	var e Event
	next := c.word.Load()>>phaseBits + 1
	switch c.to {
	case gobreaker.StateOpen:
		slow := c.slow.total(now)
		e.Requests, e.Failures = uint64(c.counts.Requests), uint64(c.counts.TotalFailures)
		if c.phase() == halfOpen {
			e.Requests, e.Failures = uint64(c.passed)+1, 1
		}
		e.Slow = min(slow, e.Failures) // gobreaker was told that they have failed
		e.Failures -= e.Slow
		if c.phase() == closed && now >= c.calm {
			c.series = 0
		}
		c.openTime = c.nextOpenTime()
		c.until.Store(now + int64(c.openTime))
		e.Duration = c.openTime
		c.enterLocked(ctx, open, next, e)
	case gobreaker.StateHalfOpen:
		c.until.Store(0)
		c.enterLocked(ctx, halfOpen, next, e)
	case gobreaker.StateClosed:
		e.Requests = uint64(c.passed)
		length := c.b.cfg.Ramp
		if length == 0 {
			length = c.openTime
		}
		length = max(0, length)
		c.until.Store(now + int64(length))
		c.ramp.Store(int64(length))
		c.calm = now + int64(length) + int64(c.openTime)
		if length == 0 {
			c.enterLocked(ctx, closed, next, e)
		} else {
			c.enterLocked(ctx, ramping, next, e)
		}
	}
}

// nextOpenTime returns how long the circuit, which is about to open, stays open.
func (c *circuit) nextOpenTime() time.Duration {
	cfg := &c.b.cfg
	d := cfg.OpenFor
	for range c.series {
		if d > cfg.MaxOpen/2 {
			d = cfg.MaxOpen
			break
		}
		d *= 2
	}
	c.series++
	return max(1, time.Duration(float64(d)*(1-jitter+2*jitter*c.b.rand())))
}

// enterLocked enters a phase, and begins with empty counts unless the generation stays.
func (c *circuit) enterLocked(ctx context.Context, p phase, generation uint64, e Event) {
	from := states[c.phase()]
	if generation != c.word.Load()>>phaseBits {
		c.passed = 0
		c.probes = c.probes[:0]
		c.slow.reset(c.b.now())
	}
	c.word.Store(generation<<phaseBits | uint64(p))
	if to := states[p]; c.b.cfg.Observe != nil && from != to {
		e.Kind, e.Key, e.From, e.To = Transition, c.key, from, to
		c.pending = append(c.pending, observed{context.WithoutCancel(ctx), e}) // the client may have left
	}
}

// command isolates the circuit, or closes it with everything that it knows forgotten. It returns
// false if the table no longer has the circuit.
func (c *circuit) command(ctx context.Context, p phase) bool {
	c.mu.Lock()
	if c.phase() == forgotten {
		c.mu.Unlock()
		return false
	}
	if p == closed {
		c.cb = c.machine()
		c.series, c.calm = 0, 0
	}
	c.turned = false
	c.enterLocked(ctx, p, c.word.Load()>>phaseBits+1, Event{})
	c.mu.Unlock()
	c.tell()
	return true
}

// forget makes the circuit unusable. If only idle ones are to go, it reports whether it was one.
func (c *circuit) forget(onlyIdle bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	word := c.word.Load()
	lost := c.inFlight.Load() // if the circuit is idle
	if onlyIdle && !c.idleLocked(c.b.now(), lost) {
		return false
	}
	return c.forgetLocked(word, onlyIdle, lost)
}

func (c *circuit) forgetLocked(word uint64, onlyIdle bool, lost int64) bool {
	c.word.Store((word>>phaseBits+1)<<phaseBits | uint64(forgotten))
	if onlyIdle && c.inFlight.Load() > lost { // it came between; whoever saw forgotten looks up again
		c.word.Store(word)
		return false
	}
	return true
}

// idleLocked reports whether nothing is lost with the circuit: two sweeps, far enough apart, have
// found it unused.
func (c *circuit) idleLocked(now, inFlight int64) bool {
	long := int64(c.b.cfg.Window)
	if inFlight > 0 {
		long = max(long, int64(abandoned))
	}
	busy := c.used || inFlight > 0 && !c.held
	c.held = inFlight > 0
	switch c.phase() {
	case isolated:
		return false
	case closed, ramping:
		busy = busy || now < c.calm // which a ramp's end is before
	case open, halfOpen:
		long = int64(abandoned)
		busy = busy || now < c.until.Load()
	}
	c.used = false
	if busy {
		c.unused = 0
		return false
	}
	if c.unused == 0 {
		c.unused = now
	}
	return now-c.unused >= long
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

// tell delivers the pending events, one by one and in order, with no lock held. If another
// goroutine, or this one further up its stack, is at it, it delivers them.
func (c *circuit) tell() {
	for {
		c.mu.Lock()
		if c.telling || len(c.pending) == 0 {
			c.mu.Unlock()
			return
		}
		c.telling = true
		next := c.pending[0]
		c.pending = c.pending[1:]
		c.mu.Unlock()
		func() {
			defer func() { // also if Observe panics
				c.mu.Lock()
				c.telling = false
				c.mu.Unlock()
			}()
			c.b.cfg.Observe(next.ctx, next.e)
		}()
	}
}
