package versioning

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/versioning/internal/trace"
)

// ErrConversion reports that a request or response could not be converted between versions.
// [*ConversionError] has the details.
var ErrConversion = errors.New("versioning: conversion failed")

// A ConversionError says why a conversion failed. It matches [ErrConversion].
type ConversionError struct {
	Version   string // of the client
	Direction Direction
	Change    string // the one that failed; "" if none did
	Code      int    // the status of the response: 400, 413 or 415 of requests, 500 of responses
	Err       error
}

func (e *ConversionError) Error() string {
	return fmt.Sprintf("%v: %s %s: %v", ErrConversion, e.Direction, e.Version, e.Err)
}

func (e *ConversionError) Is(target error) bool { return target == ErrConversion }

func (e *ConversionError) Unwrap() error { return e.Err }

var (
	errTooLarge   = errors.New("the body is larger than Config.MaxBody")
	errItem       = errors.New("an item is larger than Config.MaxItem")
	errEncoded    = errors.New("the body has a Content-Encoding")
	errPartial    = errors.New("the response is a part of a body")
	errIncomplete = errors.New("the body is not as long as Content-Length says")
)

// Convert returns a handler that lets next, which speaks the head version, answer requests of all
// versions: [Config].Changes turn a request of an older version into one of the head, and the
// response back. Where the path names the version, next gets it without that segment, which
// Location and Content-Location get back.
//
// Requests that speak the head version pass as they are, and so do those that did not come through
// [Versions.Resolve], which Skip names. It panics if next is nil.
func (v *Versions) Convert(next http.Handler) http.Handler {
	if next == nil {
		panic("versioning: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := v.scopeOf(r)
		switch {
		case s == nil:
			next.ServeHTTP(w, r)
		case len(v.chains[s.index].changes) == 0:
			s.serve(next, w, r)
		default:
			v.convert(s, next, w, r)
		}
	})
}

// convert lets next answer r, of an older version.
func (v *Versions) convert(s *scope, next http.Handler, w http.ResponseWriter, r *http.Request) {
	v.counts.versions[s.index].converted.Add(1)
	inner := r.Clone(r.Context())
	inner.Trailer = r.Trailer // net/http fills in this map when it has read the body
	slashes := s.prefix != "" && cut(inner.URL, s.prefix)
	c := &conversion{
		versions: v, scope: s, chain: &v.chains[s.index], ran: trace.From(r.Context()), slashes: slashes,
	}
	if e := c.up(inner); e != nil {
		v.answer(w, r, e)
		return
	}
	cw := newConverter(c, w, inner)
	defer func() { r.Pattern = inner.Pattern }()
	next.ServeHTTP(cw, inner)
	if e := cw.finish(); e != nil {
		v.answer(w, r, e)
	}
}

// A conversion is one request on its way through a chain of changes.
type conversion struct {
	versions *Versions
	scope    *scope
	chain    *chain
	applied  []*change // those that are about the request, in the order up
	slashes  bool      // see location
	ran      func(change string)
}

// mark is what entity tags of the version end in.
func (c *conversion) mark() string { return "-" + c.scope.version() }

func (c *conversion) trace(d *change) {
	if c.ran != nil {
		c.ran(d.Name)
	}
}

// up makes r, a copy, one of the head version.
func (c *conversion) up(r *http.Request) *ConversionError {
	var steps []step
	responds := false
	for i := range c.chain.changes {
		d := &c.chain.changes[i]
		if !d.applies(r) {
			continue
		}
		c.applied = append(c.applied, d)
		if d.Request != nil {
			c.trace(d)
			if err := d.Request(r); err != nil {
				return c.failed(Up, http.StatusBadRequest, &stepError{d.Name, err})
			}
		}
		if d.RequestBody.Converts() {
			steps = append(steps, step{d, &d.RequestBody})
		}
		responds = responds || d.ResponseBody.Converts()
	}
	if c.chain.bodies {
		unmarkConditions(r.Header, c.mark())
	}
	if responds {
		// A part of the head version's bytes is no part of ours, and what is encoded cannot be
		// read.
		for _, name := range [...]string{"Range", "If-Range", "Accept-Encoding"} {
			delete(r.Header, name)
		}
	}
	if len(steps) == 0 {
		return nil
	}
	return c.upBody(r, steps)
}

// failed returns, counts and reports an error.
func (c *conversion) failed(direction Direction, code int, err error) *ConversionError {
	v := c.versions
	e := &ConversionError{
		Version: c.scope.version(), Direction: direction, Change: changeOf(err), Code: code, Err: err,
	}
	v.counts.failures.Add(1)
	if v.cfg.Observe != nil {
		v.cfg.Observe(context.WithoutCancel(c.scope.Context), Event{ // the client may have left
			Kind: Conversion, Version: e.Version, Direction: direction, Change: e.Change, Err: err,
		})
	}
	return e
}

// answer tells the client about e.
func (v *Versions) answer(w http.ResponseWriter, r *http.Request, e *ConversionError) {
	if e.Code == http.StatusUnsupportedMediaType {
		w.Header().Set("Accept-Encoding", "identity") // RFC 9110, section 15.5.16
	}
	if v.cfg.ErrorHandler != nil {
		w.Header().Set("Cache-Control", "no-store")
		v.cfg.ErrorHandler(w, r, e)
		return
	}
	problem.Write(w, problem.Details{Title: http.StatusText(e.Code), Status: e.Code})
}

// Down converts a body of the head version, such as a webhook's or a queue's, for a client of
// another version: by those changes without Routes, and those that say Messages. Like
// [Config].Pin, version may be a name that [Floor] allows. The error matches [ErrUnsupported] or
// [ErrMalformed] if there is no such version, and [ErrConversion] if body cannot be converted.
func (v *Versions) Down(ctx context.Context, version string, body []byte) ([]byte, error) {
	index, why := v.table.find(version, time.Now())
	if why != "" {
		return nil, fmt.Errorf("%w %q", refusals[why].err, shorten(version))
	}
	ran := trace.From(ctx)
	var steps []step
	changes := v.chains[index].changes
	for i := len(changes) - 1; i >= 0; i-- {
		if d := &changes[i]; d.ResponseBody.Converts() && (d.routes == nil || d.Messages) {
			steps = append(steps, step{d, &d.ResponseBody})
		}
	}
	if len(steps) == 0 {
		return body, nil
	}
	out, err := convertText(body, steps, func(d *change) {
		if ran != nil {
			ran(d.Name)
		}
	})
	if err != nil {
		v.counts.failures.Add(1)
		return nil, &ConversionError{
			Version: v.versions[index].Name, Direction: Down, Change: changeOf(err),
			Code: http.StatusInternalServerError, Err: err,
		}
	}
	return out, nil
}

// giveBack gives the segment that was taken from the request's path back to the locations in h.
func (c *conversion) giveBack(h http.Header, host string) {
	if c.scope.prefix != "" {
		location{scope: c.scope, host: host, slashes: c.slashes}.complete(h)
	}
}
