package versioning

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/settings"
)

// ErrPhase reports that a [Rollout] cannot do what it was asked to do in its present phase. The
// error that matches it names the phase.
var ErrPhase = errors.New("versioning: not in this phase")

// ErrRolloutStore reports that a [Rollout] cannot do what it was asked to do because its Store does
// not answer.
var ErrRolloutStore = errors.New("versioning: the rollout's store failed")

// A Rollout gives a growing share of requests to a new release, the arm canary, and compares it
// with what is in use, the arm stable. It promotes the release or rolls it back by itself. Create
// one with [NewRollout]. A Rollout is safe for concurrent use. It has one goroutine, and others
// while Gate or OnRollback run; [Rollout.Close] ends them. A panic of a callback on one of these
// goroutines is recovered and counted in [RolloutStats]; so is each panic of the Store and of
// Judge.
type Rollout struct {
	base    time.Time
	replica string
	store   RolloutStore

	current atomic.Pointer[plan]
	said    atomic.Pointer[Verdict]
	counts  rolloutCounts
	storeUp atomic.Bool
	decides atomic.Bool // Decide was called

	poke   chan struct{} // a send asks for a look
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// stopping makes a rollback instant: it is set before who rolls back waits for its turn.
	planMu   sync.Mutex // guards the writing of current, and the field below
	stopping string     // the release that is being rolled back; "" if none is

	// turn guards the fields below. A send takes it, a receive gives it back. It is held while the
	// Store is called, so whoever waits for it must be able to give up.
	turn    chan struct{}
	closed  bool
	claimed bool         // the release has been the one that is tried
	unsaved bool         // the Store does not know yet that the release was rolled back
	open    RolloutState // what the last change asked for if its answer was lost; else zero
	others  *tally       // what other replicas have seen in this epoch
	voices  int          // how many of them
	floor   floor
	broken  string // what floor has found in this epoch
	slow    slowness
	gate    *gate
	events  []func() // to call once the turn is over
}

// A plan is what requests go by. It is replaced as a whole.
type plan struct {
	cfg      *RolloutConfig
	state    RolloutState
	weight   int // of fullWeight, of canary, here
	watched  bool
	salt     uint64
	evidence *evidence
	since    time.Time // when this weight began, as far as is known here
	tags     [2]string
	known    bool // the Store has answered
}

// NewRollout returns a Rollout that begins with its first step as soon as the Store has answered.
// The error, if any, names every invalid field of cfg.
func NewRollout(cfg RolloutConfig) (*Rollout, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Rollout{
		base: time.Now(), replica: rand.Text(), store: cfg.Store, poke: make(chan struct{}, 1),
		turn: make(chan struct{}, 1),
	}
	if r.store == nil {
		r.store = NewMemoryRolloutStore()
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.storeUp.Store(true)
	r.said.Store(&Verdict{Decision: Hold, Reason: ReasonStart, Missing: []string{}, Needed: 1 / cfg.Alpha})
	r.install(&plan{cfg: &cfg})
	if cfg.Store == nil {
		r.look(true)
	}
	r.wg.Go(r.run)
	return r, nil
}

// Reload replaces the configuration. With the same Release the rollout goes on: its state, weight
// and evidence stay, and Steps, limits and callbacks are the new ones from now on. The next step is
// the first one with more than the present weight. With another Release, that is tried from its
// first step on; then Handler and Transport must be called after Reload, for an arm that was
// wrapped for one release gets no requests of another. Name and Store cannot change, nor can Salt
// without Release. On an error nothing changes.
func (r *Rollout) Reload(cfg RolloutConfig) error {
	cfg, err := cfg.withDefaults()
	r.lock()
	if err == nil {
		err = r.reloadLocked(&cfg)
	}
	r.unlock()
	if err == nil {
		r.look(cfg.Store == nil)
		r.wake()
	}
	return err
}

func sameStore(a, b RolloutStore) bool {
	if a == nil || b == nil {
		return a == b
	}
	return reflect.TypeOf(a) == reflect.TypeOf(b) && (!reflect.TypeOf(a).Comparable() || a == b)
}

func (r *Rollout) reloadLocked(cfg *RolloutConfig) error {
	if r.closed {
		return ErrRolloutClosed
	}
	p := r.current.Load()
	f := settings.Of("versioning", "RolloutConfig")
	if cfg.Name != p.cfg.Name {
		f.Add("Name", "%q cannot become %q", p.cfg.Name, cfg.Name)
	}
	if !sameStore(cfg.Store, p.cfg.Store) {
		f.Add("Store", "cannot change")
	}
	same := cfg.Release == p.cfg.Release
	if same && cfg.Salt != p.cfg.Salt {
		f.Add("Salt", "cannot change without Release")
	}
	if err := f.Err(); err != nil {
		return err
	}
	next := *p
	next.cfg = cfg
	if !same {
		r.claimed, r.unsaved = false, false
		next.known = false
		r.stopGate()
	}
	r.install(&next)
	return nil
}

// ErrRolloutClosed reports that a [Rollout] has been closed.
var ErrRolloutClosed = errors.New("versioning: rollout closed")

// Close ends the rollout's goroutines and waits for them, or until ctx ends. Requests go on to be
// split as they are, and nothing changes any more.
func (r *Rollout) Close(ctx context.Context) error {
	r.cancel() // a call of the Store ends, and with it the turn of who made it
	if err := r.lockFor(ctx); err != nil {
		return err
	}
	r.closed = true
	r.unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.wg.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// install makes p what requests go by. It derives what depends on the rest of p.
func (r *Rollout) install(p *plan) {
	r.planMu.Lock()
	defer r.planMu.Unlock()
	r.installLocked(p)
}

func (r *Rollout) installLocked(p *plan) {
	p.weight = 0
	if p.known && r.stopping != p.cfg.Release {
		p.weight = p.state.serves(p.cfg.Release)
	}
	p.watched = p.weight > 0 && p.state.Phase != PhasePromoted
	p.salt = saltOf(p.cfg.Salt)
	if p.evidence == nil || p.evidence.weight != p.weight {
		p.evidence = &evidence{weight: p.weight}
	}
	for i, arm := range [...]Arm{Stable, Canary} {
		p.tags[i] = tagOf(p.cfg, arm)
	}
	r.current.Store(p)
}

// halt takes all requests from canary at once while it is that release.
func (r *Rollout) halt(release string) {
	r.planMu.Lock()
	defer r.planMu.Unlock()
	r.stopping = release
	next := *r.current.Load() // under the lock: no Reload may come between
	r.installLocked(&next)
}

// unhalt ends halt. Canary gets requests again with the next plan.
func (r *Rollout) unhalt(release string) {
	r.planMu.Lock()
	defer r.planMu.Unlock()
	if r.stopping == release { // or a later rollback is of another one
		r.stopping = ""
	}
}

func tagOf(cfg *RolloutConfig, arm Arm) string {
	return cfg.Name + ":" + cfg.Release + ":" + string(arm)
}

// Tag returns the tag of answers of an arm: name:release:canary, say.
func (r *Rollout) Tag(arm Arm) string { return tagOf(r.current.Load().cfg, arm) }

// State returns the state of the rollout as this replica knows it.
func (r *Rollout) State() RolloutState { return r.current.Load().public() }

func (p *plan) public() RolloutState {
	s := p.state
	switch {
	case !p.known:
		s = RolloutState{Phase: PhaseWaiting, Step: -1, Text: "the store has not answered"}
	case s.Release != p.cfg.Release:
		s.Phase, s.Text = PhaseSuperseded, "release "+s.Release+" is tried"
	}
	s.Release, s.Weight = p.cfg.Release, shareOf(p.weight)
	return s
}

// Verdict returns what the last look has found.
func (r *Rollout) Verdict() Verdict { return *r.said.Load() }

// Drained waits until no request is in flight in the arm that gets none any more: canary after a
// rollback, stable once canary has full weight. It returns an error that matches [ErrPhase] if both
// arms get requests, and context.Cause(ctx) if ctx ends before.
func (r *Rollout) Drained(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		arm := 0
		switch r.current.Load().weight {
		case 0:
			arm = 1
		case fullWeight:
		default:
			return r.phaseError()
		}
		if r.counts.arms[arm].inFlight() == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// A phaseFault names the phase.
type phaseFault struct{ s RolloutState }

func (e *phaseFault) Error() string {
	return "versioning: release " + e.s.Release + " is " + string(e.s.Phase) + " with " +
		percent(e.s.weight())
}

func (e *phaseFault) Is(target error) bool { return target == ErrPhase }

func (r *Rollout) phaseError() error { return &phaseFault{r.State()} }

// wake asks for a look.
func (r *Rollout) wake() {
	select {
	case r.poke <- struct{}{}:
	default: // one is due already
	}
}

// emit calls Observe once the turn is over.
func (r *Rollout) emit(e RolloutEvent) {
	cfg := r.current.Load().cfg
	e.Rollout, e.Release = cfg.Name, cmp.Or(e.Release, cfg.Release)
	if cfg.Observe != nil {
		r.events = append(r.events, func() { cfg.Observe(context.WithoutCancel(r.ctx), e) })
	}
}

// lock takes the turn to change the state.
func (r *Rollout) lock() { r.turn <- struct{}{} }

// lockFor takes the turn, or returns the cause of ctx's end.
func (r *Rollout) lockFor(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unlock ends the turn of a caller's goroutine and makes the calls of Observe that waited for it. A
// panic of Observe is the caller's.
func (r *Rollout) unlock() {
	for _, call := range r.endTurn() {
		call()
	}
}

// unlockCalmly is unlock on a goroutine of the Rollout, where a panic of Observe is only counted:
// an event of it would be Observe's again.
func (r *Rollout) unlockCalmly() {
	for _, call := range r.endTurn() {
		func() {
			defer func() {
				if recover() != nil {
					r.counts.panics.Add(1)
				}
			}()
			call()
		}()
	}
}

func (r *Rollout) endTurn() (events []func()) {
	events, r.events = r.events, nil
	<-r.turn
	return events
}
