package versioning

import (
	"context"
	"time"
)

// Promote ends the present step without its minimums, its Gate and its verdict: canary gets the
// next step's weight, and after the last one all requests for good. A release that is paused runs
// again.
//
// The errors of Switch, Pause, Resume and Retry are the same: one matches [ErrPhase] if the phase
// does not allow the change, which is after a rollback and after the end here, [ErrRolloutStore] if
// the Store does not answer, and [ErrRolloutClosed] after Close. Without an answer nothing has
// changed as far as this replica knows, but the Store may have made the change: [Rollout.State] has
// it as soon as the Store answers. A call that is repeated before that does not make the change
// twice.
func (r *Rollout) Promote(ctx context.Context) error {
	return r.operate(ctx, func(p *plan) (RolloutState, bool) {
		return p.forward(p.nextStep(), r.said.Load()), p.watchedState()
	})
}

// Switch gives canary all requests at once, at the last step, which then ends like any other: blue
// and green change places, and [Rollout.Rollback] changes them back. No request meets a mixture:
// each goes by the weight of one moment.
func (r *Rollout) Switch(ctx context.Context) error {
	return r.operate(ctx, func(p *plan) (RolloutState, bool) {
		last := len(p.cfg.Steps) - 1
		return p.forward(last, r.said.Load()), p.watchedState() && p.state.weight() < fullWeight
	})
}

// forward returns the state after an operator has chosen a step.
func (p *plan) forward(step int, v *Verdict) RolloutState {
	s := p.state
	// Whoever goes on has judged the evidence.
	if s.Phase == PhasePaused && v.Decision == RejectRelease {
		v = &Verdict{Epoch: s.Epoch}
	}
	return s.atStep(step, p.cfg.Steps, ReasonOperator, v)
}

// Pause keeps the rollout at its present weight. A release that is found worse meanwhile is treated
// as [RolloutConfig].OnFail says.
func (r *Rollout) Pause(ctx context.Context) error {
	return r.operate(ctx, func(p *plan) (RolloutState, bool) {
		return p.state.paused(ReasonOperator, "paused"), p.watchedState() && p.state.Phase == PhaseRunning
	})
}

// Resume ends a pause. The step's Deadline begins again. If the release was paused because it was
// found worse, the comparison begins again too.
func (r *Rollout) Resume(ctx context.Context) error {
	return r.operate(ctx, func(p *plan) (RolloutState, bool) {
		return p.state.resumed(time.Since(p.since)), p.watchedState() && p.state.Phase == PhasePaused
	})
}

// Retry tries the release again from its first step on, after a rollback or in the place of another
// one.
func (r *Rollout) Retry(ctx context.Context) error {
	return r.operate(ctx, func(p *plan) (RolloutState, bool) {
		next := p.state.begun(p.cfg.Release, ReasonOperator)
		return next, p.known && (p.state.Release != p.cfg.Release || p.state.Phase == PhaseRolledBack)
	})
}

// operate changes the state as f says, unless it reports that this is not possible.
func (r *Rollout) operate(ctx context.Context, f func(p *plan) (next RolloutState, ok bool)) error {
	if err := r.lockFor(ctx); err != nil {
		return err
	}
	err := r.operateLocked(f)
	r.unlock()
	if err == nil {
		r.look(false)
	}
	return err
}

func (r *Rollout) operateLocked(f func(p *plan) (next RolloutState, ok bool)) error {
	for range 8 { // another replica may change it meanwhile, but not for ever
		p := r.current.Load()
		if r.closed {
			return ErrRolloutClosed
		}
		next, ok := f(p)
		if !ok || r.unsaved {
			return r.phaseError()
		}
		if changed, err := r.change(next); changed || err != nil {
			return err
		}
	}
	return ErrRolloutStore
}

// Rollback takes all requests from canary at once, also after a promotion; requests in flight go
// on, see [Rollout.Drained]. The release is not tried again until [Rollout.Retry]. text says why,
// for State, events and OnRollback. If the Store does not answer, this replica rolls back all the
// same and tells the Store later, so that is no error. ctx is ignored: a rollback that has begun
// must not be left half done.
//
// The error matches [ErrPhase] if the release is not the one that is tried, was replaced before the
// rollback's turn came, is rolled back already, or if the Store has never answered, and
// [ErrRolloutClosed] after Close.
func (r *Rollout) Rollback(_ context.Context, text string) error {
	p := r.current.Load()
	if !p.known || p.state.Release != p.cfg.Release || p.state.Phase == PhaseRolledBack {
		return r.phaseError()
	}
	release := p.cfg.Release
	r.halt(release) // before its turn, for which a slow Store may make it wait
	r.lock()        // and not only until ctx ends: half a rollback is none
	var err error
	switch p = r.current.Load(); {
	case r.closed:
		err = ErrRolloutClosed
	case p.cfg.Release != release: // Reload has replaced it
		err = r.phaseError()
	case p.state.Release != p.cfg.Release || p.state.Phase == PhaseRolledBack:
	default:
		r.rollBack(ReasonOperator, text)
	}
	r.unhalt(release)
	if err != nil { // all is as it was
		again := *r.current.Load()
		r.install(&again)
	}
	r.unlock()
	return err
}
