package cache

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strconv"
)

// prepare makes f's request from that of the exchange.
func (f *fill) prepare(w want, passed bool) {
	x := f.x
	r := x.r.Clone(f.ctx)
	f.base, f.varies = w.e, x.varies
	if w.e != nil {
		f.varies = w.e.Vary
	}
	h := r.Header
	if h == nil {
		h = make(http.Header)
		r.Header = h
	}
	r.Method, r.Body = http.MethodGet, http.NoBody
	if x.r.Method == methodQuery {
		r.Method = methodQuery
		body := x.body
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		r.ContentLength = int64(len(body))
	}
	x.r = r
	x.c.unkeyed(r, x.fields)
	f.ranged = x.fields&hasRange != 0 && !f.refresh && !x.validates(w.e)
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

// validates reports whether a request for a part can be answered by validating e, which is whole.
func (x *exchange) validates(e *Entry) bool {
	if e == nil {
		return false
	}
	_, whole := e.complete()
	p := x.c.policy(e)
	return whole && (p.etag != "" || !p.modified.IsZero())
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

// outgoing returns the request for a handler or a RoundTripper, which may change its fields. What
// the response depends on is read from f's own.
func (f *fill) outgoing() *http.Request {
	r := f.x.r.WithContext(f.ctx)
	r.Header = f.x.r.Header.Clone()
	if r.GetBody != nil {
		r.Body, _ = r.GetBody() // it cannot fail: it is ours
	}
	return r
}

// unkeyed keeps the fields that keys do not hold from the handler, if so configured, in whatever
// spelling.
func (c *Cache) unkeyed(r *http.Request, fields fieldSet) {
	if c.cfg.Unkeyed != UnkeyedDrop || fields&(hasUnkeyed|hasOddName) == 0 {
		return
	}
	for name := range r.Header {
		if isUnkeyed(name) {
			delete(r.Header, name)
		}
	}
}
