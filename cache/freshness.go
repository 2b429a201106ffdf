package cache

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// initialAge returns the corrected initial age of a response (RFC 9111, section 4.2.3).
func initialAge(h http.Header, requested, received time.Time) time.Duration {
	var apparent time.Duration
	if date, ok := parseDate(h["Date"]); ok {
		// The apparent age is never negative: a Date may be ahead. It has no fractions of a second.
		apparent = max(0, received.Round(0).Truncate(time.Second).Sub(date))
	}
	age := time.Duration(0)
	if values := h["Age"]; len(values) > 0 {
		// RFC 9111, section 5.1: the first member of a list counts, and an invalid one not at all.
		first, _, _ := strings.Cut(values[0], ",")
		if n, ok := deltaSeconds(strings.Trim(first, " \t")); ok {
			age = n.duration()
		}
	}
	return max(apparent, age+max(0, received.Sub(requested)))
}

// parseDate parses the date in a field with one value.
func parseDate(values []string) (time.Time, bool) {
	if len(values) == 0 {
		return time.Time{}, false
	}
	return parseTime(values[0])
}

// parseTime parses an HTTP-date (RFC 9110, section 5.6.7) in any of its three forms, in any case
// (RFC 9111, section 4.2). The package time would take more, such as single digits; it does not
// compare the day of the week with the date, and neither do we.
func parseTime(s string) (time.Time, bool) {
	if n := len(s) - len("GMT"); n > 0 && strings.EqualFold(s[n:], "GMT") {
		s = s[:n] + "GMT"
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return time.Time{}, false
	}
	t = t.UTC()
	layout := http.TimeFormat
	switch {
	case strings.Contains(s, "-"):
		layout = "Monday, 02-Jan-06 15:04:05 GMT"
	case !strings.Contains(s, ","):
		layout = time.ANSIC
	}
	_, date, _ := strings.Cut(s, " ")
	if _, canonical, _ := strings.Cut(t.Format(layout), " "); !strings.EqualFold(date, canonical) {
		return time.Time{}, false
	}
	// RFC 9110, section 5.6.7: a year of two digits that seems more than 50 years ahead is past.
	if strings.Contains(s, "-") && t.After(time.Now().AddDate(50, 0, 0)) {
		t = t.AddDate(-100, 0, 0)
	}
	return t, true
}

// lifetime returns for how long a response is fresh, beginning at age 0 (RFC 9111, section 4.2.1),
// and whether that is explicit.
func (c *Cache) lifetime(status int, h http.Header, d *directives,
	received time.Time) (life time.Duration, explicit bool) {
	if !c.cfg.Private && d.sMaxage != absent {
		return d.sMaxage.duration(), true
	}
	if d.maxAge != absent {
		return d.maxAge.duration(), true
	}
	date, ok := parseDate(h["Date"])
	if !ok {
		date = received
	}
	// RFC 9213, section 2.2: with a targeted field, Expires does not count.
	if values := h["Expires"]; len(values) > 0 && !d.targeted {
		expires, ok := parseTime(values[0])
		if !ok || len(values) > 1 && !allEqual(values) {
			return 0, true // RFC 9111, section 5.3: an invalid date is in the past
		}
		return max(0, expires.Sub(date)), true
	}
	return c.heuristic(status, h, d, date), false
}

func allEqual(values []string) bool {
	for _, v := range values {
		if v != values[0] {
			return false
		}
	}
	return true
}

// maxError is the most heuristic freshness of an error: what is not there may be soon (C70).
const maxError = time.Minute

// heuristic returns the lifetime of a response that does not tell it (RFC 9111, section 4.2.2).
//
// RFC 9110, section 15.1, would allow it for 501 too. That can be what one client's odd request got
// (C10), so it needs explicit freshness.
func (c *Cache) heuristic(status int, h http.Header, d *directives, date time.Time) time.Duration {
	if c.cfg.Heuristic < 0 {
		return 0
	}
	most := maxHeuristic
	switch status {
	case 200, 203, 204, 206, 300, 301, 308:
	case 404, 405, 410, 414:
		most = maxError
	default:
		if !d.public {
			return 0
		}
	}
	modified, ok := parseDate(h["Last-Modified"])
	if !ok || !modified.Before(date) {
		return 0
	}
	return min(most, time.Duration(c.cfg.Heuristic*float64(date.Sub(modified))))
}

// understood are the statuses whose rules for caching this package follows (RFC 9111, section
// 5.2.2.3).
func understood(status int) bool {
	switch status {
	case 200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501:
		return true
	}
	return false
}

// A policyOf is what an entry's fields say, read once.
type policyOf struct {
	of       *Cache // whose configuration it was read by: several may share a store
	d        directives
	lifetime time.Duration
	etag     string
	modified time.Time // zero if there is none
	date     time.Time
	status   string   // the code and its text, for a Response
	names    []string // of the fields to replay
	ends     []int    // of their values
	values   []string // of all fields, one after the other
	appends  bool     // some of them are appended to those that are there
	cookie   bool     // one of them is Set-Cookie

	text atomic.Pointer[rendering] // what is made once a second
}

// policy returns what e's fields say, as c reads them.
func (c *Cache) policy(e *Entry) *policyOf {
	if p := e.policy.Load(); p != nil && p.of == c {
		return p
	}
	p := &policyOf{
		of: c, d: responseDirectives(e.Header, c.cfg.TargetedFields), status: statusText(e.Status),
	}
	p.lifetime, _ = c.lifetime(e.Status, e.Header, &p.d, e.Received)
	if values := e.Header["Etag"]; len(values) > 0 {
		p.etag = values[0]
	}
	p.modified, _ = parseDate(e.Header["Last-Modified"])
	var ok bool
	if p.date, ok = parseDate(e.Header["Date"]); !ok {
		p.date = e.Received
	}
	for name, values := range e.Header {
		if len(values) == 0 || name == "Age" || c.drops[http.CanonicalHeaderKey(name)] {
			continue
		}
		p.names = append(p.names, name)
		p.values = append(p.values, values...)
		p.ends = append(p.ends, len(p.values))
		p.appends = p.appends || appended(name)
		p.cookie = p.cookie || name == "Set-Cookie"
	}
	e.policy.Store(p)
	return p
}

// ageAt returns the current age of e (RFC 9111, section 4.2.3). Within one process the clock is
// monotonic: one that is set back makes nothing younger.
func (e *Entry) ageAt(now time.Time) time.Duration {
	return e.Age + max(0, now.Sub(e.Received))
}

// A use is how a stored response may be used for a request.
type use int

const (
	useNot     use = iota // after a successful validation only
	useFailing            // if fetching fails
	useStale              // while it is refreshed
	useAsked              // as it is, since the client accepts stale ones
	useFresh
)

// judgment is what an exchange finds out about a stored response.
type judgment struct {
	use    use
	age    time.Duration
	left   time.Duration // of its freshness; negative: stale for so long
	reason Reason        // why it cannot be used at once
	err    bool          // it can be used if fetching fails
	cut    bool          // it can be used if the origin cannot be reached
}

// disconnectedFor is for how long beyond its freshness a response may stand in for an origin that
// cannot be reached, if the response says nothing about that.
const disconnectedFor = time.Hour

// judge decides how e may be used for x (RFC 9111, section 4, and RFC 5861).
func (x *exchange) judge(e *Entry, now time.Time) judgment {
	p := x.c.policy(e)
	j := judgment{age: e.ageAt(now)}
	j.left = p.lifetime - j.age
	how, since := x.c.store.Purged(e)
	if how == Soft {
		j.left = min(j.left, since.Sub(now))
	}
	d := &p.d
	// RFC 9111, section 4.2.4. A stale response is prohibited by must-revalidate, and in a shared
	// cache by proxy-revalidate. So it is by s-maxage; but where the same response allows it
	// expressly (RFC 5861), we take that as the exception, as public caches do.
	prohibited := d.noCache || d.mustRevalidate || !x.c.cfg.Private && d.proxyRevalidate
	// What the response does not allow expressly, no request and no failure opens in a shared cache
	// if the response was never fresh: it is kept to be validated, and may be one client's page
	// that says nothing of caches.
	lenient := x.c.cfg.Private || d.sMaxage == absent && p.lifetime > 0
	if j.left <= 0 && !prohibited {
		late := -j.left
		j.err = d.ifError != absent && late <= d.ifError.duration() ||
			x.cc.ifError != absent && late <= x.cc.ifError.duration() && lenient
		// RFC 9111, section 4.2.4: a cache that is disconnected may use what is stale.
		j.cut = late <= disconnectedFor && lenient
	}
	switch {
	case d.noCache:
		j.reason = ReasonNoCache
	case j.left > 0:
		j.use, j.reason = x.fresh(d, &j)
	case prohibited:
		j.reason = ReasonStale
	case d.whileRevalidate != absent && -j.left <= d.whileRevalidate.duration() && !x.wantsFresh():
		j.use, j.reason = useStale, ReasonStale
	case x.cc.maxStale != absent && how != Soft && lenient &&
		(x.cc.maxStale == maxStaleAny || -j.left <= x.cc.maxStale.duration()) && !x.wantsFresh():
		j.use, j.reason = useAsked, ReasonRequest
	default:
		j.reason = ReasonStale
	}
	if j.use == useNot && j.err {
		j.use = useFailing
	}
	return j
}

// judgeFetched is judge for what was fetched while x waited. It is as good as an answer of its own
// for a request that asks for validation (C35).
func (x *exchange) judgeFetched(e *Entry, now time.Time) judgment {
	asked := x.cc
	x.cc.noCache = false
	if x.cc.maxAge == 0 {
		x.cc.maxAge = absent
	}
	j := x.judge(e, now)
	x.cc = asked
	return j
}

// fresh decides whether a fresh response is fresh enough for the request (RFC 9111, section 5.2.1).
func (x *exchange) fresh(d *directives, j *judgment) (use, Reason) {
	if x.c.cfg.IgnoreReload {
		return useFresh, ReasonNone
	}
	if x.cc.minFresh > 0 && j.left < x.cc.minFresh.duration() {
		return useNot, ReasonRequest
	}
	if x.cc.noCache {
		return useNot, ReasonRequest
	}
	// RFC 8246: a reload, which says max-age=0, need not validate what never changes.
	if x.cc.maxAge != absent && j.age > x.cc.maxAge.duration() && !d.immutable {
		return useNot, ReasonRequest
	}
	if x.cc.maxAge == 0 && !d.immutable {
		return useNot, ReasonRequest
	}
	return useFresh, ReasonNone
}

// wantsFresh reports whether the request accepts nothing stale.
func (x *exchange) wantsFresh() bool {
	return !x.c.cfg.IgnoreReload && (x.cc.noCache || x.cc.minFresh > 0 ||
		x.cc.maxAge != absent && x.cc.maxStale == absent)
}
