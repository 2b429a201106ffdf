// Package blame tells whose fault it is that a request failed, where net/http has no types for it:
// the caller's, who left or asked for what cannot be sent, or that of the server.
package blame

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// Left reports whether the caller whose context ctx is has given up. A time that has run out is not
// that, in whatever way the context was told of it.
func Left(ctx context.Context) bool {
	if !errors.Is(ctx.Err(), context.Canceled) {
		return false
	}
	var late interface{ Timeout() bool }
	return !errors.As(context.Cause(ctx), &late) || !late.Timeout()
}

// Request reports whether err, which a transport returned for req, says that req cannot be sent to
// anybody, or not over this protocol. Requests that are passed on are a stranger's work: no server
// is to blame for them, and no second attempt helps. Only the beginning of an error's text is
// looked at: what follows may be what a server wrote.
func Request(req *http.Request, err error) bool {
	text := err.Error()
	if strings.HasPrefix(text, "http2: request header list larger than ") {
		return headerSize(req) >= expectedHeader // with less the server's limit is to blame
	}
	return slices.ContainsFunc(refusals[:], func(begin string) bool { return strings.HasPrefix(text, begin) })
}

// refusals are how net/http begins to say that it will not send a request.
var refusals = [...]string{
	"net/http: invalid ",      // method, field name or value
	"http2: invalid ",         // fields of the connection; an upgrade, which only HTTP/1.1 has
	"idna: ", "http2: idna: ", // a Host that is no name: an HTTP/2 client may send any
	"net/http: can't write control character",              // in the Host or the URL
	"http2: request body larger than ",                     // than the Content-Length
	"http: ContentLength=", "http: Request.ContentLength=", // a body that is shorter or longer, or none
	"net/http: HTTP/1.x transport connection broken: http: ContentLength=",
	"http: nil Request", "http: no Host in request URL", "unsupported protocol scheme",
}

// expectedHeader is the size of a header that any server should take.
const expectedHeader = 8 << 10

// headerSize is the size of what req sends as fields, as RFC 9113, section 6.5.2 counts it.
func headerSize(req *http.Request) int {
	const overhead = 32 // of each field
	n := len(":method") + len(req.Method) + len(":scheme") + len(":path") + len(":authority") + 4*overhead
	if u := req.URL; u != nil {
		n += len(u.Scheme) + len(u.RequestURI()) + max(len(u.Host), len(req.Host))
	}
	for name, values := range req.Header {
		for _, v := range values {
			n += len(name) + len(v) + overhead
		}
	}
	return n
}
