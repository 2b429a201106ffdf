package breaker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/trivet-go/trivet/internal/blame"
	"github.com/trivet-go/trivet/internal/origin"
)

// patience is how long a server waits at least for a client that does not read: a body that breaks
// sooner has broken by itself.
const patience = time.Second

// Transport returns a RoundTripper that sends requests through next while the breaker of their key
// admits them. A refused request fails with an [*OpenError], or is answered by [Config.Fallback].
// If next is nil, [http.DefaultTransport] is used.
//
// Failures are the statuses that [Config.Failed] names, errors, deadlines that have passed, and
// bodies that break off; those count when they do. What the caller has canceled counts for nothing,
// nor does an error that says by NotSent that the request did not leave. Nor does a body that
// breaks off after the caller has spent more time not reading it than reading, if it did not read
// for at least a second or its context has ended.
func (b *Breaker) Transport(next http.RoundTripper) http.RoundTripper {
	return b.TransportFor("", next)
}

// TransportFor is [Breaker.Transport] with one key for all requests: for balancer.Config.Wrap,
// where many endpoints stand behind one URL. An empty key means each request's own.
func (b *Breaker) TransportFor(key string, next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{breaker: b, key: key, next: next}
}

type transport struct {
	breaker *Breaker
	key     string // empty: the request's
	next    http.RoundTripper
}

func (t *transport) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	b := t.breaker
	if b.cfg.Skip != nil && b.cfg.Skip(req) {
		return t.next.RoundTrip(req)
	}
	key := t.key
	if key == "" {
		var ok bool
		if key, ok = b.clientKey(req); !ok {
			return t.next.RoundTrip(req)
		}
	}
	ctx := req.Context()
	if ctx.Err() != nil {
		closeBody(req)
		return nil, context.Cause(ctx)
	}
	var x *exchange
	done := false
	defer func() {
		switch {
		case done:
		case x == nil: // Observe has panicked: next will not see the request
			closeBody(req)
		default: // next or Observe has panicked
			x.end(Failure)
			if resp != nil && resp.Body != nil { // nobody will get it
				_ = resp.Body.Close()
			}
		}
	}()
	var k call
	if refusal := b.enter(ctx, key, &k); refusal != nil {
		done = true
		return b.refuse(req, refusal)
	}
	out, _ := blame.Watch(req)
	x = &exchange{call: k, req: out}
	resp, err = t.next.RoundTrip(out)
	if err != nil || resp == nil { // both nil is next's bug; http.Client complains of it
		x.fail(err)
		done = true
		return resp, err
	}
	if out != req {
		resp.Request = req
	}
	x.follow(resp)
	done = true
	return resp, nil
}

func (b *Breaker) clientKey(req *http.Request) (key string, ok bool) {
	if b.cfg.Key != nil {
		return b.cfg.Key(req)
	}
	return origin.URLHost(req.URL), true
}

// refuse answers a request that is not sent.
func (b *Breaker) refuse(req *http.Request, refusal *OpenError) (*http.Response, error) {
	defer closeBody(req) // RoundTrip owns the body even when it fails; next will not see it
	if b.cfg.Fallback == nil {
		return nil, refusal
	}
	resp, err := b.cfg.Fallback(req, refusal)
	switch {
	case err != nil:
		return nil, err
	case resp == nil:
		return nil, refusal
	}
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	if resp.Request == nil {
		resp.Request = req
	}
	return resp, nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close() // there is nobody to tell
	}
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach next.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// An exchange is an attempt until its answer's body has ended: it is that body.
type exchange struct {
	call
	req   *http.Request // as it was sent
	body  io.ReadCloser
	slow  bool
	ended atomic.Bool

	since           int64         // the last Read returned, or the header came
	reading, unread time.Duration // since the header: in Read, and not
}

// follow counts what the header of resp says, or what its body will say.
func (x *exchange) follow(resp *http.Response) {
	if x.circuit == nil { // a dry run
		return
	}
	b := x.circuit.b
	switch {
	case b.cfg.Failed(resp.StatusCode):
		x.end(Failure)
		return
	case resp.StatusCode == http.StatusSwitchingProtocols, streams(resp.Header):
		x.end(Success) // it may last for hours, and where it is cut says little
		return
	}
	x.slow = b.tooSlow(&x.call)
	if resp.Body == nil || resp.Body == http.NoBody {
		x.end(Success)
		return
	}
	if x.ticket != 0 {
		x.circuit.answered(&x.call)
	}
	x.since = b.now()
	x.body = resp.Body
	resp.Body = x
	if w, ok := x.body.(io.Writer); ok {
		resp.Body = struct {
			*exchange
			io.Writer
		}{x, w}
	}
}

func (x *exchange) Read(p []byte) (int, error) {
	b := x.circuit.b
	begun := b.now()
	n, err := x.body.Read(p)
	ended := b.now()
	x.unread += time.Duration(begun - x.since)
	x.reading += time.Duration(ended - begun)
	x.since = ended
	switch {
	case err == nil:
	case err == io.EOF:
		x.end(Success)
	case errors.Is(err, http.ErrBodyReadAfterClose):
	case x.heldUp():
		x.end(Neutral)
	default:
		x.fail(err)
	}
	return n, err
}

// heldUp reports whether the body, which has broken, may have done so because the caller did not
// read: a proxy whose client reads slowly runs into its own deadline, or its upstream's.
func (x *exchange) heldUp() bool {
	return x.unread > x.reading && (x.unread >= patience || x.req.Context().Err() != nil)
}

// Close ends the exchange. Who does not want the rest of an answer has got one.
func (x *exchange) Close() error {
	x.end(Success)
	return x.body.Close()
}

// fail ends the exchange with an error, or with nothing at all.
func (x *exchange) fail(err error) {
	if err == nil {
		x.end(Failure)
		return
	}
	up, _ := x.req.Body.(*blame.Upload)
	x.end(failureOf(x.req, err, up))
}

func (x *exchange) end(o Outcome) {
	if !x.ended.Swap(true) {
		x.leave(x.req.Context(), o, x.slow && o == Success)
	}
}
