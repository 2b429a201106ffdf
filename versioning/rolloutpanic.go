package versioning

import (
	"context"
	"fmt"
	"runtime/debug"
)

// calm calls f and makes an error of its panic.
func (r *Rollout) calm(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = r.panicked(fmt.Sprintf("%v\n%s", p, debug.Stack()))
		}
	}()
	return f()
}

// panicked counts and reports a panic of a callback.
func (r *Rollout) panicked(p any) error {
	r.lock()
	defer r.unlockCalmly()
	return r.panickedLocked(p)
}

func (r *Rollout) panickedLocked(p any) error {
	err := fmt.Errorf("versioning: callback panicked: %v", p)
	r.counts.panics.Add(1)
	r.emit(RolloutEvent{Kind: RolloutHookPanic, Err: err})
	return err
}

// storeSync calls the Store's Sync. A panic is an error, on whatever goroutine: a Rollout that has
// half changed, or keeps its turn, would be worse than one whose Store has failed.
func (r *Rollout) storeSync(name string, report RolloutReport) (shared RolloutShared, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			shared, err = RolloutShared{}, r.panickedLocked(p)
		}
	}()
	return r.store.Sync(ctx, name, report)
}

// storeChange calls the Store's Change, as storeSync does Sync.
func (r *Rollout) storeChange(name string, next RolloutState) (s RolloutShared, changed bool, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			s, changed, err = RolloutShared{}, false, r.panickedLocked(p)
		}
	}()
	return r.store.Change(ctx, name, next)
}
