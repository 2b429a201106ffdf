package telemetry_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestTraceContextIsContinued(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Traceparent", parent)
	r.Header["Tracestate"] = []string{"a=1", "b=2"}
	serve(b.Middleware(http.NotFoundHandler()), r)
	s := b.span(t)
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", s.SpanContext().TraceID().String())
	require.Equal(t, "b7ad6b7169203331", s.Parent().SpanID().String())
	require.Equal(t, "a=1,b=2", s.SpanContext().TraceState().String())
	require.True(t, s.Parent().IsRemote())
}

// O04: at a public edge a client's sampled flag and ids decide nothing.
func TestO04_PublicEdgeRestartsAndLinks(t *testing.T) {
	b := newBench(t, telemetry.Config{Public: true,
		TracerProvider: sdktrace.NewTracerProvider(
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))})
	sampled := 0
	h := b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sc := trace.SpanContextFromContext(r.Context())
		require.NotEqual(t, "0af7651916cd43dd8448eb211c80319c", sc.TraceID().String())
		if sc.IsSampled() {
			sampled++
		}
		require.Zero(t, baggage.FromContext(r.Context()).Len())
	}))
	for range 1000 {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Traceparent", parent)
		r.Header.Set("Baggage", "role=admin")
		serve(h, r)
	}
	require.Zero(t, sampled)

	b = newBench(t, telemetry.Config{Public: true})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Traceparent", parent)
	serve(b.Middleware(http.NotFoundHandler()), r)
	s := b.span(t)
	require.False(t, s.Parent().IsValid())
	require.Len(t, s.Links(), 1)
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", s.Links()[0].SpanContext.TraceID().String())
}

// O05: what is malformed starts a new trace.
func TestO05_MalformedTraceContext(t *testing.T) {
	valid := strings.Repeat("a=1,", 600)
	tests := []struct {
		name       string
		parent     []string
		state      []string
		continued  bool
		stateWants string
	}{
		{"upper case", []string{strings.ToUpper(parent)}, nil, false, ""},
		{"version ff", []string{"ff" + parent[2:]}, nil, false, ""},
		{"future version", []string{"cc" + parent[2:] + "-more"}, nil, true, ""},
		{"version 00 with more", []string{parent + "-more"}, nil, false, ""},
		{"zero trace id", []string{"00-00000000000000000000000000000000-b7ad6b7169203331-01"}, nil, false,
			""},
		{"zero span id", []string{"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"}, nil, false, ""},
		{"two parents", []string{parent, parent}, nil, false, ""},
		{"short", []string{parent[:20]}, nil, false, ""},
		{"empty", []string{""}, nil, false, ""},
		{"600 members of state", []string{parent}, []string{valid}, true, ""},
		{"oversize state", []string{parent}, []string{"a=" + strings.Repeat("x", 5000)}, true, ""},
		{"state without parent", nil, []string{"a=1"}, false, ""},
		{"bad state", []string{parent}, []string{"A b=1"}, true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, telemetry.Config{})
			r := httptest.NewRequest("GET", "/", nil)
			r.Header["Traceparent"], r.Header["Tracestate"] = tt.parent, tt.state
			serve(b.Middleware(http.NotFoundHandler()), r)
			s := b.span(t)
			require.True(t, s.SpanContext().IsValid())
			require.Equal(t, tt.continued, s.Parent().IsValid())
			require.Equal(t, tt.stateWants, s.SpanContext().TraceState().String())
		})
	}
}

// O06: baggage beyond the limits of W3C is dropped whole and not sent on.
func TestO06_BaggageIsCapped(t *testing.T) {
	members := func(n int) []string {
		var lines []string
		for i := range n {
			lines = append(lines, strings.Repeat("k", 1+i%50)+strings.Repeat("x", i/50)+"=v")
		}
		return lines
	}
	tests := []struct {
		name    string
		baggage []string
		sent    string
	}{
		{"small", []string{"a=1", "b=2"}, "a=1,b=2"},
		{"oversize in one line", []string{"a=" + strings.Repeat("x", 9000)}, ""},
		{"oversize in many lines", []string{"a=" + strings.Repeat("x", 5000),
			"b=" + strings.Repeat("x", 5000)}, ""},
		{"flood of lines", members(20000), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, telemetry.Config{})
			var sent string
			client := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
				sent = r.Header.Get("Baggage")
				return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
			}))
			r := httptest.NewRequest("GET", "/", nil)
			r.Header["Baggage"] = tt.baggage
			serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://api.test/", nil)
				_, err := client.RoundTrip(req)
				require.NoError(t, err)
			})), r)
			got := strings.Split(sent, ",")
			want := strings.Split(tt.sent, ",")
			require.ElementsMatch(t, want, got)
			for _, s := range b.spans.Ended() {
				require.NotContains(t, text(s.Attributes()), "a=1",
					"baggage never becomes an attribute by itself")
			}
		})
	}
}

// O06 and O05 do not rest on the propagator: one that believes all it is given gets nothing
// oversize.
func TestO06_OversizeFieldsReachNoPropagator(t *testing.T) {
	var seen naive
	b := newBench(t, telemetry.Config{Propagator: &seen})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["Baggage"] = []string{strings.Repeat("x", 5000), strings.Repeat("x", 5000)}
	r.Header["Tracestate"] = []string{strings.Repeat("x", 3000), strings.Repeat("x", 3000)}
	r.Header["Traceparent"] = []string{parent, parent}
	r.Header["X-B3"] = []string{strings.Repeat("x", 5000)}
	serve(b.Middleware(http.NotFoundHandler()), r)
	require.Equal(t, naive{keys: 4}, seen)
}

// naive is a propagator that notes the sizes of what it is given.
type naive struct{ keys, baggage, state, parent, other int }

func (n *naive) Fields() []string                                   { return []string{"baggage"} }
func (n *naive) Inject(context.Context, propagation.TextMapCarrier) {}
func (n *naive) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	n.keys = len(c.Keys())
	for _, v := range c.(propagation.ValuesGetter).Values("baggage") {
		n.baggage += len(v)
	}
	n.state, n.parent, n.other = len(c.Get("tracestate")), len(c.Get("traceparent")), len(c.Get("x-b3"))
	c.Set("traceparent", "x") // does nothing
	return ctx
}

// O05, any bytes: either the context is continued as W3C has it, or a new trace starts. Never a
// panic, never an id that is invalid, never more state than allowed.
func FuzzTraceContext(f *testing.F) {
	f.Add(parent, "a=1", "k=v")
	f.Add("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1,a=2", ";;=,")
	f.Add("00-00000000000000000000000000000000-0000000000000000-00", strings.Repeat("a=1,", 600),
		strings.Repeat("k=v,", 300))
	f.Add("00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01", "\x00", "%zz=1")
	f.Fuzz(func(t *testing.T, traceparent, tracestate, bag string) {
		b := newBench(t, telemetry.Config{})
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Traceparent"] = []string{traceparent}
		r.Header["Tracestate"] = []string{tracestate}
		r.Header["Baggage"] = []string{bag}
		var inside trace.SpanContext
		var members int
		serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inside = trace.SpanContextFromContext(r.Context())
			members = baggage.FromContext(r.Context()).Len()
		})), r)
		if !inside.IsValid() {
			t.Fatal("no valid trace")
		}
		if members > 64 {
			t.Fatalf("%d members of baggage", members)
		}
		if n := inside.TraceState().Len(); n > 32 {
			t.Fatalf("%d members of state", n)
		}
		if id := inside.TraceID().String(); strings.Contains(traceparent, id) {
			// Continued: then it had the form of the specification, section 3.2.
			if len(traceparent) < 55 || traceparent[2] != '-' || traceparent[3:35] != id ||
				traceparent[35] != '-' || traceparent[52] != '-' || traceparent[:2] == "ff" {
				t.Fatalf("continued %q", traceparent)
			}
		}
	})
}

// quoting notes what a propagator reports of what it was given.
type quoting struct{ reported []string }

func (q *quoting) Fields() []string { return []string{"baggage", "traceparent"} }

func (q *quoting) Inject(context.Context, propagation.TextMapCarrier) {}
func (q *quoting) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	values := append(c.(propagation.ValuesGetter).Values("baggage"), c.Get("baggage"))
	for _, v := range values {
		if v == "" {
			continue
		}
		if _, err := baggage.Parse(v); err != nil {
			q.reported = append(q.reported, err.Error())
		} else {
			q.reported = append(q.reported, "fine: "+v)
		}
	}
	return propagation.TraceContext{}.Extract(ctx, c)
}

// TestO21_MalformedBaggageIsQuotedNowhere: at a public edge no baggage is parsed, elsewhere what
// can be.
func TestO21_MalformedBaggageIsQuotedNowhere(t *testing.T) {
	for _, public := range []bool{true, false} {
		q := new(quoting)
		b := newBench(t, telemetry.Config{Public: public, Propagator: q})
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Traceparent", parent)
		r.Header["Baggage"] = []string{"\x1b[31mhunter2", "good=1,hunter2;=,b ad=2", "role=admin", ""}
		serve(b.Middleware(http.NotFoundHandler()), r)
		if public {
			require.Empty(t, q.reported)
			require.Len(t, b.span(t).Links(), 1, "the trace is still linked")
			continue
		}
		require.NotEmpty(t, q.reported)
		for _, line := range q.reported {
			require.True(t, strings.HasPrefix(line, "fine: "), line)
		}
		require.Contains(t, q.reported, "fine: role=admin")
	}
	// 65 members are dropped whole, 64 are not.
	for n, want := range map[int]int{64: 64, 65: 0} {
		b := newBench(t, telemetry.Config{})
		r := httptest.NewRequest("GET", "/", nil)
		for i := range n {
			r.Header.Add("Baggage", fmt.Sprintf("k%d=v", i))
		}
		serve(b.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			require.Equal(t, want, baggage.FromContext(r.Context()).Len())
		})), r)
	}
}
