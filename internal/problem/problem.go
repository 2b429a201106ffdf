// Package problem writes problem details (RFC 9457).
package problem

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"time"
)

// Details is a problem document. An empty Type means "about:blank", whose Title
// should be the status phrase (RFC 9457, section 4.2.1).
type Details struct {
	Type       string
	Title      string
	Status     int // also the response's status
	Detail     string
	Instance   string
	Extensions map[string]any // further members; the standard ones win over their namesakes here
}

// MarshalJSON lays the standard members over the extensions (RFC 9457, section 3.2).
func (d Details) MarshalJSON() ([]byte, error) {
	m := maps.Clone(d.Extensions)
	if m == nil {
		m = make(map[string]any, 4)
	}
	for _, member := range [...]struct{ name, text string }{
		{"type", d.Type}, {"title", d.Title}, {"detail", d.Detail}, {"instance", d.Instance},
	} {
		if member.text != "" {
			m[member.name] = member.text
		}
	}
	m["status"] = d.Status
	return json.Marshal(m)
}

// DropBodyFields removes the fields that describe a body which another is about to take the place of, and those that would have
// the other cached as that one was to be: they go before Cache-Control (RFC 9213, section 2.2).
func DropBodyFields(h http.Header) {
	for _, name := range [...]string{
		"Content-Length", "Content-Encoding", "Content-Range", "Content-Language", "Content-Location", "Content-Disposition",
		"Content-Digest", "Repr-Digest", "Digest", "Content-Md5", // RFC 9530: a client that checks would reject the document
		"Trailer", "Etag", "Last-Modified", "Accept-Ranges",
		"Expires", "Cdn-Cache-Control", "Cloudflare-Cdn-Cache-Control", "Surrogate-Control",
	} {
		delete(h, name)
	}
}

// Write sends d as the whole response. It removes the fields that describe the
// body which the handler had in mind, as [http.Error] does; set others on w first.
func Write(w http.ResponseWriter, d Details) {
	h := w.Header()
	DropBodyFields(h)
	body, err := json.Marshal(d)
	if err != nil { // an extension that JSON cannot express: the document is worth more than the extension
		d.Extensions = nil
		body, _ = json.Marshal(d)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(d.Status)
	_, _ = w.Write(append(body, '\n')) // the client is gone if this fails
}

// RetryAfter sets the Retry-After field to d in whole seconds, rounded up and at
// least 1: a client that waits as told must not come too early (RFC 9110, section 10.2.3).
// It leaves the field alone if d is not positive.
func RetryAfter(h http.Header, d time.Duration) {
	if d <= 0 {
		return
	}
	seconds := int64(d / time.Second)
	if d%time.Second != 0 {
		seconds++
	}
	h.Set("Retry-After", strconv.FormatInt(seconds, 10))
}
