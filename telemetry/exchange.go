package telemetry

import (
	"context"
	"fmt"
	"github.com/trivet-go/trivet/telemetry/internal/redact"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/trivet-go/trivet/internal/problem"
	"github.com/trivet-go/trivet/internal/response"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const maxRoute = 256 // bytes of a route; a longer one is a path or a mistake

// An exchange is one request inside Middleware. It is one allocation that holds all that a request
// needs. It is not pooled: a handler may keep its ResponseWriter, and would then write
// into a stranger's response.
type exchange struct {
	tel     *Telemetry
	writer  writer        // what the handler writes to
	scope   scope         // the request's context
	body    countedBody   // the request's body, if its size matters
	request *http.Request // as the handler gets it; its Pattern is set by ServeMux
	start   time.Time
	span    trace.Span // nil if there are none
	key     seriesKey
	id      string // request id, if any
	path    string // before the handler may have changed the URL
	query   string
	done    bool // the handler returned

	firstFlush time.Duration // since start; zero before
	timingLine string        // what setServerTiming wrote

	mu     sync.Mutex // guards the fields below, which the handler's goroutines may share
	route  string     // as Route found it
	below  string     // the path that route stands for: what was stripped is not in it
	events []logEvent
	timing []timing
}

// A scope is the context of a request. It is the exchange's own Context so that finding the exchange
// costs no further allocation.
type scope struct {
	context.Context
	x *exchange
}

type exchangeKey struct{}

func (s *scope) Value(key any) any {
	if _, ok := key.(exchangeKey); ok {
		return s.x
	}
	return s.Context.Value(key)
}

// exchangeFrom returns the exchange of ctx, or nil outside of Middleware.
func exchangeFrom(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// begin starts to observe r.
func (t *Telemetry) begin(w http.ResponseWriter, r *http.Request) *exchange {
	t.inFlight.Add(1)
	x := &exchange{tel: t, start: time.Now(), path: r.URL.Path, query: r.URL.RawQuery}
	x.writer = writer{Recorder: *response.NewRecorder(w, r), x: x}
	x.key = seriesKey{method: t.method[r.Method], proto: protoIndex(r.ProtoMajor, r.ProtoMinor), tls: t.https(r)}
	if len(t.hosts) > 0 {
		host, _ := splitHost(t.host(r))
		x.key.host = t.hosts[strings.ToLower(host)]
	}
	x.scope = scope{Context: r.Context(), x: x}
	t.guard(func() { x.startSpan(r) })
	x.request = r.WithContext(&x.scope)
	if t.cfg.RequestID != "" {
		x.id = t.requestID(r)
		x.writer.Header().Set(t.cfg.RequestID, x.id) // for 1xx responses and handlers that look; see writer.header
	}
	if t.cfg.BodySizes && r.Body != nil && r.Body != http.NoBody {
		x.body.ReadCloser = r.Body
		x.request.Body = &x.body
	}
	if t.server.active != nil {
		t.guard(func() { t.server.active.Add(&x.scope, 1, x.activeSeries()...) })
	}
	return x
}

// end records x. It returns the panic to go on with, if any. v is what the handler panicked with.
func (x *exchange) end(v any) (again any) {
	t := x.tel
	t.inFlight.Add(-1)
	var stack []byte
	if v != nil && v != http.ErrAbortHandler {
		t.panics.Add(1)
		again = v
		if t.cfg.Panics == Answer500 || x.span != nil && x.span.IsRecording() {
			stack = debug.Stack()
		}
		if t.cfg.Panics == Answer500 {
			again = x.answer500()
		}
	} else if v != nil {
		again = v
	} else if x.done && x.writer.Status == 0 {
		x.writer.header() // net/http is about to send it
	}
	elapsed := time.Since(x.start)
	t.guard(func() { x.outcome(v) })
	o := outcome{elapsed: elapsed, counted: elapsed, latency: true, panic: v, stack: stack}
	t.guard(func() { o.stream(x) })
	t.requests.Add(1)
	if serverFault(x.key) {
		t.failed.Add(1)
	}
	s := t.server.series.get(x.key)
	t.guard(func() { x.measure(s, o) })
	for _, slo := range t.cfg.SLOs {
		slo.record(x.key, o)
	}
	if x.span != nil {
		t.guard(func() { x.endSpan(s, o) })
	}
	if t.cfg.AccessLog != nil {
		t.guard(func() { t.cfg.AccessLog.write(x, o) })
	}
	return again
}

// An outcome is what became of a request, beside what its key says.
type outcome struct {
	elapsed time.Duration
	counted time.Duration // what the duration histogram gets
	latency bool          // counted means something
	panic   any
	stack   []byte
}

// stream applies Config.Streams.
func (o *outcome) stream(x *exchange) {
	if x.tel.cfg.Streams == StreamFull || !x.isStream() {
		return
	}
	o.counted = x.firstFlush
	o.latency = x.tel.cfg.Streams != StreamSkip && x.firstFlush > 0
}

func (x *exchange) isStream() bool {
	if x.writer.Hijacked || x.writer.Status == http.StatusSwitchingProtocols {
		return true
	}
	return x.firstFlush != 0 && streamType(x.writer.Header())
}

// streamType reports whether h announces a stream.
func streamType(h http.Header) bool {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(media)) {
	case "text/event-stream", "multipart/x-mixed-replace", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-seq":
		return true
	}
	return false
}

// staleFields belong to the response that the handler had in mind, beyond those that problem.Write removes: they
// would start a session or redirect.
var staleFields = [...]string{"Set-Cookie", "Location"}

// answer500 answers for a handler that panicked. It returns the panic to go on with, if any.
func (x *exchange) answer500() any {
	if x.writer.Hijacked {
		return nil // the connection is the handler's, there is nobody to answer
	}
	if x.writer.Status != 0 {
		return http.ErrAbortHandler
	}
	x.tel.guard(func() {
		h := x.writer.Header()
		for _, name := range staleFields {
			h.Del(name)
		}
		problem.Write(&x.writer, problem.Details{Status: http.StatusInternalServerError, Title: http.StatusText(http.StatusInternalServerError)})
	})
	return nil
}

// outcome completes the key.
func (x *exchange) outcome(v any) {
	x.key.route = x.findRoute()
	x.key.status = uint16(x.writer.Status)
	canceled := x.left()
	switch {
	case v == http.ErrAbortHandler && canceled:
		x.key.err = errCanceled // ReverseProxy aborts like this when its client leaves
	case v == http.ErrAbortHandler, v == nil && !x.done: // or runtime.Goexit
		x.key.err = errAborted
	case v != nil:
		x.key.err = errPanic
	case canceled:
		x.key.err = errCanceled
		if x.scope.Context.Err() == context.DeadlineExceeded {
			x.key.err = errTimeout
		}
	case x.key.status == 0:
		x.key.status = http.StatusOK // net/http's, for a handler that wrote nothing
	}
}

// left reports whether the request's context ended before the response did.
func (x *exchange) left() bool {
	if x.scope.Context.Err() == nil || x.writer.Hijacked {
		return false
	}
	// A client may well close the connection once it has all that it was promised.
	declared := x.writer.Header().Get("Content-Length")
	complete := declared != "" && declared == fmt.Sprint(x.writer.Bytes)
	bodiless := x.writer.Status == http.StatusNoContent || x.writer.Status == http.StatusNotModified ||
		x.writer.Status != 0 && x.request.Method == http.MethodHead
	return !complete && !bodiless
}

// serverFault reports whether the request failed by the server's fault. A client that
// left is none: nobody knows what it would have got.
func serverFault(k seriesKey) bool {
	if k.err != "" {
		return k.err != errCanceled
	}
	return k.status >= 500
}

// measure records the metrics.
func (x *exchange) measure(s *series, o outcome) {
	m := &x.tel.server
	ctx := &x.scope
	if m.active != nil {
		m.active.Add(ctx, -1, x.activeSeries()...) // first: what panics below must not leave it behind
	}
	if o.latency && m.duration.Enabled(ctx) {
		m.duration.Record(ctx, o.counted.Seconds(), s.record...)
	}
	if m.requestBody != nil {
		m.requestBody.Record(ctx, x.body.n.Load(), s.record...)
		m.responseBody.Record(ctx, x.writer.Bytes, s.record...)
	}
}

func (x *exchange) activeSeries() []metric.AddOption {
	scheme := 0
	if x.key.tls {
		scheme = 1
	}
	return x.tel.server.activeServer[x.key.method][scheme]
}

// endSpan adds what is known by now and ends the span.
func (x *exchange) endSpan(s *series, o outcome) {
	defer x.span.End()
	if !x.span.IsRecording() {
		return
	}
	if s.key == x.key {
		x.span.SetAttributes(s.end...)
		x.span.SetName(s.name)
	} else { // the series is an overflow, the span need not be
		x.span.SetAttributes(x.key.outcome(false, 0)...)
		x.span.SetName(spanName(x.tel.methods[x.key.method], x.key.route))
	}
	if o.panic != nil && o.panic != http.ErrAbortHandler {
		x.span.AddEvent("exception", trace.WithAttributes(
			attribute.String("exception.type", fmt.Sprintf("%T", o.panic)),
			attribute.String("exception.message", redact.Valid(redact.Text(fmt.Sprint(o.panic)), maxMessage)),
			attribute.String("exception.stacktrace", redact.Clip(string(o.stack), maxStack))))
	}
	// The description stays empty: error.type says it (conventions, "Status").
	if x.key.err != "" || x.key.status >= 500 {
		x.span.SetStatus(codes.Error, "")
	}
}
