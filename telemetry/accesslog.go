package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/trivet-go/trivet/internal/grammar"
	"github.com/trivet-go/trivet/internal/origin"
	"github.com/trivet-go/trivet/internal/settings"
	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

const (
	defaultSlow = time.Second
	maxEvents   = 32 // distinct sibling events on one line
	maxFields   = 16 // values of one header field on it
)

// A ClientDetail says how much of a client's address the access log shows.
type ClientDetail int

const (
	// ClientNetwork shows the network: /24 for IPv4, /48 for IPv6.
	ClientNetwork ClientDetail = iota

	// ClientFull shows the address.
	ClientFull

	// ClientNone shows nothing.
	ClientNone
)

func (d ClientDetail) String() string {
	switch d {
	case ClientNetwork:
		return "network"
	case ClientFull:
		return "full"
	case ClientNone:
		return "none"
	}
	return "unknown"
}

// AccessLogConfig configures an [AccessLog].
type AccessLogConfig struct {
	// Handler receives the lines. Required. It is called on the request's goroutine when the
	// handler is done. One that blocks holds that goroutine, and the end of the response: net/http
	// sends it when Middleware returns.
	Handler slog.Handler

	// SampleEvery n writes one in n of the requests that neither failed nor were slow, each marked
	// with sample_every. Zero and 1 write all of them. Negative writes none of them.
	SampleEvery int

	// Slow is how long a request must take, or the first byte of a stream, to be always written.
	// Zero means 1 s. Negative means that none is slow.
	Slow time.Duration

	// RequestHeaders and ResponseHeaders name the fields to show. If empty, none are. Fields that
	// hold credentials, such as Authorization and Cookie, are invalid.
	RequestHeaders, ResponseHeaders []string

	// Client says how much of the client's address to show. Zero means [ClientNetwork].
	Client ClientDetail
}

// An AccessLog writes one line about each request that a [Telemetry] observes: set it as
// [Config.AccessLog]. Create one with [NewAccessLog].
//
// A line has the names of the spans' attributes, trace_id and span_id, and request_id. What other
// packages reported meanwhile stands in groups with the names of their [Observer]. Values of query
// parameters are shown if [Config.Query] allows. Requests that failed by the server's fault are at
// level Error, those that the client gave up at Warn, all others at Info.
//
// An AccessLog is safe for concurrent use and starts no goroutines. Several Telemetrys may share
// it.
type AccessLog struct {
	cfg               AccessLogConfig // read-only after NewAccessLog
	request, response []headerField
	skipped           atomic.Uint64
}

type headerField struct{ name, key string } // canonical, and as the line has it

// NewAccessLog returns an AccessLog. The error, if any, names every invalid field of cfg.
func NewAccessLog(cfg AccessLogConfig) (*AccessLog, error) {
	f := settings.Of("telemetry", "AccessLogConfig")
	if cfg.Handler == nil {
		f.Add("Handler", "is required")
	}
	if h, ok := cfg.Handler.(*logHandler); ok {
		cfg.Handler = h.next // its fields are in the line already
	}
	settings.Default(f, "Slow", &cfg.Slow, defaultSlow)
	if cfg.Client < ClientNetwork || cfg.Client > ClientNone {
		f.Add("Client", "%d is no ClientDetail", int(cfg.Client))
	}
	l := &AccessLog{
		cfg:      cfg,
		request:  headerFields(f, "RequestHeaders", cfg.RequestHeaders),
		response: headerFields(f, "ResponseHeaders", cfg.ResponseHeaders),
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	return l, nil
}

func headerFields(f *settings.Faults, setting string, names []string) []headerField {
	var fields []headerField
	for _, name := range names {
		switch {
		case !grammar.IsToken(name):
			f.Add(setting, "%q is no field name", name)
		case redact.IsSecret(name):
			f.Add(setting, "%s holds credentials", name)
		}
		fields = append(fields, headerField{http.CanonicalHeaderKey(name), strings.ToLower(name)})
	}
	return fields
}

// A logEvent is what an event of a sibling adds to the line.
type logEvent struct {
	name, event string
	attrs       []slog.Attr
	n           int // how often it happened
}

// observe adds an event to the line of ex and keeps attrs. Of several with the same word the last
// one is shown. What comes after the line was written, such as a hedge that lost, is in no line.
func (ex *exchange) observe(name, event string, attrs []slog.Attr) {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	for i := range ex.events {
		if e := &ex.events[i]; e.name == name && e.event == event {
			e.attrs = attrs
			e.n++
			return
		}
	}
	if ex.events == nil {
		ex.events = make([]logEvent, 0, 4)
	}
	if len(ex.events) < maxEvents {
		ex.events = append(ex.events, logEvent{name, event, attrs, 1})
	}
}

// write writes the line of ex, unless sampling leaves it out.
func (l *AccessLog) write(ex *exchange, o outcome) {
	level := slog.LevelInfo
	remarkable := true
	switch {
	case ex.key.serverFault():
		level = slog.LevelError
	case ex.key.err != "":
		level = slog.LevelWarn
	case l.cfg.Slow > 0 && o.timed && o.latency >= l.cfg.Slow:
	default:
		remarkable = false
	}
	sampled := !remarkable && l.cfg.SampleEvery > 1
	if !remarkable && (l.cfg.SampleEvery < 0 || sampled && rand.IntN(l.cfg.SampleEvery) != 0) {
		l.skipped.Add(1)
		return
	}
	ctx := context.Context(afterScope{&ex.scope})
	if !l.cfg.Handler.Enabled(ctx, level) {
		return
	}
	record := slog.NewRecord(ex.start.Add(o.elapsed), level, "request", 0)
	var room [24]slog.Attr // what is here need not be allocated
	record.AddAttrs(l.appendAttrs(room[:0], ex, o)...)
	if sampled {
		record.AddAttrs(slog.Int("sample_every", l.cfg.SampleEvery))
	}
	_ = l.cfg.Handler.Handle(ctx, record) // there is nobody to tell
}

func (l *AccessLog) appendAttrs(attrs []slog.Attr, ex *exchange, o outcome) []slog.Attr {
	t, r := ex.tel, ex.request
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, redact.Escape(value)))
		}
	}
	text(attrMethod, redact.Clip(r.Method, maxMethod))
	text(attrPath, ex.path)
	if ex.query != "" {
		text(attrQuery, redact.Query(ex.query, t.query))
	}
	text(attrRoute, ex.key.route)
	if ex.key.status != 0 {
		attrs = append(attrs, slog.Int(attrStatus, int(ex.key.status)))
	}
	text(attrErrorType, ex.key.errorType(false))
	attrs = append(attrs,
		slog.Duration("duration", o.elapsed), slog.Int64("http.response.body.size", ex.writer.Bytes))
	if ex.body.ReadCloser != nil {
		attrs = append(attrs, slog.Int64("http.request.body.size", ex.body.n.Load()))
	}
	host, _ := origin.SplitHost(ex.host)
	text(attrServerAddress, host)
	text(attrProtocol, protocols[ex.key.proto])
	text(attrClientAddress, l.client(ex))
	text(attrUserAgent, r.Header.Get("User-Agent"))
	text("request_id", ex.id)
	if sc := trace.SpanContextFromContext(&ex.scope); sc.IsValid() {
		attrs = append(attrs,
			slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	attrs = appendHeaders(attrs, "http.request.header", l.request, r.Header)
	attrs = appendHeaders(attrs, "http.response.header", l.response, ex.writer.Header())
	if o.panic != nil && o.panic != http.ErrAbortHandler {
		text("exception.message", redact.Text(fmt.Sprint(o.panic)))
		if o.stack != nil && t.cfg.Panics == Answer500 { // otherwise net/http's log has it
			attrs = append(attrs, slog.String("exception.stacktrace", redact.Clip(string(o.stack), maxStack)))
		}
	}
	ex.mu.Lock()
	events := ex.events
	ex.events = nil // what comes now is in no line
	ex.mu.Unlock()
	return appendEvents(attrs, events)
}

// client returns as much of the client's address as is to be shown.
func (l *AccessLog) client(ex *exchange) string {
	switch {
	case l.cfg.Client == ClientNone, !ex.client.IsValid():
		return ""
	case l.cfg.Client == ClientFull:
		return ex.clientAddress()
	}
	bits := 48
	if ex.client.Is4() {
		bits = 24
	}
	prefix, _ := ex.client.Prefix(bits)
	var room [64]byte
	return string(prefix.AppendTo(room[:0]))
}

func appendHeaders(attrs []slog.Attr, group string, fields []headerField, h http.Header) []slog.Attr {
	var shown []slog.Attr
	for _, f := range fields {
		if values := h[f.name]; len(values) > 0 {
			safe := make([]string, min(len(values), maxFields))
			for i := range safe { // an allowed one may hold a URL: Referer and Location do
				safe[i] = redact.Field(f.name, values[i])
			}
			shown = append(shown, slog.String(f.key, redact.Escape(strings.Join(safe, ", "))))
		}
	}
	if shown == nil {
		return attrs
	}
	return append(attrs, slog.GroupAttrs(group, shown...))
}

// appendEvents adds a group for each observer, with a group for each of its events.
func appendEvents(attrs []slog.Attr, events []logEvent) []slog.Attr {
	for i, e := range events {
		if e.name == "" {
			continue // went out with an earlier one
		}
		var group []slog.Attr
		for j := i; j < len(events); j++ {
			if f := events[j]; f.name == e.name {
				fields := logFields(f.attrs, false)
				if f.n > 1 {
					fields = append(slices.Clip(fields), slog.Int("n", f.n))
				}
				group = append(group, slog.GroupAttrs(f.event, fields...))
				events[j].name = ""
			}
		}
		attrs = append(attrs, slog.GroupAttrs(e.name, group...))
	}
	return attrs
}

// logFields returns the attributes of an event, escaped and, within detail, without secrets. The
// dimensions beside detail are few and chosen by the package, which is no place for a secret. It
// returns attrs itself if they may stand as they are.
func logFields(attrs []slog.Attr, detail bool) []slog.Attr {
	if fit(attrs, detail) {
		return attrs
	}
	out := make([]slog.Attr, 0, len(attrs)+1)
	for _, a := range attrs {
		v := a.Value.Resolve()
		switch v.Kind() {
		case slog.KindGroup:
			v = slog.GroupValue(logFields(v.Group(), true)...)
		case slog.KindString:
			v = slog.StringValue(safeText(a.Key, v.String(), detail))
		case slog.KindAny:
			if v.Any() == nil {
				continue
			}
			v = slog.StringValue(safeText(a.Key, fmt.Sprint(v.Any()), true))
		}
		out = append(out, slog.Attr{Key: a.Key, Value: v})
	}
	return out
}

// fit reports whether logFields has nothing to change.
func fit(attrs []slog.Attr, detail bool) bool {
	for _, a := range attrs {
		switch a.Value.Kind() {
		case slog.KindGroup:
			if !fit(a.Value.Group(), true) {
				return false
			}
		case slog.KindString:
			if text := a.Value.String(); safeText(a.Key, text, detail) != text {
				return false
			}
		case slog.KindAny, slog.KindLogValuer:
			return false
		}
	}
	return true
}

// safeText returns a sibling's text, fit for logs and spans.
func safeText(key, text string, detail bool) string {
	if !detail {
		return redact.Escape(text)
	}
	if redact.IsSecret(key) && text != "" {
		return redact.Word
	}
	return redact.Escape(redact.Text(text))
}
