package breaker_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/breaker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newBreaker returns a Breaker without jitter, unless a test asks for randomness.
func newBreaker(t testing.TB, cfg breaker.Config) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(cfg)
	require.NoError(t, err)
	b.SetRand(func() float64 { return 0.5 })
	return b
}

// ask sends one request of key with an outcome. It reports whether the request was admitted.
func ask(b *breaker.Breaker, key string, o breaker.Outcome) bool {
	done, err := b.Acquire(context.Background(), key)
	if err == nil {
		done(o)
	}
	return err == nil
}

// trip opens a closed breaker.
func trip(t testing.TB, b *breaker.Breaker, key string) {
	t.Helper()
	for range 1000 {
		if !ask(b, key, breaker.Failure) {
			return
		}
	}
	require.Fail(t, "the breaker does not open")
}

func stateOf(b *breaker.Breaker, key string) breaker.State { return b.Stats().Keys[key].State }

// waitOf returns how long a request of key, which must be refused, is told to wait.
func waitOf(t testing.TB, b *breaker.Breaker, key string) time.Duration {
	t.Helper()
	_, err := b.Acquire(t.Context(), key)
	var e *breaker.OpenError
	require.ErrorAs(t, err, &e)
	return e.RetryAfter()
}

// A recorder keeps the events of a Breaker.
type recorder struct {
	mu     sync.Mutex // guards the field below
	events []breaker.Event
}

func (r *recorder) observe(_ context.Context, e breaker.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// transitions returns "from to" of each transition.
func (r *recorder) transitions() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == breaker.Transition {
			all = append(all, string(e.From)+" "+string(e.To))
		}
	}
	return all
}

func TestLifeOfABreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{Observe: seen.observe, Probes: 2})
		for range 19 {
			require.True(t, ask(b, "a", breaker.Failure))
		}
		require.Equal(t, breaker.Closed, stateOf(b, "a"), "19 outcomes are too few")
		require.True(t, ask(b, "a", breaker.Failure))
		require.Equal(t, breaker.Open, stateOf(b, "a"))

		_, err := b.Acquire(t.Context(), "a")
		require.ErrorIs(t, err, breaker.ErrOpen)
		var e *breaker.OpenError
		require.ErrorAs(t, err, &e)
		require.Equal(t, &breaker.OpenError{Key: "a", State: breaker.Open, Wait: 5 * time.Second}, e)
		require.True(t, e.NotSent())
		require.Equal(t, "breaker: open (a)", e.Error())
		time.Sleep(5*time.Second - 1)
		require.False(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.Open, stateOf(b, "a"))
		time.Sleep(time.Nanosecond)
		require.Equal(t, breaker.HalfOpen, stateOf(b, "a"), "as the next request will find it")

		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.HalfOpen, stateOf(b, "a"), "one of two probes")
		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.Ramping, stateOf(b, "a"))
		time.Sleep(5 * time.Second)
		require.Equal(t, breaker.Closed, stateOf(b, "a"))
		require.True(t, ask(b, "a", breaker.Success))

		require.Equal(t, []string{"closed open", "open half_open", "half_open ramping", "ramping closed"},
			seen.transitions())
		s := b.Stats()
		require.EqualValues(t, 2, s.Refusals)
		require.EqualValues(t, 2, s.Probes)
		require.Zero(t, s.Open)
		require.Equal(t, map[string]breaker.KeyStats{"a": {State: breaker.Closed, Share: 1}}, s.Keys)
		require.Equal(t, breaker.KeyStats{State: breaker.Closed, Share: 1}, s.Shared)
	})
}

func TestSlowSuccessesOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{SlowAfter: time.Second})
		for i := range 40 {
			done, err := b.Acquire(t.Context(), "a")
			require.NoError(t, err, "request %d", i)
			time.Sleep(time.Second) // just not slow
			done(breaker.Success)
		}
		for range 6 {
			done, err := b.Acquire(t.Context(), "a")
			require.NoError(t, err)
			defer done(breaker.Success)
		}
		b.Reset("a")
		var late []func(breaker.Outcome)
		for range 20 {
			done, err := b.Acquire(t.Context(), "a")
			require.NoError(t, err)
			late = append(late, done)
		}
		time.Sleep(time.Second + 1)
		for _, done := range late {
			done(breaker.Success)
		}
		require.Equal(t, breaker.Open, stateOf(b, "a"))
	})
}

// TestB06: few requests say little.
func TestB06_AFewFailuresDoNotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		for range 100 {
			require.True(t, ask(b, "a", breaker.Failure), "19 in a window of 10 s are not 20")
			time.Sleep(600 * time.Millisecond)
		}
		require.Equal(t, breaker.Closed, stateOf(b, "a"))
	})
}

func TestRatioOpens(t *testing.T) {
	for _, tt := range []struct {
		name     string
		ratio    float64
		failing  int // of ten requests, in turn with the others
		wantOpen bool
	}{
		{"below the default", 0, 4, false},
		{"at the default", 0, 5, true},
		{"below", 0.8, 7, false},
		{"at", 0.8, 8, true},
		{"all", 1, 9, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker(t, breaker.Config{FailureRatio: tt.ratio})
				opened := false
				for i := range 100 {
					o := breaker.Failure
					if i%10 < 10-tt.failing {
						o = breaker.Success
					}
					opened = opened || !ask(b, "a", o)
				}
				require.Equal(t, tt.wantOpen, opened)
			})
		})
	}
}

// TestB14 compares with a model that keeps every outcome: a failure opens the breaker if the
// window, which rolls in tenths, then holds at least MinRequests outcomes and FailureRatio
// failures.
func TestB14_WindowAsANaiveModelHasIt(t *testing.T) {
	type outcome struct {
		at     time.Duration
		failed bool
	}
	rapid.Check(t, func(rt *rapid.T) {
		window := time.Duration(rapid.IntRange(1, 50).Draw(rt, "window")) * 100 * time.Millisecond
		fewest := rapid.IntRange(1, 30).Draw(rt, "fewest")
		ratio := float64(rapid.IntRange(1, 10).Draw(rt, "ratio")) / 10
		steps := rapid.SliceOfN(rapid.IntRange(0, 11), 1, 300).Draw(rt, "steps")
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{Window: window, MinRequests: fewest, FailureRatio: ratio})
			ask(b, "a", breaker.Neutral) // makes the key, so that both windows begin now
			start := time.Now()
			var all []outcome
			for i, step := range steps {
				if step > 7 { // 8 to 11: time goes on by a twentieth, half, one and a half windows, or a step
					time.Sleep(
						[]time.Duration{window / 20, window / 2, window + window/2, window / 10}[step-8],
					)
					continue
				}
				failed := step > 3
				o := breaker.Success
				if failed {
					o = breaker.Failure
				}
				if !ask(b, "a", o) {
					rt.Fatalf("step %d: refused", i)
				}
				at := time.Since(start)
				all = append(all, outcome{at, failed})
				n, bad := 0, 0
				for _, o := range all {
					if at/(window/10)-o.at/(window/10) < 10 {
						n++
						if o.failed {
							bad++
						}
					}
				}
				want := breaker.Closed
				if failed && n >= fewest && float64(bad) >= ratio*float64(n) {
					want = breaker.Open
				}
				if got := stateOf(b, "a"); got != want {
					rt.Fatalf(
						"step %d: %d of %d failed, at least %d and %v: the breaker is %s",
						i,
						bad,
						n,
						fewest,
						ratio,
						got,
					)
				}
				if want == breaker.Open {
					return
				}
			}
		})
	})
}

func TestIsolateAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{Observe: seen.observe})
		b.Reset("nobody")
		require.Empty(t, b.Stats().Keys)

		b.Isolate("a")
		b.Isolate("a")
		require.Equal(t, breaker.KeyStats{State: breaker.Isolated}, b.Stats().Keys["a"])
		require.Equal(t, 1, b.Stats().Open)
		time.Sleep(24 * time.Hour)
		_, err := b.Acquire(t.Context(), "a")
		var e *breaker.OpenError
		require.ErrorAs(t, err, &e)
		require.Equal(t, &breaker.OpenError{Key: "a", State: breaker.Isolated}, e,
			"nobody knows until when: final")
		b.Reset("a")
		require.True(t, ask(b, "a", breaker.Success))

		early, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		for range 18 {
			ask(b, "a", breaker.Failure)
		}
		b.Reset("a")
		early(breaker.Failure)
		for range 19 {
			require.True(t, ask(b, "a", breaker.Failure))
		}
		require.Equal(t, breaker.Closed, stateOf(b, "a"), "what was before is forgotten")
		trip(t, b, "a")
		b.Isolate("a")
		time.Sleep(time.Hour)
		require.False(t, ask(b, "a", breaker.Success), "it does not become half-open")
		b.Reset("a")
		trip(t, b, "a")
		require.Equal(t, 5*time.Second, waitOf(t, b, "a"), "the series is forgotten too")
		require.Equal(t, []string{
			"closed isolated", "isolated closed", "closed open",
			"open isolated", "isolated closed", "closed open",
		}, seen.transitions())
	})
}

func TestAcquireWithAnEndedContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		trip(t, b, "a")
		time.Sleep(5 * time.Second)
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		_, err := b.Acquire(ctx, "a")
		require.Equal(t, gone, err)
		require.Zero(t, b.Stats().Probes)
		require.True(t, ask(b, "a", breaker.Success))
	})
}

func TestDryRunRefusesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{DryRun: true, Observe: seen.observe})
		for range 30 {
			require.True(t, ask(b, "a", breaker.Failure))
		}
		require.Equal(t, breaker.Open, stateOf(b, "a"))
		require.EqualValues(t, 10, b.Stats().Refusals)
		require.Len(t, seen.events, 11)
		require.Zero(t, b.InFlight("a"), "what would have been refused is not guarded")
		time.Sleep(5 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.Ramping, stateOf(b, "a"))
	})
}

// TestB13: only the monotonic clock counts.
func TestB13_StepsOfTheWallClock(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	require.NotEqual(t, b.Base(), b.Base().Round(0),
		"the base keeps its monotonic reading: time.Since sees no wall clock")
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{OpenFor: time.Hour, MaxOpen: time.Hour})
		trip(t, b, "a")
		time.Sleep(time.Hour - 1)
		require.False(t, ask(b, "a", breaker.Success))
		time.Sleep(time.Nanosecond)
		require.True(t, ask(b, "a", breaker.Success))
	})
}
