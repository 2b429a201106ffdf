package versioning

import (
	"crypto/rand"
	"errors"
	"time"
)

const (
	minLook      = 10 * time.Millisecond // between looks that errors ask for
	storeTimeout = 5 * time.Second       // for a Store without a limit of its own
)

// run looks at each Interval, and soon after the first error, or the first slow request, of canary
// in a bucket of keys.
func (r *Rollout) run() {
	var looked, synced time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		interval := r.current.Load().cfg.Interval
		timer.Reset(max(interval-time.Since(synced), 0))
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
		case <-r.poke:
			if wait := minLook - time.Since(looked); wait > 0 {
				timer.Reset(wait)
				select {
				case <-r.ctx.Done():
					return
				case <-timer.C:
				}
			}
		}
		looked = time.Now()
		sync := looked.Sub(synced) >= interval
		if sync {
			synced = looked
		}
		r.lookCalmly(sync)
	}
}

// look judges the release by all that is known and does what follows. With sync it asks the Store
// first. It is for callers' goroutines: a panic of Observe passes.
func (r *Rollout) look(sync bool) {
	judged, said := r.judge(r.current.Load().cfg)
	r.lock()
	defer r.unlock()
	r.lookLocked(sync, judged, said)
}

// lookCalmly is look on the Rollout's own goroutine.
func (r *Rollout) lookCalmly(sync bool) {
	judged, said := r.judge(r.current.Load().cfg)
	r.lock()
	defer r.unlockCalmly()
	r.lookLocked(sync, judged, said)
}

func (r *Rollout) lookLocked(sync bool, judged Decision, said string) {
	if r.closed {
		return
	}
	if sync {
		r.sync()
	}
	p := r.current.Load()
	if !p.known {
		return
	}
	now := time.Now()
	own := &tally{}
	p.evidence.addTo(own)
	if r.others != nil {
		own.add(r.others)
	}
	if p.watched {
		r.slow.look(p.evidence, now)
		if found := r.floor.look(p.evidence, p.cfg.Floor); found != "" {
			r.broken = found
		}
	}
	state := p.public()
	at := position{
		cfg: p.cfg, state: &state, time: now.Sub(p.since), floor: r.broken, judged: judged, judgedSaid: said,
		replicas: 1 + r.voices, storeIsDown: !r.storeUp.Load(),
	}
	if !p.watchedState() {
		return // what was said last stays: it is why the rollout has ended
	}
	v := at.verdict(own, now)
	r.said.Store(&v)
	r.act(p, &v)
}

// judge asks RolloutConfig.Judge.
func (r *Rollout) judge(cfg *RolloutConfig) (d Decision, said string) {
	if cfg.Judge == nil {
		return Advance, ""
	}
	defer func() {
		if p := recover(); p != nil {
			r.panicked(p)
			d, said = Hold, "it panicked"
		}
	}()
	return cfg.Judge()
}

// sync tells the Store what this replica has seen and adopts what it knows.
func (r *Rollout) sync() {
	p := r.current.Load()
	report := RolloutReport{Replica: r.replica, Epoch: p.state.Epoch}
	if p.known && p.state.Release == p.cfg.Release {
		own := &tally{}
		p.evidence.addTo(own)
		report.Evidence = own.encode(p.state.Epoch)
	}
	shared, err := r.storeSync(p.cfg.Name, report)
	if !r.heard(&shared, err) {
		return
	}
	state := shared.State
	switch mine := p.state; {
	case r.unsaved:
		// Before anything of the Store's is adopted, which may be older: it would undo the
		// rollback.
		r.save(state)
		return
	case p.known && mine.Release == p.cfg.Release && (state.Revision == 0 ||
		state.Release == mine.Release && state.Revision < mine.Revision && state.Phase != PhaseRolledBack):
		// The Store has lost what it was told: its state would undo a rollback, or a promotion. A
		// rollback that somebody has told it since is no older than what was lost.
		mine.Revision = state.Revision
		_, _ = r.change(mine)
		return
	}
	if state.Release != p.cfg.Release && !r.claimed && !remembers(state.Past, p.cfg.Release) {
		r.change(state.begun(p.cfg.Release, ReasonStart))
		return
	}
	r.adopt(shared)
}

func remembers(past []string, release string) bool {
	for _, name := range past {
		if name == release {
			return true
		}
	}
	return false
}

// heard notes whether the Store has answered, and with sense.
func (r *Rollout) heard(shared *RolloutShared, err error) bool {
	if err == nil && shared.State.Revision > 0 && !shared.State.valid() {
		err = errBadState
	}
	if err != nil && r.ctx.Err() != nil {
		return false
	}
	if err != nil {
		r.counts.failures.Add(1)
	}
	if up := err == nil; r.storeUp.Swap(up) != up {
		r.emit(RolloutEvent{Kind: RolloutStoreChange, Up: up, Err: err})
	}
	return err == nil
}

// change asks the Store for a new state and adopts the one that is in force then. It reports
// whether that is the new one.
func (r *Rollout) change(next RolloutState) (changed bool, err error) {
	next.Attempt = rand.Text()
	if r.open.asksFor(&next) {
		next.Attempt = r.open.Attempt
	}
	r.open = next
	shared, changed, err := r.storeChange(r.current.Load().cfg.Name, next)
	if !r.heard(&shared, err) {
		return false, errors.Join(ErrRolloutStore, err)
	}
	r.open = RolloutState{}
	r.adopt(shared)
	return changed, nil
}

// adopt makes what the Store knows what this replica goes by.
func (r *Rollout) adopt(shared RolloutShared) {
	if shared.State.Revision == 0 {
		return
	}
	p := r.current.Load()
	next := *p
	next.state, next.known = shared.State, true
	if next.state.Release == p.cfg.Release {
		r.claimed = true
	}
	if !p.known || next.state.Epoch != p.state.Epoch || next.state.Release != p.state.Release {
		next.since = time.Now().Add(-shared.Age)
		r.begin(&next)
	}
	r.others, r.voices = r.read(&next, shared.Evidence)
	r.install(&next)
	r.changed(p, &next)
}

// begin forgets what was seen at another weight.
func (r *Rollout) begin(next *plan) {
	next.evidence = nil
	r.floor, r.slow, r.broken = floor{}, slowness{}, ""
	r.others, r.voices = nil, 0
	r.stopGate()
}

// read adds up what other replicas have seen. What makes no sense is left out: it has been written
// by another version of this package, or by something else.
func (r *Rollout) read(p *plan, evidence map[string][]byte) (t *tally, voices int) {
	if !p.watchedState() {
		return nil, 0
	}
	t = &tally{}
	for replica, text := range evidence {
		if replica == r.replica {
			continue
		}
		if other, ok := decodeTally(text, p.state.Epoch); ok {
			t.add(other)
			voices++
		}
	}
	return t, voices
}

func (p *plan) watchedState() bool {
	return p.state.Release == p.cfg.Release && (p.state.Phase == PhaseRunning || p.state.Phase == PhasePaused)
}

// changed reports that next has followed p.
func (r *Rollout) changed(p, next *plan) {
	from, to := p.public(), next.public()
	if from.Release == to.Release && from.Phase == to.Phase &&
		(to.Phase == PhaseRolledBack || from.Step == to.Step && from.Epoch == to.Epoch) {
		return
	}
	r.emit(RolloutEvent{
		Kind: RolloutChange, From: from.Phase, To: to.Phase, Reason: to.Reason, Text: to.Text,
		Weight: to.Weight,
	})
	if to.Phase == PhaseRolledBack && from.Phase != PhaseRolledBack && from.Phase != PhaseWaiting {
		r.undo(next)
	}
}

// act does what follows from a verdict.
func (r *Rollout) act(p *plan, v *Verdict) {
	if !p.watchedState() || p.weight != p.state.serves(p.cfg.Release) {
		return
	}
	running := p.state.Phase == PhaseRunning
	switch {
	case v.Decision == RejectRelease && p.cfg.OnFail == RollBack,
		running && v.Reason == ReasonDeadline && p.cfg.OnDeadline == RollBack:
		r.rollBack(v.Reason, v.Text)
	case running && (v.Decision == RejectRelease || v.Reason == ReasonDeadline):
		_, _ = r.change(p.state.paused(v.Reason, v.Text)) // on an error the next look tries again
	case running && v.Decision == Advance && !p.cfg.Manual:
		if r.passes(p, v) {
			_, _ = r.change(p.state.atStep(p.nextStep(), p.cfg.Steps, v.Reason, v))
		}
	}
}

// rollBack takes all requests from canary, and tells the Store as soon as it answers.
func (r *Rollout) rollBack(reason Reason, text string) {
	p := r.current.Load()
	next := *p
	next.state = p.state.ended(reason, text)
	next.since = time.Now()
	r.begin(&next)
	r.unsaved = true
	r.install(&next)
	r.changed(p, &next)
	r.save(p.state)
}

// save tells the Store that the release was rolled back. present is its state.
func (r *Rollout) save(present RolloutState) {
	own := r.current.Load()
	for range 8 { // others may change it meanwhile, but not for ever
		lost := present.Revision == 0 && own.state.Release == own.cfg.Release // the Store has lost the state
		if !lost && (present.Release != own.cfg.Release || present.Phase == PhaseRolledBack) {
			r.unsaved = false
			return // nobody tries it any more
		}
		next := present.ended(own.state.Reason, own.state.Text)
		if lost {
			next = own.state
			next.Revision = 0
		}
		next.Attempt = rand.Text()
		shared, changed, err := r.storeChange(own.cfg.Name, next)
		if !r.heard(&shared, err) {
			return // the next sync tries again
		}
		present = shared.State
		if changed {
			r.unsaved = false
			r.adopt(shared)
			return
		}
	}
}
