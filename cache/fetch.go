package cache

import (
	"context"
	"net/http"
	"time"
)

const maxFollows = 4 // fills that one request waits for, one after the other

// look looks for a stored response to x.
func (x *exchange) look(ctx context.Context) (r *Resource, mark Mark, err error) {
	c := x.c
	if c.rules.any.Load() {
		if r, mark, err, found := x.lookByRule(ctx); found {
			return r, mark, err
		}
	}
	x.ended = c.fills.shard(x.key).ended.Load()
	if x.spent {
		return x.lookHere()
	}
	r, mark, err = c.store.Get(ctx, x.key)
	if err != nil || c.counts.storeDown.Load() != 0 {
		c.storeResult(ctx, err)
	}
	x.spent = err != nil
	return r, mark, err
}

// lookHere is look after the store has failed x: a request waits for that once.
func (x *exchange) lookHere() (r *Resource, mark Mark, err error) {
	if x.c.fleet == nil {
		return nil, x.mark, nil
	}
	r, mark = x.c.fleet.getHere(x.key)
	return r, mark, nil
}

// lookByRule looks for a response that No-Vary-Search lets answer x, and leaves x with its key.
func (x *exchange) lookByRule(ctx context.Context) (r *Resource, mark Mark, err error, found bool) {
	rules, _ := x.c.rules.memory.Get(x.pathKey())
	if len(rules) == 0 {
		return nil, 0, nil, false
	}
	exact, key := x.echo, x.key
	for _, rule := range rules {
		x.setRuledKey(rule)
		x.ended = x.c.fills.shard(x.key).ended.Load()
		r, mark, err = x.c.store.Get(ctx, x.key)
		if e, _ := x.pick(r); e != nil || err != nil {
			return r, mark, err, true
		}
	}
	// One key must be where concurrent requests meet, and it is the exact one only if the responses
	// are found there.
	x.echo, x.key, x.least = exact, key, 0
	x.ended = x.c.fills.shard(x.key).ended.Load()
	if r, mark, err = x.c.store.Get(ctx, x.key); r != nil || err != nil {
		return r, mark, err, true
	}
	x.setRuledKey(rules[0])
	x.ended = x.c.fills.shard(x.key).ended.Load()
	r, mark, err = x.c.store.Get(ctx, x.key)
	return r, mark, err, true
}

// answer answers x, from the store or from its origin. It reports false if the request must pass:
// then only reason is set.
func (x *exchange) answer(ctx context.Context) bool {
	rep := &x.rep
	if x.c.fleet != nil {
		defer x.endLease(false)
	}
	r, mark, _ := x.look(ctx)
	now := x.began
	for {
		x.mark = mark
		e, others := x.pick(r)
		var j judgment
		why := ReasonURIMiss
		switch {
		case e != nil:
			if j = x.judge(e, now); x.stored(ctx, e, r, mark, j) {
				x.endLease(true)
				return true
			}
			if why = j.reason; why == ReasonNone || j.use == useStale || j.use == useAsked {
				why = ReasonPartial
			}
		case others:
			why = ReasonVaryMiss
		}
		if x.cc.onlyIfCached {
			*rep = reply{status: http.StatusGatewayTimeout, outcome: Miss, reason: ReasonIfCached, length: -1}
			rep.state = x.c.detailed(cacheName+"; fwd="+forwarded(why), ReasonIfCached)
			return true
		}
		if x.head() {
			rep.reason = why
			return false
		}
		w := want{e: e, r: r, mark: mark, j: j, why: why}
		if x.fetchesForAll(w) {
			var looked bool
			if r, mark, looked = x.await(ctx); looked {
				now = time.Now()
				continue
			}
		}
		if x.fetch(ctx, w) {
			return true
		}
		r, mark, _ = x.look(ctx)
		now = time.Now()
	}
}

// stored answers x from e if that can be done at once.
func (x *exchange) stored(ctx context.Context, e *Entry, r *Resource, mark Mark, j judgment) bool {
	if j.use < useStale || !x.answerWith(e, j) {
		return false
	}
	rep := &x.rep
	rep.outcome = Hit
	if j.use != useFresh {
		rep.outcome, rep.reason = Stale, j.reason
		rep.state = x.c.staleState(j, j.reason)
	}
	if j.use == useStale {
		x.refresh(e, r, mark)
	}
	return true
}

// A want is what is known about a response that must be fetched.
type want struct {
	e    *Entry // that is stored and cannot be used
	r    *Resource
	mark Mark
	j    judgment
	why  Reason
}

// fetch answers x from its origin, or from what another has asked there. It reports false if the
// store must be asked again.
func (x *exchange) fetch(ctx context.Context, w want) bool {
	c := x.c
	_, passed := c.passes.Get(x.key)
	follow := !passed && x.shares() && c.cfg.Wait >= 0 && x.follows < maxFollows
	if passed && w.why == ReasonURIMiss {
		w.why = ReasonPass
	}
	f := x.newFill(w.mark)
	f.remember = x.shares()
	f.prepare(w, passed)
	f.leader = &reader{f: f}
	f.readers[f.leader] = true
	var rd *reader
	if follow {
		var ok bool
		if rd, ok = c.fills.join(x, f, true); !ok && x.looks < maxFollows {
			x.looks++
			f.cancel(nil)
			return false
		}
	}
	if rd == nil {
		x.lead(ctx, f, w)
		return true
	}
	f.cancel(nil)
	if x.follow(ctx, rd, w) {
		return true
	}
	x.follows++
	return false
}

// refresh fetches in the background what may replace e (RFC 5861, section 3): once for a key, and
// within MaxBackground.
func (x *exchange) refresh(e *Entry, r *Resource, mark Mark) {
	d := &x.c.policy(e).d
	if x.restricted(d) {
		return // what this client's request brings would not be stored
	}
	f := x.newFill(mark)
	f.refresh = true
	f.x.cc = unasked // what the client wants is not what the next ones want
	f.prepare(want{e: e, r: r, mark: mark, why: ReasonStale}, false)
	if !x.c.work.begin(f) {
		f.cancel(nil)
		return
	}
	if _, ok := x.c.fills.join(x, f, false); !ok {
		x.c.work.remove(f)
		f.cancel(nil)
		return
	}
	from := x.from()
	if x.c.fleet == nil {
		go f.fetch(from)
		return
	}
	go func() {
		if f.inTurn() {
			f.fetch(from)
		}
	}()
}
