package origin

import (
	"net/http"
	"net/netip"
	"strings"
)

// What is read of a forwarding field. The work must be bounded, since a stranger can write what
// stands left of the proxies' own entries.
const (
	maxHops  = 32   // entries, empty ones too, and one more for each line
	maxBytes = 4096 // of all lines together
	maxHop   = 64   // bytes of an entry: a longer one is no address
)

// room is what the entry of one more proxy takes: the longest address, and a comma and a space.
const room = 48

// Client returns the client's address: that of peer if it is not trusted, else the right-most one
// in field (a canonical name) that is no trusted proxy's. What stands left of that is hearsay. If
// an entry is not an address, or field is longer than what is read of it, the last trusted hop
// stands for the client. The zero Addr means that there is no address.
//
// Forwarded is read by RFC 7239, every other field as a list of addresses.
func (p *Proxies) Client(peer Peer, h http.Header, field string) netip.Addr {
	if !peer.Trusted {
		return peer.Addr
	}
	w := walk{proxies: p, client: peer.Addr, forwarded: field == "Forwarded"}
	w.lines(h[field])
	return w.client
}

// ForwardedFor returns the X-Forwarded-For that a proxy sends on, "" for none: what peer says if it
// is trusted, and peer's own address behind it. A server that trusts this proxy and those that this
// proxy trusts reads the client in it that Client returns; so a chain near the bounds of what is
// read is shortened to the client and the peer.
func (p *Proxies) ForwardedFor(peer Peer, h http.Header) string {
	lines := h["X-Forwarded-For"]
	if !peer.Trusted || len(lines) == 0 {
		return peer.Text()
	}
	w := walk{proxies: p, client: peer.Addr}
	w.lines(lines)
	switch {
	case !w.client.IsValid():
		return ""
	case !w.cut && w.hops < maxHops && w.bytes <= maxBytes-room*(len(lines)+1):
		if chain := strings.Join(lines, ", "); !peer.Addr.IsValid() {
			return chain
		} else if chain != "" {
			return chain + ", " + peer.Text()
		}
		return peer.Text()
	case w.client == peer.Addr || !peer.Addr.IsValid():
		return w.client.String()
	}
	return w.client.String() + ", " + peer.Text()
}

// A walk goes through a forwarding field from its right end.
type walk struct {
	proxies   *Proxies
	forwarded bool // the field is RFC 7239's

	client netip.Addr // the last hop that was read
	hops   int        // that were read, as maxHops counts them
	bytes  int        // that were read
	cut    bool       // a bound ended the walk
}

func (w *walk) lines(lines []string) {
	for i := len(lines) - 1; i >= 0; i-- {
		if w.hops++; w.hops > maxHops { // many empty lines are as much work as many entries
			w.cut = true
			return
		}
		if !w.line(lines[i]) {
			return
		}
	}
}

// line goes through one line and reports whether the walk goes on to the one before it.
func (w *walk) line(line string) bool {
	left := maxBytes - w.bytes
	whole := len(line) <= left
	if w.forwarded && (!whole || !balanced(line)) {
		w.cut = !whole
		return false // quotes cannot be paired from the right
	}
	line = line[max(0, len(line)-left):]
	for more := line != ""; more; {
		var entry string
		before := len(line)
		line, entry, more = w.lastEntry(line)
		if !more && !whole {
			w.cut = true // the entry's beginning is out of reach
			return false
		}
		w.bytes += before - len(line)
		if w.hops++; w.hops > maxHops {
			w.cut = true
			return false
		}
		if entry == "" {
			continue // RFC 9110, section 5.6.1: empty elements do not count
		}
		if w.forwarded {
			entry = forwardedFor(entry)
		}
		if len(entry) > maxHop {
			return false
		}
		hop, _, _, ok := parse(entry)
		if !ok {
			return false
		}
		w.client = hop
		if !w.proxies.trusts(hop) {
			return false
		}
	}
	return true
}

// lastEntry splits the last entry off list. more is false if it was the first one too.
func (w *walk) lastEntry(list string) (rest, entry string, more bool) {
	quoted := false
	for i := len(list) - 1; i >= 0; i-- {
		switch list[i] {
		case '"':
			quoted = !quoted && w.forwarded
		case ',':
			if !quoted {
				return list[:i], trim(list[i+1:]), true
			}
		}
	}
	return "", trim(list), false
}

// balanced reports whether line's quotes are paired and none is escaped, so that they can be paired
// from the right as well: an address needs no escapes.
func balanced(line string) bool {
	return strings.Count(line, `"`)%2 == 0 && strings.IndexByte(line, '\\') < 0
}

// forwardedFor returns the for parameter of a Forwarded element (RFC 7239, section 4), or "" if
// there is none or more than one.
func forwardedFor(element string) string {
	value := ""
	for element != "" {
		end, quoted := len(element), false
		for i := range len(element) {
			if element[i] == '"' {
				quoted = !quoted
			} else if element[i] == ';' && !quoted {
				end = i
				break
			}
		}
		pair := element[:end]
		element = element[min(end+1, len(element)):]
		name, v, ok := strings.Cut(trim(pair), "=")
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
