package health_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry/health"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newHealth(t testing.TB, cfg health.Config) *health.Health {
	h, err := health.New(cfg)
	require.NoError(t, err)
	return h
}

func probe(h http.Handler) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return w.Code, w.Body.String()
}

func code(h http.Handler) int {
	c, _ := probe(h)
	return c
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		var runs atomic.Int64
		down.Store(true)
		h := newHealth(t, health.Config{Checks: []health.CheckConfig{
			{Name: "db", Func: func(context.Context) error {
				runs.Add(1)
				if down.Load() {
					return errors.New("dial postgres://u:hunter2@db")
				}
				return nil
			}},
			{Name: "mail", Optional: true, Func: func(context.Context) error { return errors.New("no") }},
		}})
		require.Equal(t, 200, code(h.Live()), "a restart brings no database back")
		require.Equal(t, 503, code(h.Startup()))
		status, body := probe(h.Ready())
		require.Equal(t, 503, status)
		require.JSONEq(t, `{"status":"fail","checks":[
			{"name":"db","ok":false},
			{"name":"mail","ok":false,"optional":true}
		]}`, body)
		require.EqualValues(t, 1, runs.Load(), "results are used again")
		require.Equal(t, "dial postgres://REDACTED:REDACTED@db", h.Stats().Errors["db"])

		down.Store(false)
		require.Equal(t, 503, code(h.Ready()))
		time.Sleep(time.Second)
		require.Equal(t, 200, code(h.Ready()), "an optional check does not count")
		require.Equal(t, 200, code(h.Startup()))
		require.True(t, h.Stats().Started)
		require.True(t, h.Stats().Up["db"])

		down.Store(true)
		time.Sleep(time.Second)
		require.Equal(t, 503, code(h.Ready()))
		require.Equal(t, 200, code(h.Startup()), "startup is once")
	})
}

func TestHealthCheckThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		release := make(chan struct{})
		h := newHealth(t, health.Config{Checks: []health.CheckConfig{
			{Name: "hangs", Timeout: time.Second, TTL: -1, Func: func(context.Context) error {
				most.Store(max(most.Load(), running.Add(1)))
				defer running.Add(-1)
				<-release // ignores its context
				return nil
			}},
			{Name: "panics", Optional: true, Func: func(context.Context) error { panic("boom") }},
		}})
		start := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { require.Equal(t, 503, code(h.Ready())) })
		}
		wg.Wait()
		require.Equal(t, time.Second, time.Since(start))
		time.Sleep(time.Minute)
		require.Equal(t, 503, code(h.Ready()))
		require.EqualValues(t, 1, most.Load(), "one goroutine however many probes")
		require.Contains(t, h.Stats().Errors["panics"], "boom")

		// A prober that leaves does not wait.
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("left"))
		ok, results := h.Check(ctx)
		require.False(t, ok)
		require.Error(t, results[0].Err)
		close(release)
		synctest.Wait()
		require.Equal(t, 200, code(h.Ready()))
	})
}

func TestDrainFailsReadinessFirstThenWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(t, health.Config{})
		require.Equal(t, 200, code(h.Ready()))
		done := make(chan error)
		start := time.Now()
		go func() { done <- h.Drain(context.Background()) }()
		synctest.Wait()
		require.Equal(t, 503, code(h.Ready()))
		require.Equal(t, 200, code(h.Live()), "a process that drains must not be killed")
		require.Zero(t, time.Since(start))
		require.NoError(t, <-done)
		require.Equal(t, 5*time.Second, time.Since(start))

		cause := errors.New("second signal")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		require.ErrorIs(t, h.Drain(ctx), cause)
		require.NoError(t, newHealth(t, health.Config{DrainDelay: -1}).Drain(ctx))
	})
}

func TestNewNamesEveryFault(t *testing.T) {
	_, err := health.New(health.Config{Checks: []health.CheckConfig{
		{Timeout: -1}, {Name: "a", Func: func(context.Context) error { return nil }}, {Name: "a"},
	}})
	for _, want := range []string{
		"Checks[0].Name: is required", "Checks[0].Func: is required", "Checks[0].Timeout: -1ns",
		`Checks[2].Name: "a" is taken`,
	} {
		require.ErrorContains(t, err, "health: Config."+want)
	}
}

// An optional dependency that hangs must not make probes late: a prober takes a late answer for a
// failure.
func TestOptionalCheckDelaysNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(t, health.Config{Checks: []health.CheckConfig{
			{Name: "db", Func: func(context.Context) error { return nil }},
			{Name: "mail", Optional: true, Func: func(
				ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			}},
		}})
		require.Equal(t, 200, code(h.Ready()), "the first run is waited for")
		for range 10 {
			time.Sleep(10 * time.Second)
			start := time.Now()
			status, body := probe(h.Ready())
			require.Equal(t, 200, status)
			require.Contains(t, body, `{"name":"mail","ok":false,"optional":true}`)
			require.Zero(t, time.Since(start))
		}
		time.Sleep(10 * time.Second) // the last run ends
	})
}

// A check that passes late has passed: but until then it failed, and only one of it runs.
func TestCheckThatPassesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(t, health.Config{Checks: []health.CheckConfig{{Name: "db", TTL: time.Hour,
			Func: func(context.Context) error {
				time.Sleep(3 * time.Second)
				return nil
			}}}})
		start := time.Now()
		require.Equal(t, 503, code(h.Ready()))
		require.Equal(t, 2*time.Second, time.Since(start))
		require.Equal(t, 503, code(h.Ready()))
		require.Equal(t, 2*time.Second, time.Since(start), "what is late already is not waited for again")
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 200, code(h.Ready()))
	})
}

// TestChecksThatPanicOrEndTheirGoroutine fail, and are run again at the next probe.
func TestChecksThatPanicOrEndTheirGoroutine(t *testing.T) {
	for _, end := range []func(){func() { panic("boom") }, runtime.Goexit} {
		runs := 0
		h := newHealth(t, health.Config{Checks: []health.CheckConfig{
			{Name: "db", TTL: -1, Func: func(context.Context) error {
				if runs++; runs == 1 {
					end()
				}
				return nil
			}},
		}})
		require.Equal(t, 503, code(h.Ready()))
		require.Equal(t, 200, code(h.Ready()))
	}
}

// TestResultsAreAsOldAsTheirEnd: a result is used for its TTL from when it was there.
func TestResultsAreAsOldAsTheirEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		h := newHealth(t, health.Config{Checks: []health.CheckConfig{
			{Name: "slow", TTL: time.Second, Func: func(context.Context) error {
				runs.Add(1)
				time.Sleep(600 * time.Millisecond)
				return nil
			}},
		}})
		require.Equal(t, 200, code(h.Ready()))
		time.Sleep(time.Second - 1)
		require.Equal(t, 200, code(h.Ready()))
		require.EqualValues(t, 1, runs.Load())
		time.Sleep(time.Nanosecond)
		require.Equal(t, 200, code(h.Ready()))
		require.EqualValues(t, 2, runs.Load())
	})
}

// TestOptionalChecksKeepTheirLastResult: until the next one is there, also if that takes for ever.
func TestOptionalChecksKeepTheirLastResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hangs atomic.Bool
		release := make(chan struct{})
		defer close(release)
		h := newHealth(t, health.Config{Checks: []health.CheckConfig{
			{Name: "mail", Optional: true, Func: func(context.Context) error {
				if hangs.Load() {
					<-release
				}
				return nil
			}},
		}})
		h.Check(t.Context())
		hangs.Store(true)
		for range 3 {
			time.Sleep(time.Minute)
			start := time.Now()
			ok, results := h.Check(t.Context())
			require.True(t, ok && results[0].OK)
			require.NoError(t, results[0].Err)
			require.Zero(t, time.Since(start))
		}
	})
}

// TestDrainWithoutDelay: it does not wait, and readiness fails all the same. What has not started
// yet still may.
func TestDrainWithoutDelay(t *testing.T) {
	h := newHealth(t, health.Config{DrainDelay: -1, Checks: []health.CheckConfig{
		{Name: "db", Func: func(context.Context) error { return nil }},
	}})
	require.NoError(t, h.Drain(t.Context()))
	require.Equal(t, 503, code(h.Ready()))
	require.True(t, h.Stats().Started)
	require.Equal(t, 200, code(h.Startup()))
}

// Before its first run a check is not up, one that fails keeps the service from having started
// however many pass, and an optional one is waited for that once.
func TestBeforeTheFirstResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		h := newHealth(t, health.Config{Checks: []health.CheckConfig{
			{Name: "passes", Func: func(context.Context) error { return nil }},
			{Name: "fails", Func: func(context.Context) error { return broken }},
			{Name: "optional", Optional: true, Func: func(context.Context) error {
				time.Sleep(time.Second)
				return broken
			}},
		}})
		require.Equal(t, map[string]bool{"passes": false, "fails": false, "optional": false}, h.Stats().Up)
		start := time.Now()
		ok, results := h.Check(t.Context())
		require.False(t, ok)
		require.Equal(t, time.Second, time.Since(start))
		require.False(t, results[2].OK)
		require.ErrorIs(t, results[2].Err, broken)
		require.Equal(t, map[string]bool{"passes": true, "fails": false, "optional": false}, h.Stats().Up)
		require.False(t, h.Stats().Started)
	})
}
