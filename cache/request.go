package cache

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An exchange is one request on its way through the cache.
type exchange struct {
	c       *Cache
	r       *http.Request
	w       http.ResponseWriter // in a Middleware
	next    http.Handler        // in a Middleware
	sender  http.RoundTripper   // in a Transport
	server  bool                // in a Middleware
	rep     reply
	fields  fieldSet          // that the request has
	unkeyed unkeyed           // the unkeyed ones among its fields
	cc      requestDirectives // what the request asks for
	body    []byte            // of a QUERY
	key     Key
	echo    []byte // what was hashed into key
	prefix  int    // of echo, without the query
	began   time.Time
	ended   uint64 // of the fillShard, before the store was asked
	mark    Mark   // read with the last look into the store
	least   Mark   // of entries that may be found by the key
	looks   int    // into the store, again
	follows int    // fills that were waited for
	begins  int    // turns that were waited for
	lease   *lease // of the turn to fetch for all processes; may be nil
	spent   bool   // the store has failed x, and is not to cost it more time
	forms   forms
	varies  []Selecting // on what another response for the URL depends, if one was seen
	room    [512]byte   // of echo, if it is not longer
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// A fieldSet tells which of the fields that matter a request has. To walk through the fields once
// is cheaper than to look for each.
type fieldSet uint64

const (
	hasAuthorization fieldSet = 1 << iota
	hasCookie
	hasCacheControl
	hasRange
	hasIfRange
	hasIfNoneMatch
	hasIfModifiedSince
	hasPrecondition // If-Match, If-Unmodified-Since
	hasUpgrade
	hasConnection
	hasUnkeyed
	hasManyUnkeyed // more than a key takes in
	hasOddName     // one that is not in canonical form: nobody here looks for it under that name
)

// fieldsOf walks through the fields of a request, and adds the unkeyed ones to u.
func fieldsOf(h http.Header, u *unkeyed) fieldSet {
	var set fieldSet
	for name := range h {
		switch name {
		// What most requests have and does not matter here, for speed.
		case "Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "Dnt", "Origin",
			"Priority", "Referer", "Sec-Ch-Ua", "Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform", "Sec-Fetch-Dest",
			"Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Te", "Traceparent", "Tracestate",
			"Upgrade-Insecure-Requests", "User-Agent", "Via", "X-Forwarded-For", "X-Real-Ip", "X-Request-Id":
		default:
			set |= fieldOf(name, u)
		}
	}
	return set
}

// fieldOf returns what a field of that name adds to a fieldSet, and adds it to u if it is unkeyed.
func fieldOf(name string, u *unkeyed) (set fieldSet) {
	switch name[:min(1, len(name))] {
	case "X", "F":
		if isUnkeyed(name) {
			set = u.add(name)
		}
	case "A":
		if name == "Authorization" {
			return hasAuthorization
		}
	case "C":
		switch name {
		case "Cookie":
			return hasCookie
		case "Cache-Control":
			return hasCacheControl
		case "Connection":
			return hasConnection
		}
	case "P":
		switch name {
		case "Pragma":
			return hasCacheControl
		case "Proxy-Authorization":
			return hasAuthorization
		case "Proxy":
			return u.add(name)
		}
	case "R":
		if name == "Range" {
			return hasRange
		}
	case "I":
		switch name {
		case "If-None-Match":
			return hasIfNoneMatch
		case "If-Modified-Since":
			return hasIfModifiedSince
		case "If-Range":
			return hasIfRange
		case "If-Match", "If-Unmodified-Since":
			return hasPrecondition
		}
	case "U":
		if name == "Upgrade" {
			return hasUpgrade
		}
	}
	if !canonical(name) {
		set |= hasOddName
	}
	return set
}

// from returns where x fetches from.
func (x *exchange) from() origin {
	if x.server {
		return &served{next: x.next, outer: cloneHeader(x.w.Header())}
	}
	return &sent{next: x.sender}
}

// release gives x back for another request.
func (x *exchange) release() {
	x.c, x.r, x.w, x.next, x.sender, x.body, x.echo, x.rep = nil, nil, nil, nil, nil, nil, nil, reply{}
	x.varies = nil
	clear(x.unkeyed.names[:x.unkeyed.n])
	x.forms.reset()
	exchanges.Put(x)
}

// begin fills in x for r. It reports a reason if the cache cannot answer such a request at all.
func (x *exchange) begin(c *Cache, r *http.Request, server bool) Reason {
	x.c, x.r, x.server = c, r, server
	x.body, x.echo, x.key = nil, nil, Key{}
	x.looks, x.follows, x.begins, x.least, x.spent = 0, 0, 0, 0, false
	x.began = time.Now()
	x.cc = unasked
	x.unkeyed.n = 0
	x.fields = fieldsOf(r.Header, &x.unkeyed)
	switch r.Method {
	case http.MethodGet, "", http.MethodHead:
		// RFC 9110, section 9.3.1: a body of GET means nothing, and some handlers read it all the
		// same (C08).
		if hasBody(r, server) {
			return ReasonRequest
		}
	case methodQuery:
	default:
		if x.fields&hasCacheControl != 0 {
			x.cc = parseRequestDirectives(r.Header) // a response to POST may be stored
		}
		return ReasonMethod
	}
	if x.fields&(hasUpgrade|hasPrecondition|hasOddName) != 0 || x.manyUnkeyed() || x.nominates() ||
		r.URL == nil || r.URL.Opaque != "" || !server && r.URL.Host == "" {
		return ReasonRequest
	}
	if x.fields&hasCacheControl != 0 {
		x.cc = parseRequestDirectives(r.Header)
	}
	return ReasonNone
}

// manyUnkeyed reports whether the request has more unkeyed fields than a key takes in.
func (x *exchange) manyUnkeyed() bool {
	return x.fields&hasManyUnkeyed != 0 && x.c.cfg.Unkeyed == UnkeyedKey
}

// nominates reports whether Connection names fields that a proxy behind the cache would not send on
// (RFC 9110, section 7.6.1). The origin would not see them, so that its response must not be stored
// for a request that has them.
func (x *exchange) nominates() bool {
	if x.fields&hasConnection == 0 {
		return false
	}
	for _, line := range x.r.Header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if !ofConnection(textproto.TrimString(name)) {
				return true
			}
		}
	}
	return false
}

// ofConnection reports whether name, in a field Connection, is about the connection alone.
func ofConnection(name string) bool {
	for _, own := range [...]string{
		"", "keep-alive", "close", "te", "upgrade", "http2-settings", "proxy-connection",
	} {
		if strings.EqualFold(name, own) {
			return true
		}
	}
	return false
}

// hasBody reports whether r may have a body. A client's unknown length is 0 with a Body; a server's
// is negative.
func hasBody(r *http.Request, server bool) bool {
	return r.ContentLength != 0 || len(r.TransferEncoding) > 0 ||
		!server && r.Body != nil && r.Body != http.NoBody
}

// readBody takes in the body of a QUERY. If it is larger than MaxBody it is put back, and the
// request passes.
func (x *exchange) readBody() (ok bool, err error) {
	if x.r.Body == nil || x.r.Body == http.NoBody {
		return true, nil
	}
	most := x.c.cfg.MaxBody
	body, err := io.ReadAll(io.LimitReader(x.r.Body, most+1))
	if err != nil {
		return false, err
	}
	if int64(len(body)) > most {
		x.r = x.r.WithContext(x.r.Context())
		x.r.Body = &joinedBody{Reader: io.MultiReader(bytes.NewReader(body), x.r.Body), Closer: x.r.Body}
		return false, nil
	}
	x.r.Body.Close()
	x.body = body
	return true, nil
}

type joinedBody struct {
	io.Reader
	io.Closer
}

// setKey computes the key of the resource that x is about.
func (x *exchange) setKey() {
	x.echo = x.appendEcho(x.room[:0])
	x.prefix = len(x.echo)
	x.echo = x.appendQuery(x.echo)
	x.key = sha256.Sum256(x.echo)
}

// setRuledKey makes the key that of the responses that share rule.
func (x *exchange) setRuledKey(rule searchRule) {
	x.echo = append(x.echo[:x.prefix:x.prefix], 'r')
	x.echo = appendPart(x.echo, rule.text)
	x.echo = appendPart(x.echo, rule.apply(x.query()))
	x.key = sha256.Sum256(x.echo)
	x.least = rule.mark
}

// head reports whether the answer has no body.
func (x *exchange) head() bool { return x.r.Method == http.MethodHead }

// credentials reports whether the request is one of a certain user: it never gets what another's
// request is fetching (C22).
func (x *exchange) credentials() bool { return x.fields&(hasAuthorization|hasCookie) != 0 }

func setLength(h http.Header, n int64) { h["Content-Length"] = []string{strconv.FormatInt(n, 10)} }
