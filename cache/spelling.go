package cache

import (
	"maps"
	"net/http"
	"slices"
)

// meaningful are the response fields that decide what is stored and how it may be used.
var meaningful = map[string]bool{
	"Age": true, "Cache-Control": true, "Cache-Group-Invalidation": true, "Cache-Groups": true,
	"Cache-Tag": true, "Connection": true, "Content-Encoding": true, "Content-Language": true,
	"Content-Length": true, "Content-Location": true, "Content-Range": true, "Content-Type": true,
	"Date": true, "Etag": true, "Expires": true, "Last-Modified": true, "Location": true,
	"No-Vary-Search": true, "Pragma": true, "Set-Cookie": true, "Surrogate-Key": true, "Trailer": true,
	"Vary": true,
}

// plainNames returns h with the names of meaningful fields in their canonical form. Who writes to
// the map of a header may spell them as he likes, and clients read them all the same: a
// "set-cookie" is no less of a secret. Other names stay as they are.
func plainNames(h http.Header) http.Header {
	copied := false
	for name, values := range h {
		plain, meant := plainName(name)
		if !meant {
			continue
		}
		if !copied {
			h, copied = maps.Clone(h), true
		}
		respell(h, name, plain, values)
	}
	return h
}

// plainName returns the canonical form of name, and whether that is another spelling of a
// meaningful field.
func plainName(name string) (plain string, meant bool) {
	if canonical(name) {
		return name, false
	}
	plain = http.CanonicalHeaderKey(name)
	return plain, plain != name && (meaningful[plain] || isControl(plain))
}

// respell moves values, which are under name, behind those that are under plain.
func respell(h http.Header, name, plain string, values []string) {
	delete(h, name)
	h[plain] = append(slices.Clip(h[plain]), values...)
}

// spellPlainly is plainNames in the map itself, which is the handler's.
func spellPlainly(h http.Header) {
	for name, values := range h {
		if plain, meant := plainName(name); meant {
			respell(h, name, plain, values)
		}
	}
}

// isControl reports whether a field may be one of RFC 9213, such as CDN-Cache-Control.
func isControl(canonical string) bool {
	const end = "-Control"
	return len(canonical) > len(end) && canonical[len(canonical)-len(end):] == end
}

// canonical reports whether name is spelled as net/http spells it and looks it up: a letter is a
// capital at the beginning and behind each hyphen, and nowhere else.
func canonical(name string) bool {
	first := true
	for i := range len(name) {
		c := name[i]
		if first && 'a' <= c && c <= 'z' || !first && 'A' <= c && c <= 'Z' {
			return false
		}
		first = c == '-'
	}
	return true
}
