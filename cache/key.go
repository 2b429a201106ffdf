package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"net/url"
	"strings"
)

// The key of a resource is the hash of its echo: all that tells it from others, each part preceded
// by its length, so that no part can be taken for another.
//
// RFC 9111, section 2: the key is at least the method and the target URI. GET and HEAD share one.

func appendPart(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// appendEcho appends to b what tells the resource of x from others, up to the query.
func (x *exchange) appendEcho(b []byte) []byte {
	kind := byte('g')
	if x.r.Method == methodQuery {
		kind = 'q'
	}
	if x.c.cfg.Private {
		kind -= 'a' - 'A'
	}
	b = append(b, kind)
	scheme, host := x.origin()
	b = appendPart(b, scheme)
	b = appendHost(b, scheme, host)
	u := x.r.URL
	path := u.Path
	if path == "" {
		path = "/" // RFC 9110, section 4.2.3
	}
	b = appendPart(b, path)
	b = appendPart(b, u.RawPath)
	if x.c.cfg.KeyExtra != nil {
		if extra, ok := x.c.cfg.KeyExtra(x.r); ok {
			b = append(b, 'x')
			b = appendPart(b, extra)
		}
	}
	if x.unkeyed.n > 0 && x.c.cfg.Unkeyed == UnkeyedKey {
		b = x.appendUnkeyed(b)
	}
	if kind|0x20 == 'q' {
		b = x.appendBody(b)
	}
	return b
}

// origin returns the scheme and the host that the request is for.
func (x *exchange) origin() (scheme, host string) {
	if !x.server {
		host = x.r.Host
		if host == "" {
			host = x.r.URL.Host
		}
		return x.r.URL.Scheme, host
	}
	if x.r.TLS != nil {
		return "https", x.r.Host
	}
	return "http", x.r.Host
}

// appendHost appends host in lower case and without the scheme's default port. That is all that may
// be changed: a handler can tell other spellings apart (RFC 3986, section 6.2).
func appendHost(b []byte, scheme, host string) []byte {
	host = withoutPort(host, scheme == "http", scheme == "https")
	b = binary.AppendUvarint(b, uint64(len(host)))
	return appendLower(b, host)
}

func appendLower(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

func withoutPort(host string, http, https bool) string {
	if http && strings.HasSuffix(host, ":80") {
		return host[:len(host)-len(":80")]
	}
	if https && strings.HasSuffix(host, ":443") {
		return host[:len(host)-len(":443")]
	}
	return host
}

// appendBody appends what RFC 10008, section 2.7, adds to the key of a QUERY: its content and the
// fields that say what it means.
func (x *exchange) appendBody(b []byte) []byte {
	b = append(b, 'b')
	for _, name := range [...]string{"Content-Type", "Content-Encoding", "Content-Language"} {
		b = appendPart(b, strings.Join(x.r.Header[name], ","))
	}
	sum := sha256.Sum256(x.body)
	return append(b, sum[:]...)
}

// appendQuery appends the query as it is, without what the configuration ignores.
func (x *exchange) appendQuery(b []byte) []byte {
	query := x.query()
	if query == "" && !x.r.URL.ForceQuery {
		return append(b, 'n')
	}
	b = append(b, '?')
	return appendPart(b, query)
}

// query returns the request's query without the parameters that Config.IgnoreQuery names.
func (x *exchange) query() string { return x.c.withoutIgnored(x.r.URL.RawQuery) }

func (c *Cache) withoutIgnored(query string) string {
	if query == "" || len(c.cfg.IgnoreQuery) == 0 {
		return query
	}
	kept := make([]string, 0, 8)
	for pair := range strings.SplitSeq(query, "&") {
		// Some servers begin a parameter behind a semicolon too.
		if name, _, _ := strings.Cut(pair, "="); strings.Contains(pair, ";") || !c.ignores(name) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

// ignores reports whether Config.IgnoreQuery names a parameter, which is still encoded.
func (c *Cache) ignores(name string) bool {
	if decoded, err := url.QueryUnescape(name); err == nil {
		name = decoded
	}
	for _, pattern := range c.cfg.IgnoreQuery {
		if begin, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(name, begin) ||
			name == pattern {
			return true
		}
	}
	return false
}

// The labels of an entry are what purges by URL, tag and group find it by. Their first letter keeps
// them apart.

func urlLabel(plain string) string       { return short("u" + plain) }
func tagLabel(tag string) string         { return short("t" + tag) }
func groupLabel(h, g string) string      { return short("g" + h + "\x00" + g) }
func ruleLabel(p, rule, q string) string { return short("r" + p + "\x00" + rule + "\x00" + q) }

// maxLabel bounds labels: stores remember those that were purged.
const maxLabel = 256

func short(label string) string {
	if len(label) <= maxLabel {
		return label
	}
	sum := sha256.Sum256([]byte(label))
	return label[:1] + "#" + string(sum[:])
}

// plainHost returns a host in lower case and without a default port of either scheme: a purge does
// not depend on whether a proxy before us has taken off TLS.
func plainHost(_, host string) string { return strings.ToLower(withoutPort(host, true, true)) }

// plainURL returns what purges know a URL by.
func plainURL(scheme, host, path, query string) string {
	if path == "" {
		path = "/"
	}
	s := "//" + plainHost(scheme, host) + plainEscapes(path)
	if query != "" {
		s += "?" + plainEscapes(query)
	}
	return s
}

// plainEscapes returns s with escapes in one form: none for unreserved characters, and digits in
// upper case (RFC 3986, section 6.2.2). Keys tell these spellings apart, since a handler can; a
// purge of one of them is one of all.
func plainEscapes(s string) string {
	at := strings.IndexByte(s, '%')
	if at < 0 {
		return s
	}
	b := make([]byte, at, len(s))
	copy(b, s)
	for i := at; i < len(s); i++ {
		if s[i] != '%' || i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
			b = append(b, s[i])
			continue
		}
		c := unhex(s[i+1])<<4 | unhex(s[i+2])
		if unreserved(c) {
			b = append(b, c)
		} else {
			const digits = "0123456789ABCDEF"
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
		i += 2
	}
	return string(b)
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("-._~", c) >= 0
}

// urlLabels returns the labels that responses for u may be found by.
func (c *Cache) urlLabels(u *url.URL) []string {
	query := c.withoutIgnored(u.RawQuery)
	labels := []string{urlLabel(plainURL(u.Scheme, u.Host, u.EscapedPath(), query))}
	plain := plainURL(u.Scheme, u.Host, u.EscapedPath(), "")
	for _, rule := range c.rulesOf(plain) {
		labels = append(labels, ruleLabel(plain, rule.text, rule.apply(query)))
	}
	return labels
}

// methodQuery is RFC 10008's, which net/http has no constant for.
const methodQuery = "QUERY"

func hashOf(echo []byte) Key { return sha256.Sum256(echo) }
