package versioning

import (
	"net/http"
	"strconv"
	"strings"
)

// A bodyKind is how a body is converted.
type bodyKind uint8

const (
	otherBody bodyKind = iota // not at all
	document                  // as a whole
	lines                     // line by line
	events                    // event by event
)

// kindOf returns the kind of the body whose fields are in h.
func kindOf(h http.Header) bodyKind {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	media = strings.ToLower(strings.Trim(media, " \t"))
	switch media {
	case "application/json":
		return document
	case "application/x-ndjson", "application/ndjson", "application/jsonl":
		return lines
	case "text/event-stream":
		return events
	}
	if strings.HasSuffix(media, "+json") {
		return document
	}
	return otherBody
}

// encoded reports whether the body whose fields are in h cannot be read without decoding it.
func encoded(h http.Header) bool {
	encoding := h.Get("Content-Encoding")
	return encoding != "" && !strings.EqualFold(encoding, "identity")
}

// contentLength returns the value of Content-Length in h, or -1 if there is none.
func contentLength(h http.Header) int64 {
	n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// dropBodyFields removes the fields that no longer hold once a body was converted.
func dropBodyFields(h http.Header) {
	for _, name := range [...]string{
		"Content-Length", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5", "Accept-Ranges",
	} {
		delete(h, name)
	}
}

// isDigest reports whether name is that of a field over the bytes of a body.
func isDigest(name string) bool {
	switch name {
	case "Content-Digest", "Repr-Digest", "Digest", "Content-Md5":
		return true
	}
	return false
}
