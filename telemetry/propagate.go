package telemetry

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	maxTraceState = 4096 // W3C Trace Context, section 3.3.1.5, asks for 512 at least
	maxBaggage    = 8192 // W3C Baggage, section 3.3.2
)

// extract returns ctx with the trace context and baggage that the client sent. At a public edge it
// returns ctx as it is, and the client's span context to link to.
func (t *Telemetry) extract(ctx context.Context, h http.Header) (context.Context, trace.SpanContext) {
	found := false
	for _, f := range t.fields {
		if len(h[f]) > 0 {
			found = true
			break
		}
	}
	if !found {
		return ctx, trace.SpanContext{}
	}
	if !t.cfg.Public {
		return t.cfg.Propagator.Extract(ctx, inbound(h)), trace.SpanContext{}
	}
	return ctx, trace.SpanContextFromContext(t.cfg.Propagator.Extract(context.Background(), inbound(h)))
}

// inbound reads the fields of a propagator from a request, within bounds.
// (propagation.HeaderCarrier takes the first of several fields and any length.)
type inbound http.Header

var _ propagation.ValuesGetter = inbound(nil)

// Get returns "" for a field that is not to be believed.
func (h inbound) Get(name string) string {
	switch name {
	case "traceparent":
		// Two parents are no parent: it cannot be told which of the senders is wrong.
		if values := h["Traceparent"]; len(values) == 1 {
			return values[0]
		}
		return ""
	case "tracestate":
		return h.list("Tracestate")
	}
	return h.list(http.CanonicalHeaderKey(name))
}

// list joins the fields of a name: several tracestate fields are one list (W3C Trace Context,
// section 3.3.1).
func (h inbound) list(name string) string {
	switch values := h[name]; {
	case size(values) > maxTraceState:
		return ""
	case len(values) == 1:
		return values[0]
	default:
		return strings.Join(values, ",")
	}
}

// Values serves baggage. Baggage that is too long is dropped whole, so it is not sent on either.
func (h inbound) Values(name string) []string {
	values := h[http.CanonicalHeaderKey(name)]
	if size(values) > maxBaggage {
		return nil
	}
	return values
}

// Set makes inbound a carrier. It does nothing: inbound only reads.
func (h inbound) Set(string, string) {}

func (h inbound) Keys() []string {
	keys := make([]string, 0, len(h))
	for k := range h {
		keys = append(keys, k)
	}
	return keys
}

// size returns the length of values as one comma-separated list.
func size(values []string) int {
	n := max(len(values)-1, 0)
	for _, v := range values {
		n += len(v)
	}
	return n
}
