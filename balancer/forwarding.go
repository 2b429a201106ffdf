package balancer

import (
	"net/http"
	"strings"
)

// forwardingFields are the fields, beside X-Forwarded-*, in which proxies tell of the request that
// they got; and Proxy, which CGI turns into the variable HTTP_PROXY. They are in lower case.
var forwardingFields = map[string]bool{
	"forwarded": true, "forwarded-for": true, "x-forwarded": true, "x-original-forwarded-for": true,
	"x-real-ip": true, "true-client-ip": true, "x-client-ip": true, "x-cluster-client-ip": true,
	"cf-connecting-ip": true, "fastly-client-ip": true, "x-proxyuser-ip": true, "x-host": true,
	"x-original-host": true, "x-original-url": true, "x-rewrite-url": true, "x-url-scheme": true,
	"x-envoy-external-address": true, "front-end-https": true, "proxy": true,
}

// longestForwardingField is the length of the longest name in forwardingFields.
const longestForwardingField = len("x-envoy-external-address")

// setForwarding sets the forwarding fields of out, the outbound header, to what this proxy knows or
// believes. It reads the inbound header too: a client's Connection field may have removed them from
// out. The values stand in the first three places of ours.
func (h *handler) setForwarding(in *http.Request, out http.Header, ours *[6]string) {
	peer := h.proxies.Peer(in)
	for name := range out {
		if isForwarding(name) && !(peer.Trusted && sentOn(name)) {
			delete(out, name)
		}
	}
	ours[0], ours[1], ours[2] = h.proxies.ForwardedFor(peer, in.Header), in.Host, "http"
	if in.TLS != nil {
		ours[2] = "https"
	}
	for i, name := range [...]string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		said, ok := in.Header[name]
		switch {
		case ok && i > 0 && peer.Trusted:
			out[name] = said
		case ours[i] != "":
			out[name] = ours[i : i+1 : i+1]
		default:
			delete(out, name)
		}
	}
}

// isForwarding reports whether name spells one of forwardingFields or X-Forwarded-*, in whatever
// case and with any sign for a hyphen. CGI cannot tell underscores from hyphens, and some servers
// tell no sign from another.
func isForwarding(name string) bool {
	if name == "" {
		return false
	}
	switch name[0] | 0x20 { // most fields of ordinary requests begin with another letter
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
		len(plain) >= len(family) && string(plain[:len(family)]) == family
}

// sentOn reports whether a trusted proxy's forwarding field is sent on. Forwarded is not: without
// this proxy's own entry it would contradict X-Forwarded-For.
func sentOn(name string) bool {
	return name != "Forwarded" && name != "Proxy" && name == http.CanonicalHeaderKey(name) &&
		!strings.ContainsFunc(name, isSign)
}

// isSign reports whether r is neither letter nor digit nor hyphen.
func isSign(r rune) bool {
	return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}
