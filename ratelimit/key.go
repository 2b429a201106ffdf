package ratelimit

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// ByHeader keys requests by the value of the named field, the first if there are several, without
// surrounding white space. The key is half of the value's SHA-256: values are often secrets, and
// of any length. "Host" means the request's host in lower case, without port and final dot. Of "Authorization"
// the scheme is taken in lower case, and one space after it.
//
// A client is free to send another value each time. Where it is a credential, use ByHeader inside the
// middleware that checks it.
func ByHeader(name string) func(*http.Request) (key string, ok bool) {
	name = http.CanonicalHeaderKey(name)
	if name == "Host" {
		return func(r *http.Request) (string, bool) {
			host := canonicalHost(r.Host)
			return hashed(host), host != ""
		}
	}
	scheme := name == "Authorization" || name == "Proxy-Authorization"
	return func(r *http.Request) (string, bool) {
		values := r.Header[name]
		if len(values) == 0 {
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

// canonicalCredentials makes one of the ways to write credentials: the scheme has no case, and
// may be followed by several spaces (RFC 9110, section 11.4).
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

func canonicalHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// ByPattern keys requests by the pattern that mux matches them with, not by the path, of which
// a client can make up as many as it likes. If mux is nil, it is [http.Request.Pattern], which is
// set inside a ServeMux. A request that matches no pattern has no key.
func ByPattern(mux *http.ServeMux) func(*http.Request) (key string, ok bool) {
	return func(r *http.Request) (string, bool) {
		pattern := r.Pattern
		if mux != nil {
			_, pattern = mux.Handler(r)
		}
		return pattern, pattern != ""
	}
}

// Join makes one key of several, each preceded by its length, so that no two lists of
// parts make the same key. A request that lacks a part has no key. It panics if one of keys is nil.
func Join(keys ...func(*http.Request) (key string, ok bool)) func(*http.Request) (key string, ok bool) {
	keys = slices.Clone(keys)
	if slices.ContainsFunc(keys, func(key func(*http.Request) (string, bool)) bool { return key == nil }) {
		panic("ratelimit: Join: a key is nil")
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

// ByIP keys requests by the address of the client: the peer's, unless that is one of the trusted proxies, then
// the right-most address of X-Forwarded-For that is not. IPv6 addresses count by their /64, which is what
// one client has. Trust only proxies that append to the field. An invalid prefix trusts nobody; [NewIPKey]
// has an error for it, and other choices.
func ByIP(trusted ...netip.Prefix) func(*http.Request) (key string, ok bool) {
	key, err := NewIPKey(IPConfig{Trusted: trusted})
	if err != nil { // an invalid prefix: it trusts nobody
		valid := make([]netip.Prefix, 0, len(trusted))
		for _, p := range trusted {
			if p.IsValid() {
				valid = append(valid, p)
			}
		}
		key, _ = NewIPKey(IPConfig{Trusted: valid})
	}
	return key
}
