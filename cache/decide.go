package cache

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// errTruncated reports a body that is shorter or longer than its Content-Length.
var errTruncated = errors.New("cache: the body does not have the length that was announced")

// decide takes the header of what f fetches, and decides what becomes of the response. It reports
// that f must fetch anew and without conditions, if the response is of no use: it is a 304 or a 206
// of something else than what is stored.
func (f *fill) decide(resp arrival) (again bool) {
	resp.received = time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.length = contentLength(resp.header)
	var ok bool
	switch {
	case resp.status == http.StatusNotModified && len(f.candidates) > 0:
		ok = f.notModifiedLocked(&resp)
	case resp.status == http.StatusPartialContent && f.from > 0:
		ok = f.completedLocked(&resp)
	case resp.status == http.StatusRequestedRangeNotSatisfiable && f.from > 0:
	case resp.status == http.StatusPartialContent && f.ranged:
		f.partLocked(&resp)
		ok = true
	default:
		f.wholeLocked(&resp)
		ok = true
	}
	if !ok {
		return true
	}
	f.resp = resp
	f.moved = resp.received
	f.decided = true
	if f.entry != nil {
		f.stream.kept = true
		if f.joinable {
			f.c.passes.Delete(f.x.key)
		}
	} else if f.updated == nil {
		if resp.status < 500 { // an error says nothing about the resource
			f.passLocked()
		}
		if len(f.readers) == 0 {
			f.cancel(errUnneeded)
		}
	}
	f.handLocked()
	f.wakeLocked()
	return false
}

// plain makes f's request one for the whole response, without conditions.
func (f *fill) plain() {
	f.mu.Lock() // who wants to follow f reads the fields of its request
	defer f.mu.Unlock()
	f.candidates, f.from = nil, 0
	for _, name := range [...]string{"If-None-Match", "If-Modified-Since", "If-Range", "Range"} {
		f.x.r.Header.Del(name)
	}
	f.requested = time.Now()
}

// wholeLocked decides about a response that is no part of another.
func (f *fill) wholeLocked(resp *arrival) {
	x := f.x
	d := responseDirectives(resp.header, f.c.cfg.TargetedFields)
	f.reason = f.storableLocked(resp, &d)
	switch {
	case f.reason != ReasonNone:
	case resp.status == http.StatusPartialContent:
		f.reason = ReasonStatus // nobody asked for a part
	case f.length > f.c.cfg.MaxObject:
		f.reason = ReasonTooLarge
	case serverError(resp.status) && f.base != nil && x.judge(f.base, resp.received).err:
		f.reason = ReasonFailure // the stored response is better (RFC 5861, section 4)
	default:
		f.entry = x.newEntry(resp, &d, f.mark, f.requested)
		f.stream.expected = max(0, f.length)
	}
}

// storableLocked is storable for what f fetches. What a handler says after its request was given up
// is an answer to nobody: it may be what is left when its own calls fail.
func (f *fill) storableLocked(resp *arrival, d *directives) Reason {
	if f.ctx.Err() != nil {
		return ReasonFailure
	}
	return f.x.storable(resp, d)
}

// serverError reports whether status is one for which a stale response may stand in (RFC 5861,
// section 4). Others tell something about the resource (C40).
func serverError(status int) bool {
	switch status {
	case 500, 502, 503, 504:
		return true
	}
	return false
}

// partLocked decides about a part that was asked for (RFC 9111, section 3.3). It is stored with the
// status of the whole.
func (f *fill) partLocked(resp *arrival) {
	x := f.x
	d := responseDirectives(resp.header, f.c.cfg.TargetedFields)
	whole := *resp
	whole.status = http.StatusOK
	if f.reason = f.storableLocked(&whole, &d); f.reason != ReasonNone {
		return
	}
	s, size, ok := parseContentRange(resp.header["Content-Range"])
	switch {
	case !ok:
		f.reason = ReasonPartial // several ranges, or none that can be read
		return
	case s.length() > f.c.cfg.MaxObject:
		f.reason = ReasonTooLarge
		return
	case x.fields&hasIfRange != 0 && !f.joins(size, resp.header):
		// RFC 9110, section 15.3.7: to the client's If-Range, the part comes without the fields
		// that its client knows.
		f.reason = ReasonPartial
		return
	}
	e := x.newEntry(&whole, &d, f.mark, f.requested)
	delete(e.Header, "Content-Range")
	delete(e.Header, "Content-Length")
	e.Size = size
	e.Segments = []Segment{{Offset: s.start}}
	f.entry = e
	f.stream.expected = s.length()
}

// notModifiedLocked decides about a 304 to our own conditions.
func (f *fill) notModifiedLocked(resp *arrival) bool {
	old := f.c.validated(f.candidates, resp.header)
	if old == nil {
		return false
	}
	e := f.x.updated(old, resp, f.mark, f.requested)
	f.updated = e
	fresh := *resp
	fresh.status, fresh.header = old.Status, e.Header
	d := responseDirectives(e.Header, f.c.cfg.TargetedFields)
	f.reason = f.storableLocked(&fresh, &d)
	if f.reason == ReasonNone {
		f.storeLocked(e)
	}
	return true
}

// updated returns old with the fields of resp, as an Entry for x's request.
func (x *exchange) updated(old *Entry, resp *arrival, mark Mark, requested time.Time) *Entry {
	fresh := *resp
	fresh.status = old.Status
	fresh.header = x.c.merged(old.Header, resp.header)
	if len(resp.header["Date"]) == 0 {
		fresh.header["Date"] = []string{resp.received.UTC().Format(http.TimeFormat)}
	}
	if len(resp.header["Age"]) > 0 {
		fresh.header["Age"] = resp.header["Age"]
	}
	if resp.pattern == "" {
		fresh.pattern = old.Pattern
	}
	d := responseDirectives(fresh.header, x.c.cfg.TargetedFields)
	e := x.newEntry(&fresh, &d, mark, requested)
	e.Size, e.Segments, e.Trailer, e.Loose = old.Size, old.Segments, old.Trailer, old.Loose
	return e
}

// completedLocked decides about a part that was fetched to complete a stored one. They are joined
// only under the same strong validator (RFC 9111, section 3.4).
func (f *fill) completedLocked(resp *arrival) bool {
	s, size, ok := parseContentRange(resp.header["Content-Range"])
	base := f.base
	if !ok || s.start != f.from || size != base.Size || s.end != size || !f.sameVersion(base, resp.header) {
		return false
	}
	e := f.x.updated(base, resp, f.mark, f.requested)
	whole := *resp
	whole.status, whole.header = http.StatusOK, e.Header
	d := responseDirectives(e.Header, f.c.cfg.TargetedFields)
	f.reason = f.storableLocked(&whole, &d)
	resp.status, resp.header = http.StatusOK, e.Header.Clone()
	resp.header["Content-Length"] = []string{strconv.FormatInt(size, 10)}
	f.length = size
	known := base.Segments[0].Data
	f.stream.chunks = [][]byte{known[:len(known):len(known)]}
	f.stream.size = int64(len(known))
	f.stream.ours = f.stream.size
	e.Segments, e.Size = nil, -1
	if f.reason == ReasonNone && size <= f.c.cfg.MaxObject {
		f.entry = e
	}
	return true
}

// joins reports whether a part of a body of that size, with header h, can be joined with what is
// stored.
func (f *fill) joins(size int64, h http.Header) bool {
	return f.base != nil && !f.base.Loose && f.base.Size == size && f.sameVersion(f.base, h)
}

// sameVersion reports whether a response with header h is of the same version as e, by a strong
// validator that both have.
func (f *fill) sameVersion(e *Entry, h http.Header) bool {
	p := f.c.policy(e)
	if tag := h.Get("Etag"); tag != "" || p.etag != "" {
		return strongTag(tag) && tag == p.etag
	}
	return p.strongDate() && h.Get("Last-Modified") == e.Header.Get("Last-Modified")
}

// finish ends f, whose body is whole unless err tells why not.
func (f *fill) finish(trailer http.Header, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return
	}
	s := &f.stream
	// C25: what is shorter than it was to be is not whole.
	if err == nil && f.length >= 0 && s.size != f.length && f.resp.status != http.StatusNotModified &&
		!f.x.head() {
		err = errTruncated
	}
	// A handler whose request was given up may return as if it had come to the end.
	if err == nil && f.updated == nil && f.ctx.Err() != nil && (f.length < 0 || s.size != f.length) {
		err = context.Cause(f.ctx)
	}
	f.trailer = trailer
	f.err = err
	if err == nil {
		if len(trailer) > 0 {
			f.stored = false // it was stored without
		}
		f.keepLocked()
	} else {
		f.entry = nil
	}
	f.done, s.ended, s.err = true, true, err
	f.unreserveLocked()
	f.wakeLocked()
}

func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}
