package telemetry

import (
	"net/http"
	"net/netip"
	"strings"
)

// maxHops is how far back X-Forwarded-For is read: each hop costs a parse.
const maxHops = 32

// trusted reports whether addr is one of [Config.TrustedProxies].
func (t *Telemetry) trusted(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range t.cfg.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// peerTrusted reports whether peer, the address that r came from, is a trusted proxy.
func (t *Telemetry) peerTrusted(peer string) bool {
	if len(t.cfg.TrustedProxies) == 0 {
		return false
	}
	addr, err := netip.ParseAddr(peer)
	return err == nil && t.trusted(addr)
}

// clientAddress returns the right-most address that is no trusted proxy: each proxy appends the
// address of its own peer, so what is left of the first stranger is what that stranger says.
func (t *Telemetry) clientAddress(r *http.Request, peer string) string {
	if !t.peerTrusted(peer) {
		return peer
	}
	client := peer
	hops := 0
	fields := r.Header["X-Forwarded-For"]
	for i := len(fields) - 1; i >= 0; i-- {
		for list := fields[i]; list != ""; hops++ {
			if hops == maxHops {
				return client
			}
			hop := list
			if c := strings.LastIndexByte(list, ','); c >= 0 {
				list, hop = list[:c], list[c+1:]
			} else {
				list = ""
			}
			addr, ok := parseHop(hop)
			if !ok {
				return client // a trusted proxy said something that we do not understand
			}
			client = addr.String()
			if !t.trusted(addr) {
				return client
			}
		}
	}
	return client
}

// parseHop parses an element of X-Forwarded-For: an address, with a port from some proxies.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Unmap(), true
	}
	host, _ := splitHost(s)
	addr, err := netip.ParseAddr(host)
	return addr.Unmap(), err == nil
}

// https reports whether the client spoke HTTPS, to us or to a trusted proxy.
func (t *Telemetry) https(r *http.Request) bool {
	if len(t.cfg.TrustedProxies) > 0 {
		if proto := r.Header.Get("X-Forwarded-Proto"); proto != "" {
			if peer, _ := splitHost(r.RemoteAddr); t.peerTrusted(peer) {
				return strings.EqualFold(proto, "https")
			}
		}
	}
	return r.TLS != nil
}

// host returns the host, and perhaps port, that the client asked for: as the trusted proxy that r came from has it, if it did.
// Of several, the last: what stands before it is what the proxy was told.
func (t *Telemetry) host(r *http.Request) string {
	if fields := r.Header["X-Forwarded-Host"]; len(fields) > 0 && len(t.cfg.TrustedProxies) > 0 {
		last := fields[len(fields)-1]
		last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
		if peer, _ := splitHost(r.RemoteAddr); last != "" && t.peerTrusted(peer) {
			return last
		}
	}
	return r.Host
}
