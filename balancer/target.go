package balancer

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// outboundURL sets x.url to the request's path and query behind the target's. It returns what is
// wrong with the request's target if servers could read it in another way than a check before them,
// else "".
func (x *exchange) outboundURL() (fault string) {
	in, target := x.in.URL, x.h.target
	if in.Opaque != "" {
		// RFC 9112, section 3.2 has no such form. "GET x:y HTTP/1.1" would go out as
		// "GET y HTTP/1.1", past the target's path.
		return "The request's target is malformed"
	}
	if !fitsRequestLine(in.RawQuery) {
		return "The request's target is malformed"
	}
	if !x.h.cfg.LenientQuery && !plainQuery(in.RawQuery) {
		return "The request's query is ambiguous"
	}
	x.url = url.URL{
		Scheme: target.Scheme, Host: target.Host,
		RawQuery: target.RawQuery, ForceQuery: in.ForceQuery,
	}
	if in.RawQuery != "" {
		if x.url.RawQuery != "" {
			x.url.RawQuery += "&"
		}
		x.url.RawQuery += in.RawQuery
	}
	path, raw := in.Path, in.RawPath
	switch {
	case path == "*" && x.in.Method == http.MethodOptions:
		// RFC 9110, section 9.3.7: it asks for the options of the server as a whole, which is the
		// target.
		x.url.Path, x.url.RawPath = target.Path, target.RawPath
		if target.Path == "" {
			x.url.Path = "*"
		}
		return ""
	case path != "" && path[0] != '/':
		return "The request's target is malformed"
	case mayHaveDots(path):
		if HiddenDots(in) {
			return "The request's path has hidden dot segments"
		}
		path, raw = resolveDots(in)
	}
	x.url.Path, x.url.RawPath = joinPaths(target, path, raw)
	return ""
}

// HiddenDots reports whether u's path has what some servers take for a dot segment although it is
// not spelt "." or "..": it is encoded, even more than once or as two bytes, it stands behind an
// encoded slash or a backslash, or it has parameters, a NUL or blanks behind it, which some cut
// off. Servers differ in it, so [Balancer.Handler] refuses such a path. Whoever chooses a route or
// a limit by the path, in front of a Handler, refuses it before that.
func HiddenDots(u *url.URL) bool {
	if !mayHaveDots(u.Path) {
		return false
	}
	for s := range strings.SplitSeq(u.EscapedPath(), "/") {
		if s != "." && s != ".." && hidesDots(s) {
			return true
		}
	}
	return false
}

// mayHaveDots reports whether a decoded path needs a closer look. It finds every spelling of a dot
// segment, and few others.
func mayHaveDots(path string) bool {
	for i := range len(path) {
		switch path[i] {
		case '%', '\\', 0xC0, 0xC1:
			return true
		case '.':
			if i == 0 {
				return true
			}
		case '/':
			if i+1 < len(path) && path[i+1] == '.' {
				return true
			}
		}
	}
	return false
}

// resolveDots returns u's path and its encoded form without dot segments (RFC 3986, section 5.2.4).
// Joined behind the target's path, they would lead out of it.
func resolveDots(u *url.URL) (path, raw string) {
	segments := strings.Split(u.EscapedPath()[1:], "/")
	kept, changed := segments[:0], false
	for i, s := range segments {
		if s != "." && s != ".." {
			kept = append(kept, s)
			continue
		}
		changed = true
		if s == ".." && len(kept) > 0 {
			kept = kept[:len(kept)-1]
		}
		if i == len(segments)-1 {
			kept = append(kept, "")
		}
	}
	if !changed {
		return u.Path, u.RawPath
	}
	raw = "/" + strings.Join(kept, "/")
	path, _ = url.PathUnescape(raw) // it is part of what has been encoded well
	return path, raw
}

// mostEncoded is how often a segment may be encoded on top of itself.
const mostEncoded = 4

// hidesDots is HiddenDots for one segment, which is encoded and no plain dot segment.
func hidesDots(segment string) bool {
	if !strings.ContainsAny(segment, "%;\\") {
		return false
	}
	for range mostEncoded + 1 {
		for part := range strings.FieldsFuncSeq(segment, func(r rune) bool { return r == '/' || r == '\\' }) {
			if i := strings.IndexAny(part, ";\x00"); i >= 0 {
				part = part[:i]
			}
			part = strings.TrimRight(part, " \t\r\n")
			if part == "." || part == ".." {
				return true
			}
		}
		plain := decodeOnce(segment)
		if plain == segment {
			return false
		}
		segment = plain
	}
	return true // nobody needs so many
}

var overlong = strings.NewReplacer("\xc0\xae", ".", "\xc0\xaf", "/", "\xc1\x9c", "\\")

// decodeOnce decodes what is percent-encoded in s, and leaves alone what encodes nothing.
func decodeOnce(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return overlong.Replace(s)
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(c))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return overlong.Replace(string(b))
}

// joinPaths puts a path and its encoded form, "" for the usual one, behind the target's path, with
// one slash between them.
func joinPaths(target *url.URL, path, raw string) (joined, joinedRaw string) {
	if target.RawPath == "" && raw == "" {
		return joinSlash(target.Path, path), ""
	}
	encoded := url.URL{Path: path, RawPath: raw}
	return joinSlash(target.Path, path), joinSlash(target.EscapedPath(), encoded.EscapedPath())
}

func joinSlash(a, b string) string {
	switch before, after := strings.HasSuffix(a, "/"), strings.HasPrefix(b, "/"); {
	case before && after:
		return a + b[1:]
	case !before && !after:
		return a + "/" + b
	}
	return a + b
}

// fitsRequestLine reports whether q can stand in the request line of HTTP/1.1 (RFC 9112, section
// 3.2): there a blank ends the target, and a fragment has no place. HTTP/2 does not keep clients
// from them.
func fitsRequestLine(q string) bool {
	for i := range len(q) {
		if c := q[i]; c <= ' ' || c == '#' || c == 0x7f {
			return false
		}
	}
	return true
}

// mostParameters is how many parameters of a query net/url reads.
const mostParameters = 10_000

// plainQuery reports whether every server that reads parameters finds the same ones as net/url:
// some split at semicolons, and take what cannot be decoded as it is.
func plainQuery(q string) bool {
	parameters := 1
	for i := 0; i < len(q); i++ {
		switch q[i] {
		case ';':
			return false
		case '&':
			if parameters++; parameters > mostParameters {
				return false
			}
		case '%':
			if i+2 >= len(q) || !isHex(q[i+1]) || !isHex(q[i+2]) {
				return false
			}
		}
	}
	return true
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }
