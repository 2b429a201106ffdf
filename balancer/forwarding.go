package balancer

import (
	"net/http"
	"net/http/httputil"
	"strings"
)

// forwardingFields are the fields, beside X-Forwarded-*, in which one proxy or another tells of the
// request that it got, and Proxy, of which CGI makes the variable HTTP_PROXY. They are in lower case.
var forwardingFields = map[string]bool{
	"forwarded": true, "forwarded-for": true, "x-forwarded": true, "x-original-forwarded-for": true,
	"x-real-ip": true, "true-client-ip": true, "x-client-ip": true, "x-cluster-client-ip": true,
	"cf-connecting-ip": true, "fastly-client-ip": true, "x-proxyuser-ip": true, "x-envoy-external-address": true,
	"x-host": true, "x-original-host": true, "x-original-url": true, "x-rewrite-url": true,
	"x-url-scheme": true, "front-end-https": true,
	"proxy": true,
}

// longestForwardingField is the length of the longest name in forwardingFields.
const longestForwardingField = len("x-envoy-external-address")

// setForwarding makes the outbound request say who asked, and for what, as far as this proxy knows
// or believes it. It reads the inbound header, from which a Connection field has removed nothing.
func (h *handler) setForwarding(r *httputil.ProxyRequest) {
	peer := h.proxies.Peer(r.In)
	in, out := r.In.Header, r.Out.Header
	for name := range out {
		if isForwarding(name) && !(peer.Trusted && sentOn(name)) {
			delete(out, name)
		}
	}
	proto := "http"
	if r.In.TLS != nil {
		proto = "https"
	}
	said := [...]string{h.proxies.ForwardedFor(peer, in), r.In.Host, proto} // one allocation for all
	for i, name := range [...]string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		switch v, ok := in[name]; {
		case ok && i > 0 && peer.Trusted:
			out[name] = v
		case said[i] != "" || i > 0:
			out[name] = said[i : i+1 : i+1]
		}
	}
}

// isForwarding reports whether a server could take a field of this name for one of
// forwardingFields or for X-Forwarded-*, with any case and any sign for each hyphen: CGI cannot tell
// underscores from hyphens, and some servers tell no sign from another.
func isForwarding(name string) bool {
	if name == "" {
		return false
	}
	switch name[0] | 0x20 { // most fields begin with another letter
	case 'c', 'f', 'p', 't', 'x':
	default:
		return false
	}
	var buf [longestForwardingField]byte
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
	const family = "x-forwarded-"
	return len(name) == len(plain) && forwardingFields[string(plain)] ||
		len(plain) > len(family) && string(plain[:len(family)]) == family
}

// sentOn reports whether a trusted proxy's field, of those that isForwarding finds, is sent on.
// Forwarded would contradict X-Forwarded-For, since nothing is appended to it.
func sentOn(name string) bool {
	return name != "Forwarded" && name != "Proxy" && name == http.CanonicalHeaderKey(name) &&
		!strings.ContainsFunc(name, isSign)
}

// isSign reports whether r is neither letter nor digit nor hyphen.
func isSign(r rune) bool {
	return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}
