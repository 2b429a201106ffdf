package ratelimit

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

const (
	defaultIPv6Bits = 64
	maxHops         = 32   // entries of the source header that are looked at
	maxHopBytes     = 4096 // and bytes of each of its lines
)

// IPConfig configures [NewIPKey]. The zero IPConfig is valid: it trusts no proxy.
type IPConfig struct {
	// Trusted are the addresses of the proxies in front of this server. Empty means that
	// there are none, and Header is never looked at.
	Trusted []netip.Prefix

	// Header is the one field in which the trusted proxies say whom they serve, each appending. Empty means
	// X-Forwarded-For. "Forwarded" is read by RFC 7239; any other as a list of addresses.
	Header string

	// IPv6Bits is how much of an IPv6 address makes a key, 32 to 128. Zero means 64.
	IPv6Bits int
}

// NewIPKey returns a Key of the client's address. The error, if any, names every invalid field of cfg.
//
// From the peer on it walks the header from its right end, over the hops that are trusted, to the first that
// is not: that is the client, and what stands left of it is hearsay. If an entry is not an address, or
// after 32 entries, the last trusted hop stands for the client.
func NewIPKey(cfg IPConfig) (func(*http.Request) (key string, ok bool), error) {
	var errs []error
	a := &addresses{header: http.CanonicalHeaderKey(cfg.Header), bits: cfg.IPv6Bits}
	if cfg.Header == "" {
		a.header = "X-Forwarded-For"
	}
	a.forwarded = a.header == "Forwarded"
	if a.bits == 0 {
		a.bits = defaultIPv6Bits
	}
	if a.bits < 32 || a.bits > 128 {
		errs = append(errs, fmt.Errorf("ratelimit: IPConfig.IPv6Bits: %d is not between 32 and 128", a.bits))
	}
	for i, p := range cfg.Trusted {
		if !p.IsValid() {
			errs = append(errs, fmt.Errorf("ratelimit: IPConfig.Trusted[%d]: is not a prefix", i))
			continue
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		a.trusted = append(a.trusted, p.Masked())
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return a.key, nil
}

// addresses finds clients' addresses.
type addresses struct {
	trusted   []netip.Prefix
	header    string
	forwarded bool
	bits      int
}

func (a *addresses) key(r *http.Request) (string, bool) {
	if text, ok := ipv4Text(r.RemoteAddr); ok && len(a.trusted) == 0 {
		return text, true // netip accepts only one way to write an IPv4 address, and so do we: the text is the key
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "", false // a Unix socket, or another middleware's idea of an address
	}
	addr := canonicalAddr(peer.Addr())
	if a.trusts(addr) {
		addr = a.walk(addr, r.Header[a.header])
	} else if peer.Addr().Is4() {
		return r.RemoteAddr[:strings.LastIndexByte(r.RemoteAddr, ':')], true
	}
	if addr.Is4() {
		return addr.String(), true
	}
	prefix, err := addr.Prefix(a.bits)
	if err != nil {
		return "", false
	}
	return prefix.Addr().String(), true
}

// ipv4Text splits "a.b.c.d:port" without the detours of netip, which take a sixth of a request's time. What it does
// not accept may still be an address.
func ipv4Text(s string) (addr string, ok bool) {
	fields, digits, value := 0, 0, 0
	for i := range len(s) {
		c := s[i]
		switch {
		case '0' <= c && c <= '9':
			if digits++; digits > 1 && value == 0 {
				return "", false // leading zeros are octal to some
			}
			if value = value*10 + int(c-'0'); value > 255 {
				return "", false
			}
		case digits == 0:
			return "", false
		case c == '.' && fields < 3:
			fields, digits, value = fields+1, 0, 0
		case c == ':' && fields == 3:
			return s[:i], isPort(s[i+1:])
		default:
			return "", false
		}
	}
	return "", false
}

func isPort(s string) bool {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || i == 5 {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return s != "" && n < 1<<16
}

func (a *addresses) trusts(addr netip.Addr) bool {
	for _, p := range a.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// canonicalAddr makes one of the ways to write an address: netip.Prefix contains neither
// mapped nor zoned ones.
func canonicalAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// walk returns the first hop from the right of lines that is not trusted, or the last
// trusted one if there is none that can be read.
func (a *addresses) walk(last netip.Addr, lines []string) netip.Addr {
	hops := 0
	for i := len(lines) - 1; i >= 0; i-- {
		line := lines[i]
		if len(line) > maxHopBytes && a.forwarded {
			return last // quotes make sense only from the start
		}
		line = line[max(0, len(line)-maxHopBytes):]
		if a.forwarded && !balanced(line) {
			return last
		}
		for rest, entry := line, ""; rest != ""; {
			rest, entry = a.lastEntry(rest)
			if hops++; hops > maxHops {
				return last
			}
			if entry == "" {
				continue // RFC 9110, section 5.6.1: empty elements do not count
			}
			if a.forwarded {
				entry = forwardedFor(entry)
			}
			hop, ok := parseHop(entry)
			if !ok {
				return last
			}
			last = hop
			if !a.trusts(hop) {
				return last
			}
		}
		if hops++; hops > maxHops { // many lines are as much work as many entries
			return last
		}
	}
	return last
}

// lastEntry splits the last entry off list.
func (a *addresses) lastEntry(list string) (rest, entry string) {
	quoted := false
	for i := len(list) - 1; i >= 0; i-- {
		switch list[i] {
		case '"':
			quoted = !quoted && a.forwarded
		case ',':
			if !quoted {
				return list[:i], strings.Trim(list[i+1:], " \t")
			}
		}
	}
	return "", strings.Trim(list, " \t")
}

// balanced reports whether line's quotes are paired and none is escaped, so that they can be paired from
// the right as well: an address needs no escapes.
func balanced(line string) bool {
	return strings.Count(line, `"`)%2 == 0 && strings.IndexByte(line, '\\') < 0
}

// forwardedFor returns the for parameter of a Forwarded element (RFC 7239, section 4), or
// nothing if there is none or more than one.
func forwardedFor(element string) string {
	value := ""
	for element != "" {
		var pair string
		end := len(element)
		quoted := false
		for i := range len(element) {
			if element[i] == '"' {
				quoted = !quoted
			} else if element[i] == ';' && !quoted {
				end = i
				break
			}
		}
		pair, element = element[:end], element[min(end+1, len(element)):]
		name, v, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
		if !ok || !strings.EqualFold(name, "for") {
			continue
		}
		if value != "" {
			return ""
		}
		value = v
		if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
			value = v[1 : len(v)-1]
		}
	}
	return value
}

// parseHop reads an address with or without brackets, port and zone.
func parseHop(s string) (netip.Addr, bool) {
	if len(s) > 64 {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		if ap, err := netip.ParseAddrPort(s); err == nil {
			addr = ap.Addr()
		} else if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
			if addr, err = netip.ParseAddr(s[1 : len(s)-1]); err != nil || !addr.Is6() {
				return netip.Addr{}, false
			}
		} else {
			return netip.Addr{}, false
		}
	}
	return canonicalAddr(addr), true
}
