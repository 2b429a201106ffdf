package telemetry_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"github.com/trivet-go/trivet/telemetry/health"
)

// pick is an event that keeps the contract of Observer.
type pick struct {
	Backend  string
	Retry    bool
	Duration time.Duration
	Err      error
}

func (e pick) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("event", "pick"),
		slog.String("backend", e.Backend),
		slog.Bool("retry", e.Retry),
		slog.Duration("duration", e.Duration),
		slog.GroupAttrs("detail", slog.Any("error", e.Err), slog.Int("inflight", 3)),
	)
}

// decision is another, without a detail.
type decision struct {
	Policy  string
	Allowed bool
}

func (e decision) LogValue() slog.Value {
	return slog.GroupValue(slog.String("event", "decision"), slog.String("policy", e.Policy),
		slog.Bool("allowed", e.Allowed))
}

func TestObserver(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{})
	b := newBench(t, telemetry.Config{AccessLog: l})
	picked := telemetry.Observer[pick](b.Telemetry, "backends")
	decided := telemetry.Observer[decision](b.Telemetry, "")
	picked(context.Background(), pick{Backend: "b9", Duration: time.Second}) // outside of any request
	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		decided(r.Context(), decision{"per-ip", true})
		picked(r.Context(), pick{Backend: "b1", Duration: time.Millisecond, Err: fmt.Errorf("refused")})
		picked(r.Context(), pick{Backend: "b2", Retry: true, Duration: 2 * time.Millisecond})
	})), httptest.NewRequest("GET", "/", nil))

	require.Equal(t, []string{
		"backend=b1 name=backends retry=false = 1",
		"backend=b2 name=backends retry=true = 1",
		"backend=b9 name=backends retry=false = 1",
	}, b.points(t, "trivet.telemetry.pick"))
	require.Equal(t, []string{
		"backend=b1 name=backends retry=false = 1",
		"backend=b2 name=backends retry=true = 1",
		"backend=b9 name=backends retry=false = 1",
	}, b.points(t, "trivet.telemetry.pick.duration"))
	require.Equal(t, "s", b.metrics(t)["trivet.telemetry.pick.duration"].Unit)
	require.Equal(t, []string{"allowed=true policy=per-ip = 1"}, b.points(t, "trivet.telemetry.decision"))

	events := b.span(t).Events()
	require.Len(t, events, 3)
	require.Equal(t, "telemetry.decision", events[0].Name)
	require.Equal(t, "backend=b1 detail.error=refused detail.inflight=3 duration=0.001 "+
		"name=backends retry=false", text(events[1].Attributes))

	line := out.all(t)[0]
	require.Equal(t, map[string]any{"decision": map[string]any{"policy": "per-ip", "allowed": true}},
		line["telemetry"])
	require.Equal(t, map[string]any{"pick": map[string]any{
		"backend": "b2", "retry": true, "duration": float64(2 * time.Millisecond), "n": 2.0,
		"detail": map[string]any{"inflight": 3.0},
	}}, line["backends"])

	require.Nil(t, telemetry.Observer[pick](nil, "off"))
}

func TestObserverSeriesAreBounded(t *testing.T) {
	const limit = 100
	b := newBench(t, telemetry.Config{MaxSeries: limit})
	observe := telemetry.Observer[decision](b.Telemetry, "x")
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				observe(context.Background(), decision{Policy: fmt.Sprint(g, "-", i)})
			}
		})
	}
	wg.Wait()
	points := b.points(t, "trivet.telemetry.decision")
	require.LessOrEqual(t, len(points), limit)
	var total int
	for _, p := range points {
		var n int
		fmt.Sscan(p[strings.LastIndex(p, "=")+1:], &n)
		total += n
	}
	require.Equal(t, 2000, total, "no event goes uncounted")
	require.Contains(t, strings.Join(points, "\n"), "name=x otel.metric.overflow=true")
	require.NotZero(t, b.Stats().Overflowed)
}

// loose breaks the contract in every way.
type loose struct{ v slog.Value }

func (e loose) LogValue() slog.Value { return e.v }

func TestObserverTakesAnything(t *testing.T) {
	l, _ := logTo(t, telemetry.AccessLogConfig{})
	b := newBench(t, telemetry.Config{AccessLog: l})
	observe := telemetry.Observer[loose](b.Telemetry, "")
	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, v := range []slog.Value{
			{}, slog.StringValue("x"), slog.GroupValue(), slog.GroupValue(slog.Int("event", 1)),
			slog.GroupValue(slog.String("event", "Odd Name\n"), slog.Any("any", nil), slog.Uint64("u", 1<<63),
				slog.Time("t", time.Now())),
			slog.AnyValue(loose{slog.GroupValue(slog.String("event", "nested"))}),
		} {
			observe(r.Context(), loose{v})
		}
	})), httptest.NewRequest("GET", "/", nil))
	require.Zero(t, b.Stats().Faults)
	require.Len(t, b.points(t, "trivet.telemetry.unknown"), 1)
	require.Len(t, b.points(t, "trivet.telemetry.odd_name_"), 1)
	require.Len(t, b.points(t, "trivet.telemetry.nested"), 1)
}

// An event of a hedge that lost arrives after the request: it must not touch the line.
func TestObserverAfterTheRequest(t *testing.T) {
	l, out := logTo(t, telemetry.AccessLogConfig{})
	b := newBench(t, telemetry.Config{AccessLog: l})
	observe := telemetry.Observer[decision](b.Telemetry, "late")
	var ctx context.Context
	serve(b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx = r.Context()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { observe(ctx, decision{Policy: "p"}) })
		}
		wg.Wait()
	})), httptest.NewRequest("GET", "/", nil))
	observe(ctx, decision{Policy: "late"})
	require.Equal(t, 8.0, out.all(t)[0]["late"].(map[string]any)["decision"].(map[string]any)["n"])
	require.Len(t, b.points(t, "trivet.telemetry.decision"), 2)
}

type Stats struct {
	Hits      uint64        `json:"hits"`
	InFlight  int           // no tag
	Share     float64       `json:"share,omitempty"`
	Oldest    time.Duration `json:"oldest"`
	Open      bool          `json:"open"`
	State     string        `json:"state"`
	Secret    uint64        `json:"-"`
	hidden    uint64
	Endpoints map[string]endpoint `json:"endpoints"`
	Weights   map[string]float64  `json:"weights"`
	Pool      struct{ Idle int }  `json:"pool"`
	List      []int               `json:"list"`
	HTTP2Used uint32
}

// PoolStats is of another type than the package's main one.
type PoolStats struct{ Idle int }

type endpoint struct {
	Requests uint64 `json:"requests"`
	Latency  time.Duration
	Deeper   map[string]int // two keys would need two attributes
}

func TestRegister(t *testing.T) {
	b := newBench(t, telemetry.Config{MaxSeries: 16})
	s := Stats{Hits: 7, InFlight: 2, Share: 0.5, Oldest: 1500 * time.Millisecond, Open: true, hidden: 1,
		HTTP2Used: 4,
		Endpoints: map[string]endpoint{"a": {Requests: 3, Latency: time.Second}, "b": {Requests: 4}},
		Weights:   map[string]float64{}}
	for i := range 100 {
		s.Weights[fmt.Sprintf("%03d", i)] = 1
	}
	s.Pool.Idle = 9
	unregister, err := telemetry.Register(b.Telemetry, "main", func() Stats { return s })
	require.NoError(t, err)
	want := map[string][]string{
		"trivet.telemetry.hits":               {"name=main = 7"},
		"trivet.telemetry.in_flight":          {"name=main = 2"},
		"trivet.telemetry.share":              {"name=main = 0.5"},
		"trivet.telemetry.oldest":             {"name=main = 1.5"},
		"trivet.telemetry.open":               {"name=main = 1"},
		"trivet.telemetry.pool.idle":          {"name=main = 9"},
		"trivet.telemetry.http2_used":         {"name=main = 4"},
		"trivet.telemetry.endpoints.requests": {"key=a name=main = 3", "key=b name=main = 4"},
		"trivet.telemetry.endpoints.latency":  {"key=a name=main = 1", "key=b name=main = 0"},
	}
	for name, points := range want {
		require.Equal(t, points, b.points(t, name), name)
	}
	require.Len(t, b.points(t, "trivet.telemetry.weights"), 16, "keys are bounded")
	require.Len(t, b.metrics(t), len(want)+1)
	require.NoError(t, unregister())
	require.Empty(t, b.metrics(t)["trivet.telemetry.in_flight"].Data)

	_, err = telemetry.Register(b.Telemetry, "p", func() *Stats { return nil })
	require.NoError(t, err)
	_, err = telemetry.Register(b.Telemetry, "pool", func() PoolStats { return PoolStats{3} })
	require.NoError(t, err)
	require.Equal(t, []string{"name=pool = 3"}, b.points(t, "trivet.telemetry.pool.idle"))
	_, err = telemetry.Register(b.Telemetry, "bad", func() endpoint { panic("stats") })
	require.NoError(t, err)
	b.metrics(t)
	require.NotZero(t, b.Stats().Faults)
	_, err = telemetry.Register(b.Telemetry, "n", func() int { return 1 })
	require.ErrorContains(t, err, "int is no struct")
	_, err = telemetry.Register(b.Telemetry, "e", func() struct{ S string } { return struct{ S string }{} })
	require.ErrorContains(t, err, "nothing to export")
	_, err = telemetry.Register[Stats](b.Telemetry, "nil", nil)
	require.Error(t, err)

	// Its own statistics, and those of its parts.
	_, err = telemetry.Register(b.Telemetry, "", b.Stats)
	require.NoError(t, err)
	probes, err := health.New(health.Config{})
	require.NoError(t, err)
	_, err = telemetry.Register(b.Telemetry, "", probes.Stats)
	require.NoError(t, err)
	_, err = telemetry.Register(b.Telemetry, "web",
		newSLO(t, telemetry.SLOConfig{Name: "web", Availability: 0.999}).Stats)
	require.NoError(t, err)
	require.Equal(t, []string{" = 0"}, b.points(t, "trivet.health.draining"))
	require.Equal(t, []string{"key=availability page name=web = 0", "key=availability ticket name=web = 0"},
		b.points(t, "trivet.telemetry.slo.firing"))
	require.Equal(t, []string{" = 0"}, b.points(t, "trivet.telemetry.requests"))
}

// What finds no room loses its dimensions, not its measurements.
func TestObserverOverflowKeepsMeasurements(t *testing.T) {
	b := newBench(t, telemetry.Config{MaxSeries: 16})
	observe := telemetry.Observer[pick](b.Telemetry, "x")
	const n = 200
	for i := range n {
		observe(context.Background(), pick{Backend: fmt.Sprint(i), Duration: time.Second})
	}
	for _, name := range []string{"trivet.telemetry.pick", "trivet.telemetry.pick.duration"} {
		points := b.points(t, name)
		require.LessOrEqual(t, len(points), 16)
		require.Contains(t, points, fmt.Sprintf("name=x otel.metric.overflow=true = %d", n-len(points)+1))
	}
}
