package balancer

import (
	"net/http"
	"slices"
	"strings"
)

// mayTrail reports whether a field may stand in a trailer section. Fields for framing, routing,
// authentication, request modifiers and content must not (RFC 9110, section 6.5.1): a server that
// merges trailers into the header would believe what the header may not say. Neither may those that
// this proxy, or whoever is in front of the server, sets for it: forwarding fields, request ids and
// the context of traces.
func mayTrail(name string) bool {
	if isHopByHop(name) || isForwarding(name) || name == LoadHeader {
		return false
	}
	plain := plainName(name)
	switch plain {
	case "content-digest": // RFC 9530, section 2
		return true
	case "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
		"http2-settings", "host", "age", "alt-svc", "authorization", "authentication-info",
		"authentication-control", "cache-control", "cookie", "cookie2", "date", "expect", "expires",
		"location", "max-forwards", "pragma", "range", "retry-after", "set-cookie", "set-cookie2", "vary",
		"via", "warning", "www-authenticate", "x-http-method", "x-http-method-override", "x-method-override",
		"x-api-key", "api-key", "x-request-id", "x-correlation-id", "request-id", "correlation-id",
		"x-amzn-trace-id",
		"x-cloud-trace-context", "traceparent", "tracestate", "baggage", "b3", "uber-trace-id":
		return false
	}
	for _, family := range [...]string{"content-", "if-", "proxy-", "x-b3-", "x-auth", "sec-"} {
		if strings.HasPrefix(plain, family) {
			return false
		}
	}
	return true
}

// plainName returns a field's name as a server may read it that tells neither case nor signs apart.
func plainName(name string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if isSign(r) {
			return '-'
		}
		return r
	}, name))
}

// removeTrailers removes what may not stand in a trailer section, or is named by nominated, the
// values of the Connection field.
func removeTrailers(trailer http.Header, nominated []string) {
	removeNominated(trailer, nominated)
	for name := range trailer {
		if !mayTrail(name) {
			delete(trailer, name)
		}
	}
}

// outboundTrailer returns the names of the trailers to send for in, which has announced its own;
// nil if there are none. Those that come unannounced are not sent.
func outboundTrailer(in *http.Request) http.Header {
	out := http.Header{}
	for name := range in.Trailer {
		out[name] = nil
	}
	removeTrailers(out, in.Header["Connection"])
	if len(out) == 0 {
		return nil
	}
	return out
}

// dropTrailers removes the trailers that header has as fields, in whatever spelling: what they say
// is said.
func (u *upload) dropTrailers(header http.Header) {
	if u == nil || len(u.trailer) == 0 {
		return
	}
	said := make(map[string]bool, len(header)) // clients may send many of both
	for name := range header {
		said[plainName(name)] = true
	}
	for name := range u.trailer {
		if said[plainName(name)] {
			delete(u.trailer, name)
		}
	}
}

// announceTrailers announces the trailers of a response, as far as their names are known, and
// returns how many.
func announceTrailers(dst, trailer http.Header) int {
	if len(trailer) == 0 {
		return 0
	}
	names := make([]string, 0, len(trailer))
	for name := range trailer {
		names = append(names, name)
	}
	slices.Sort(names)
	dst.Add("Trailer", strings.Join(names, ", "))
	return len(names)
}

// sendTrailers sends the trailers of the response, of which that many have been announced.
func (x *exchange) sendTrailers(announced int) {
	removeTrailers(x.resp.Trailer, x.nominated)
	if len(x.resp.Trailer) == 0 {
		return
	}
	// The flush keeps net/http from counting a short body: a Content-Length leaves no place for
	// trailers.
	_ = http.NewResponseController(x.w).Flush()
	prefix := ""
	if len(x.resp.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	dst := x.w.Header()
	for name, values := range x.resp.Trailer {
		dst[prefix+name] = append(dst[prefix+name], values...)
	}
}
