package balancer_test

import (
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// Words that logs and metrics have are chosen once.
func TestWordsOfOutcomesAndReasons(t *testing.T) {
	require.Equal(t,
		[]balancer.Outcome{"success", "failure", "busy", "rejected", "canceled", "not_sent"},
		[]balancer.Outcome{balancer.Success, balancer.Failure, balancer.Busy, balancer.Rejected,
			balancer.Canceled, balancer.NotSent})
	require.Equal(t,
		[]balancer.Reason{"cost", "connections", "least_request", "turn", "hash", "sticky", "probe",
			"explore", "only", "policy", "any"},
		[]balancer.Reason{balancer.ReasonCost, balancer.ReasonConnections, balancer.ReasonLeastRequest,
			balancer.ReasonTurn, balancer.ReasonHash, balancer.ReasonSticky, balancer.ReasonProbe,
			balancer.ReasonExplore, balancer.ReasonOnly, balancer.ReasonPolicy, balancer.ReasonAny})
	require.Equal(t,
		[]balancer.Reason{"consecutive_failures", "success_rate", "end_of_ejection", "health_check",
			"no_health_checks", "warm_up", "drain", "end_of_drain"},
		[]balancer.Reason{balancer.ReasonConsecutiveFailures, balancer.ReasonSuccessRate,
			balancer.ReasonEndOfEjection, balancer.ReasonHealthCheck, balancer.ReasonNoHealthChecks,
			balancer.ReasonWarmUp, balancer.ReasonDrain, balancer.ReasonEndOfDrain})
}

func TestAttemptsSayWhyTheyWentThere(t *testing.T) {
	for want, policy := range map[balancer.Reason]balancer.Policy{
		balancer.ReasonCost:         balancer.Adaptive(),
		balancer.ReasonConnections:  balancer.Adaptive(),
		balancer.ReasonLeastRequest: balancer.LeastRequest(2),
		balancer.ReasonTurn:         balancer.RoundRobin(),
		balancer.ReasonAny:          pickNone{},
	} {
		t.Run(string(want), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen events
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static("a:1", "b:1"), Policy: policy, Wrap: ok200,
					Observe: seen.observe,
					Health: balancer.HealthConfig{ // without checks a pick may explore
						Check: newChecks().check,
					},
				})
				req, err := http.NewRequest("GET", "http://users.internal/", nil)
				require.NoError(t, err)
				if want == balancer.ReasonConnections {
					req.Header.Set("Upgrade", "websocket")
				}
				resp, err := b.RoundTrip(req)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, want, seen.of(balancer.Attempted)[0].Reason)
			})
		})
	}
}

// pickNone leaves every pick to the balancer.
type pickNone struct{}

func (pickNone) Pick(*balancer.View, *http.Request) int { return -1 }

func TestChangesSayWhyTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet("a:1", "b:1")
		f.set("a:1", server{status: 500})
		set := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "b:1"})
		var seen events
		b := newBalancer(t, balancer.Config{
			Resolver: set, Policy: balancer.RoundRobin(), Wrap: f.wrap, Observe: seen.observe,
			Outlier: balancer.OutlierConfig{Consecutive: 3},
		})
		load(t, b, 10*time.Millisecond, time.Second)
		f.set("a:1", server{})
		load(t, b, 10*time.Millisecond, time.Minute)
		set.Set(balancer.Endpoint{Addr: "a:1", Drain: true}, balancer.Endpoint{Addr: "b:1"})
		synctest.Wait()
		set.Set(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "b:1"})
		synctest.Wait()
		var reasons []balancer.Reason
		for _, e := range seen.of(balancer.EndpointChanged) {
			require.Equal(t, "a:1", e.Endpoint.Addr)
			reasons = append(reasons, e.Reason)
		}
		require.Equal(t, []balancer.Reason{
			balancer.ReasonConsecutiveFailures, balancer.ReasonEndOfEjection,
			balancer.ReasonDrain, balancer.ReasonEndOfDrain,
		}, reasons)
	})
}

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
				Reason:   balancer.ReasonCost,
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
				Reason:     balancer.ReasonConsecutiveFailures,
				EjectedFor: time.Second,
			},
			map[string]any{"event": "endpoint", "state": "ejected", "reason": "consecutive_failures"},
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
