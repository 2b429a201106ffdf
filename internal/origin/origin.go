// Package origin says whose request it is: the peer on the connection, the client behind the
// proxies that are trusted, and the host and scheme that the client asked for. Packages that count,
// log and forward by client share it, so that they name the same one.
package origin

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/trivet-go/trivet/internal/settings"
)

// Proxies are the peers whose forwarding fields are believed. The zero Proxies believes nobody. It
// is safe for concurrent use.
type Proxies struct {
	prefixes []netip.Prefix // masked, and none an IPv4 prefix in IPv6 form
	unix     bool
}

// NewProxies returns the peers in prefixes and, with unix, all peers of unix sockets. It adds a
// fault of the field TrustedProxies to f for each prefix that it cannot use. An IPv4 prefix in IPv6
// form means its IPv4 form.
func NewProxies(f *settings.Faults, prefixes []netip.Prefix, unix bool) Proxies {
	p := Proxies{unix: unix}
	for i, prefix := range prefixes {
		field := "TrustedProxies[" + strconv.Itoa(i) + "]"
		switch {
		case !prefix.IsValid():
			f.Add(field, "is not a prefix")
			continue
		case prefix.Addr().Is4In6() && prefix.Bits() < 96:
			f.Add(field, "%v is an IPv4 address with fewer than 96 bits", prefix)
			continue
		case prefix.Addr().Is4In6():
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		p.prefixes = append(p.prefixes, prefix.Masked())
	}
	return p
}

// trusts reports whether addr, as parse returns it, is a trusted proxy's.
func (p *Proxies) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(p.prefixes, func(q netip.Prefix) bool { return q.Contains(addr) })
}

// A Peer is the other end of the connection that a request came over.
type Peer struct {
	Addr    netip.Addr // unmapped and without zone; the zero Addr if there is none, or none that can be read
	Port    string     // as written; "" if there is none
	Unix    bool       // the connection is a unix socket's
	Trusted bool       // what its forwarding fields say is believed

	text string // Addr in words, if r.RemoteAddr holds it
}

// Peer reads r.RemoteAddr.
func (p *Proxies) Peer(r *http.Request) Peer {
	addr, text, port, ok := parse(r.RemoteAddr)
	if !ok {
		unix := isUnix(r.RemoteAddr)
		return Peer{Unix: unix, Trusted: unix && p.unix}
	}
	return Peer{Addr: addr, Port: port, Trusted: len(p.prefixes) > 0 && p.trusts(addr), text: text}
}

// isUnix reports whether a RemoteAddr without an IP address is that of a unix socket: net calls a
// socket without a name "@" or "", one in the abstract namespace "@name", and others by their path.
func isUnix(remoteAddr string) bool {
	return remoteAddr == "" || remoteAddr[0] == '@' || strings.IndexByte(remoteAddr, '/') >= 0
}

// Text returns Addr in words, or "" if there is none. It allocates nothing for an IPv4 address.
func (p Peer) Text() string {
	switch {
	case p.text != "":
		return p.text
	case p.Addr.IsValid():
		return p.Addr.String()
	}
	return ""
}

// Host returns the host, and perhaps port, that the client asked for: r.Host, unless peer is
// trusted and says otherwise in X-Forwarded-Host. Of several values the last counts: the others
// are what the proxy was told.
func (p Peer) Host(r *http.Request) string {
	if p.Trusted {
		if host := lastValue(r.Header["X-Forwarded-Host"]); host != "" {
			return host
		}
	}
	return r.Host
}

// HTTPS reports whether the client spoke HTTPS: to us, unless peer is trusted and says what the
// client spoke to it in X-Forwarded-Proto.
func (p Peer) HTTPS(r *http.Request) bool {
	if p.Trusted {
		if scheme := lastValue(r.Header["X-Forwarded-Proto"]); scheme != "" {
			return strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "wss")
		}
	}
	return r.TLS != nil
}

func lastValue(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	last := lines[len(lines)-1]
	return trim(last[strings.LastIndexByte(last, ',')+1:])
}

// SplitHost splits a host from its port, "" if there is none, and takes the brackets off an IPv6
// address. It judges neither and allocates nothing.
func SplitHost(hostport string) (host, port string) {
	host = hostport
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && strings.IndexByte(hostport[i:], ']') < 0 {
		host, port = hostport[:i], hostport[i+1:]
	}
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	return host, port
}

// parse reads an IP address with or without port, brackets and zone. It returns it unmapped and
// without zone: netip.Prefix contains no other. text is how s spells it, if that is the only way.
func parse(s string) (addr netip.Addr, text, port string, ok bool) {
	// netip's detours take a sixth of the time of a request that is only counted.
	if addr, n := parseIPv4(s); n > 0 {
		if n == len(s) {
			return addr, s, "", true
		}
		if s[n] == ':' && isPort(s[n+1:]) {
			return addr, s[:n], s[n+1:], true
		}
		return netip.Addr{}, "", "", false
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		var host string
		host, port = SplitHost(s)
		bracketed := len(s) > 0 && s[0] == '['
		addr, err = netip.ParseAddr(host)
		closed := port == "" && s[max(0, len(s)-1):] == "]" || isPort(port)
		if err != nil || !bracketed || !closed || !addr.Is6() {
			return netip.Addr{}, "", "", false
		}
	}
	return addr.Unmap().WithZone(""), "", port, true
}

// parseIPv4 reads the IPv4 address at the start of s and returns its length, or 0 if there is none.
// It accepts what netip accepts, which is one spelling of each address.
func parseIPv4(s string) (addr netip.Addr, length int) {
	var octets [4]byte
	field, digits, value := 0, 0, 0
	i := 0
	for ; i < len(s); i++ {
		c := s[i]
		if '0' <= c && c <= '9' {
			if digits++; digits > 1 && value == 0 {
				return netip.Addr{}, 0 // leading zeros are octal to some
			}
			if value = value*10 + int(c-'0'); value > 255 {
				return netip.Addr{}, 0
			}
			continue
		}
		if c != '.' || field == 3 {
			break
		}
		if digits == 0 {
			return netip.Addr{}, 0
		}
		octets[field] = byte(value)
		field, digits, value = field+1, 0, 0
	}
	if field != 3 || digits == 0 {
		return netip.Addr{}, 0
	}
	octets[3] = byte(value)
	return netip.AddrFrom4(octets), i
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

func trim(s string) string { return strings.Trim(s, " \t") }
