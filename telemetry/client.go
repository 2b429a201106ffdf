package telemetry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/unsent"
)

// Transport returns a RoundTripper that observes each request through next and sends the trace
// context along. Put it innermost, so that each attempt of a retry is a span. If next is nil,
// [http.DefaultTransport] is used.
//
// A request ends, for span and metrics, when its response body was read to the end, failed or was
// closed; one whose body is never closed does not end. Upgrades and streams end when the header
// arrived.
func (t *Telemetry) Transport(next http.RoundTripper) http.RoundTripper {
	return &transport{tel: t, next: cmp.Or(next, http.DefaultTransport)}
}

type transport struct {
	tel  *Telemetry
	next http.RoundTripper
}

// CloseIdleConnections lets http.Client.CloseIdleConnections reach next.
func (rt *transport) CloseIdleConnections() {
	if c, ok := rt.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// A call is one request through a transport.
type call struct {
	tel    *Telemetry
	ctx    context.Context
	span   trace.Span // nil if there are none
	start  time.Time
	key    seriesKey
	sent   countedBody
	resent atomic.Pointer[countedBody] // the last body that GetBody made
	read   atomic.Int64                // bytes of the response body, which another goroutine may close
	once   sync.Once
	peer   atomic.Pointer[net.Addr]
	active []metric.AddOption
}

func (rt *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t := rt.tel
	c := &call{tel: t, ctx: req.Context(), start: time.Now()}
	c.sent.ReadCloser = req.Body
	out := req
	t.guard(func() { out = c.prepare(req) })
	returned := false
	defer func() {
		if !returned { // next panicked
			c.end(errOther)
		}
	}()
	resp, err := rt.next.RoundTrip(out)
	returned = true
	if err != nil {
		c.fail(err, errOther)
		return resp, err
	}
	t.guard(func() { c.answered(req, resp) })
	return resp, nil
}

// prepare starts the span and returns the request to send.
func (c *call) prepare(req *http.Request) *http.Request {
	t := c.tel
	// The URL's host and not the Host field, which the conventions prefer: a proxy that passes that
	// on would let strangers choose series.
	host, port := origin.SplitHost(req.URL.Host)
	c.key = seriesKey{
		method: t.method[cmp.Or(req.Method, http.MethodGet)],
		tls:    req.URL.Scheme == "https",
		host:   strings.ToLower(host),
	}
	c.key.port = uint16(portOr(port, c.key.tls))
	c.key.route, _ = req.Context().Value(templateKey{}).(string)
	if t.tracer != nil {
		t.guard(func() { c.startSpan(req) })
	}
	if t.client.active != nil {
		s := t.client.series.of(c.key) // a series without status or error is one of requests in flight
		c.active = []metric.AddOption{s.record[0].(metric.MeasurementOption)}
		t.client.active.Add(c.ctx, 1, c.active...)
	}
	out := outgoing{Request: req, ctx: c.ctx}
	if c.span != nil {
		out.own()
	}
	t.cfg.Propagator.Inject(c.ctx, &out)
	if name := t.cfg.RequestID; name != "" && len(out.Header[name]) == 0 {
		if id := RequestID(c.ctx); id != "" {
			out.Set(name, id)
		}
	}
	if t.cfg.BodySizes && req.Body != nil && req.Body != http.NoBody {
		out.own()
		c.countBody(req, out.Request)
	}
	return out.Request
}

// An outgoing is the request that goes on: the caller's, until something is to change, since a
// RoundTripper must not change its request (net/http). It carries the trace context.
type outgoing struct {
	*http.Request
	ctx    context.Context // that the request is to have
	ours   bool            // the request is a copy
	fields bool            // its header is, too
}

func (o *outgoing) own() {
	if !o.ours {
		o.Request, o.ours = o.WithContext(o.ctx), true
	}
}

// Set implements [propagation.TextMapCarrier].
func (o *outgoing) Set(key, value string) {
	if o.own(); !o.fields {
		o.Header, o.fields = maps.Clone(o.Header), true
		if o.Header == nil {
			o.Header = make(http.Header)
		}
	}
	o.Header.Set(key, value)
}

// Get implements [propagation.TextMapCarrier].
func (o *outgoing) Get(key string) string { return o.Header.Get(key) }

// Keys implements [propagation.TextMapCarrier].
func (o *outgoing) Keys() []string { return slices.Collect(maps.Keys(o.Header)) }

// countBody has out count its body instead of req's.
func (c *call) countBody(req, out *http.Request) {
	out.Body = &c.sent
	if req.GetBody == nil {
		return
	}
	// http.Transport sends again if a connection that it kept turns out to be closed.
	out.GetBody = func() (io.ReadCloser, error) {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		again := &countedBody{ReadCloser: body}
		c.resent.Store(again)
		return again, nil
	}
}

// answered notes the header of resp and arranges to end c with its body.
func (c *call) answered(req *http.Request, resp *http.Response) {
	c.key.status = uint16(resp.StatusCode)
	c.key.proto = protoIndex(resp.ProtoMajor, resp.ProtoMinor)
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		c.end("") // the body is the connection and stays as it is: httputil.ReverseProxy writes to it
	case resp.Body == nil, resp.Body == http.NoBody, req.Method == http.MethodHead:
		c.end("")
	case resp.ContentLength < 0 && announcesStream(resp.Header):
		c.end("")
	default:
		resp.Body = &clientBody{ReadCloser: resp.Body, c: c}
	}
}

// A clientBody ends its call with the body. It has no io.WriterTo: those of net/http have none.
type clientBody struct {
	io.ReadCloser
	c *call
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.c.read.Add(int64(n))
	switch err {
	case nil:
	case io.EOF:
		b.c.end("")
	default:
		b.c.fail(err, errBody)
	}
	return n, err
}

func (b *clientBody) Close() error {
	defer b.c.end("")
	return b.ReadCloser.Close()
}

// fail ends c with err. unknown is the class of an error that is of no known one.
func (c *call) fail(err error, unknown string) {
	class := errOther
	c.tel.guard(func() { class = errorClass(err, c.ctx) }) // errors have methods that are not ours
	if class == errOther {
		class = unknown
	}
	c.end(class)
}

// end records c, once. class is the value of error.type if it is not the status.
func (c *call) end(class string) {
	c.once.Do(func() {
		c.key.err = class
		c.tel.guard(c.measure)
		if c.span != nil {
			c.tel.guard(c.endSpan)
		}
	})
}

// errorClass returns the value of error.type for an error of a RoundTripper, or "" if the caller,
// whose context is ctx, gave up on purpose: that is no error (conventions for HTTP spans,
// "Status").
func errorClass(err error, ctx context.Context) string {
	// Transports return the cause of a context that ended, which may be of any type.
	if ended := ctx.Err(); ended != nil && (errors.Is(err, ended) || errors.Is(err, context.Cause(ctx))) {
		if ended == context.Canceled {
			return ""
		}
		return errTimeout
	}
	var (
		timeout net.Error
		dns     *net.DNSError
		op      *net.OpError
		host    x509.HostnameError
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		alert   tls.AlertError
	)
	switch {
	case unsent.Is(err):
		return errNotSent
	case errors.Is(err, context.Canceled):
		return errCanceled
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return errTimeout
	case errors.As(err, &dns):
		return errDNS
	case errors.As(err, &host), errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &verify),
		errors.As(err, &record), errors.As(err, &alert), errors.Is(err, http.ErrSchemeMismatch):
		return errTLS
	case errors.As(err, &op):
		switch op.Op {
		case "dial", "proxyconnect":
			return errConnect
		case "remote error", "local error": // crypto/tls, for alerts
			return errTLS
		}
	}
	return errOther
}
