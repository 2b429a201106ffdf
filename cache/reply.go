package cache

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"
)

// A reply is how an exchange is answered.
type reply struct {
	status  int
	entry   *Entry      // whose fields are sent; nil if it is a response that is being fetched
	policy  *policyOf   // of entry
	header  http.Header // the fields otherwise
	trailer http.Header // of entry
	rd      *reader     // of the body that is being fetched
	body    []byte      // of entry
	parts   [][]byte    // of entry, in place of body
	length  int64       // of body or parts; negative: as the fields say

	contentRange, contentType string // in place of entry's
	bare                      bool   // a 304: without what describes the body

	age      time.Duration
	aged     bool   // age is sent with header
	state    string // the value for Cache-Status
	pattern  string
	outcome  Outcome
	reason   Reason
	err      error
	panicked any
	direct   *http.Response
}

// abandon gives up what the answer would be read from, when Observe has panicked: nobody gets it.
func (rep *reply) abandon() {
	if rep.rd == nil {
		return
	}
	if rep.direct != nil {
		rep.direct.Body.Close()
		rep.rd.f.cancel(errUnneeded)
	}
	rep.rd.close()
}

// answerWith makes the reply the answer from e, if e has what x asks for.
func (x *exchange) answerWith(e *Entry, j judgment) bool {
	rep := &x.rep
	p := x.c.policy(e)
	*rep = reply{
		status: e.Status, entry: e, policy: p, trailer: e.Trailer, length: -1, age: j.age, pattern: e.Pattern,
	}
	if x.fields&(hasIfNoneMatch|hasIfModifiedSince|hasRange) != 0 && e.Status == http.StatusOK {
		if x.notModified(p.etag, p.modified, p.date) {
			rep.status, rep.bare, rep.trailer = http.StatusNotModified, true, nil
			return true
		}
		if x.fields&hasRange != 0 && x.r.Method == http.MethodGet && x.rangeApplies(p) {
			if done, ok := x.answerRange(rep, e, p); done {
				return ok
			}
		}
	}
	if x.head() && e.Size >= 0 {
		if _, whole := e.complete(); !whole {
			rep.length = e.Size
		}
		return true
	}
	body, whole := e.complete()
	rep.body = body
	return whole
}

// answerRange makes rep the answer to a Range (RFC 9110, section 14.2). It reports done if the
// field counts, and ok if e has all that it asks for.
func (x *exchange) answerRange(rep *reply, e *Entry, p *policyOf) (done, ok bool) {
	values := x.r.Header["Range"]
	if len(values) != 1 {
		return false, false
	}
	spans, valid := parseRange(values[0], e.Size)
	switch {
	case !valid && e.Size < 0:
		return true, false
	case !valid:
		return false, false
	case len(spans) == 0:
		rep.status = http.StatusRequestedRangeNotSatisfiable
		rep.contentRange = "bytes */" + strconv.FormatInt(e.Size, 10)
		rep.bare, rep.length = true, 0
		return true, true
	}
	rep.trailer = nil
	rep.status = http.StatusPartialContent
	if len(spans) == 1 {
		rep.body, ok = e.part(spans[0])
		rep.contentRange = spans[0].contentRange(e.Size)
		rep.length = spans[0].length()
		return true, ok
	}
	return true, rep.multipart(spans, e)
}

// multipart makes the body several parts (RFC 9110, section 14.6).
func (rep *reply) multipart(spans []span, e *Entry) bool {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	boundary := hex.EncodeToString(random[:])
	contentType := ""
	if values := e.Header["Content-Type"]; len(values) > 0 {
		contentType = "Content-Type: " + values[0] + "\r\n"
	}
	rep.length = 0
	add := func(p []byte) {
		rep.parts = append(rep.parts, p)
		rep.length += int64(len(p))
	}
	for _, s := range spans {
		data, ok := e.part(s)
		if !ok {
			return false
		}
		add([]byte("\r\n--" + boundary + "\r\n" + contentType +
			"Content-Range: " + s.contentRange(e.Size) + "\r\n\r\n"))
		add(data)
	}
	add([]byte("\r\n--" + boundary + "--\r\n"))
	rep.contentType = "multipart/byteranges; boundary=" + boundary
	return true
}

// describesBody are the fields that a 304 leaves out (RFC 9110, section 15.4.5): the client has
// them.
func describesBody(name string) bool {
	switch name {
	case "Content-Length", "Content-Type", "Content-Encoding", "Content-Language", "Content-Range",
		"Content-Md5",
		"Content-Disposition":
		return true
	}
	return false
}

// fields sets in h the fields of a stored response, over those that are there; Vary, Link and
// Set-Cookie are added to them. The values are in one array that belongs to h alone, so that
// whoever changes them changes no other answer (C66).
func (rep *reply) fields(h http.Header) {
	p := rep.policy
	all := len(p.values)
	values := make([]string, all+5)
	copy(values, p.values)
	start := 0
	replaced := rep.length >= 0 || rep.contentRange != "" || rep.bare
	for i, name := range p.names {
		end := p.ends[i]
		own := values[start:end:end]
		start = end
		if replaced && (rep.bare && describesBody(name) || name == "Content-Length" && rep.length >= 0) {
			continue
		}
		if p.appends && appended(name) {
			if before := h[name]; len(before) > 0 {
				own = append(before[:len(before):len(before)], own...)
			}
		}
		h[name] = own
	}
	rest := values[all:]
	one := func(value string) []string {
		rest[0] = value
		v := rest[:1:1]
		rest = rest[1:]
		return v
	}
	text := p.rendered(rep.age, rep)
	h["Age"] = one(text.age)
	if before := h["Cache-Status"]; len(before) > 0 {
		h["Cache-Status"] = append(before[:len(before):len(before)], text.state)
	} else {
		h["Cache-Status"] = one(text.state)
	}
	if !replaced {
		return
	}
	if rep.length >= 0 && !rep.bare || rep.status == http.StatusRequestedRangeNotSatisfiable {
		h["Content-Length"] = one(strconv.FormatInt(rep.length, 10))
	}
	if rep.contentRange != "" {
		h["Content-Range"] = one(rep.contentRange)
	}
	if rep.contentType != "" {
		h["Content-Type"] = one(rep.contentType)
	}
}
