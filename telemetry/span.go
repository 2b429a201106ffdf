package telemetry

import (
	"fmt"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

// startOptions are the arguments of a span's start. They are pooled: every implementation reads
// them through trace.NewSpanStartConfig, which copies.
type startOptions struct {
	kv   [14]attribute.KeyValue
	opts [4]trace.SpanStartOption
}

var startPool = sync.Pool{New: func() any { return new(startOptions) }}

func (o *startOptions) free() {
	clear(o.kv[:]) // do not keep requests alive
	clear(o.opts[:])
	startPool.Put(o)
}

var (
	serverKind = trace.WithSpanKind(trace.SpanKindServer)
	clientKind = trace.WithSpanKind(trace.SpanKindClient)
)

// startSpan continues or starts the trace of r.
func (ex *exchange) startSpan(r *http.Request) {
	t := ex.tel
	ctx, stranger := t.extract(ex.scope.Context, r.Header)
	if t.tracer == nil {
		ex.scope.Context = ctx
		return
	}
	o := startPool.Get().(*startOptions)
	defer o.free()
	method := t.methods[ex.key.method]
	kv := append(o.kv[:0],
		attribute.String(attrMethod, method),
		attribute.String(attrScheme, ex.key.scheme()),
		attribute.String(attrPath, redact.Valid(ex.path, maxText)))
	if ex.key.method == 0 {
		kv = append(kv, attribute.String(attrMethodOriginal, redact.Valid(r.Method, maxMethod)))
	}
	if ex.query != "" {
		kv = append(kv, attribute.String(attrQuery, redact.Valid(redact.Query(ex.query, t.query), 2*maxText)))
	}
	if host, port := origin.SplitHost(ex.host); host != "" {
		kv = append(kv, attribute.String(attrServerAddress, redact.Valid(host, maxText)),
			attribute.Int(attrServerPort, portOr(port, ex.key.tls)))
	}
	if client := ex.clientAddress(); client != "" {
		kv = append(kv, attribute.String(attrClientAddress, client))
	}
	kv = appendPeer(kv, ex.peer.Text(), ex.peer.Port)
	if ex.key.proto != 0 {
		kv = append(kv, attribute.String(attrProtocol, protocols[ex.key.proto]))
	}
	if agent := r.Header["User-Agent"]; len(agent) > 0 && agent[0] != "" {
		kv = append(kv, attribute.String(attrUserAgent, redact.Valid(agent[0], maxText)))
	}
	// For the sampler: the route of a mux around us. One inside may know better at the end.
	route := redact.Valid(patternPath(r.Pattern), maxRoute)
	if route != "" {
		kv = append(kv, attribute.String(attrRoute, route))
	}
	opts := append(o.opts[:0], serverKind, trace.WithAttributes(kv...))
	if t.cfg.Public {
		opts = append(opts, trace.WithNewRoot())
		if stranger.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: stranger}))
		}
	}
	ex.scope.Context, ex.span = t.tracer.Start(ctx, spanName(method, route), opts...)
}

// endSpan adds what is known by now and ends the span.
func (ex *exchange) endSpan(s *series, o outcome) {
	defer ex.span.End()
	if !ex.span.IsRecording() {
		return
	}
	if s.key == ex.key {
		ex.span.SetAttributes(s.end...)
		ex.span.SetName(s.name)
	} else { // the series is an overflow, the span need not be
		ex.span.SetAttributes(ex.key.endAttributes(false, 0)...)
		ex.span.SetName(spanName(ex.tel.methods[ex.key.method], ex.key.route))
	}
	if o.panic != nil && o.panic != http.ErrAbortHandler {
		ex.span.AddEvent("exception", trace.WithAttributes(
			attribute.String("exception.type", fmt.Sprintf("%T", o.panic)),
			attribute.String("exception.message", redact.Valid(redact.Text(fmt.Sprint(o.panic)), maxMessage)),
			attribute.String("exception.stacktrace", redact.Clip(string(o.stack), maxStack))))
	}
	// The description stays empty: error.type says it (conventions, "Status").
	if ex.key.err != "" || ex.key.status >= 500 {
		ex.span.SetStatus(codes.Error, "")
	}
}

// startSpan starts the span of a request that is about to be sent.
func (c *call) startSpan(req *http.Request) {
	t := c.tel
	o := startPool.Get().(*startOptions)
	defer o.free()
	method := t.methods[c.key.method]
	kv := append(o.kv[:0],
		attribute.String(attrMethod, method),
		attribute.String(attrServerAddress, c.key.host),
		attribute.Int(attrServerPort, int(c.key.port)),
		attribute.String(attrFull, redact.Valid(redact.URL(req.URL, t.query), 2*maxText)))
	if c.key.method == 0 {
		kv = append(kv, attribute.String(attrMethodOriginal, redact.Valid(req.Method, maxMethod)))
	}
	if c.key.route != "" {
		kv = append(kv, attribute.String(attrTemplate, c.key.route))
	}
	if n := t.resends(req); n > 0 {
		kv = append(kv, attribute.Int(attrResend, n))
	}
	opts := append(o.opts[:0], clientKind, trace.WithAttributes(kv...))
	c.ctx, c.span = t.tracer.Start(c.ctx, spanName(method, c.key.route), opts...)
	if c.span.IsRecording() {
		c.ctx = httptrace.WithClientTrace(c.ctx,
			&httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
				if addr := info.Conn.RemoteAddr(); addr != nil {
					c.peer.Store(&addr)
				}
			}})
	}
}

// resends counts how often req was sent before: by redirects, and by what Config.ResendCount says.
func (t *Telemetry) resends(req *http.Request) int {
	n := 0
	for r := req.Response; r != nil && r.Request != nil && n < 100; r = r.Request.Response {
		n++
	}
	if t.cfg.ResendCount != nil {
		n += max(t.cfg.ResendCount(req.Context()), 0)
	}
	return n
}

// endSpan adds what the response or its lack told and ends the span.
func (c *call) endSpan() {
	defer c.span.End()
	if !c.span.IsRecording() {
		return
	}
	k := c.key
	k.route = "" // was there from the start
	kv := k.endAttributes(true, 3)
	if k.proto != 0 {
		kv = append(kv, attribute.String(attrProtocol, protocols[k.proto]))
	}
	if addr := c.peer.Load(); addr != nil {
		host, port := origin.SplitHost((*addr).String())
		kv = appendPeer(kv, host, port)
	}
	c.span.SetAttributes(kv...)
	if k.errorType(true) != "" {
		c.span.SetStatus(codes.Error, "")
	}
}

func appendPeer(kv []attribute.KeyValue, host, port string) []attribute.KeyValue {
	if host == "" {
		return kv
	}
	kv = append(kv, attribute.String(attrPeerAddress, host))
	if n, err := strconv.Atoi(port); err == nil {
		kv = append(kv, attribute.Int(attrPeerPort, n))
	}
	return kv
}

// portOr returns port as a number, or the scheme's if there is none.
func portOr(port string, tls bool) int {
	if port != "" { // an error costs an allocation
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			return int(n)
		}
	}
	if tls {
		return 443
	}
	return 80
}
