package cache

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// maxOwed bounds the purges that are to be repeated. When there are more, everything is purged.
const maxOwed = 256

// owed are the purges that have reached this process and not far.
type owed struct {
	size atomic.Int64 // of list

	mu   sync.Mutex // guards the field below
	list []Purge
}

// add takes note of p, if anybody is there to repeat it.
func (o *owed) add(p Purge, repeated bool) {
	if !repeated {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case slices.Contains(o.list, p):
	case len(o.list) < maxOwed:
		o.list = append(o.list, p)
	default:
		o.list = []Purge{{How: Hard}}
	}
	o.size.Store(int64(len(o.list)))
}

// first returns a purge that is owed.
func (o *owed) first() (p Purge, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) == 0 {
		return p, false
	}
	return o.list[0], true
}

func (o *owed) remove(p Purge) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = slices.DeleteFunc(o.list, func(q Purge) bool { return q == p })
	o.size.Store(int64(len(o.list)))
}

// of reports whether a purge that far does not know of concerns e. Far's entry is not used then,
// also if that purge is soft.
func (o *owed) of(e *Entry) bool {
	if o.size.Load() == 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.list, func(p Purge) bool {
		if p.Label == "" {
			return strings.HasPrefix(e.URL, p.Prefix)
		}
		return slices.Contains(e.Labels, p.Label)
	})
}

// repay repeats what is owed, until far fails.
func (t *Tiered) repay(ctx context.Context) {
	for ctx.Err() == nil {
		p, ok := t.owed.first()
		if !ok || t.far.Purge(ctx, p) != nil {
			return
		}
		t.owed.remove(p)
	}
}
