package telemetry_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"

	"github.com/trivet-go/trivet/telemetry"
)

// panicPropagator panics in each of its methods but Fields, which New calls.
type panicPropagator struct{}

func (panicPropagator) Fields() []string                                   { return []string{"baggage"} }
func (panicPropagator) Inject(context.Context, propagation.TextMapCarrier) { panic("inject") }
func (panicPropagator) Extract(context.Context, propagation.TextMapCarrier) context.Context {
	panic("extract")
}

// TestO16_HooksThatPanicHarmNoRequest: those of Config, each by itself, on server and client. (Log
// handlers, spans, instruments and events are in TestO16_TelemetryThatPanicsHarmsNoRequest.)
func TestO16_HooksThatPanicHarmNoRequest(t *testing.T) {
	for name, cfg := range map[string]telemetry.Config{
		"Skip":        {Skip: func(*http.Request) bool { panic("skip") }},
		"RouteFunc":   {RouteFunc: func(*http.Request) string { panic("route") }},
		"ResendCount": {ResendCount: func(context.Context) int { panic("resend") }},
		"Propagator":  {Propagator: panicPropagator{}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, cfg)
			h := b.Middleware(telemetry.Route(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusAccepted)
			})))
			rt := b.Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 202, Body: http.NoBody}, nil
			}))
			for range 3 {
				r := httptest.NewRequest("GET", "/", nil)
				r.Header.Set("Baggage", "a=b")
				require.Equal(t, http.StatusAccepted, serve(h, r).Code)
				resp, err := rt.RoundTrip(httptest.NewRequest("GET", "http://a.test/", nil))
				require.NoError(t, err)
				require.Equal(t, http.StatusAccepted, resp.StatusCode)
			}
			require.Positive(t, b.Stats().Faults)
			require.Zero(t, b.Stats().InFlight)
			require.EqualValues(t, 3, b.Stats().Requests)
		})
	}
}
