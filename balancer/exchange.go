package balancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
)

// An exchange is one request that a Handler passes on, and what comes back.
type exchange struct {
	h   *handler
	w   http.ResponseWriter
	in  *http.Request // as the client's side of the proxy got it
	out *http.Request // as the server's side sends it

	url    url.URL // of out
	trace  httptrace.ClientTrace
	upload *upload        // the request's body; nil if there is none
	resp   *http.Response // nil until there is one

	mu            sync.Mutex // guards the fields below, and w until answered: transports call on goroutines of their own
	answered      bool       // the transport has returned: no informational response may follow
	informational int
	panicked      any // in w, on a goroutine of the transport
}

// prepare makes the request to send. It returns what is wrong with the client's if no server should
// get it, else "".
func (x *exchange) prepare() (fault string) {
	in := x.in
	if fault = messageFault(in); fault == "" {
		fault = x.outboundURL()
	}
	if fault != "" {
		return fault
	}
	x.trace.Got1xxResponse = x.inform
	x.out = in.WithContext(httptrace.WithClientTrace(in.Context(), &x.trace))
	x.out.URL = &x.url
	x.out.Header = x.h.outboundHeader(in)
	x.out.Trailer, x.out.Close = nil, false
	if x.h.cfg.TargetHost {
		x.out.Host = ""
	}
	if in.Body == nil || in.ContentLength == 0 {
		x.out.Body = nil // net/http may repeat a request without a body
	} else {
		x.upload = newUpload(in, x.h.outboundTrailer(in))
		x.out.Body = x.upload
		if x.out.Trailer = x.upload.trailer; x.out.Trailer != nil {
			x.out.ContentLength = -1 // HTTP/2 can have both; HTTP/1.1 has trailers after chunks only
		}
	}
	scheme, _, _ := strings.Cut(x.out.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Negotiate") || strings.EqualFold(scheme, "NTLM") {
		// These schemes authenticate the connection, with all requests that follow on it: no other
		// client's may.
		x.out.Close = true
	}
	if x.h.cfg.Rewrite != nil {
		r := &httputil.ProxyRequest{In: in, Out: x.out}
		x.h.cfg.Rewrite(r)
		x.out = r.Out
	}
	return ""
}

// run sends the request and passes the response on.
func (x *exchange) run() {
	resp, err := x.h.transport.RoundTrip(x.out)
	x.mu.Lock()
	x.answered = true
	panicked := x.panicked
	x.mu.Unlock()
	if err == nil {
		x.resp = resp
	}
	switch {
	case panicked != nil:
		panic(panicked)
	case err != nil:
		x.fail(err)
	case resp.StatusCode == http.StatusSwitchingProtocols:
		x.upgrade()
	case resp.StatusCode < 200 || resp.StatusCode > 999:
		// RFC 9110, section 15: there is no such status. net/http would panic.
		x.fail(fmt.Errorf("balancer: the server's status is %d", resp.StatusCode))
	default:
		x.answer()
	}
}

// close ends what the exchange holds, however it ended. A panic passes through.
func (x *exchange) close() {
	if x.resp != nil && x.resp.Body != nil {
		x.resp.Body.Close()
	}
	if x.upload != nil {
		x.upload.close()
	}
}

// maxInformational is how many informational responses a request may have. net/http stops counting
// them once a trace looks at them.
const maxInformational = 100

var errInformational = errors.New("balancer: too many informational responses")

// inform passes an informational response on. It is a trace's Got1xxResponse.
func (x *exchange) inform(code int, header textproto.MIMEHeader) (err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answered { // by another of several attempts, which share the trace
		return nil
	}
	if x.informational++; x.informational > maxInformational {
		return errInformational
	}
	if !x.in.ProtoAtLeast(1, 1) {
		return nil // RFC 9110, section 15.2: an HTTP/1.0 client would take it for the answer
	}
	defer func() {
		if x.panicked = recover(); x.panicked != nil {
			err = fmt.Errorf("balancer: panic in a ResponseWriter: %v", x.panicked)
		}
	}()
	h := x.w.Header()
	final := maps.Clone(h) // what handlers around the proxy have set is for the final response
	clear(h)
	maps.Copy(h, http.Header(header))
	removeHopByHop(h)
	delete(h, LoadHeader)
	x.w.WriteHeader(code)
	clear(h)
	maps.Copy(h, final)
	return nil
}

// answer passes the final response on.
func (x *exchange) answer() {
	resp := x.resp
	removeHopByHop(resp.Header)
	if !x.modify() {
		return
	}
	dst := x.w.Header()
	if len(resp.Trailer) > 0 {
		resp.Header.Del("Content-Length") // HTTP/2 can have both; HTTP/1.1 has trailers after chunks only
	}
	addHeader(dst, resp.Header)
	if _, ok := dst["Content-Type"]; !ok {
		dst["Content-Type"] = nil // or net/http would make one up from the body
	}
	announced := announceTrailers(dst, resp.Trailer)
	x.w.WriteHeader(resp.StatusCode)
	if hasBody(x.in, resp) {
		if err := x.h.copyBody(x.w, resp); err != nil {
			x.abort()
			return
		}
	}
	if resp.Body != nil {
		resp.Body.Close() // now, which completes resp.Trailer
	}
	x.sendTrailers(announced)
}

// hasBody reports whether resp can have a body.
func hasBody(in *http.Request, resp *http.Response) bool {
	return in.Method != http.MethodHead && resp.Body != nil && resp.Body != http.NoBody &&
		resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusNotModified
}

// modify calls ModifyResponse, if there is one. It returns false if the request has been answered
// with an error.
func (x *exchange) modify() bool {
	if x.h.cfg.ModifyResponse == nil {
		return true
	}
	err := x.h.cfg.ModifyResponse(x.resp)
	if err == nil {
		return true
	}
	if x.resp.Body != nil {
		x.resp.Body.Close()
	}
	x.fail(err)
	return false
}

// abort ends a response that cannot be completed, so that nobody takes the part for the whole.
func (x *exchange) abort() {
	if x.in.Context().Value(http.ServerContextKey) != nil {
		panic(http.ErrAbortHandler)
	}
	// Nobody would recover the panic.
}

// fail answers a request that got no response.
func (x *exchange) fail(err error) {
	if errors.Is(x.out.Context().Err(), context.Canceled) {
		panic(http.ErrAbortHandler) // the client has gone
	}
	x.h.cfg.ErrorHandler(x.w, x.out, err)
}
