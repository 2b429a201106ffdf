package versioning

import (
	"context"
	"time"
)

// A gate is a call of RolloutConfig.Gate.
type gate struct {
	epoch  uint64
	cancel context.CancelFunc
	done   bool
	err    error
}

// passes reports whether the next step's Gate lets it begin. It starts asking if nobody does.
func (r *Rollout) passes(p *plan, v *Verdict) bool {
	step := p.nextStep()
	if p.cfg.Gate == nil || step >= len(p.cfg.Steps) {
		return true
	}
	if r.gate == nil || r.gate.epoch != p.state.Epoch {
		r.ask(p, p.cfg.Steps[step])
	}
	switch g := r.gate; {
	case !g.done:
		held := *v // which others may be reading
		held.Decision, held.Reason, held.Text = Hold, ReasonGate, "the gate has not answered"
		held.Missing = []string{"the gate's answer"}
		r.said.Store(&held)
		return false
	case g.err != nil:
		r.stopGate()
		_, _ = r.change(p.state.paused(ReasonGate, "the gate: "+g.err.Error()))
		return false
	}
	return true
}

// ask calls Gate on a goroutine of its own.
func (r *Rollout) ask(p *plan, step Step) {
	r.stopGate()
	ctx, cancel := context.WithCancel(r.ctx)
	g := &gate{epoch: p.state.Epoch, cancel: cancel}
	r.gate = g
	call := p.cfg.Gate
	r.wg.Go(func() {
		err := r.calm(func() error { return call(ctx, step) })
		r.lock()
		g.done, g.err = true, err
		r.unlockCalmly()
		r.wake()
	})
}

// stopGate ends the call of Gate, if there is one, and forgets its answer.
func (r *Rollout) stopGate() {
	if r.gate != nil {
		r.gate.cancel()
		r.gate = nil
	}
}

// A Rollback is what [RolloutConfig].OnRollback is called for.
type Rollback struct {
	Release string
	Tag     string // of canary's answers: what caches must purge
	Reason  Reason
	Text    string // the same as a sentence, with numbers
	Drained bool   // no request is in flight in canary any more
}

// undo calls OnRollback: at once, and when canary can give a cache no answer any more.
func (r *Rollout) undo(p *plan) {
	call := p.cfg.OnRollback
	if call == nil || r.closed {
		return
	}
	b := Rollback{Release: p.cfg.Release, Tag: p.tags[1], Reason: p.state.Reason, Text: p.state.Text}
	canary := &r.counts.arms[1]
	r.wg.Go(func() {
		b.Drained = canary.inFlight() == 0
		said := b
		_ = r.calm(func() error { call(r.ctx, said); return nil })
		if b.Drained {
			return
		}
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for canary.inFlight() > 0 {
			select {
			case <-tick.C:
			case <-r.ctx.Done():
				return
			}
		}
		b.Drained = true
		_ = r.calm(func() error { call(r.ctx, b); return nil })
	})
}
