package cache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// An arrival is what arrived for a fetch, as far as it must be known to decide about it.
type arrival struct {
	status   int
	header   http.Header // own fields of the response; not changed
	outer    http.Header // what was set around the handler; may be nil
	pattern  string
	received time.Time
}

// storable tells why a response to x must not be stored; ReasonNone if it may (RFC 9111, section
// 3).
func (x *exchange) storable(resp *arrival, d *directives) Reason {
	h, shared := resp.header, !x.c.cfg.Private
	// RFC 9111, section 5.2.2.3: must-understand overrides no-store for those who understand the
	// status, and forbids to store for the others.
	if d.mustUnderstand && !understood(resp.status) {
		return ReasonStatus
	}
	switch {
	case resp.status < 200, resp.status == http.StatusNotModified,
		resp.status == http.StatusRequestedRangeNotSatisfiable:
		return ReasonStatus
	case d.noStore && !d.mustUnderstand, x.cc.noStore:
		return ReasonNoStore
	case shared && d.private:
		return ReasonPrivate
	case len(h["Set-Cookie"]) > 0 && !x.c.cfg.StoreSetCookie && !x.c.strips(d, "Set-Cookie"):
		return ReasonSetCookie
	case x.restricted(d):
		return ReasonAuthorization
	}
	// What a middleware around us forbids holds too, where the handler says nothing.
	if resp.outer != nil && len(h["Cache-Control"]) == 0 && !d.targeted {
		o := responseDirectives(resp.outer, nil)
		if o.noStore || o.noCache || o.maxAge == 0 || shared && (o.private || o.sMaxage == 0) {
			return ReasonNoStore
		}
	}
	if _, star := varyNames(h["Vary"]); star {
		return ReasonVaryStar
	}
	if _, star := varyNames(resp.outer["Vary"]); star {
		return ReasonVaryStar
	}
	life, explicit := x.c.lifetime(resp.status, h, d, resp.received)
	if life > 0 {
		return ReasonNone
	}
	// A response that is stale at once can be validated, if its status is one that is stored
	// without freshness, or that says itself that it may be.
	if len(h["Etag"]) == 0 && len(h["Last-Modified"]) == 0 &&
		d.whileRevalidate == absent && d.ifError == absent {
		return ReasonNoFreshness
	}
	if resp.status != http.StatusOK && !explicit && !d.noCache && !d.public {
		return ReasonNoFreshness
	}
	return ReasonNone
}

// restricted reports whether the credentials of x keep a response with these directives from being
// stored in a shared cache (RFC 9111, section 3.5).
func (x *exchange) restricted(d *directives) bool {
	return !x.c.cfg.Private && x.fields&hasAuthorization != 0 && !d.public && d.sMaxage == absent &&
		!d.mustRevalidate
}

// strips reports whether a directive keeps a field of the response from being stored.
func (c *Cache) strips(d *directives, name string) bool {
	return slices.Contains(d.noCacheFields, name) || !c.cfg.Private && slices.Contains(d.privateFields, name)
}

// storedHeader returns what is stored of a response's fields (RFC 9111, section 3.1).
func (c *Cache) storedHeader(h http.Header, d *directives, received time.Time) http.Header {
	named := connectionFields(h)
	s := make(http.Header, len(h)+1)
	for name, values := range h {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case hopByHop[canonical], named[canonical], c.drops[canonical], canonical == "Age":
		case strings.HasPrefix(canonical, "X-Ratelimit-"):
		case c.strips(d, canonical):
		default:
			s[name] = slices.Clone(values)
		}
	}
	if len(s["Date"]) == 0 {
		// RFC 9110, section 6.6.1: who stores a response without Date adds one.
		s["Date"] = []string{received.UTC().Format(http.TimeFormat)}
	}
	return s
}

// newEntry returns the Entry for a response that may be stored, without a body.
func (x *exchange) newEntry(resp *arrival, d *directives, mark Mark, requested time.Time) *Entry {
	c := x.c
	names := varyWith(resp)
	e := &Entry{
		Echo:      string(x.echo),
		Mark:      mark,
		Pattern:   resp.pattern,
		Status:    resp.status,
		Header:    c.storedHeader(resp.header, d, resp.received),
		Size:      -1,
		Age:       initialAge(resp.header, requested, resp.received),
		Received:  resp.received,
		Requested: requested,
		Vary:      selecting(names, x.r.Header),
	}
	e.Variant = variantOf(e.Vary)
	e.URL, e.Labels = x.labels(resp.header)
	life, _ := c.lifetime(e.Status, e.Header, d, e.Received)
	e.Keep = max(0, life-e.Age) + max(disconnectedFor, d.ifError.duration(), d.whileRevalidate.duration())
	return e
}

// varyWith returns the names of the fields that a response depends on. Those of credentials count
// also if they were named around the handler: who keeps sessions or CSRF tokens there says so, and
// the handler sends what depends on them. So does Origin if the handler itself allows some origins.
// Others are about fields that are not stored.
func varyWith(resp *arrival) []string {
	names, _ := varyNames(resp.header["Vary"])
	around, _ := varyNames(resp.outer["Vary"])
	for _, name := range around {
		allowed := resp.header["Access-Control-Allow-Origin"]
		someOrigins := name == "Origin" && len(allowed) > 0 && (len(allowed) > 1 || allowed[0] != "*")
		if (secretField(name) || someOrigins) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// labels returns what purges will find a response by.
func (x *exchange) labels(h http.Header) (plain string, labels []string) {
	scheme, host := x.origin()
	query := x.query()
	path := x.r.URL.EscapedPath()
	plain = plainURL(scheme, host, path, query)
	labels = append(labels, urlLabel(plain))
	if rule, ok := x.c.ruleOf(h); ok {
		labels = append(labels, ruleLabel(plainURL(scheme, host, path, ""), rule.text, rule.apply(query)))
	}
	for _, v := range h["Surrogate-Key"] {
		for tag := range strings.FieldsSeq(v) {
			labels = append(labels, tagLabel(tag))
		}
	}
	for _, v := range h["Cache-Tag"] {
		for _, tag := range splitList(v, ',') {
			labels = append(labels, tagLabel(tag))
		}
	}
	for _, group := range groups(h["Cache-Groups"]) {
		labels = append(labels, groupLabel(plainHost(scheme, host), group))
	}
	return plain, labels
}

// groups parses a field of RFC 9875: a List of Strings. An invalid field counts as none.
func groups(values []string) []string {
	if len(values) == 0 {
		return nil
	}
	list, err := httpsfv.UnmarshalList(values)
	if err != nil {
		return nil
	}
	var names []string
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok {
			return nil
		}
		name, ok := item.Value.(string)
		if !ok {
			return nil
		}
		names = append(names, name)
	}
	return names
}

// clone returns a copy of e that is not stored, with the same body.
func (e *Entry) clone() *Entry {
	return &Entry{
		Echo: e.Echo, URL: e.URL, Labels: e.Labels, Mark: e.Mark, Variant: e.Variant, Vary: e.Vary,
		Pattern: e.Pattern, Status: e.Status, Header: e.Header, Trailer: e.Trailer, Size: e.Size,
		Segments: e.Segments, Loose: e.Loose, Age: e.Age, Received: e.Received, Requested: e.Requested,
		StaleSince: e.StaleSince, Keep: e.Keep,
	}
}

// contentLength returns the value of Content-Length; -1 if there is none, or if it is invalid.
func contentLength(h http.Header) int64 {
	values := h["Content-Length"]
	if len(values) == 0 {
		return -1
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}
