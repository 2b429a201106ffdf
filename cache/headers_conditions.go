package cache

import (
	"net/http"
	"strings"
	"time"
)

// preconditions evaluates the conditions of a request, in the order of RFC 9110, section 13.2.2,
// against the validators in header, of a response with status 200 or 206. It returns 200 if they
// hold, else 304 or 412.
func preconditions(r *http.Request, header http.Header) int {
	tag := header.Get("Etag")
	modified, err := http.ParseTime(header.Get("Last-Modified"))
	dated := err == nil

	// Sections 13.1.1 and 13.1.4. If-Unmodified-Since counts only without If-Match.
	if lines := r.Header["If-Match"]; len(lines) > 0 {
		if !matchesTag(lines, tag, true) {
			return http.StatusPreconditionFailed
		}
	} else if since, ok := dateOf(r, "If-Unmodified-Since"); ok && dated && modified.After(since) {
		return http.StatusPreconditionFailed
	}
	// Sections 13.1.2 and 13.1.3. If-Modified-Since counts only without If-None-Match.
	if lines := r.Header["If-None-Match"]; len(lines) > 0 {
		if matchesTag(lines, tag, false) {
			return http.StatusNotModified
		}
	} else if since, ok := dateOf(r, "If-Modified-Since"); ok && dated && !modified.After(since) &&
		r.Method != methodQuery {
		return http.StatusNotModified
	}
	return http.StatusOK
}

// matchesTag reports whether tag is in a list of entity tags, or the list is "*". The comparison is
// that of RFC 9110, section 8.8.3.2. A list that cannot be read matches with what was read.
func matchesTag(lines []string, tag string, strong bool) bool {
	if strong && strings.HasPrefix(tag, "W/") {
		tag = ""
	}
	opaque := strings.TrimPrefix(tag, "W/")
	for _, list := range lines {
		for {
			list = strings.TrimLeft(list, ", \t")
			if list == "" {
				break
			}
			if list[0] == '*' {
				return true
			}
			element, weak := strings.CutPrefix(list, "W/")
			if element == "" || element[0] != '"' {
				break
			}
			end := strings.IndexByte(element[1:], '"')
			if end < 0 {
				break
			}
			end += 2
			if opaque != "" && element[:end] == opaque && !(strong && weak) {
				return true
			}
			list = element[end:]
		}
	}
	return false
}

// dateOf returns the date in a field of r. A field that is repeated or no date does not count.
func dateOf(r *http.Request, name string) (time.Time, bool) {
	lines := r.Header[name]
	if len(lines) != 1 {
		return time.Time{}, false
	}
	date, err := http.ParseTime(lines[0])
	return date, err == nil
}

// notModified removes from header what a 304 leaves out (RFC 9110, section 15.4.5).
func notModified(header http.Header) {
	for _, name := range [...]string{
		"Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Range",
		"Transfer-Encoding", "Trailer",
	} {
		delete(header, name)
	}
	if header.Get("Etag") != "" {
		delete(header, "Last-Modified")
	}
}
