// Package grammar knows the parts of HTTP that are the same wherever they stand.
package grammar

import (
	"net/http"
	"strings"
)

// IsToken reports whether s is a token (RFC 9110, section 5.6.2), as names of fields and methods
// are.
func IsToken(s string) bool {
	for i := range len(s) {
		if !IsTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

// IsTokenByte reports whether c may stand in a token.
func IsTokenByte(c byte) bool { return tokenBytes[c] }

var tokenBytes = func() (table [256]bool) {
	for c := range table {
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		table[c] = alnum || c < 0x80 && strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return table
}()

// MediaType returns the media type of Content-Type in lower case and without parameters (RFC 9110,
// section 8.3.1), or "" if there is none.
func MediaType(h http.Header) string {
	ct := h["Content-Type"]
	if len(ct) == 0 {
		return ""
	}
	media, _, _ := strings.Cut(ct[0], ";")
	return strings.ToLower(strings.TrimSpace(media))
}
