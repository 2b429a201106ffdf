// Package problem writes problem details (RFC 9457).
package problem

import (
	"encoding/json"
	"maps"
	"net/http"
)

// Details is a problem document. An empty Type means "about:blank"; the Title should then be the
// phrase of the status (RFC 9457, section 4.2.1).
type Details struct {
	Type       string
	Title      string
	Status     int // of the response, and repeated in the document
	Detail     string
	Instance   string
	Extensions map[string]any // further members; a standard member replaces one of the same name
}

// MarshalJSON writes the standard members and the extensions as one object (RFC 9457, section 3.2).
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

// DropBodyFields removes the fields that describe a body that will be replaced, and those that tell
// caches how long to keep it: caches obey them before Cache-Control (RFC 9213, section 2.2).
func DropBodyFields(h http.Header) {
	for _, name := range [...]string{
		"Content-Length", "Content-Encoding", "Content-Range",
		"Content-Language", "Content-Location", "Content-Disposition",
		// RFC 9530: a client that checks the old body's digest would reject the new body.
		"Content-Digest", "Repr-Digest", "Digest", "Content-Md5",
		"Trailer", "Etag", "Last-Modified", "Accept-Ranges",
		"Expires", "Cdn-Cache-Control", "Cloudflare-Cdn-Cache-Control", "Surrogate-Control",
	} {
		delete(h, name)
	}
}

// Write sends d as the whole response. As [http.Error] does, it removes the fields that describe
// the body that the handler meant to send. Set further fields on w before.
func Write(w http.ResponseWriter, d Details) {
	h := w.Header()
	DropBodyFields(h)
	body, err := json.Marshal(d)
	if err != nil { // JSON cannot express an extension: send the document without them
		d.Extensions = nil
		body, _ = json.Marshal(d)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(d.Status)
	_, _ = w.Write(append(body, '\n')) // fails only if the client has left
}
