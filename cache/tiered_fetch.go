package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A coordinator is a Store that several processes share, and that lets one of them fetch what all
// want. The Cache asks it before a fetch that others could use, and tells it when that has ended.
type coordinator interface {
	// begin returns when its caller may fetch what belongs under key, or when another process has;
	// then there is no lease. In both cases it has looked into the store again, and its caller
	// must. If it returns alone, the caller shall fetch, and nobody needs to be told.
	begin(ctx context.Context, key Key) (l *lease, s sight)

	// What of the Store is in this process: getHere, putHere and purgeHere are Get, Put and Purge
	// that call nobody. They serve a request that the others have failed.
	getHere(key Key) (*Resource, Mark)
	putHere(ctx context.Context, key Key, e *Entry, most int) error
	purgeHere(p Purge)
}

// A sight is what a coordinator has seen in the store.
type sight int

const (
	alone    sight = iota // nothing: it has not looked
	here                  // what there is, is in this process now
	farthest              // something that this process cannot keep
)

const maxTurns = 4096

// turns are the keys that this process is to fetch, or waits for.
type turns struct {
	mu   sync.Mutex // guards the field below, and what it says of turns
	keys map[Key]*turn

	locks, waits, takeovers atomic.Uint64
}

func (f *turns) init() { f.keys = make(map[Key]*turn) }

// A turn is one key for which a lock is wanted or held.
type turn struct {
	leases int // that have not ended
	stored bool

	decided chan struct{} // closed when the next three are set and leases may go on
	again   bool          // another process has fetched
	failed  bool          // far did not answer
	sight   sight
	news    chan News     // of the key
	over    chan struct{} // closed when the last lease has ended
}

// A lease is one caller's part of a turn. It must be ended once.
type lease struct {
	t   *Tiered
	key Key
	f   *turn
}

// tell tells of the end of a fetch in another process. It does not block.
func (f *turns) tell(n News) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.keys[n.Key]; g != nil {
		g.tell(n)
	}
}

// tellAll tells all who wait.
func (f *turns) tellAll(n News) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.keys {
		g.tell(n)
	}
}

func (g *turn) tell(n News) {
	select {
	case g.news <- n:
	default: // one is enough
	}
}

// begin implements coordinator.
func (t *Tiered) begin(ctx context.Context, key Key) (*lease, sight) {
	if t.wait < 0 || !t.up.Load() || t.failing.Load() || !t.isConfirmed() {
		return nil, alone // whoever cannot be told is not to wait
	}
	all := &t.turns
	all.mu.Lock()
	f := all.keys[key]
	if f == nil {
		if len(all.keys) >= maxTurns {
			all.mu.Unlock()
			return nil, alone
		}
		f = &turn{decided: make(chan struct{}), news: make(chan News, 1), over: make(chan struct{})}
		all.keys[key] = f
		// Its context has the values of the caller that happens to be first, who may leave.
		go t.take(context.WithoutCancel(ctx), key, f)
	}
	f.leases++
	all.mu.Unlock()
	l := &lease{t: t, key: key, f: f}
	select {
	case <-f.decided:
	case <-ctx.Done():
		l.end(false)
		return nil, alone
	}
	if f.again {
		l.end(false)
		return nil, f.sight
	}
	return l, f.sight
}

// end tells that its caller's fetch has ended, or that there is none. It reports whether what was
// fetched is in the store.
func (l *lease) end(stored bool) {
	all := &l.t.turns
	all.mu.Lock()
	defer all.mu.Unlock()
	f := l.f
	f.stored = f.stored || stored
	if f.leases--; f.leases > 0 {
		return
	}
	if all.keys[l.key] == f {
		delete(all.keys, l.key)
	}
	close(f.over)
}

// take takes the lock of key, or waits for the process that has it, and keeps it until the leases
// have ended.
func (t *Tiered) take(ctx context.Context, key Key, f *turn) {
	var token uint64
	decided, ended := false, false
	defer func() {
		if ended {
			return
		}
		recover()
		t.failed(errStoreExited)
		if !decided {
			f.failed, f.again = true, false
			close(f.decided)
			if token != 0 {
				defer func() { recover() }()
				_ = t.far.Unlock(ctx, key, token, false)
			}
		}
	}()
	limit := max(t.wait/2, time.Millisecond)
	token = t.lock(ctx, key, f, limit)
	f.sight = here
	if token != 0 || f.again {
		// What others have fetched before must be found in the near tier, stale as that may be.
		r, _, err := t.pull(ctx, key)
		f.failed = err != nil
		if kept, _ := t.getHere(key); r != nil && kept == nil {
			f.sight = farthest
		}
	}
	if f.again {
		t.turns.mu.Lock()
		if t.turns.keys[key] == f {
			delete(t.turns.keys, key)
		}
		t.turns.mu.Unlock()
	}
	decided = true
	close(f.decided)
	if token == 0 {
		ended = true
		return
	}
	timer := time.NewTimer(limit / 3)
	defer timer.Stop()
	for held := true; held; {
		select {
		case <-f.over:
			_ = t.far.Unlock(ctx, key, token, f.stored)
			ended = true
			return
		case <-timer.C:
			var err error
			if held, err = t.far.Extend(ctx, key, token, limit); err != nil {
				held = true // perhaps; a try costs little
			}
			timer.Reset(limit / 3)
		}
	}
	t.turns.takeovers.Add(1)
	ended = true
}

// errStoreExited is how a call of a Store ends that has not returned.
var errStoreExited = errors.New("cache: the store panicked, or ended its goroutine")

// lock returns the token of the lock, or zero if the leases go on without: nobody could be asked,
// or the other process has fetched for itself alone, or for too long.
func (t *Tiered) lock(ctx context.Context, key Key, f *turn, limit time.Duration) (token uint64) {
	deadline := time.Now().Add(t.wait)
	for waited := false; ; waited = true {
		l, err := t.far.Lock(ctx, key, limit)
		left := time.Until(deadline)
		switch {
		case t.failed(err):
			f.failed = true
			return 0
		case l.Token != 0:
			t.turns.locks.Add(1)
			if waited {
				t.turns.takeovers.Add(1)
			}
			return l.Token
		case left <= 0:
			return 0
		case !waited:
			t.turns.waits.Add(1)
		}
		// A lock that is extended is asked for again when it would have ended.
		left = min(left, l.Left+time.Millisecond+rand.N(limit/16+1))
		timer := time.NewTimer(left)
		select {
		case n := <-f.news:
			timer.Stop()
			if n.Kind == NewsFetched {
				f.again = n.Stored
				return 0
			}
		case <-f.over: // all have left
			timer.Stop()
			return 0
		case <-timer.C:
		}
	}
}

// endLease ends the lease of x, which has fetched nothing. It says whether what others may wait for
// was there already: else they fetch it, each by itself.
func (x *exchange) endLease(there bool) {
	if x.lease != nil {
		x.lease.end(there)
		x.lease = nil
	}
}

// fetchesForAll reports whether x waits for its turn before it fetches what it wants: what it
// fetches is of use to others, and it is not one of those who want something fresher.
func (x *exchange) fetchesForAll(w want) bool {
	if x.c.fleet == nil || x.lease != nil || x.spent || x.begins >= maxFollows ||
		x.c.cfg.Wait < 0 || x.follows >= maxFollows || w.why == ReasonRequest || !x.shares() {
		return false
	}
	_, passed := x.c.passes.Get(x.key)
	return !passed
}

// shares reports whether others may get what x fetches.
func (x *exchange) shares() bool {
	return !x.credentials() && x.fields&hasRange == 0 && !x.cc.noStore
}

// await waits for x's turn, and looks again then. It reports whether it has.
func (x *exchange) await(ctx context.Context) (r *Resource, mark Mark, looked bool) {
	x.begins++
	var s sight
	x.lease, s = x.c.fleet.begin(ctx, x.key)
	if x.lease != nil {
		x.spent = x.lease.f.failed
	}
	switch s {
	case alone:
		x.begins = maxFollows
		return nil, 0, false
	case farthest:
		r, mark, _ = x.look(ctx)
	default:
		x.ended = x.c.fills.shard(x.key).ended.Load()
		r, mark, _ = x.lookHere()
	}
	return r, mark, true
}

// endLease tells the other processes that f has ended.
func (f *fill) endLease() {
	if f.lease == nil {
		return
	}
	f.mu.Lock()
	kept := f.kept
	f.mu.Unlock()
	f.lease.end(kept)
}

// inTurn waits for the turn of f, a refresh, and reports whether f is still needed.
func (f *fill) inTurn() bool {
	x := f.x
	waited := false
	defer func() {
		if waited {
			return
		}
		// The store has panicked, or has ended its goroutine, when it was looked into again.
		if recover() != nil {
			f.c.counts.panics.Add(1)
		}
		if x.lease != nil {
			x.lease.end(false)
		}
		f.fail(errStoreExited, nil)
		f.report(0)
		f.c.fills.remove(f)
		f.c.work.remove(f)
		f.cancel(nil)
	}()
	r, mark, looked := x.await(f.ctx)
	if !looked && f.ctx.Err() == nil {
		waited = true
		return true
	}
	e, _ := x.pick(r)
	fresh := e != nil && x.judge(e, time.Now()).use == useFresh
	waited = true
	f.lease, x.lease = x.lease, nil
	if f.lease != nil {
		if !fresh && f.ctx.Err() == nil {
			f.mark = mark
			return true
		}
		f.lease.end(fresh)
	}
	f.fail(errUnneeded, nil)
	f.c.fills.remove(f)
	f.c.work.remove(f)
	f.cancel(nil)
	return false
}
