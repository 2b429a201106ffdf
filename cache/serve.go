package cache

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unsafe"
)

// An origin is where fills fetch from: a handler or a RoundTripper.
type origin interface {
	// fetch fetches what f.x.r asks for, and hands it to f.
	fetch(f *fill)
}

// A served is the origin of a Middleware.
type served struct {
	next  http.Handler
	outer http.Header // what is set around the handler for the first client
}

func (o *served) fetch(f *fill) {
	for {
		r := f.outgoing()
		w := &fillWriter{f: f, r: r, outer: o.outer, header: cloneHeader(o.outer)}
		w.vary = unshared(w.header)
		o.next.ServeHTTP(w, r)
		w.finish()
		if !w.again {
			return
		}
		f.plain()
	}
}

// cloneHeader returns a copy of h that shares nothing with it.
func cloneHeader(h http.Header) http.Header {
	c := make(http.Header, len(h)+8)
	for name, values := range h {
		c[name] = slices.Clone(values)
	}
	return c
}

// A fillWriter is the ResponseWriter of a handler that a fill runs. Its header map begins as a copy
// of what is set around the handler; what the handler leaves alone is not its own.
type fillWriter struct {
	f       *fill
	r       *http.Request // the handler's
	outer   http.Header
	header  http.Header
	vary    []string    // of header, before the handler
	status  int         // as written; 0 before
	own     http.Header // the handler's, when it wrote the status
	began   bool        // the fill knows the status
	again   bool        // the response is of no use, and what follows is ignored
	written int64
	length  int64
}

func (w *fillWriter) Header() http.Header { return w.header }

// WriteHeader takes the header as it is now. It is handed on with the body's first bytes, a flush,
// or the end, as net/http does.
func (w *fillWriter) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic("cache: invalid WriteHeader code " + strconv.Itoa(status))
	}
	if w.status != 0 {
		return
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.f.inform(status, w.ownFields())
		return
	}
	w.status = status
	w.own = w.ownFields()
	w.length = contentLength(w.own)
}

func (w *fillWriter) ownFields() http.Header { return ownFields(w.header, w.outer, w.vary) }

// ownFields returns what a handler has set in a header that began with the values of outer, and
// with those of vary in the place of its Vary.
func ownFields(h, outer http.Header, vary []string) http.Header {
	own := make(http.Header, len(h))
	for name, values := range h {
		before := outer[name]
		switch {
		case name == "Vary" && len(vary) > 0:
			if set := ownVary(values, vary); len(set) > 0 {
				own[name] = set
			}
		case slices.Equal(values, before) && before != nil:
			// left alone
		case len(before) > 0 && appended(name) && len(values) > len(before) &&
			slices.Equal(values[:len(before)], before):
			own[name] = slices.Clone(values[len(before):])
		case strings.HasPrefix(name, http.TrailerPrefix):
		case values == nil:
			own[name] = nil // net/http adds no Date and no Content-Type then
		default:
			own[name] = slices.Clone(values)
		}
	}
	return plainNames(own)
}

// unshared puts the values of h's Vary into memory of their own, and returns them. ownVary knows
// them again by it.
func unshared(h http.Header) []string {
	values := h["Vary"]
	if len(values) == 0 {
		return nil
	}
	values = slices.Clone(values)
	for i, v := range values {
		values[i] = strings.Clone(v)
	}
	h["Vary"] = slices.Clone(values)
	return values
}

// ownVary returns the values of a Vary that are not those of around, which unshared has returned. A
// handler that sets the same names anew depends on what they name, and one that copies the header
// and puts it back does not.
func ownVary(values, around []string) (own []string) {
	for _, v := range values {
		isAround := func(a string) bool { return unsafe.StringData(a) == unsafe.StringData(v) }
		if v != "" && !slices.ContainsFunc(around, isAround) {
			own = append(own, v)
		}
	}
	return own
}

// appended reports whether the values of a field are added to those that are there.
func appended(name string) bool { return name == "Vary" || name == "Link" || name == "Set-Cookie" }

// begin hands the header on. p is the beginning of the body.
func (w *fillWriter) begin(p []byte) {
	if w.began {
		return
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.began = true
	// net/http would guess the type from the first bytes that it gets, which may be those of a
	// range. Of a part that comes for a range, nobody can tell.
	if _, has := w.own["Content-Type"]; !has && len(w.outer["Content-Type"]) == 0 && len(p) > 0 &&
		len(w.own["Content-Encoding"]) == 0 && bodyAllowed(w.status) &&
		w.status != http.StatusPartialContent {
		w.own["Content-Type"] = []string{http.DetectContentType(p)}
	}
	w.again = w.f.decide(arrival{
		status: w.status, header: w.own, outer: plainNames(w.outer), pattern: w.r.Pattern,
	})
}

func (w *fillWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.begin(p)
	if len(p) == 0 {
		return 0, nil
	}
	if !bodyAllowed(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	var tooLong error
	if w.length >= 0 && w.written+int64(len(p)) > w.length {
		p, tooLong = p[:w.length-w.written], http.ErrContentLength
	}
	if w.f.x.head() || w.again || w.ignored() {
		return len(p), tooLong
	}
	if err := w.f.write(p); err != nil {
		return 0, err
	}
	w.written += int64(len(p))
	return len(p), tooLong
}

// ignored reports whether the body that comes is nobody's: the stored one counts.
func (w *fillWriter) ignored() bool { return w.f.updated != nil }

func (w *fillWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// FlushError sends what there is to the clients.
func (w *fillWriter) FlushError() error {
	w.begin(nil)
	if !w.again {
		w.f.flush()
	}
	return context.Cause(w.f.ctx)
}

// Flush is for handlers that assert http.Flusher.
func (w *fillWriter) Flush() { _ = w.FlushError() }

// finish ends the response when the handler has returned.
func (w *fillWriter) finish() {
	w.begin(nil)
	if w.again {
		return
	}
	w.f.finish(w.trailer(), nil)
}

// trailer returns the fields that the handler has set for behind the body.
func (w *fillWriter) trailer() http.Header {
	var t http.Header
	add := func(name string, values []string) {
		if t == nil {
			t = make(http.Header)
		}
		t[name] = slices.Clone(values)
	}
	for _, v := range w.own["Trailer"] {
		for _, name := range splitList(v, ',') {
			name = http.CanonicalHeaderKey(name)
			if values := w.header[name]; len(values) > 0 {
				add(name, values)
			}
		}
	}
	for name, values := range maps.All(w.header) {
		if trimmed, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			add(http.CanonicalHeaderKey(trimmed), values)
		}
	}
	return t
}
