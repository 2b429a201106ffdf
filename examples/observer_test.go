package examples_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/breaker"
	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/pacer"
	"github.com/trivet-go/trivet/retry"
	"github.com/trivet-go/trivet/telemetry"
)

func TestMain(m *testing.M) {
	backend.Main() // does not return in a server's process
	goleak.VerifyTestMain(m)
}

// hostile marks text that clients and upstreams choose. It may appear in the group detail only.
const hostile = "hostile-"

// A recorder keeps events of all packages.
type recorder struct {
	mu     sync.Mutex // guards the field below
	events []slog.Value
}

// observe returns an Observe function that keeps the events and passes them to telemetry.
func observe[E slog.LogValuer](r *recorder, tel *telemetry.Telemetry) func(context.Context, E) {
	report := telemetry.Observer[E](tel, "it")
	return func(ctx context.Context, e E) {
		r.mu.Lock()
		r.events = append(r.events, e.LogValue())
		r.mu.Unlock()
		report(ctx, e)
	}
}

// A flakyStore fails on demand.
type flakyStore struct {
	*ratelimit.MemoryStore
	down atomic.Bool
}

func (s *flakyStore) Take(ctx context.Context, claims []ratelimit.Claim) error {
	if s.down.Load() {
		return errors.New(hostile + "store: password=" + hostile)
	}
	return s.MemoryStore.Take(ctx, claims)
}

// A scene runs the packages under telemetry, with hostile input and every kind of failure.
type scene struct {
	recorder
	tel    *telemetry.Telemetry
	reader *metric.ManualReader
	lines  strings.Builder // the access log
}

func newScene(t *testing.T) *scene {
	s := &scene{reader: metric.NewManualReader()}
	lines, err := telemetry.NewAccessLog(telemetry.AccessLogConfig{
		Handler: slog.NewJSONHandler(&s.lines, nil),
	})
	require.NoError(t, err)
	meters := metric.NewMeterProvider(metric.WithReader(s.reader))
	t.Cleanup(func() { _ = meters.Shutdown(context.Background()) })
	s.tel, err = telemetry.New(telemetry.Config{
		TracerProvider: noop.NewTracerProvider(), MeterProvider: meters, AccessLog: lines, Public: true,
	})
	require.NoError(t, err)
	return s
}

func register[S any](t *testing.T, s *scene, stats func() S) {
	t.Helper()
	_, err := telemetry.Register(s.tel, "it", stats)
	require.NoError(t, err)
}

// play makes every event happen, except cache's refusal.
func (s *scene) play(t *testing.T) {
	// Three servers, one of which fails; later two are unhealthy.
	var addrs []string
	for i := range 3 {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if i == 0 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}))
		t.Cleanup(server.Close)
		addrs = append(addrs, server.Listener.Addr().String())
	}
	var unhealthy atomic.Bool
	pace, err := pacer.New(pacer.Config{
		Rate:    ratelimit.PerHour(1_000_000).WithBurst(100_000),
		Observe: observe[pacer.Event](&s.recorder, s.tel),
	})
	require.NoError(t, err)
	register(t, s, pace.Stats)
	check := func(_ context.Context, e balancer.Endpoint, _ http.RoundTripper) error {
		if unhealthy.Load() && e.Addr != addrs[2] {
			return errors.New(hostile + "check")
		}
		return nil
	}
	lb, err := balancer.New(balancer.Config{
		Resolver: balancer.Static(addrs...),
		Policy:   balancer.RoundRobin(), // asks the broken server often enough to eject it
		Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
			return pace.TransportFor(e.Addr, s.tel.Transport(next))
		},
		Health:  balancer.HealthConfig{Interval: 20 * time.Millisecond, Fall: 1, Check: check},
		Observe: observe[balancer.Event](&s.recorder, s.tel),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = lb.Close(context.Background()) })
	register(t, s, lb.Stats)

	memory, err := ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{})
	require.NoError(t, err)
	store := &flakyStore{MemoryStore: memory}
	limiter, err := ratelimit.New(ratelimit.Config{
		Store: store,
		Policies: []ratelimit.Policy{
			{
				Name:    "per-key",
				Rate:    ratelimit.PerHour(1).WithBurst(2),
				Key:     ratelimit.ByHeader("X-Key"),
				Missing: ratelimit.MissingReject,
			},
			{
				Name:    "open",
				Rate:    ratelimit.PerHour(1000).WithBurst(1000),
				Key:     ratelimit.ByHeader("X-Key"),
				Missing: ratelimit.MissingReject,
				OnError: ratelimit.FailOpen,
			},
		},
		Observe: observe[ratelimit.Event](&s.recorder, s.tel),
	})
	require.NoError(t, err)
	register(t, s, limiter.Stats)
	places, err := ratelimit.NewConcurrency(ratelimit.ConcurrencyConfig{
		Limit: 1, Key: ratelimit.ByHeader("X-Key"), Missing: ratelimit.MissingReject,
		Observe: observe[ratelimit.ConcurrencyEvent](&s.recorder, s.tel),
	})
	require.NoError(t, err)
	register(t, s, places.Stats)
	data, err := cache.NewMemory(cache.MemoryConfig[string, string]{
		MaxEntries: 50,
		Observe:    observe[cache.MemoryEvent[string, string]](&s.recorder, s.tel),
	})
	require.NoError(t, err)
	register(t, s, data.Stats)
	register(t, s, s.tel.Stats)

	var nested atomic.Pointer[http.Handler]
	client := &http.Client{Transport: lb}
	proxy := func(w http.ResponseWriter, r *http.Request) {
		if h := nested.Load(); h != nil {
			// This is another request of the same key while the first is in flight.
			(*h).ServeHTTP(httptest.NewRecorder(), r)
		}
		_, _ = data.Load(r.Context(), r.Header.Get("X-Key"), func(context.Context, string) (string, error) {
			if strings.HasSuffix(r.Header.Get("X-Key"), "7") {
				return "", errors.New(hostile + "loader")
			}
			return hostile + "value", nil
		})
		req, err := http.NewRequestWithContext(r.Context(), "GET", "http://service.test/"+r.URL.Path, nil)
		if err != nil {
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
	}
	handler := s.tel.Middleware(limiter.Middleware(places.Middleware(http.HandlerFunc(proxy))))
	ask := func(key string) int {
		r := httptest.NewRequest("GET", "/"+hostile+key, nil)
		r.Host = hostile + key + ".test"
		if key != "" {
			r.Header.Set("X-Key", hostile+key)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}

	for i := range 300 {
		ask(fmt.Sprint(i))
	}
	ask("0")
	require.Equal(t, http.StatusTooManyRequests, ask("0"))
	require.Equal(t, http.StatusBadRequest, ask(""))
	inner := places.Middleware(http.NotFoundHandler())
	nested.Store(&inner)
	ask("busy")
	nested.Store(nil)
	store.down.Store(true)
	ask("down")
	store.down.Store(false)
	ask("up")
	unhealthy.Store(true)
	require.Eventually(t, func() bool { return lb.Stats().Panicking == 1 }, time.Minute, time.Millisecond)
	unhealthy.Store(false)
	require.Eventually(t, func() bool { return lb.Stats().Panicking == 0 }, time.Minute, time.Millisecond)
	data.Delete(hostile + "1")

	// These pacers refuse the second request.
	for _, cfg := range []pacer.Config{
		{Rate: ratelimit.PerHour(1).WithBurst(1), MaxQueue: -1},
		{Rate: ratelimit.PerHour(1).WithBurst(1), MaxWait: time.Nanosecond},
	} {
		cfg.Observe = observe[pacer.Event](&s.recorder, s.tel)
		p, err := pacer.New(cfg)
		require.NoError(t, err)
		require.NoError(t, p.Wait(t.Context(), hostile))
		require.Error(t, p.Wait(t.Context(), hostile))
	}
	require.NoError(t, lb.Close(t.Context())) // no event comes after this
}

func (s *scene) metrics(t *testing.T) (all []metricdata.Metrics) {
	t.Helper()
	var rm metricdata.ResourceMetrics
	require.NoError(t, s.reader.Collect(t.Context(), &rm))
	for _, scope := range rm.ScopeMetrics {
		all = append(all, scope.Metrics...)
	}
	return all
}

var eventWord = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)

func TestEventsKeepTheContractOfLogValue(t *testing.T) {
	s := newScene(t)
	s.play(t)
	dimensions := map[string]map[string]bool{}
	for _, v := range s.events {
		require.Equal(t, slog.KindGroup, v.Kind())
		attrs := v.Group()
		require.NotEmpty(t, attrs)
		require.Equal(t, "event", attrs[0].Key)
		event := attrs[0].Value.String()
		require.Regexp(t, eventWord, event)
		tuple := ""
		for _, a := range attrs[1:] {
			require.Regexp(t, eventWord, a.Key, event)
			switch a.Value.Kind() {
			case slog.KindString, slog.KindBool:
				tuple += a.Key + "=" + a.Value.String() + " "
			case slog.KindDuration:
			case slog.KindGroup:
				require.Equal(t, "detail", a.Key, event)
			default:
				t.Errorf("%s: %s is a %v, which belongs into detail", event, a.Key, a.Value.Kind())
			}
		}
		if dimensions[event] == nil {
			dimensions[event] = map[string]bool{}
		}
		dimensions[event][tuple] = true
	}
	for event, tuples := range dimensions {
		require.LessOrEqual(t, len(tuples), 16, event)
		for tuple := range tuples {
			require.NotContains(t, tuple, hostile, event)
			require.NotContains(t, tuple, "127.0.0.1", event)
		}
	}
	// These are all events of the packages, except cache's refusal of entries that are too heavy.
	for _, event := range []string{
		"attempt", "endpoint", "resolve", "panic", // balancer
		"decision", "store", "concurrency", // ratelimit
		"turn",            // pacer
		"load", "removal", // cache
	} {
		require.Contains(t, dimensions, event)
	}
	for event, tuple := range map[string]string{
		"attempt":     "outcome=failure reason=turn repicked=false ",
		"endpoint":    "state=ejected reason=consecutive_failures ",
		"resolve":     "ok=true ",
		"panic":       "panicking=true ",
		"decision":    "outcome=limited policy=per-key degraded=false ",
		"concurrency": "outcome=busy ",
		"store":       "up=false ",
		"turn":        "outcome=queue_full ",
		"load":        "failed=true background=false ",
		"removal":     "reason=evicted ",
	} {
		require.Contains(t, dimensions[event], tuple, event)
	}
}

func TestEventsAndStatsBecomeMetrics(t *testing.T) {
	s := newScene(t)
	s.play(t)
	want := map[string]int64{} // number of events by their word
	for _, v := range s.events {
		want[v.Group()[0].Value.String()]++
	}
	require.Zero(t, s.tel.Stats().Faults)
	require.Zero(t, s.tel.Stats().Overflowed)

	kinds := map[string]string{}
	sums := map[string]float64{} // by name, or name{key}
	points := func(name string, set attribute.Set, n float64) {
		sums[name] += n
		for _, kv := range set.ToSlice() {
			text := string(kv.Key) + "=" + kv.Value.String()
			require.NotContains(t, text, hostile, name)
			require.NotContains(t, text, "detail", name)
			if strings.HasPrefix(name, "trivet.") && !strings.Contains(name, ".endpoint_") {
				require.NotContains(t, text, "127.0.0.1", name)
			}
			if kv.Key == "outcome" || kv.Key == "key" || kv.Key == "up" {
				sums[name+"{"+kv.Value.String()+"}"] += n
			}
		}
	}
	for _, m := range s.metrics(t) {
		require.Empty(t, kinds[m.Name], "%s is two instruments", m.Name)
		kinds[m.Name] = fmt.Sprintf("%T %s", m.Data, m.Unit)
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				points(m.Name, p.Attributes, float64(p.Value))
			}
		case metricdata.Gauge[float64]:
			for _, p := range data.DataPoints {
				points(m.Name, p.Attributes, p.Value)
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				points(m.Name, p.Attributes, float64(p.Count))
			}
		default:
			t.Errorf("%s is a %T", m.Name, m.Data)
		}
	}
	for event, pkg := range map[string]string{
		"attempt": "balancer", "endpoint": "balancer", "resolve": "balancer", "panic": "balancer",
		"decision": "ratelimit", "store": "ratelimit", "concurrency": "ratelimit", "turn": "pacer",
		"load": "cache", "removal": "cache",
	} {
		name := "trivet." + pkg + "." + event
		require.Equal(t, "metricdata.Sum[int64] {event}", kinds[name], name)
		require.Equal(t, float64(want[event]), sums[name], name)
	}
	for name, event := range map[string]string{
		"trivet.balancer.attempt.duration":   "attempt",
		"trivet.ratelimit.decision.duration": "decision",
		"trivet.pacer.turn.duration":         "turn",
		"trivet.cache.load.duration":         "load",
	} {
		require.Equal(t, "metricdata.Histogram[float64] s", kinds[name], name)
		require.Equal(t, float64(want[event]), sums[name], name)
	}
	// Counted events and statistics agree.
	for event, stat := range map[string]string{
		"trivet.balancer.attempt":                "trivet.balancer.requests",
		"trivet.balancer.attempt{failure}":       "trivet.balancer.failures",
		"trivet.ratelimit.decision{admitted}":    "trivet.ratelimit.admitted",
		"trivet.ratelimit.decision{limited}":     "trivet.ratelimit.limited",
		"trivet.ratelimit.decision{no_key}":      "trivet.ratelimit.no_key",
		"trivet.ratelimit.store{false}":          "trivet.ratelimit.failures",
		"trivet.ratelimit.concurrency{admitted}": "trivet.ratelimit.concurrency.admitted",
		"trivet.ratelimit.concurrency{busy}":     "trivet.ratelimit.concurrency.busy",
		"trivet.cache.load":                      "trivet.cache.memory.loads",
		"trivet.cache.removal":                   "trivet.cache.memory.removals",
	} {
		require.NotZero(t, sums[event], event)
		require.Equal(t, sums[event], sums[stat], "%s, %s", event, stat)
	}
	require.Equal(t, "metricdata.Gauge[float64] ", kinds["trivet.ratelimit.store_up"])
	require.EqualValues(t, 1, sums["trivet.ratelimit.store_up"])
	require.Equal(t, float64(3), sums["trivet.balancer.endpoints"])
}

func TestEventsStandInTheLineOfTheirRequest(t *testing.T) {
	s := newScene(t)
	s.play(t)
	lines := strings.Split(strings.TrimSpace(s.lines.String()), "\n")
	find := func(path string) map[string]any {
		t.Helper()
		field := `"url.path":"` + path + `"`
		i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, field) })
		require.GreaterOrEqual(t, i, 0, path)
		var line map[string]any
		require.NoError(t, json.Unmarshal([]byte(lines[i]), &line))
		return line["it"].(map[string]any)
	}
	it := find("/" + hostile + "1")
	require.Equal(t, "admitted", it["decision"].(map[string]any)["outcome"])
	require.Equal(t, "admitted", it["concurrency"].(map[string]any)["outcome"])
	require.Equal(t, "sent", it["turn"].(map[string]any)["outcome"])
	require.Equal(t, false, it["load"].(map[string]any)["failed"])
	attempt := it["attempt"].(map[string]any)
	require.NotZero(t, attempt["duration"])
	require.Equal(t, "http://service.test", attempt["detail"].(map[string]any)["target"])

	require.Equal(t, true, find("/" + hostile + "7")["load"].(map[string]any)["failed"])
	down := find("/" + hostile + "down")["store"].(map[string]any)
	failed := down["detail"].(map[string]any)["error"].(string)
	require.Contains(t, failed, hostile+"store")
	require.Contains(t, failed, "password=REDACTED")
}

// No two instruments of breaker and retry have the same name, which a metrics SDK would not bear:
// those of events, and those of statistics.
func TestEventsAndStatisticsOfOnePackageHaveDifferentNames(t *testing.T) {
	s := newScene(t)
	b, err := breaker.New(breaker.Config{MinRequests: 1, Observe: observe[breaker.Event](&s.recorder, s.tel)})
	require.NoError(t, err)
	register(t, s, b.Stats)
	throttle, err := breaker.NewThrottle(breaker.ThrottleConfig{
		Observe: observe[breaker.ThrottleEvent](&s.recorder, s.tel),
	})
	require.NoError(t, err)
	register(t, s, throttle.Stats)
	retrier, err := retry.New(retry.Config{Observe: observe[retry.Event](&s.recorder, s.tel)})
	require.NoError(t, err)
	register(t, s, retrier.Stats)
	deadline, err := retry.NewDeadline(retry.DeadlineConfig{
		Observe: observe[retry.DeadlineEvent](&s.recorder, s.tel),
	})
	require.NoError(t, err)
	register(t, s, deadline.Stats)

	failing := roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 503, Header: http.Header{}, Body: http.NoBody}, nil
	})
	client := &http.Client{Transport: retrier.Transport(b.Transport(throttle.Transport(failing)))}
	h := deadline.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://app.test/", nil)
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
		}
	}))
	for range 100 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}
	throttled := &http.Client{Transport: throttle.Transport(failing)}
	for range 1000 {
		if resp, err := throttled.Get("http://app.test/"); err == nil {
			resp.Body.Close()
		}
	}

	var rm metricdata.ResourceMetrics
	require.NoError(t, s.reader.Collect(context.Background(), &rm))
	seen := map[string]bool{}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		require.False(t, seen[m.Name], "two instruments are called %s", m.Name)
		seen[m.Name] = true
	}
	for _, name := range []string{
		"trivet.breaker.transition", "trivet.breaker.refused", "trivet.breaker.refusals",
		"trivet.breaker.open", "trivet.breaker.throttled", "trivet.breaker.throttle.throttled",
		"trivet.retry.request", "trivet.retry.requests", "trivet.retry.budget", "trivet.retry.deadline",
		"trivet.retry.deadline.requests",
	} {
		require.True(t, seen[name], "%s is not among %v", name, seen)
	}
}
