package cache

import (
	"context"
	"time"
)

// getHere implements coordinator.
func (t *Tiered) getHere(key Key) (*Resource, Mark) {
	mark := Mark(t.near.purges.clock.Load())
	if r, ok := t.near.memory.Get(key); ok && t.sure(r) {
		return r, mark
	}
	return nil, mark
}

// putHere implements coordinator.
func (t *Tiered) putHere(ctx context.Context, key Key, e *Entry, most int) error {
	e.kept = time.Since(t.base)
	return t.near.Put(ctx, key, e, most)
}

// purgeHere implements coordinator.
func (t *Tiered) purgeHere(p Purge) {
	t.owed.add(p, t.running.Load())
	t.purgeNear(p)
}

func (t *Tiered) purgeNear(p Purge) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.purgeLocked(p, time.Now())
}
