package balancer

import (
	"net/http"
	"net/textproto"
	"strings"
)

// isHopByHop reports whether a field is the connection's (RFC 9110, section 7.6.1), or always was
// treated so.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// removeNominated removes the fields from h that connection, the values of a Connection field,
// names.
func removeNominated(h http.Header, connection []string) {
	for _, line := range connection {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
}

// removeHopByHop removes the connection's fields from the header of a response.
func removeHopByHop(h http.Header) {
	removeNominated(h, h["Connection"])
	for name := range h {
		if isHopByHop(name) {
			delete(h, name)
		}
	}
}

// outboundHeader returns the header to send for in. It has maps of its own, and shares the values:
// whoever changes a field sets it anew.
func (h *handler) outboundHeader(in *http.Request) http.Header {
	out := make(http.Header, len(in.Header)+8)
	for name, values := range in.Header {
		if !isHopByHop(name) {
			out[name] = values[:len(values):len(values)]
		}
	}
	// They go before the proxy adds fields of its own, so that a client cannot name those.
	removeNominated(out, in.Header["Connection"])
	ours := &[...]string{3: "identity", 4: "trailers", 5: "Upgrade"} // one allocation for all
	h.setForwarding(in, out, ours)
	if _, ok := out["Accept-Encoding"]; !ok {
		// The transport would ask for gzip and unpack it. The client would get another response
		// than it asked for, under the same ETag.
		out["Accept-Encoding"] = ours[3:4:4]
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = nil // or net/http would send its own
	}
	if listHas(in.Header["Te"], "trailers") {
		out["Te"] = ours[4:5:5] // some servers send trailers to those only who ask for them
	}
	if asksForWebsocket(in) {
		out["Connection"] = ours[5:6:6]
		out["Upgrade"] = in.Header["Upgrade"]
	}
	// A deviation from RFC 9110, section 7.6.3: no Via is added, since nginx does not compress its
	// response to a request with one.
	return out
}

// asksForWebsocket reports whether r asks for an upgrade that is passed on. A server may ignore
// others (RFC 9110, section 7.8), and does so those of HTTP/1.0. An h2c connection through a proxy
// would carry requests that the proxy has not looked at.
func asksForWebsocket(r *http.Request) bool {
	to := r.Header["Upgrade"]
	return len(to) == 1 && strings.EqualFold(to[0], "websocket") && r.ProtoMajor == 1 && r.ProtoMinor > 0 &&
		listHas(r.Header["Connection"], "upgrade")
}

// addHeader adds src, the header of a response, to what handlers around the proxy have set.
func addHeader(dst, src http.Header) {
	for name, values := range src {
		if set := dst[name]; len(set) > 0 && !isSingle(name) {
			values = append(set[:len(set):len(set)], values...)
		}
		dst[name] = values
	}
}

// isSingle reports whether two values of a field would make a response malformed or ambiguous. The
// server's counts then.
func isSingle(name string) bool {
	switch name {
	case "Age", "Content-Length", "Content-Location", "Content-Range", "Content-Type", "Date", "Etag",
		"Expires", "Last-Modified", "Location", "Retry-After":
		return true
	}
	return false
}
