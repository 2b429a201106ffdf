package ratelimit

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"slices"
	"strings"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/origin"
)

// A KeyFunc says whose request it is; ok is false if it has no key. It must be safe for concurrent
// use. [ByPeer] is one, and [ByIP], [ByHeader], [ByPattern] and [Join] make others.
type KeyFunc func(*http.Request) (key string, ok bool)

// ByHeader keys requests by the value of the named field, without surrounding white space. The key
// is half of the value's SHA-256: values are often secrets, and of any length. "Host" means the
// request's host in lower case, without port and final dot. Of "Authorization" the scheme is taken
// in lower case, and one space after it. If name cannot be the name of a field, because it is empty
// or has a space in it, the result is nil, which [New] refuses like any missing Key.
//
// A request with several values has no key, also if all but one are empty: a server behind might
// take another one than is counted here. Nor is a field counted that is spelt X_Api_Key, which such
// a server may take for X-Api-Key. [Unambiguous] sees to both.
//
// A client is free to send another value each time. Where the value is a credential, use ByHeader
// inside the middleware that checks it.
func ByHeader(name string) KeyFunc {
	if !grammar.IsToken(name) {
		return nil
	}
	name = http.CanonicalHeaderKey(name)
	if name == "Host" {
		return func(r *http.Request) (string, bool) {
			host, _ := origin.SplitHost(r.Host)
			host = strings.ToLower(strings.TrimSuffix(host, "."))
			return hashed(host), host != ""
		}
	}
	scheme := name == "Authorization" || name == "Proxy-Authorization"
	return func(r *http.Request) (string, bool) {
		values := r.Header[name]
		if len(values) != 1 {
			return "", false
		}
		value := strings.Trim(values[0], " \t")
		if value == "" {
			return "", false
		}
		if scheme {
			value = canonicalCredentials(value)
		}
		return hashed(value), true
	}
}

// canonicalCredentials makes one of the ways to write credentials: the scheme has no case, and may
// be followed by several spaces (RFC 9110, section 11.4).
func canonicalCredentials(value string) string {
	if i := strings.IndexAny(value, " \t"); i >= 0 {
		return strings.ToLower(value[:i]) + " " + strings.TrimLeft(value[i:], " \t")
	}
	return value
}

func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return string(sum[:16])
}

// ByPattern keys requests by the pattern that mux matches them with, not by the path, of which a
// client can make up as many as it likes. If mux is nil, the key is [http.Request].Pattern, which
// is set inside a ServeMux. A request that matches no pattern has no key.
func ByPattern(mux *http.ServeMux) KeyFunc {
	return func(r *http.Request) (string, bool) {
		pattern := r.Pattern
		if mux != nil {
			_, pattern = mux.Handler(r)
		}
		return pattern, pattern != ""
	}
}

// Join makes one key of several, each preceded by its length, so that no two lists of parts make
// the same key. A request that lacks a part has no key. If one of keys is nil, so is the result,
// which [New] refuses like any missing Key.
func Join(keys ...KeyFunc) KeyFunc {
	keys = slices.Clone(keys)
	if slices.ContainsFunc(keys, func(key KeyFunc) bool { return key == nil }) {
		return nil
	}
	return func(r *http.Request) (string, bool) {
		var buf [128]byte
		joined := buf[:0]
		for _, key := range keys {
			part, ok := key(r)
			if !ok || part == "" {
				return "", false
			}
			joined = binary.AppendUvarint(joined, uint64(len(part)))
			joined = append(joined, part...)
		}
		return string(joined), len(joined) > 0
	}
}
