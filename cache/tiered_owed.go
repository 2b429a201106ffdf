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

	mu    sync.Mutex // guards the fields below
	list  []owedPurge
	count uint64 // of calls of add
}

type owedPurge struct {
	Purge
	number uint64 // of the last call of add for it
}

// add takes note of p, if anybody is there to repeat it.
func (o *owed) add(p Purge, repeated bool) {
	if !repeated {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.count++
	switch i := slices.IndexFunc(o.list, func(q owedPurge) bool { return q.Purge == p }); {
	case i >= 0:
		o.list[i].number = o.count // who is repeating it now may be too early
	case len(o.list) < maxOwed:
		o.list = append(o.list, owedPurge{p, o.count})
	default:
		o.list = []owedPurge{{Purge{How: Hard}, o.count}}
	}
	o.size.Store(int64(len(o.list)))
}

// first returns a purge that is owed.
func (o *owed) first() (p owedPurge, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) == 0 {
		return p, false
	}
	return o.list[0], true
}

// remove takes out p, unless it is owed anew.
func (o *owed) remove(p owedPurge) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = slices.DeleteFunc(o.list, func(q owedPurge) bool { return q.number == p.number })
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
	return slices.ContainsFunc(o.list, func(p owedPurge) bool {
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
		if !ok || t.far.Purge(ctx, p.Purge) != nil {
			return
		}
		t.owed.remove(p)
	}
}
