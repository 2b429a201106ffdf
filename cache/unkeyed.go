package cache

import (
	"encoding/binary"
	"net/textproto"
	"slices"
	"strings"
)

// maxUnkeyed is the most unkeyed fields that a key takes in. Requests with more pass.
const maxUnkeyed = 16

// unkeyed are the names of a request's unkeyed fields.
type unkeyed struct {
	names [maxUnkeyed]string
	n     int
}

// add adds name, and returns what that tells of the request.
func (u *unkeyed) add(name string) fieldSet {
	if u.n == maxUnkeyed {
		return hasUnkeyed | hasManyUnkeyed
	}
	u.names[u.n] = name
	u.n++
	return hasUnkeyed
}

// isUnkeyed reports whether many handlers read the field name as if it were part of the URL (C01,
// C02) or of the method (C09), or take it for one that they read so: CGI cannot tell underscores
// from hyphens, and some servers tell no sign from another. X-Forwarded-For, which tells one client
// from another, is none of them.
func isUnkeyed(name string) bool {
	const family, longest = "x-forwarded-", len("x-http-method-override")
	var buf [longest]byte
	plain := buf[:copy(buf[:], name)]
	for i, c := range plain {
		switch {
		case 'A' <= c && c <= 'Z':
			plain[i] = c | 0x20
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		default:
			plain[i] = '-'
		}
	}
	if len(plain) >= len(family) && string(plain[:len(family)]) == family {
		return string(plain[len(family):]) != "for"
	}
	if len(name) > longest {
		return false
	}
	switch string(plain) {
	case "forwarded", "x-forwarded", "x-host", "x-original-host", "x-original-url", "x-rewrite-url",
		"x-url-scheme", "front-end-https", "x-http-method-override", "x-http-method",
		"x-method-override",
		"proxy": // CGI turns it into the variable HTTP_PROXY
		return true
	}
	return false
}

// appendUnkeyed appends the unkeyed fields. A name cannot be taken for a value: both have lengths.
func (x *exchange) appendUnkeyed(b []byte) []byte {
	names := x.unkeyed.names[:x.unkeyed.n]
	slices.Sort(names)
	for _, name := range names {
		b = append(b, 'u')
		b = appendPart(b, name)
		values := x.r.Header[name]
		if name == "Forwarded" {
			b = appendPart(b, withoutPeers(values))
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(values)))
		for _, v := range values {
			b = appendPart(b, v)
		}
	}
	return b
}

// withoutPeers returns the parameters of a Forwarded field (RFC 7239) without those that tell one
// client or proxy from another. Elements without others count: a handler may read the last one.
func withoutPeers(values []string) string {
	var list []string
	for _, v := range values {
		for _, element := range splitList(v, ',') {
			var rest []string
			for _, pair := range splitList(element, ';') {
				if !isPeer(pair) {
					rest = append(rest, pair)
				}
			}
			list = append(list, strings.Join(rest, ";"))
		}
	}
	return strings.Join(list, ",")
}

// isPeer reports whether a parameter of Forwarded names a client or a proxy, and cannot be read as
// anything else: some parsers look for semicolons and commas before they look for quotes.
func isPeer(pair string) bool {
	name, node, _ := strings.Cut(pair, "=")
	if name = textproto.TrimString(name); !strings.EqualFold(name, "for") && !strings.EqualFold(name, "by") {
		return false
	}
	node = textproto.TrimString(node)
	if quoted, ok := strings.CutPrefix(node, `"`); ok {
		if node, ok = strings.CutSuffix(quoted, `"`); !ok {
			return false
		}
	}
	return strings.IndexFunc(node, notOfNode) < 0
}

// notOfNode reports whether r is in no address, port or identifier (RFC 7239, section 6).
func notOfNode(r rune) bool {
	return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') &&
		!strings.ContainsRune(".:[]_-", r)
}
