package balancer_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// Events follow the contract of telemetry.Observer: what is bounded stands at the top, and all else
// in the group detail.
func TestEventsAsLogValues(t *testing.T) {
	e := balancer.Endpoint{Addr: "10.0.0.1:80"}
	for name, tt := range map[string]struct {
		event  balancer.Event
		top    map[string]any
		detail []string
	}{
		"attempt": {
			balancer.Event{
				Kind:     balancer.Attempted,
				Target:   "http://a",
				Endpoint: e,
				Outcome:  balancer.Failure,
				Reason:   "cost",
				Repicked: 1,
				Duration: time.Second,
				Err:      errors.New("x"),
			},
			map[string]any{
				"event":    "attempt",
				"outcome":  "failure",
				"reason":   "cost",
				"repicked": true,
				"duration": time.Second,
			},
			[]string{"target", "endpoint", "error"},
		},
		"endpoint": {
			balancer.Event{
				Kind:       balancer.EndpointChanged,
				Target:     "http://a",
				Endpoint:   e,
				State:      balancer.Ejected,
				Reason:     "consecutive failures",
				EjectedFor: time.Second,
			},
			map[string]any{"event": "endpoint", "state": "ejected", "reason": "consecutive failures"},
			[]string{"target", "endpoint", "ejected_for"},
		},
		"resolve": {
			balancer.Event{Kind: balancer.TargetResolved, Target: "http://a", Endpoints: 3},
			map[string]any{"event": "resolve", "ok": true},
			[]string{"target", "endpoints"},
		},
		"panic": {
			balancer.Event{
				Kind:      balancer.PanicChanged,
				Target:    "http://a",
				Panicking: true,
				Available: 1,
				Endpoints: 3,
			},
			map[string]any{"event": "panic", "panicking": true},
			[]string{"target", "available", "endpoints"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			attrs := tt.event.LogValue().Group()
			require.Equal(t, "event", attrs[0].Key)
			top := map[string]any{}
			var detail []string
			for _, a := range attrs {
				if a.Key == "detail" {
					for _, d := range a.Value.Group() {
						detail = append(detail, d.Key)
					}
					continue
				}
				require.Contains(
					t,
					[]slog.Kind{slog.KindString, slog.KindBool, slog.KindDuration},
					a.Value.Kind(),
				)
				top[a.Key] = a.Value.Any()
			}
			require.Equal(t, tt.top, top)
			require.Equal(t, tt.detail, detail)
		})
	}
}
