package cache

import (
	"maps"
	"net/http"
)

// meaningful are the response fields that decide what is stored and how it may be used.
var meaningful = map[string]bool{
	"Age": true, "Cache-Control": true, "Cache-Group-Invalidation": true, "Cache-Groups": true,
	"Cache-Tag": true, "Connection": true, "Content-Encoding": true, "Content-Language": true,
	"Content-Length": true, "Content-Location": true, "Content-Range": true, "Content-Type": true,
	"Date": true, "Etag": true, "Expires": true, "Last-Modified": true, "Location": true,
	"No-Vary-Search": true, "Set-Cookie": true, "Surrogate-Key": true, "Trailer": true, "Vary": true,
}

// plainNames returns h with the names of meaningful fields in their canonical form. Who writes to
// the map of a header may spell them as he likes, and clients read them all the same: a
// "set-cookie" is no less of a secret. Other names stay as they are.
func plainNames(h http.Header) http.Header {
	copied := false
	for name, values := range h {
		canonical := http.CanonicalHeaderKey(name)
		if name == canonical || !meaningful[canonical] && !isControl(canonical) {
			continue
		}
		if !copied {
			h, copied = maps.Clone(h), true
		}
		delete(h, name)
		h[canonical] = append(h[canonical][:len(h[canonical]):len(h[canonical])], values...)
	}
	return h
}

// isControl reports whether a field may be one of RFC 9213, such as CDN-Cache-Control.
func isControl(canonical string) bool {
	const end = "-Control"
	return len(canonical) > len(end) && canonical[len(canonical)-len(end):] == end
}
