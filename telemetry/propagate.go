package telemetry

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	maxTraceState = 4096 // W3C Trace Context, section 3.3.1.5, asks for 512 at least
	maxBaggage    = 8192 // W3C Baggage, section 3.3.2
	maxMembers    = 64   // of baggage, likewise
	fieldBaggage  = "baggage"
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
	return ctx, trace.SpanContextFromContext(
		t.cfg.Propagator.Extract(context.Background(), stranger{inbound(h)}))
}

// A stranger is inbound without baggage, which is dropped at a public edge: what nobody parses,
// nobody quotes in an error.
type stranger struct{ inbound }

func (s stranger) Get(name string) string {
	if name == fieldBaggage {
		return ""
	}
	return s.inbound.Get(name)
}

func (s stranger) Values(name string) []string {
	if name == fieldBaggage {
		return nil
	}
	return s.inbound.Values(name)
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
	case fieldBaggage:
		return strings.Join(h.Values(name), ",")
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
	if name != fieldBaggage {
		return values
	}
	// The propagator reports to stderr what it cannot parse, and quotes it. So it gets what can be
	// parsed.
	members := 0
	good := make([]string, 0, len(values))
	for _, v := range values {
		bag, err := baggage.Parse(v)
		if err != nil {
			v = bag.String()
		}
		if members += bag.Len(); bag.Len() > 0 {
			good = append(good, v)
		}
	}
	if members > maxMembers {
		return nil
	}
	return good
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
