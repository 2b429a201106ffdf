package telemetry

import (
	"github.com/trivet-go/trivet/telemetry/internal/redact"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// startOptions are the arguments of a span's start. They are pooled: every implementation
// reads them through trace.NewSpanStartConfig, which copies.
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
func (x *exchange) startSpan(r *http.Request) {
	t := x.tel
	ctx, stranger := t.extract(x.scope.Context, r.Header)
	if t.tracer == nil {
		x.scope.Context = ctx
		return
	}
	o := startPool.Get().(*startOptions)
	defer o.free()
	method := t.methods[x.key.method]
	kv := append(o.kv[:0],
		attribute.String(attrMethod, method),
		attribute.String(attrScheme, x.key.scheme()),
		attribute.String(attrPath, redact.Valid(x.path, maxText)))
	if x.key.method == 0 {
		kv = append(kv, attribute.String(attrMethodOriginal, redact.Valid(r.Method, maxMethod)))
	}
	if x.query != "" {
		kv = append(kv, attribute.String(attrQuery, redact.Valid(redact.Query(x.query, t.query), 2*maxText)))
	}
	if host, port := splitHost(t.host(r)); host != "" {
		kv = append(kv, attribute.String(attrServerAddress, redact.Valid(host, maxText)), attribute.Int(attrServerPort, portOr(port, x.key.tls)))
	}
	peer, peerPort := splitHost(r.RemoteAddr)
	if client := t.clientAddress(r, peer); client != "" {
		kv = append(kv, attribute.String(attrClientAddress, client))
	}
	if peer != "" {
		kv = append(kv, attribute.String(attrPeerAddress, peer))
		if n, err := strconv.Atoi(peerPort); err == nil {
			kv = append(kv, attribute.Int(attrPeerPort, n))
		}
	}
	if x.key.proto != 0 {
		kv = append(kv, attribute.String(attrProtocol, protocols[x.key.proto]))
	}
	if agent := r.Header["User-Agent"]; len(agent) > 0 && agent[0] != "" {
		kv = append(kv, attribute.String(attrUserAgent, redact.Valid(agent[0], maxText)))
	}
	route := redact.Valid(patternPath(r.Pattern), maxRoute) // of a mux around us, for the sampler; one inside may know better
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
	x.scope.Context, x.span = t.tracer.Start(ctx, spanName(method, route), opts...)
}

// splitHost splits host:port without judging either. It allocates nothing.
func splitHost(hostport string) (host, port string) {
	host = hostport
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && strings.IndexByte(hostport[i:], ']') < 0 {
		host, port = hostport[:i], hostport[i+1:]
	}
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	return host, port
}

// portOr returns port as a number, or the scheme's if there is none.
func portOr(port string, tls bool) int {
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		return int(n)
	}
	if tls {
		return 443
	}
	return 80
}
