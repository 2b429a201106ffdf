package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/trivet-go/trivet/telemetry/internal/redact"
)

// LogHandler returns a handler that adds to each record what its context belongs to, and passes it
// on to next: trace_id and span_id of the current span, and within [Telemetry.Middleware]
// request_id and http.route, as in the lines of an [AccessLog]. They stand outside of groups. So
// the lines that a service writes with slog.InfoContext and the like can be found by request:
//
//	slog.SetDefault(slog.New(telemetry.LogHandler(slog.NewJSONHandler(os.Stderr, nil))))
//
// The route is known once a ServeMux, or [Config.RouteFunc], knows it: in its handlers and in the
// goroutines that they start. Where something between copies the request, [Route] is needed. An
// AccessLog may be given the handler too: it has these fields of its own, once. LogHandler panics
// if next is nil.
func LogHandler(next slog.Handler) slog.Handler {
	if next == nil {
		panic("telemetry: nil handler")
	}
	return &logHandler{next: next, root: next}
}

// A logHandler adds attributes outside of the groups that were opened after it was made.
type logHandler struct {
	next slog.Handler // what records go to
	root slog.Handler // next as it was before the first group
	then []func(slog.Handler) slog.Handler
}

func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	return h.with(func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) }, false)
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(func(next slog.Handler) slog.Handler { return next.WithGroup(name) }, true)
}

// with returns h after one more step, which opens a group or not.
func (h *logHandler) with(step func(slog.Handler) slog.Handler, group bool) *logHandler {
	then := &logHandler{next: step(h.next), root: h.root, then: h.then}
	if group || len(h.then) > 0 {
		then.then = append(slices.Clip(h.then), step)
	} else {
		then.root = then.next
	}
	return then
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	var buf [4]slog.Attr
	attrs := contextAttrs(buf[:0], ctx)
	switch {
	case len(attrs) == 0:
		return h.next.Handle(ctx, r)
	case len(h.then) == 0:
		r = r.Clone()
		r.AddAttrs(attrs...)
		return h.next.Handle(ctx, r)
	}
	next := h.root.WithAttrs(slices.Clone(attrs))
	for _, step := range h.then {
		next = step(next)
	}
	return next.Handle(ctx, r)
}

// contextAttrs appends what ctx belongs to.
func contextAttrs(attrs []slog.Attr, ctx context.Context) []slog.Attr {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		attrs = append(attrs,
			slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	ex := exchangeFrom(ctx)
	if ex == nil {
		return attrs
	}
	if ex.id != "" {
		attrs = append(attrs, slog.String("request_id", ex.id))
	}
	if route := ex.routeSoFar(); route != "" {
		attrs = append(attrs, slog.String(attrRoute, redact.Escape(route)))
	}
	return attrs
}

// routeSoFar returns the route of ex as far as it is known while the request is served.
func (ex *exchange) routeSoFar() string {
	ex.mu.Lock()
	route, inner := ex.route, ex.inner
	ex.mu.Unlock()
	for _, r := range [...]*http.Request{inner, ex.request} {
		if route == "" && r != nil {
			route = ex.tel.routeOf(r)
		}
	}
	return route
}
