package cache

import (
	"context"
	"time"
)

// A pull is one look into far, for all who look for the same key meanwhile.
type pull struct {
	done chan struct{} // closed when the fields below are set
	r    *Resource
	mark Mark
	err  error
}

// pull gets what far has, and keeps it in the near tier.
func (t *Tiered) pull(ctx context.Context, key Key) (*Resource, Mark, error) {
	t.pullsMu.Lock()
	p := t.pulls[key]
	if p != nil {
		t.pullsMu.Unlock()
		select {
		case <-p.done:
			return p.r, p.mark, p.err
		case <-ctx.Done():
			return nil, Mark(t.near.purges.clock.Load()), context.Cause(ctx)
		}
	}
	p = &pull{done: make(chan struct{}), err: errAbandoned} // unless look returns
	t.pulls[key] = p
	t.pullsMu.Unlock()
	defer func() {
		t.pullsMu.Lock()
		delete(t.pulls, key)
		t.pullsMu.Unlock()
		close(p.done)
	}()
	p.r, p.mark, p.err = t.look(context.WithoutCancel(ctx), key) // others wait, whoever leaves
	return p.r, p.mark, p.err
}

// look is pull for one caller.
func (t *Tiered) look(ctx context.Context, key Key) (*Resource, Mark, error) {
	now := time.Since(t.base)
	r, _, err := t.far.Get(ctx, key)
	// All that far knows of is purged in near by now, and perhaps more: far is asked about that.
	mark := Mark(t.near.purges.clock.Load())
	if t.failed(err) {
		return nil, mark, err
	}
	if r == nil {
		t.misses.Add(1)
		return nil, mark, nil
	}
	list := r.Entries[:0]
	for _, e := range r.Entries {
		how, since := t.far.Purged(e)
		if how == Hard {
			continue
		}
		if how == Soft {
			e.StaleSince = since
		}
		if t.owed.of(e) {
			continue
		}
		e.Mark, e.kept = mark, now
		list = append(list, e)
	}
	if len(list) == 0 {
		t.misses.Add(1)
		return nil, mark, nil
	}
	t.farHits.Add(1)
	r = &Resource{Entries: list}
	t.near.replace(key, r, now)
	return r, mark, nil
}

// replace puts r, which is as good as what was stored until since, in the place of what is there.
func (s *MemoryStore) replace(key Key, r *Resource, since time.Duration) {
	for _, e := range r.Entries {
		if !s.purges.hold(e) {
			e.held = nil
			continue
		}
		e.uses.Store(1)
	}
	mu := &s.locks[key[0]%storeLocks]
	mu.Lock()
	defer mu.Unlock()
	kept := &Resource{Entries: make([]*Entry, 0, len(r.Entries))}
	for _, e := range r.Entries {
		if e.held != nil {
			kept.Entries = append(kept.Entries, e)
		}
	}
	if old, ok := s.memory.Get(key); ok {
		for _, o := range old.Entries {
			if o.kept > since { // it was stored meanwhile, and may not have reached far
				for _, e := range kept.Entries {
					s.drop(e)
				}
				return
			}
		}
	}
	if len(kept.Entries) > 0 {
		s.memory.Set(key, kept)
	}
}
