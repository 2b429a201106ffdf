package balancer

import (
	"net/http"
	"slices"
	"strings"
)

// outboundTrailer returns the names of the trailers to send for in, which has announced its own;
// nil if there are none. Those that come unannounced are not sent.
func (h *handler) outboundTrailer(in *http.Request) http.Header {
	if len(in.Trailer) == 0 {
		return nil
	}
	out := http.Header{}
	for name := range in.Trailer {
		out[name] = nil
	}
	return out
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
