package telemetry

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/response"
)

// Middleware returns a handler that observes each request to next. Put it outermost: it does not
// see what handlers around it do. A request that passes one Telemetry's Middleware twice is counted
// once. It panics if next is nil.
//
// A panic of next is recorded and goes on unless [Config.Panics] says otherwise;
// [http.ErrAbortHandler] always goes on. If telemetry itself fails, the request does not notice.
func (t *Telemetry) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("telemetry: nil handler")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ex := exchangeFrom(r.Context()); ex != nil && ex.tel == t && ex.answers(w) {
			next.ServeHTTP(w, r) // wrapped twice: the outer one counts
			return
		}
		if t.cfg.Skip != nil && t.skips(r) {
			next.ServeHTTP(w, r)
			return
		}
		ex := t.startExchange(w, r)
		defer func() {
			v := recover()
			r.Pattern = ex.request.Pattern // so that an outer middleware can read it too
			if again := ex.end(v); again != nil {
				panic(again) // the trace still has the handler's frames: this runs on top of them
			}
		}()
		next.ServeHTTP(&ex.writer, ex.request)
		ex.returned = true
	})
}

// answers reports whether w writes the response of ex, perhaps through other writers.
func (ex *exchange) answers(w http.ResponseWriter) bool {
	for {
		if w == &ex.writer {
			return true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = u.Unwrap()
	}
}

func (t *Telemetry) skips(r *http.Request) (skip bool) {
	defer t.caught()
	return t.cfg.Skip(r)
}

// An exchange is one request inside Middleware. It is one allocation that holds all that a request
// needs. It is not pooled: a handler may keep its ResponseWriter, and would then write into a
// stranger's response.
type exchange struct {
	tel      *Telemetry
	writer   writer        // what the handler writes to
	scope    scope         // the request's context
	body     countedBody   // the request's body, if its size matters
	request  *http.Request // as the handler gets it; its Pattern is set by ServeMux
	start    time.Time
	span     trace.Span // nil if there are none
	key      seriesKey
	peer     origin.Peer // with client, found once, at the start: handlers may change header fields
	client   netip.Addr
	host     string // that the client asked for, perhaps with a port
	id       string // request id, if any
	path     string // before the handler may have changed the URL
	query    string
	returned bool // the handler did, and did not panic or call runtime.Goexit

	firstFlush time.Duration // since start; zero before
	timingLine string        // what setServerTiming wrote

	mu        sync.Mutex    // guards the fields below, which the handler's goroutines may share
	route     string        // as Route found it
	routePath string        // the path that route stands for: what was stripped is not in it
	inner     *http.Request // that the innermost Route is serving
	events    []logEvent
	timing    []timing
}

// A scope is the context of a request. It is a part of the exchange, so that finding the exchange
// costs no further allocation.
type scope struct {
	context.Context
	ex *exchange
}

// An afterScope is the context of what comes after the answer: the values of the request's, and no
// end. A log handler or exporter that heeds contexts must not lose what clients do who leave.
type afterScope struct{ *scope }

func (afterScope) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }
func (afterScope) Done() <-chan struct{}                   { return nil }
func (afterScope) Err() error                              { return nil }

type exchangeKey struct{}

func (s *scope) Value(key any) any {
	if _, ok := key.(exchangeKey); ok {
		return s.ex
	}
	return s.Context.Value(key)
}

// exchangeFrom returns the exchange of ctx, or nil outside of Middleware.
func exchangeFrom(ctx context.Context) *exchange {
	ex, _ := ctx.Value(exchangeKey{}).(*exchange)
	return ex
}

// startExchange starts to observe r.
func (t *Telemetry) startExchange(w http.ResponseWriter, r *http.Request) *exchange {
	t.inFlight.Add(1)
	ex := &exchange{tel: t, start: time.Now(), path: r.URL.Path, query: r.URL.RawQuery}
	ex.writer = writer{Recorder: *response.NewRecorder(w, r), ex: ex}
	ex.key = seriesKey{method: t.method[r.Method], proto: protoIndex(r.ProtoMajor, r.ProtoMinor)}
	ex.findOrigin(r)
	ex.scope = scope{Context: r.Context(), ex: ex}
	t.guard(func() { ex.startSpan(r) })
	ex.request = r.WithContext(&ex.scope)
	ex.writer.Serve(ex.request)
	if t.cfg.RequestID != "" {
		ex.id = t.requestID(r)
		// For 1xx responses and handlers that look. What goes out in the end is up to
		// writer.header.
		ex.writer.Header().Set(t.cfg.RequestID, ex.id)
	}
	if t.cfg.BodySizes && r.Body != nil && r.Body != http.NoBody {
		ex.body.ReadCloser = r.Body
		ex.request.Body = &ex.body
	}
	if t.server.active != nil {
		t.guard(func() { t.server.active.Add(&ex.scope, 1, ex.activeSeries()...) })
	}
	return ex
}

// findOrigin finds whose request r is and what was asked of whom.
func (ex *exchange) findOrigin(r *http.Request) {
	t := ex.tel
	believes := len(t.cfg.TrustedProxies) > 0 || t.cfg.TrustUnix
	if believes || t.tracer != nil || t.cfg.AccessLog != nil { // metrics alone name no peer
		ex.peer = t.proxies.Peer(r)
		ex.client = t.proxies.Client(ex.peer, r.Header, "X-Forwarded-For")
	}
	ex.host = ex.peer.Host(r)
	ex.key.tls = ex.peer.HTTPS(r)
	if len(t.hosts) > 0 {
		name, _ := origin.SplitHost(ex.host)
		ex.key.host = t.hosts[strings.ToLower(name)]
	}
}

// clientAddress returns the client's address in words, or "" if there is none.
func (ex *exchange) clientAddress() string {
	switch {
	case ex.client == ex.peer.Addr:
		return ex.peer.Text()
	case ex.client.IsValid():
		return ex.client.String()
	}
	return ""
}

const maxRequestID = 128

// RequestID returns the id of the request that ctx belongs to, or "". See [Config.RequestID].
func RequestID(ctx context.Context) string {
	if ex := exchangeFrom(ctx); ex != nil {
		return ex.id
	}
	return ""
}

// requestID returns the id that the client sent, if it is one, or a new one. A client's id ends in
// log lines, headers and perhaps file names, so it may hold nothing that means something there.
func (t *Telemetry) requestID(r *http.Request) string {
	if ids := r.Header[t.cfg.RequestID]; len(ids) == 1 && validRequestID(ids[0]) {
		return ids[0]
	}
	return newRequestID()
}

// newRequestID returns 128 random bits as 26 characters in base32 (RFC 4648, section 6). It is an
// identifier and no secret, so it is drawn from math/rand/v2, which the system seeds: to ask the
// system each time would cost a call.
func newRequestID() string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	var id [26]byte
	high, low := rand.Uint64(), rand.Uint64()
	for i := range id {
		id[i] = digits[low%32]
		low = low>>5 | high<<59
		high >>= 5
	}
	return string(id[:])
}

func validRequestID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return id != "" && len(id) <= maxRequestID && id[0] != '.' && id[0] != '-'
}

// An outcome is what became of a request, beside what its key says.
type outcome struct {
	elapsed time.Duration // until the handler was done
	latency time.Duration // what metrics and objectives count: of a stream, the time to its first byte
	timed   bool          // there is a latency: a stream may have had no first byte
	panic   any
	stack   []byte
}

// end records ex. v is what the handler panicked with. It returns the panic to go on with, if any.
func (ex *exchange) end(v any) (again any) {
	t := ex.tel
	t.inFlight.Add(-1)
	o := outcome{panic: v}
	switch {
	case v == http.ErrAbortHandler:
		again = v
	case v != nil:
		again = ex.panicked(&o)
	case ex.returned && ex.writer.Status == 0:
		ex.writer.header() // net/http is about to send it
	}
	o.elapsed = time.Since(ex.start)
	o.latency, o.timed = o.elapsed, true
	t.guard(func() { ex.classify(v) })
	t.guard(func() {
		if ex.isStream() {
			o.latency, o.timed = ex.firstFlush, ex.firstFlush > 0
		}
	})
	t.requests.Add(1)
	if ex.key.serverFault() {
		t.failed.Add(1)
	}
	s := t.server.series.of(ex.key)
	t.guard(func() { ex.measure(s, o) })
	for _, slo := range t.cfg.SLOs {
		slo.record(ex.key, o)
	}
	if ex.span != nil {
		t.guard(func() { ex.endSpan(s, o) })
	}
	if t.cfg.AccessLog != nil {
		t.guard(func() { t.cfg.AccessLog.write(ex, o) })
	}
	return again
}

// isStream reports whether the response was one that lasts as long as the client likes. How long it
// took then says nothing about latency.
func (ex *exchange) isStream() bool {
	if ex.writer.Hijacked || ex.writer.Status == http.StatusSwitchingProtocols {
		return true
	}
	return ex.firstFlush != 0 && announcesStream(ex.writer.Header())
}

func announcesStream(h http.Header) bool {
	switch grammar.MediaType(h) {
	case "text/event-stream", "multipart/x-mixed-replace",
		"application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-seq":
		return true
	}
	return false
}

// classify completes the key: route, status and error.
func (ex *exchange) classify(v any) {
	k := &ex.key
	k.route = ex.findRoute()
	k.status = uint16(ex.writer.Status)
	early := ex.endedEarly()
	switch {
	case v == http.ErrAbortHandler && early:
		k.err = errCanceled // ReverseProxy aborts like this when its client leaves
	case v == http.ErrAbortHandler, v == nil && !ex.returned: // the latter by runtime.Goexit
		k.err = errAborted
	case v != nil:
		k.err = errPanic
	case early && ex.scope.Context.Err() == context.DeadlineExceeded:
		k.err = errTimeout
	case early:
		k.err = errCanceled
	case k.status == 0:
		k.status = http.StatusOK // net/http's, for a handler that wrote nothing
	}
}

// endedEarly reports whether the request's context ended before the response was complete.
func (ex *exchange) endedEarly() bool {
	if ex.scope.Context.Err() == nil || ex.writer.Hijacked {
		return false
	}
	// A client may well close the connection once it has all that it was promised.
	declared := ex.writer.Header().Get("Content-Length")
	complete := declared != "" && declared == strconv.FormatInt(ex.writer.Bytes, 10)
	status := ex.writer.Status
	bodiless := status == http.StatusNoContent || status == http.StatusNotModified ||
		status != 0 && ex.request.Method == http.MethodHead
	return !complete && !bodiless
}

// serverFault reports whether the request failed by the server's fault. A client that left early is
// no such fault: nobody knows what it would have got.
func (k seriesKey) serverFault() bool {
	if k.err != "" {
		return k.err != errCanceled
	}
	return k.status >= 500
}
