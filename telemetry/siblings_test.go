package telemetry_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// The packages that Observer and Register are made for keep their contract: a server with a limit
// stands in front of a proxy to two backends, one of which is down.
func TestSiblings(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{})
	b := newBench(t, telemetry.Config{AccessLog: l})

	up := server(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
	}))
	down := httptest.NewServer(nil)
	down.Close()
	lb, err := balancer.New(balancer.Config{
		Resolver: balancer.Static(up.Listener.Addr().String(), down.Listener.Addr().String()),
		Policy:   balancer.RoundRobin(),
		Observe:  telemetry.Observer[balancer.Event](b.Telemetry, "backends"),
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, lb.Close(context.Background())) }()
	limiter, err := ratelimit.New(ratelimit.Config{
		Policies: []ratelimit.Policy{{
			Name: "per-ip", Rate: ratelimit.PerHour(6).WithBurst(6),
			Key: ratelimit.ByPeer, Missing: ratelimit.MissingReject,
		}},
		Observe: telemetry.Observer[ratelimit.Event](b.Telemetry, ""),
	})
	require.NoError(t, err)
	memory, err := cache.NewMemory(cache.MemoryConfig[string, int]{
		Observe: telemetry.Observer[cache.MemoryEvent[string, int]](b.Telemetry, ""),
	})
	require.NoError(t, err)
	for _, register := range []func() (func() error, error){
		func() (func() error, error) { return telemetry.Register(b.Telemetry, "backends", lb.Stats) },
		func() (func() error, error) { return telemetry.Register(b.Telemetry, "", limiter.Stats) },
		func() (func() error, error) { return telemetry.Register(b.Telemetry, "", memory.Stats) },
	} {
		unregister, err := register()
		require.NoError(t, err)
		defer func() { require.NoError(t, unregister()) }()
	}

	h := b.Middleware(limiter.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one := func(context.Context, string) (int, error) { return 1, nil }
		_, err := memory.Load(r.Context(), "key", one)
		require.NoError(t, err)
		req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://api.test/", nil)
		resp, err := lb.RoundTrip(req)
		require.NoError(t, err)
		io.Copy(w, resp.Body)
		resp.Body.Close()
	})))
	for i := range 8 {
		want := map[bool]int{true: 200, false: 429}[i < 6]
		require.Equal(t, want, serve(h, httptest.NewRequest("GET", "/", nil)).Code)
	}

	attempts := strings.Join(b.points(t, "trivet.balancer.attempt"), "\n")
	require.Regexp(t, `name=backends outcome=success .*= [1-9]`, attempts)
	require.Regexp(t, `name=backends outcome=failure .*= [1-9]`, attempts)
	require.NotContains(t, attempts, "127.0.0.1", "an endpoint is no dimension")
	require.NotEmpty(t, b.points(t, "trivet.balancer.attempt.duration"))
	require.Equal(t, []string{"name=backends = 2"}, b.points(t, "trivet.balancer.endpoints"))
	require.Equal(t, []string{"name=backends = 0"}, b.points(t, "trivet.balancer.in_flight"))
	require.Len(t, b.points(t, "trivet.balancer.endpoint_requests"), 2)
	require.Equal(t, []string{
		"degraded=false outcome=admitted policy= = 6",
		"degraded=false outcome=limited policy=per-ip = 2",
	}, b.points(t, "trivet.ratelimit.decision"))
	require.Len(t, b.points(t, "trivet.ratelimit.decision.duration"), 2)
	require.Equal(t, []string{" = 6"}, b.points(t, "trivet.ratelimit.admitted"))
	require.Equal(t, []string{"key=per-ip = 2"}, b.points(t, "trivet.ratelimit.refused"))
	require.Equal(t, []string{" = 5"}, b.points(t, "trivet.cache.memory.hits"))
	require.Len(t, b.points(t, "trivet.cache.load.duration"), 1)

	lines := out.all(t)
	require.Len(t, lines, 8)
	refused := false
	for i, line := range lines {
		decision := line["ratelimit"].(map[string]any)["decision"].(map[string]any)
		if i >= 6 {
			require.Equal(t, "per-ip", decision["policy"])
			require.NotContains(t, line, "backends")
			continue
		}
		require.Equal(t, "admitted", decision["outcome"])
		attempt := line["backends"].(map[string]any)["attempt"].(map[string]any)
		require.Equal(t, "success", attempt["outcome"])
		require.Equal(t, up.Listener.Addr().String(), attempt["detail"].(map[string]any)["endpoint"])
		refused = refused || attempt["n"] == 2.0
	}
	require.True(t, refused, "the attempt at the other backend is in the line, too")
	require.Zero(t, b.Stats().Faults)

	// No word of an event is also a field of the statistics: two instruments of one name are none.
	var rm metricdata.ResourceMetrics
	require.NoError(t, b.reader.Collect(context.Background(), &rm))
	seen := map[string]bool{}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		require.False(t, seen[m.Name], m.Name)
		seen[m.Name] = true
	}
}
