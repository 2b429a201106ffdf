package versioning

import (
	"net/http"
	"strings"
	"time"

	"github.com/trivet-go/trivet/internal/response"
)

// Resolve returns a handler that finds out which version each request speaks, tells next by the
// context ([FromContext]), and refuses requests that speak none or one that has ended. It leaves
// the request as it is: a cache between Resolve and [Versions.Convert] sees what clients see. The
// response gets Vary and what is to be said of the version. It panics if next is nil.
func (v *Versions) Resolve(next http.Handler) http.Handler { return v.resolve(next, false) }

// resolve is Resolve, around Convert if converts.
func (v *Versions) resolve(next http.Handler, converts bool) http.Handler {
	if next == nil {
		panic("versioning: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v.cfg.Skip != nil && v.cfg.Skip(r) {
			next.ServeHTTP(w, r)
			return
		}
		var now time.Time
		if v.timed {
			now = time.Now()
		}
		var d decision
		v.decide(r, now, &d)
		v.observe(r, &d)
		client, counts := "", false
		if d.index >= 0 && d.source != sourcePreflight {
			client, counts = v.clientOf(r)
		}
		if d.refused() {
			if counts {
				v.use(d.index, "", client, now) // someone still sends it
			}
			v.refuse(w, r, now, &d)
			return
		}
		s := v.newScope(w, r, now, &d)
		inner := r.WithContext(s)
		s.writer.Serve(inner)
		if counts {
			v.ledger.inFlight[d.index].Add(1)
		}
		defer func() {
			s.writer.finish()         // also on a panic, which a middleware outside may answer
			r.Pattern = inner.Pattern // so that an outer middleware knows the route
			if counts {
				v.use(d.index, inner.Pattern, client, time.Now())
				v.ledger.inFlight[d.index].Add(-1)
			}
		}()
		switch {
		case !converts:
			next.ServeHTTP(&s.writer, inner)
		case len(v.chains[s.index].changes) == 0:
			s.cut(inner) // which nobody else has seen
			next.ServeHTTP(&s.writer, inner)
		default:
			v.convert(s, next, &s.writer, inner)
		}
	})
}

func (v *Versions) newScope(w http.ResponseWriter, r *http.Request, now time.Time, d *decision) *scope {
	s := &scope{
		Context: r.Context(), versions: v, index: int32(d.index), deprecated: d.status == Deprecated,
		prefix: d.prefix, requested: d.requested, source: d.source, vary: v.varyOf(d),
	}
	s.writer = writer{Recorder: *response.NewRecorder(w, r), owner: s}
	if v.cfg.Supported != "" {
		s.supported[0] = v.supportedValue(now)
	}
	s.successor = v.successorLink(r, now, d)
	return s
}

// varyOf returns what the response to a request that was decided as d varies by.
func (v *Versions) varyOf(d *decision) *vary {
	if d.asked {
		return &v.varyPin
	}
	return &v.vary
}

// complete sets the fields of s in a header that is about to go out.
func (s *scope) complete(h http.Header) {
	mergeVary(h, s.vary.names, s.vary.line, &s.varies)
	s.announce(h)
	if s.source == sourcePin && len(h["Cache-Control"]) == 0 {
		h["Cache-Control"] = []string{"private"}
	}
	if s.isCut {
		location{scope: s, host: s.host, slashes: s.slashes}.complete(h)
	}
}

// successorLink returns a Link to the same path in the next version that is spoken, if the version
// of d has dates, was named by the path, and does not say itself what follows it.
func (v *Versions) successorLink(r *http.Request, now time.Time, d *decision) string {
	version := &v.versions[d.index]
	if d.prefix == "" || version.Successor != "" || version.deprecation == "" && version.sunset == "" {
		return ""
	}
	next := v.next(d.index, now)
	if next == d.index {
		return ""
	}
	// The escaped path has no characters that mean something in a Link.
	rest := r.URL.EscapedPath()[len(d.prefix):]
	prefix := strings.TrimSuffix(d.prefix, d.requested) + v.versions[next].Name
	return Link{"successor-version", prefix + rest}.String()
}

// A decision is which version a request speaks, or why none.
type decision struct {
	index     int    // of the version; negative if there is none
	status    Status // of the version, or why there is none
	source    sourceKind
	requested string
	prefix    string    // of the path that names the version
	asked     bool      // Config.Pin was
	until     time.Time // the end of a brownout
	code      int       // of the response, if the request is refused
	media     string    // the Content-Type that was not supported, without parameters
	vendor    bool      // its version is in the type, not in a parameter
	parameter string
}

func (d *decision) refused() bool { return d.code != 0 }

// refuse makes d a refusal.
func (d *decision) refuse(why Status, code int, source sourceKind, requested string) {
	d.index, d.status, d.code, d.source, d.requested = -1, why, code, source, requested
}

// decide finds the version of r.
func (v *Versions) decide(r *http.Request, now time.Time, d *decision) {
	d.index = -1
	excludes := false
	for i := range v.cfg.Sources {
		s := &v.cfg.Sources[i]
		if s.kind == sourceMediaType {
			excludes = v.addMedia(d, s, r, now) || excludes
		} else {
			v.add(d, s, s.claim(r, &v.table), now, unsupportedCode(s.kind))
			if s.kind == sourcePath && d.index >= 0 && d.prefix == "" {
				d.prefix = r.URL.Path[:len(s.name)+len(d.requested)]
			}
		}
		if d.refused() {
			return
		}
		if d.index >= 0 && v.cfg.Conflict == FirstWins {
			break
		}
	}
	if d.index < 0 {
		v.assume(d, r, now)
		if excludes && !d.refused() {
			v.checkExcluded(d, r, now)
		}
	}
	if d.refused() {
		return
	}
	if d.status, d.until = v.status(d.index, now); d.status == Gone || d.status == BrownedOut {
		d.code = http.StatusGone
	}
}

// unsupportedCode returns the status of a request that names a version there in vain.
func unsupportedCode(kind sourceKind) int {
	if kind == sourcePath || kind == sourceHost {
		return http.StatusNotFound // what is named there is a resource
	}
	return http.StatusBadRequest
}

// add adds what the source s says to d.
func (v *Versions) add(d *decision, s *Source, c claim, now time.Time, unsupported int) {
	switch {
	case c.why != "":
		d.refuse(c.why, http.StatusBadRequest, s.kind, c.text)
		return
	case !c.ok:
		return
	}
	index, why := v.table.find(c.text, now)
	switch {
	case why == Unsupported:
		d.refuse(why, unsupported, s.kind, c.text)
	case why != "":
		d.refuse(why, http.StatusBadRequest, s.kind, c.text)
	case d.index >= 0 && d.index != index:
		d.refuse(Conflicting, http.StatusBadRequest, s.kind, c.text)
	case d.index < 0:
		d.index, d.source, d.requested = index, s.kind, c.text
	}
}

// addMedia adds what the media types say. The one of the body, which is as it is, precedes those
// that the client would like. It reports whether some version is not acceptable.
func (v *Versions) addMedia(d *decision, s *Source, r *http.Request, now time.Time) (excludes bool) {
	c, media := s.contentType(r.Header, &v.table)
	v.add(d, s, c, now, http.StatusUnsupportedMediaType)
	if d.refused() {
		d.media, d.vendor, d.parameter = media, s.vendor, s.name
		return false
	}
	if d.index >= 0 && v.cfg.Conflict == FirstWins {
		return false
	}
	a := s.accept(r.Header["Accept"], &v.table, d.index, now)
	switch {
	case a.why == Unsupported:
		d.refuse(Unsupported, http.StatusNotAcceptable, s.kind, a.text)
	case !a.agrees:
		v.add(d, s, a.claim, now, http.StatusNotAcceptable)
	}
	return a.excludes
}

// assume finds a version for a request that names none.
func (v *Versions) assume(d *decision, r *http.Request, now time.Time) {
	if v.cfg.Pin != nil {
		d.asked = true
		if name, ok := v.cfg.Pin(r); ok {
			index, why := v.table.find(name, now)
			if why != "" {
				d.refuse(why, http.StatusBadRequest, sourcePin, name)
				return
			}
			d.index, d.source, d.requested = index, sourcePin, name
			return
		}
	}
	d.source = sourceDefault
	if isPreflight(r) {
		d.source = sourcePreflight
	}
	switch v.cfg.Default {
	case Require:
		if d.source == sourcePreflight {
			d.index = v.head()
			return
		}
		d.refuse(Missing, http.StatusBadRequest, noSource, "")
	case Current:
		d.index = v.head()
	case Oldest:
		d.index = v.oldest(now)
	default:
		d.index = v.table.index(strings.TrimPrefix(string(v.cfg.Default), fixedPrefix))
	}
}

// isPreflight reports whether a browser asks before it sends the request itself. In such a request
// it puts neither fields of the page nor credentials (Fetch, section 4.8).
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Access-Control-Request-Method"]) > 0 &&
		len(r.Header["Origin"]) > 0
}

// checkExcluded refuses a request that gets a version which it did not name, but said that it would
// not accept.
func (v *Versions) checkExcluded(d *decision, r *http.Request, now time.Time) {
	for i := range v.cfg.Sources {
		s := &v.cfg.Sources[i]
		if s.kind == sourceMediaType && s.excludes(r.Header["Accept"], &v.table, d.index, now) {
			d.refuse(Unsupported, http.StatusNotAcceptable, s.kind, v.versions[d.index].Name)
			return
		}
	}
}
