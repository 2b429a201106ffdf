package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
)

const maxFollows = 4 // fills that one request waits for, one after the other

// look looks for a stored response to x.
func (x *exchange) look(ctx context.Context) (r *Resource, mark Mark, err error) {
	c := x.c
	if c.ruled.Load() {
		if r, mark, err, found := x.lookByRule(ctx); found {
			return r, mark, err
		}
	}
	x.ended = c.fills.shard(x.key).ended.Load()
	r, mark, err = c.store.Get(ctx, x.key)
	if err != nil || c.counts.storeDown.Load() != 0 {
		c.storeResult(ctx, err)
	}
	return r, mark, err
}

// lookByRule looks for a response that No-Vary-Search lets answer x, and leaves x with its key.
func (x *exchange) lookByRule(ctx context.Context) (r *Resource, mark Mark, err error, found bool) {
	rules, _ := x.c.rules.Get(x.pathKey())
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
	x.echo, x.key = exact, key
	x.ended = x.c.fills.shard(x.key).ended.Load()
	if r, mark, err = x.c.store.Get(ctx, x.key); r != nil || err != nil {
		return r, mark, err, true
	}
	x.setRuledKey(rules[0])
	x.ended = x.c.fills.shard(x.key).ended.Load()
	r, mark, err = x.c.store.Get(ctx, x.key)
	return r, mark, err, true
}

// answer answers x, from the store or from its origin. It reports false if the request must pass: then only
// reason is set.
func (x *exchange) answer(ctx context.Context) bool {
	rep := &x.rep
	r, mark, _ := x.look(ctx)
	for {
		e, others := x.pick(r)
		var j judgment
		why := ReasonURIMiss
		switch {
		case e != nil:
			if j = x.judge(e, x.began); x.stored(ctx, e, r, mark, j) {
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
		if x.fetch(ctx, want{e: e, r: r, mark: mark, j: j, why: why}) {
			return true
		}
		r, mark, _ = x.look(ctx)
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
	follow := !passed && !x.credentials() && x.fields&hasRange == 0 && !x.cc.noStore && c.cfg.Wait >= 0 &&
		x.follows < maxFollows
	if passed && w.why == ReasonURIMiss {
		w.why = ReasonPass
	}
	f := x.newFill(w.mark)
	f.remember = !x.credentials() && x.fields&hasRange == 0
	f.prepare(w, passed)
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

// follow answers x from what another's fetch brings, if that can be shared.
func (x *exchange) follow(ctx context.Context, rd *reader, w want) bool {
	rep := &x.rep
	err := rd.header(ctx, x.c.cfg.Wait, x.onInterim())
	if err != nil {
		rd.close()
		if ctx.Err() == nil {
			x.follows = maxFollows // C27: the fetch takes too long
			return false
		}
		*rep = reply{outcome: Error, reason: ReasonFailure, err: err, length: -1}
		return true
	}
	f := rd.f
	f.mu.Lock()
	entry, updated, reason := f.entry, f.updated, f.reason
	f.mu.Unlock()
	shared := updated
	if shared == nil {
		shared = entry
	}
	switch {
	case shared == nil || reason != ReasonNone:
		x.follows = maxFollows // nothing to share: each fetches for itself, at the same time
	case !shared.matches(x.r.Header) || !shared.accepted(x.r.Header) || !x.usable(shared):
		// C16: another variant, which the store may have.
	default:
		if j := x.judge(shared, f.received()); j.use != useFresh {
			x.follows = maxFollows
		} else if updated != nil {
			if x.answerWith(updated, j) {
				rd.close()
				rep.outcome, rep.state = Revalidated, x.c.fetchedState(w.why, http.StatusNotModified, true, true, ReasonNone)
				x.c.counts.coalesced.Add(1)
				return true
			}
		} else {
			x.c.counts.coalesced.Add(1)
			x.streamed(rd, w, true)
			return true
		}
	}
	rd.close()
	return false
}

// lead runs f for x.
func (x *exchange) lead(ctx context.Context, f *fill, w want) {
	rep := &x.rep
	rd := &reader{f: f}
	f.leader = rd
	f.readers[rd] = true
	go f.fetch(x.from())
	if err := rd.header(ctx, -1, x.onInterim()); err != nil {
		rd.close()
		*rep = reply{outcome: Error, reason: ReasonFailure, err: err, length: -1}
		return
	}
	f.mu.Lock()
	err, panicked, updated, status, reason := f.err, f.panicked, f.updated, f.resp.status, f.reason
	failedEarly := f.done && (panicked != nil || err != nil && status == 0)
	f.mu.Unlock()
	switch {
	case failedEarly && panicked != nil:
		rd.close()
		*rep = reply{outcome: Error, reason: ReasonFailure, panicked: panicked, err: errPanicked, length: -1}
	case x.failed(f, w) && x.answerWith(w.e, w.j):
		rd.close()
		rep.outcome, rep.reason, rep.err = Stale, ReasonFailure, err
		rep.state = x.c.staleState(w.j, ReasonFailure)
	case failedEarly:
		rd.close()
		*rep = reply{outcome: Error, reason: ReasonFailure, err: err, length: -1}
	case updated != nil && x.answerWith(updated, judgment{age: updated.Age}):
		rd.close()
		rep.outcome, rep.reason = Revalidated, w.why
		rep.state = x.c.fetchedState(w.why, http.StatusNotModified, reason == ReasonNone, false, reason)
	default:
		x.streamed(rd, w, false)
	}
}

// failed reports whether f has failed in a way that lets the stored response stand in for it.
func (x *exchange) failed(f *fill, w want) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	status := f.resp.status
	switch {
	case f.done && f.err != nil && status == 0:
		return w.j.err || w.j.cut
	case f.updated != nil:
		return false
	case w.j.err && serverError(status):
		return true
	}
	// A gateway that says that it cannot reach the origin, in a response that is not to be kept.
	return w.j.cut && f.entry == nil && (status == http.StatusBadGateway || status == http.StatusGatewayTimeout)
}

// streamed makes rep the answer that rd reads.
func (x *exchange) streamed(rd *reader, w want, collapsed bool) {
	rep := &x.rep
	f := rd.f
	f.mu.Lock()
	resp, stored, reason, direct := f.resp, f.entry != nil, f.reason, f.direct
	if direct != nil && rd == f.leader {
		rd.taken = true
	} else {
		direct = nil
	}
	*rep = reply{
		status: resp.status, header: resp.header, rd: rd, length: -1, pattern: resp.pattern,
		outcome: Miss, reason: w.why, direct: direct,
	}
	if f.done && f.err == nil && f.panicked == nil && direct == nil && bodyAllowed(resp.status) &&
		len(resp.header["Content-Length"]) == 0 && len(f.trailer) == 0 && !f.x.head() {
		rep.length = f.stream.size // the whole is there
	}
	f.mu.Unlock()
	if !stored {
		rep.outcome = Pass
		if reason != ReasonNone {
			rep.reason = reason
		}
	}
	rep.state = x.c.fetchedState(w.why, 0, stored, collapsed, reason)
	if resp.status == http.StatusOK && x.fields&(hasIfNoneMatch|hasIfModifiedSince) != 0 && f.conditionsOurs {
		etag := resp.header.Get("Etag")
		modified, _ := parseDate(resp.header["Last-Modified"])
		date, ok := parseDate(resp.header["Date"])
		if !ok {
			date = resp.received
		}
		if x.notModified(etag, modified, date) {
			rep.status, rep.bare, rep.length = http.StatusNotModified, true, -1
		}
	}
}

// refresh fetches in the background what may replace e (RFC 5861, section 3): once for a key, and
// within MaxBackground.
func (x *exchange) refresh(e *Entry, r *Resource, mark Mark) {
	f := x.newFill(mark)
	f.refresh = true
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
	go f.fetch(x.from())
}

// prepare makes f's request from that of the exchange.
func (f *fill) prepare(w want, passed bool) {
	x := f.x
	r := x.r.Clone(f.ctx)
	f.base = w.e
	h := r.Header
	if h == nil {
		h = make(http.Header)
		r.Header = h
	}
	r.Method = http.MethodGet
	if x.r.Method == methodQuery {
		r.Method = methodQuery
		body := x.body
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		r.ContentLength = int64(len(body))
	}
	x.r = r
	x.c.unkeyed(r, x.fields)
	f.ranged = x.fields&hasRange != 0 && !f.refresh
	switch {
	case f.ranged:
		// The client's own conditions go with its range.
	case passed && w.e == nil:
		// What is not stored is validated by its client.
	default:
		for _, name := range [...]string{"If-None-Match", "If-Modified-Since", "If-Range", "Range"} {
			delete(h, name)
		}
		f.conditionsOurs = true
		if !f.complete(w, h) {
			f.candidates = x.conditions(h, w.e, w.r)
		}
	}
}

// complete makes the request one for what the stored part lacks, if that can be joined.
func (f *fill) complete(w want, h http.Header) bool {
	if w.e == nil || w.why != ReasonPartial || w.e.Loose {
		return false
	}
	from, ok := w.e.missing()
	if !ok || from >= w.e.Size {
		return false
	}
	p := f.c.policy(w.e)
	switch {
	case strongTag(p.etag):
		h["If-Range"] = []string{p.etag}
	case p.etag == "" && p.strongDate():
		h["If-Range"] = slices.Clone(w.e.Header["Last-Modified"][:1])
	default:
		return false
	}
	f.from = from
	h["Range"] = []string{"bytes=" + strconv.FormatInt(from, 10) + "-"}
	return true
}

// unkeyed keeps the fields that keys do not hold from the handler, if so configured.
func (c *Cache) unkeyed(r *http.Request, fields fieldSet) {
	if c.cfg.Unkeyed != UnkeyedDrop {
		return
	}
	for i, name := range unkeyedNames {
		if fields&(1<<i) != 0 {
			delete(r.Header, name)
		}
	}
}

// isCanceled reports whether a request failed because its own client left.
func isCanceled(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, context.Cause(ctx))
}
