package telemetry

import (
	"context"
	"errors"
	"fmt"
	"github.com/trivet-go/trivet/telemetry/internal/redact"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

const (
	defaultSlow = time.Second
	maxEvents   = 32 // distinct sibling events on one line
)

// A ClientPolicy says how much of a client's address the access log shows.
type ClientPolicy int

const (
	// ClientNetwork shows the network: /24 for IPv4, /48 for IPv6.
	ClientNetwork ClientPolicy = iota

	// ClientFull shows the address.
	ClientFull

	// ClientNone shows nothing.
	ClientNone
)

// AccessLogConfig configures an [AccessLog].
type AccessLogConfig struct {
	// Handler receives the lines. Required. It is called on the request's goroutine after the
	// response: one that blocks holds that goroutine, though not the client.
	Handler slog.Handler

	// SampleEvery writes one in so many of the requests that neither failed nor were slow, each marked
	// with sample_every. Zero and 1 write all. Negative writes none of them.
	SampleEvery int

	// Slow is the time from which on a request is always written. Zero means 1 s.
	// Negative means that none is slow.
	Slow time.Duration

	// RequestHeaders and ResponseHeaders name the fields to show. If empty, none are. Fields
	// that hold credentials, such as Authorization and Cookie, are invalid.
	RequestHeaders, ResponseHeaders []string

	// Client says how much of the client's address to show. Zero means [ClientNetwork].
	Client ClientPolicy
}

// An AccessLog writes one line about each request that a [Telemetry] observes:
// set it as [Config.AccessLog]. Create one with [NewAccessLog].
//
// A line has the names of the spans' attributes, trace_id and span_id, request_id, and in a group named like
// the [Observer] what siblings reported meanwhile. Values of query parameters are shown if
// [Config.Query] allows. Requests that failed by the server's fault are at level Error, those
// that the client gave up at Warn, all others at Info.
type AccessLog struct {
	cfg               AccessLogConfig // read-only after NewAccessLog
	request, response []headerField
	skipped           atomic.Uint64
}

type headerField struct{ name, key string }

// NewAccessLog returns an AccessLog. The error, if any, names every invalid field of cfg.
func NewAccessLog(cfg AccessLogConfig) (*AccessLog, error) {
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("telemetry: AccessLogConfig."+field+": "+format, args...))
	}
	if cfg.Handler == nil {
		fault("Handler", "is required")
	}
	if cfg.Slow == 0 {
		cfg.Slow = defaultSlow
	}
	if cfg.Client < ClientNetwork || cfg.Client > ClientNone {
		fault("Client", "%d is no ClientPolicy", cfg.Client)
	}
	l := &AccessLog{cfg: cfg}
	for _, f := range []struct {
		field string
		names []string
		to    *[]headerField
	}{{"RequestHeaders", cfg.RequestHeaders, &l.request}, {"ResponseHeaders", cfg.ResponseHeaders, &l.response}} {
		for _, name := range f.names {
			switch {
			case !isToken(name):
				fault(f.field, "%q is no field name", name)
			case redact.IsSecret(name):
				fault(f.field, "%s holds credentials", name)
			}
			*f.to = append(*f.to, headerField{http.CanonicalHeaderKey(name), strings.ToLower(name)})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return l, nil
}

// A logEvent is what an event of a sibling adds to the line.
type logEvent struct {
	name, event string
	attrs       []slog.Attr
	n           int // how often it happened
}

// observe adds an event to the line of x. The last one of a kind counts. attrs is kept. What comes after the
// line was written, such as a hedge that lost, is in no line.
func (x *exchange) observe(name, event string, attrs []slog.Attr) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range x.events {
		if e := &x.events[i]; e.name == name && e.event == event {
			e.attrs = attrs
			e.n++
			return
		}
	}
	if len(x.events) < maxEvents {
		x.events = append(x.events, logEvent{name, event, attrs, 1})
	}
}

// write writes the line of x, or not.
func (l *AccessLog) write(x *exchange, o outcome) {
	level := slog.LevelInfo
	remarkable := true
	switch {
	case serverFault(x.key):
		level = slog.LevelError
	case x.key.err != "":
		level = slog.LevelWarn
	case l.cfg.Slow > 0 && o.latency && o.counted >= l.cfg.Slow:
	default:
		remarkable = false
	}
	sampled := !remarkable && l.cfg.SampleEvery > 1
	if !remarkable && (l.cfg.SampleEvery < 0 || sampled && rand.IntN(l.cfg.SampleEvery) != 0) {
		l.skipped.Add(1)
		return
	}
	ctx := context.Context(&x.scope)
	if !l.cfg.Handler.Enabled(ctx, level) {
		return
	}
	record := slog.NewRecord(x.start.Add(o.elapsed), level, "request", 0)
	record.AddAttrs(l.attrs(x, o)...)
	if sampled {
		record.AddAttrs(slog.Int("sample_every", l.cfg.SampleEvery))
	}
	_ = l.cfg.Handler.Handle(ctx, record) // there is nobody to tell
}

// attrs returns the line's attributes.
func (l *AccessLog) attrs(x *exchange, o outcome) []slog.Attr {
	t, r := x.tel, x.request
	attrs := make([]slog.Attr, 0, 24)
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, redact.Escape(value)))
		}
	}
	text(attrMethod, redact.Clip(r.Method, maxMethod))
	text(attrPath, x.path)
	if x.query != "" {
		text(attrQuery, redact.Query(x.query, t.query))
	}
	text(attrRoute, x.key.route)
	if x.key.status != 0 {
		attrs = append(attrs, slog.Int(attrStatus, int(x.key.status)))
	}
	text(attrErrorType, x.key.errorType(false))
	attrs = append(attrs, slog.Duration("duration", o.elapsed), slog.Int64("http.response.body.size", x.writer.Bytes))
	if x.body.ReadCloser != nil {
		attrs = append(attrs, slog.Int64("http.request.body.size", x.body.n.Load()))
	}
	host, _ := splitHost(t.host(r))
	text(attrServerAddress, host)
	text(attrProtocol, protocols[x.key.proto])
	text(attrClientAddress, l.client(t, r))
	text(attrUserAgent, r.Header.Get("User-Agent"))
	text("request_id", x.id)
	if sc := trace.SpanContextFromContext(&x.scope); sc.IsValid() {
		attrs = append(attrs, slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	attrs = appendHeaders(attrs, "http.request.header", l.request, r.Header)
	attrs = appendHeaders(attrs, "http.response.header", l.response, x.writer.Header())
	if o.panic != nil && o.panic != http.ErrAbortHandler {
		text("exception.message", redact.Text(fmt.Sprint(o.panic)))
		if o.stack != nil && t.cfg.Panics == Answer500 { // or else net/http's log has it
			attrs = append(attrs, slog.String("exception.stacktrace", redact.Clip(string(o.stack), maxStack)))
		}
	}
	x.mu.Lock()
	events := slices.Clone(x.events)
	x.mu.Unlock()
	return appendEvents(attrs, events)
}

// client returns the client's address as far as it is to be shown.
func (l *AccessLog) client(t *Telemetry, r *http.Request) string {
	if l.cfg.Client == ClientNone {
		return ""
	}
	peer, _ := splitHost(r.RemoteAddr)
	client := t.clientAddress(r, peer)
	if l.cfg.Client == ClientFull {
		return client
	}
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return "" // a Unix socket, or a test
	}
	addr = addr.Unmap().WithZone("")
	bits := 48
	if addr.Is4() {
		bits = 24
	}
	prefix, _ := addr.Prefix(bits)
	return prefix.String()
}

func appendHeaders(attrs []slog.Attr, group string, fields []headerField, h http.Header) []slog.Attr {
	var shown []slog.Attr
	for _, f := range fields {
		if v := h[f.name]; len(v) > 0 {
			// Scrubbed, since an allowed one may quote a URL: Referer and Location do.
			shown = append(shown, slog.String(f.key, redact.Escape(redact.Text(strings.Join(v, ", ")))))
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
					fields = append(fields, slog.Int("n", f.n))
				}
				group = append(group, slog.GroupAttrs(f.event, fields...))
				events[j].name = ""
			}
		}
		attrs = append(attrs, slog.GroupAttrs(e.name, group...))
	}
	return attrs
}

// logFields returns the attributes of an event, escaped and, within detail, without secrets: the
// dimensions beside it are few and chosen by the package, no place for a secret.
func logFields(attrs []slog.Attr, detail bool) []slog.Attr {
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
