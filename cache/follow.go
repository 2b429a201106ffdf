package cache

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// follow answers x from what another's fetch brings, if that can be shared.
func (x *exchange) follow(ctx context.Context, rd *reader, w want) bool {
	rep := &x.rep
	// C21: 1xx responses come before anybody can tell whether they may be shared.
	err := rd.header(ctx, x.c.cfg.Wait, nil)
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
	w.judgeAgain(x)
	if x.failed(f, w) && x.answerWith(w.e, w.j) {
		rd.close()
		rep.outcome, rep.reason = Stale, ReasonFailure
		rep.state = x.c.staleState(w.j, ReasonFailure)
		return true
	}
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
	case !shared.matches(x.r.Header, &x.forms) || !shared.accepted(x.r.Header) || !x.usable(shared):
		x.varies = shared.Vary // C16: another variant, which the store may have
	default:
		if j := x.judgeFetched(shared, f.received()); j.use != useFresh {
			x.follows = maxFollows
		} else if updated != nil {
			if x.answerWith(updated, j) {
				rd.close()
				rep.outcome = Revalidated
				rep.state = x.c.fetchedState(w.why, http.StatusNotModified, true, true, ReasonNone)
				x.c.counts.coalesced.Add(1)
				return true
			}
		} else {
			x.c.counts.coalesced.Add(1)
			x.streamed(rd, w, entry)
			return true
		}
	}
	rd.close()
	return false
}

// lead runs f for x.
func (x *exchange) lead(ctx context.Context, f *fill, w want) {
	rep := &x.rep
	rd := f.leader
	f.lease, x.lease = x.lease, nil
	go f.fetch(x.from())
	if err := rd.header(ctx, -1, x.onInterim()); err != nil {
		rd.close()
		*rep = reply{outcome: Error, reason: ReasonFailure, err: err, length: -1}
		return
	}
	w.judgeAgain(x)
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
		x.streamed(rd, w, nil)
	}
}

// judgeAgain judges the stored response as of now: the fetch took its time (RFC 5861, section 4),
// and the response may have been purged meanwhile.
func (w *want) judgeAgain(x *exchange) {
	if w.e == nil || !w.j.err && !w.j.cut {
		return
	}
	w.j = x.judge(w.e, time.Now())
	if !x.usable(w.e) {
		w.j.err, w.j.cut = false, false
	}
}

// sendAge sets the field Age if the answer is another's.
func (rep *reply) sendAge(h http.Header) {
	if rep.aged {
		h["Age"] = []string{strconv.FormatInt(int64(rep.age/time.Second), 10)}
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
	return w.j.cut && f.entry == nil &&
		(status == http.StatusBadGateway || status == http.StatusGatewayTimeout)
}

// streamed makes rep the answer that rd reads. shared is what x gets of its header if another has
// fetched it; nil if x has. The fill may have given up to store it by now.
func (x *exchange) streamed(rd *reader, w want, shared *Entry) {
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
	if shared != nil {
		// Without what was meant for the first client alone, and with the age that it had (RFC
		// 9111, section 5.1).
		rep.header, rep.age, rep.aged = shared.Header, shared.ageAt(time.Now()), true
	}
	f.mu.Unlock()
	if !stored {
		rep.outcome = Pass
		if reason != ReasonNone {
			rep.reason = reason
		}
	}
	rep.state = x.c.fetchedState(w.why, 0, stored, shared != nil, reason)
	if resp.status == http.StatusOK && x.fields&(hasIfNoneMatch|hasIfModifiedSince) != 0 && f.conditionsOurs {
		etag := rep.header.Get("Etag")
		modified, _ := parseDate(rep.header["Last-Modified"])
		date, ok := parseDate(rep.header["Date"])
		if !ok {
			date = resp.received
		}
		if x.notModified(etag, modified, date) {
			rep.status, rep.bare, rep.length = http.StatusNotModified, true, -1
		}
	}
}
