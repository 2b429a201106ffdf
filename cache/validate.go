package cache

import (
	"net/http"
	"strings"
	"time"
)

// maxValidators is the most entity tags that one conditional request carries.
const maxValidators = 16

// strongTag reports whether tag is a strong validator (RFC 9110, section 8.8.3).
func strongTag(tag string) bool {
	return tag != "" && !strings.HasPrefix(tag, "W/") && !strings.HasPrefix(tag, "w/")
}

// sameTag is the weak comparison (RFC 9110, section 8.8.3.2).
func sameTag(a, b string) bool {
	return a != "" && strings.TrimPrefix(a, "W/") == strings.TrimPrefix(b, "W/")
}

// listsTag reports whether a field If-None-Match names tag.
func listsTag(values []string, tag string) bool {
	for _, v := range values {
		if v == "*" {
			return true
		}
		for v != "" && tag != "" {
			var element string
			element, v, _ = cutUnquoted(v, ',')
			if sameTag(tag, strings.Trim(element, " \t")) {
				return true
			}
		}
	}
	return false
}

// notModified evaluates the conditions of x for a response with the validators of p (RFC 9110,
// section 13.2.2, and RFC 9111, section 4.3.2).
func (x *exchange) notModified(etag string, modified, date time.Time) bool {
	if x.fields&hasIfNoneMatch != 0 {
		return listsTag(x.r.Header["If-None-Match"], etag)
	}
	if x.fields&hasIfModifiedSince == 0 {
		return false
	}
	values := x.r.Header["If-Modified-Since"]
	since, err := time.Time{}, error(nil)
	if len(values) == 1 {
		since, err = http.ParseTime(values[0])
	}
	if err != nil || since.IsZero() {
		return false
	}
	if modified.IsZero() {
		// RFC 9111, section 4.3.2: without Last-Modified, Date stands in for it.
		modified = date.Truncate(time.Second)
	}
	return !modified.After(since)
}

// rangeApplies evaluates If-Range (RFC 9110, section 13.1.5). A weak tag and a date that is no
// strong validator never hold.
func (x *exchange) rangeApplies(p *policyOf) bool {
	if x.fields&hasIfRange == 0 {
		return true
	}
	value := strings.Trim(x.r.Header.Get("If-Range"), " \t")
	if strings.Contains(value, `"`) {
		return strongTag(value) && value == p.etag
	}
	at, err := http.ParseTime(value)
	return err == nil && p.strongDate() && at.Equal(p.modified)
}

// strongDate reports whether Last-Modified is a strong validator: the origin's clock had gone on
// for a second when it sent the response (RFC 9110, section 8.8.2.2).
func (p *policyOf) strongDate() bool {
	return !p.modified.IsZero() && p.date.Sub(p.modified) >= time.Second
}

// conditions adds to out the validators of the stored responses (RFC 9111, section 4.3.1) and
// returns those that it added.
func (x *exchange) conditions(out http.Header, selected *Entry, r *Resource) []*Entry {
	var candidates []*Entry
	var tags []string
	add := func(e *Entry) {
		if _, whole := e.complete(); !whole || len(tags) == maxValidators {
			return
		}
		if tag := x.c.policy(e).etag; tag != "" {
			tags = append(tags, tag)
			candidates = append(candidates, e)
		}
	}
	if selected != nil {
		add(selected)
	}
	if r != nil {
		for _, e := range r.Entries {
			if e != selected && e.Echo == string(x.echo) && x.usable(e) && x.lends(e) {
				add(e)
			}
		}
	}
	if len(tags) > 0 {
		out["If-None-Match"] = []string{strings.Join(tags, ", ")}
	}
	if selected == nil {
		return candidates
	}
	if _, whole := selected.complete(); whole && len(selected.Header["Last-Modified"]) > 0 &&
		!x.c.policy(selected).modified.IsZero() {
		out["If-Modified-Since"] = selected.Header["Last-Modified"][:1:1]
		if len(candidates) == 0 || candidates[0] != selected {
			candidates = append([]*Entry{selected}, candidates...)
		}
	}
	return candidates
}

// lends reports whether the tag of e, a variant that does not match the request, may go with it,
// for a 304 to tell that e answers it. A weak tag may stand for several codings of a body, and some
// origins give one strong tag to all of them. A variant of other credentials is never lent.
func (x *exchange) lends(e *Entry) bool {
	h := x.r.Header
	for i := range e.Vary {
		if secretField(e.Vary[i].Name) && !e.Vary[i].matches(h, &x.forms) {
			return false
		}
	}
	return strongTag(x.c.policy(e).etag) && e.readable(h)
}

// validated returns the stored response that a 304 with header h is about; nil if it is about none
// of those that were asked for (RFC 9111, section 4.3.4).
func (c *Cache) validated(candidates []*Entry, h http.Header) *Entry {
	tag, modified := h.Get("Etag"), h.Get("Last-Modified")
	switch {
	case tag != "":
		for _, e := range candidates {
			if stored := c.policy(e).etag; strongTag(tag) && stored == tag ||
				!strongTag(tag) && sameTag(stored, tag) {
				return e
			}
		}
	case modified != "":
		var found *Entry
		for _, e := range candidates {
			if e.Header.Get("Last-Modified") == modified {
				if found != nil {
					return nil // variants that were changed at the same time
				}
				found = e
			}
		}
		return found
	case len(candidates) == 1:
		// Without a validator it can only be about the one that was asked for.
		return candidates[0]
	}
	return nil
}

// notMerged are the fields of a 304, or of a 206 or a HEAD, that do not replace stored ones: they
// are about the message and not about the response that is stored (RFC 9111, section 3.2).
var notMerged = map[string]bool{
	"Content-Encoding": true, "Content-Length": true, "Content-Range": true, "Age": true,
}

// merged returns the stored fields updated with those of h (RFC 9111, section 3.2), in whatever
// spelling either has them.
func (c *Cache) merged(stored, h http.Header) http.Header {
	m := make(http.Header, len(stored)+2)
	named := connectionFields(h)
	merges := func(name string, values []string) bool {
		name = http.CanonicalHeaderKey(name)
		// Without values, it says that net/http shall add none.
		return len(values) > 0 && !notMerged[name] && !hopByHop[name] && !named[name]
	}
	updated := make(map[string]bool, len(h))
	for name, values := range h {
		if merges(name, values) {
			updated[http.CanonicalHeaderKey(name)] = true
		}
	}
	for name, values := range stored {
		if !updated[http.CanonicalHeaderKey(name)] {
			m[name] = values
		}
	}
	for name, values := range h {
		if merges(name, values) {
			m[name] = values
		}
	}
	return m
}

// connectionFields returns the names of fields that Connection makes hop-by-hop.
func connectionFields(h http.Header) map[string]bool {
	if len(h["Connection"]) == 0 {
		return nil
	}
	named := make(map[string]bool)
	for _, v := range h["Connection"] {
		for _, name := range splitList(v, ',') {
			named[http.CanonicalHeaderKey(name)] = true
		}
	}
	return named
}
