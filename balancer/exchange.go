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
	"strconv"
	"strings"
	"sync"

	"github.com/trivet-go/trivet/internal/linger"
	"github.com/trivet-go/trivet/internal/response"
)

// An exchange is one request that a Handler passes on, and what comes back.
type exchange struct {
	h   *handler
	w   http.ResponseWriter
	in  *http.Request // as the client's side of the proxy got it
	out *http.Request // as the server's side sends it

	url    url.URL // of out
	trace  httptrace.ClientTrace
	cancel func()         // of out's context; nil if that is the client's
	upload *upload        // the request's body; nil if there is none
	resp   *http.Response // nil until there is one

	nominated []string // the values of resp's Connection field

	// mu guards the fields below, and w until answered: transports call on goroutines of their own.
	mu            sync.Mutex
	answered      bool // the transport has returned: no informational response may follow
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
	x.out = in.WithContext(httptrace.WithClientTrace(x.context(), &x.trace))
	x.out.URL = &x.url
	x.out.Header = x.h.outboundHeader(in)
	x.out.Trailer, x.out.Close = nil, false
	if x.h.cfg.TargetHost {
		x.out.Host = ""
	}
	if in.Body == nil || in.ContentLength == 0 {
		x.out.Body = nil // net/http may repeat a request without a body
	} else {
		x.upload = newUpload(in, outboundTrailer(in))
		x.out.Body = x.upload
		if e := x.upload.invited; e != nil {
			x.trace.GotConn, x.trace.GotFirstResponseByte = e.connected, e.answering
			e.lapse = x.invite
			if in.ProtoMajor == 1 && ofNetHTTP(x.w) {
				// net/http would write the 100 at the first Read, perhaps while another goroutine
				// writes hints.
				e.tell = func() bool { return x.write1xx(http.StatusContinue, nil) == nil }
			}
		}
		if x.out.Trailer = x.upload.trailer; x.out.Trailer != nil {
			// HTTP/2 can have both; HTTP/1.1 has trailers after chunks only.
			x.out.ContentLength = -1
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
	x.upload.dropTrailers(x.out.Header)
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
	if x.upload != nil {
		// As in HTTP/2, a server that has not refused wants the body, even though it has answered.
		x.upload.decide(err == nil && resp.StatusCode < 300)
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

// context returns the context of the request to send. It ends when the client leaves.
func (x *exchange) context() context.Context {
	ctx := x.in.Context()
	if ctx.Done() != nil {
		return ctx
	}
	//lint:ignore SA1019 it is all that tells where the request's context does not
	notifier, ok := x.w.(http.CloseNotifier)
	if !ok {
		return ctx
	}
	gone := notifier.CloseNotify()
	ctx, x.cancel = context.WithCancel(ctx)
	go func(cancel func()) { // ends with the exchange
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}(x.cancel)
	return ctx
}

// close ends what the exchange holds, however it ended. A panic passes through.
func (x *exchange) close() {
	if x.cancel != nil {
		x.cancel()
	}
	if x.out != nil && !x.answered { // something has panicked
		x.mu.Lock()
		x.answered = true
		x.mu.Unlock()
	}
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
	if x.upload != nil && x.upload.invited != nil {
		if code == http.StatusContinue {
			x.upload.invited.invite()
			return nil
		}
		x.upload.invited.informed()
	}
	if !x.in.ProtoAtLeast(1, 1) {
		return nil // RFC 9110, section 15.2: an HTTP/1.0 client would take it for the answer
	}
	return x.write1xx(code, http.Header(header))
}

// invite has the client send the body for which a server has not asked in time. Once there is an
// answer, that decides.
func (x *exchange) invite() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.answered {
		x.upload.invited.invite()
	}
}

// write1xx writes an informational response. The exchange's mutex must be held.
func (x *exchange) write1xx(code int, header http.Header) (err error) {
	defer func() {
		if v := recover(); v != nil {
			x.panicked = v
			err = fmt.Errorf("balancer: panic in a ResponseWriter: %v", v)
		}
	}()
	h := x.w.Header()
	final := maps.Clone(h) // what handlers around the proxy have set is for the final response
	clear(h)
	maps.Copy(h, header)
	removeHopByHop(h)
	delete(h, LoadHeader)
	response.Inform(x.w, code)
	clear(h)
	maps.Copy(h, final)
	return nil
}

// answer passes the final response on.
func (x *exchange) answer() {
	resp := x.resp
	x.nominated = resp.Header["Connection"]
	removeHopByHop(resp.Header)
	if !x.modify() {
		return
	}
	dst := x.w.Header()
	before := dst
	early := x.isEarly()
	if early {
		before = maps.Clone(dst)
	}
	removeTrailers(resp.Trailer, x.nominated)
	switch {
	case !x.in.ProtoAtLeast(1, 1):
		resp.Trailer = nil // HTTP/1.0 has none, and sees only by the length that it has all
	case x.in.ProtoMajor == 1 && len(resp.Trailer) > 0:
		// HTTP/2 can have both; HTTP/1.1 has trailers after chunks only.
		resp.Header.Del("Content-Length")
	}
	addHeader(dst, resp.Header)
	if _, ok := dst["Content-Type"]; !ok {
		dst["Content-Type"] = nil // or net/http would make one up from the body
	}
	announced := announceTrailers(dst, resp.Trailer)
	if early {
		linger.Prepare(x.w)
	}
	x.closeAfterHTTP10()
	if hasBody(x.in, resp) {
		hold := early && resp.StatusCode >= 300 && resp.ContentLength < 0 && announced == 0
		if unsent, err := x.h.copyBody(x.w, resp, hold); err != nil {
			x.breakOff(unsent, before)
			return
		}
	} else {
		x.w.WriteHeader(resp.StatusCode)
	}
	if resp.Body != nil {
		resp.Body.Close() // now, which completes resp.Trailer
	}
	x.sendTrailers(announced)
	if early {
		x.finishEarly()
	}
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
	if x.resp.Header == nil {
		x.resp.Header = http.Header{}
	}
	length := x.resp.ContentLength
	err := x.h.cfg.ModifyResponse(x.resp)
	if err == nil {
		if n := x.resp.ContentLength; n != length { // there is another body
			x.resp.Header.Del("Content-Length")
			if n >= 0 {
				x.resp.Header.Set("Content-Length", strconv.FormatInt(n, 10))
			}
		}
		return true
	}
	if x.resp.Body != nil {
		x.resp.Body.Close()
	}
	x.fail(err)
	return false
}

// breakOff ends a response of which the rest does not come. If nothing of it has been sent, and
// what broke it is that the client's body could not be read, the client is told that: a transport
// closes the connection then, and with it the server's answer.
func (x *exchange) breakOff(unsent bool, before http.Header) {
	var failed *bodyError
	if unsent && x.upload != nil {
		failed = x.upload.failed.Load()
	}
	if failed == nil {
		x.abort()
		return
	}
	h := x.w.Header()
	clear(h)
	maps.Copy(h, before)
	x.fail(failed)
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
	if strings.Contains(err.Error(), "request header list larger than") && callersFault(x.out, err) {
		err = &headerError{err}
	}
	x.refuse(func(w http.ResponseWriter) { x.h.cfg.ErrorHandler(w, x.out, err) })
}
