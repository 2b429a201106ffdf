package ratelimit

import (
	"cmp"
	"net/http"
	"net/netip"

	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/settings"
)

const defaultIPv6Bits = 64

// ByPeer keys requests by the address of the peer, IPv6 by its /64, which is what one client has.
// No proxy is believed: behind one, all clients are one; see [ByIP]. A peer without an address, as
// that of a unix socket, has no key.
var ByPeer KeyFunc = (&addresses{bits: defaultIPv6Bits}).key

// IPConfig configures [ByIP]. The zero IPConfig is valid: it trusts no proxy.
type IPConfig struct {
	// TrustedProxies are the addresses of the proxies in front of this server. Empty means that
	// there are none, and Header is not looked at. Trust only proxies that append to Header.
	TrustedProxies []netip.Prefix

	// TrustUnix trusts the peers of unix sockets as well.
	TrustUnix bool

	// Header is the one field in which the trusted proxies say whom they serve, each appending.
	// Empty means X-Forwarded-For. "Forwarded" is read by RFC 7239; any other as a list of
	// addresses.
	Header string

	// IPv6Bits is how much of an IPv6 address makes a key, 32 to 128. Zero means 64. Negative is
	// invalid.
	IPv6Bits int
}

// ByIP returns a KeyFunc of the client's address, for servers behind proxies. The error, if any,
// names every invalid field of cfg.
//
// From a trusted peer on, it walks the header from its right end, over the hops that are trusted,
// to the first that is not: that is the client, and what stands left of it is hearsay. If an entry
// is not an address, or the header is longer than 32 entries or 4 KiB, the last trusted hop that
// was read stands for the client. Without any address a request has no key.
func ByIP(cfg IPConfig) (KeyFunc, error) {
	f := settings.Of("ratelimit", "IPConfig")
	a := &addresses{
		proxies: origin.NewProxies(f, cfg.TrustedProxies, cfg.TrustUnix),
		header:  http.CanonicalHeaderKey(cmp.Or(cfg.Header, "X-Forwarded-For")),
		bits:    cmp.Or(cfg.IPv6Bits, defaultIPv6Bits),
	}
	if a.bits < 32 || a.bits > 128 {
		f.Add("IPv6Bits", "%d is not between 32 and 128", a.bits)
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	return a.key, nil
}

// addresses finds clients' addresses.
type addresses struct {
	proxies origin.Proxies
	header  string
	bits    int
}

func (a *addresses) key(r *http.Request) (string, bool) {
	peer := a.proxies.Peer(r)
	addr := a.proxies.Client(peer, r.Header, a.header)
	switch {
	case !addr.IsValid():
		return "", false
	case addr == peer.Addr && addr.Is4():
		return peer.Text(), true // which allocates nothing
	case addr.Is4():
		return addr.String(), true
	}
	prefix, err := addr.Prefix(a.bits)
	return prefix.Addr().String(), err == nil
}
