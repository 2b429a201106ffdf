package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
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
		time.Sleep(1)

		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.HalfOpen, stateOf(b, "a"), "one of two probes")
		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.Ramping, stateOf(b, "a"))
		time.Sleep(5 * time.Second)
		require.Equal(t, breaker.Closed, stateOf(b, "a"))
		require.True(t, ask(b, "a", breaker.Success))

		require.Equal(t, []string{"closed open", "open half_open", "half_open ramping", "ramping closed"}, seen.transitions())
		s := b.Stats()
		require.EqualValues(t, 2, s.Refused)
		require.EqualValues(t, 2, s.Probes)
		require.Zero(t, s.Open)
		require.Equal(t, map[string]breaker.KeyStats{"a": {State: breaker.Closed, Share: 1}}, s.Keys)
		require.Equal(t, breaker.KeyStats{State: breaker.Closed, Share: 1}, s.Shared)
	})
}

func TestEventsTellWhatTheWindowHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{Observe: seen.observe, SlowAfter: time.Second, Probes: 2})
		slow := func() {
			done, err := b.Acquire(t.Context(), "a")
			require.NoError(t, err)
			time.Sleep(time.Second + 1)
			done(breaker.Success)
		}
		for range 10 {
			ask(b, "a", breaker.Success)
		}
		for range 5 {
			slow()
		}
		trip(t, b, "a")
		require.Equal(t, breaker.Event{
			Kind: breaker.Transition, Key: "a", From: breaker.Closed, To: breaker.Open, Duration: 5 * time.Second,
			Requests: 20, Failures: 5, Slow: 5,
		}, seen.events[0])
		require.Equal(t, breaker.Event{Kind: breaker.Refused, Key: "a", From: breaker.Open, To: breaker.Open}, seen.events[1])
		time.Sleep(5 * time.Second)
		ask(b, "a", breaker.Success)
		slow()
		require.Equal(t, breaker.Event{
			Kind: breaker.Transition, Key: "a", From: breaker.HalfOpen, To: breaker.Open, Duration: 10 * time.Second,
			Requests: 2, Slow: 1,
		}, seen.events[3])
		time.Sleep(10 * time.Second)
		ask(b, "a", breaker.Success)
		ask(b, "a", breaker.Failure)
		require.Equal(t, breaker.Event{
			Kind: breaker.Transition, Key: "a", From: breaker.HalfOpen, To: breaker.Open, Duration: 20 * time.Second,
			Requests: 2, Failures: 1,
		}, seen.events[5])
		time.Sleep(20 * time.Second)
		ask(b, "a", breaker.Success)
		ask(b, "a", breaker.Success)
		require.Equal(t, breaker.Event{
			Kind: breaker.Transition, Key: "a", From: breaker.HalfOpen, To: breaker.Ramping, Requests: 2,
		}, seen.events[7])
	})
}

// Slow answers leave the window as others do: they must not be taken from the failures of later
// ones.
func TestSlowAnswersLeaveTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{Observe: seen.observe, SlowAfter: time.Second})
		for range 3 {
			done, err := b.Acquire(t.Context(), "a")
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
			done(breaker.Success)
		}
		time.Sleep(11 * time.Second)
		trip(t, b, "a")
		require.EqualValues(t, 20, seen.events[0].Failures)
		require.Zero(t, seen.events[0].Slow)
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
					time.Sleep([]time.Duration{window / 20, window / 2, window + window/2, window / 10}[step-8])
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
					rt.Fatalf("step %d: %d of %d failed, at least %d and %v: the breaker is %s", i, bad, n, fewest, ratio, got)
				}
				if want == breaker.Open {
					return
				}
			}
		})
	})
}

// TestB05: a service that works for its probes only costs ever fewer of them.
func TestB05_FlappingDoublesTheOpenTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{Ramp: -1})
		for _, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
			trip(t, b, "a")
			require.Equal(t, want*time.Second, waitOf(t, b, "a"))
			time.Sleep(want*time.Second - 1)
			require.False(t, ask(b, "a", breaker.Success), "it stays open all the time")
			time.Sleep(1)
			require.True(t, ask(b, "a", breaker.Success))
			require.Equal(t, breaker.Closed, stateOf(b, "a"))
			time.Sleep(want*time.Second - 1)
		}
		time.Sleep(1)
		trip(t, b, "a")
		require.Equal(t, 5*time.Second, waitOf(t, b, "a"), "it was closed for as long as it was open last")
	})
}

func TestOpenTimeIsJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := breaker.New(breaker.Config{OpenFor: 10 * time.Second})
		require.NoError(t, err)
		least, most := time.Hour, time.Duration(0)
		for i := range 300 {
			key := fmt.Sprint(i)
			trip(t, b, key)
			wait := waitOf(t, b, key)
			least, most = min(least, wait), max(most, wait)
		}
		require.GreaterOrEqual(t, least, 8*time.Second)
		require.LessOrEqual(t, most, 12*time.Second)
		require.Greater(t, most-least, 3*time.Second)
		for _, edge := range []struct {
			rand float64
			want time.Duration
		}{{0, 8 * time.Second}, {0.5, 10 * time.Second}, {0.75, 11 * time.Second}} {
			b.SetRand(func() float64 { return edge.rand })
			key := fmt.Sprint("edge ", edge.rand)
			trip(t, b, key)
			require.InDelta(t, edge.want, waitOf(t, b, key), 10)
		}
	})
}

func TestOpenTimesStayWithinBounds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		openFor := time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(365*24*time.Hour)).Draw(rt, "openFor"))
		most := time.Duration(rapid.Int64Range(int64(openFor), int64(365*24*time.Hour)).Draw(rt, "most"))
		r := rapid.Float64Range(0, math.Nextafter(1, 0)).Draw(rt, "rand")
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{OpenFor: openFor, MaxOpen: most, MinRequests: 1, Ramp: -1})
			b.SetRand(func() float64 { return r })
			want := openFor
			for range 12 {
				trip(t, b, "a")
				wait := waitOf(t, b, "a")
				require.InDelta(t, float64(want)*(0.8+0.4*r), float64(wait), 1+1e-6*float64(want))
				time.Sleep(wait)
				want = min(2*want, most)
				require.True(t, ask(b, "a", breaker.Failure), "a probe")
				time.Sleep(waitOf(t, b, "a"))
				want = min(2*want, most)
				require.True(t, ask(b, "a", breaker.Success))
			}
		})
	})
}

// TestB03: however many ask at once, Probes of them are admitted.
func TestB03_ExactlySoManyProbesAtTheInstant(t *testing.T) {
	for _, probes := range []int{1, 3, 17} {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{Probes: probes})
			trip(t, b, "a")
			time.Sleep(5 * time.Second)
			var admitted, refused atomic.Int64
			var dones sync.Map
			start := make(chan struct{})
			for i := range 10_000 {
				go func() {
					<-start
					done, err := b.Acquire(context.Background(), "a")
					if err != nil {
						refused.Add(1)
						return
					}
					admitted.Add(1)
					dones.Store(i, done)
				}()
			}
			synctest.Wait()
			close(start)
			synctest.Wait()
			require.EqualValues(t, probes, admitted.Load())
			require.EqualValues(t, 10_000-probes, refused.Load())
			require.EqualValues(t, probes, b.Stats().Probes)
			require.Positive(t, waitOf(t, b, "a"), "no wait would mean that it is final")
			dones.Range(func(_, done any) bool {
				require.Equal(t, breaker.HalfOpen, stateOf(b, "a"))
				done.(func(breaker.Outcome))(breaker.Success)
				return true
			})
			require.Equal(t, breaker.Ramping, stateOf(b, "a"))
		})
	}
}

// The same on all processors, as fast as they can, round after round: there is never a second
// probe.
func TestB03_ProbesInFlightUnderContention(t *testing.T) {
	b, err := breaker.New(breaker.Config{
		OpenFor: time.Millisecond, MaxOpen: time.Millisecond, MinRequests: 1, ProbeTimeout: time.Hour,
	})
	require.NoError(t, err)
	trip(t, b, "a") // and as every probe fails, it never closes
	var inFlight, most, rounds atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for rounds.Load() < 40 {
				done, err := b.Acquire(context.Background(), "a")
				if err != nil {
					continue
				}
				most.Store(max(most.Load(), inFlight.Add(1)))
				runtime.Gosched()
				inFlight.Add(-1)
				rounds.Add(1)
				done(breaker.Failure)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, most.Load())
	require.EqualValues(t, rounds.Load(), b.Stats().Probes)
}

// TestB02: a probe that is canceled gives its place to the next.
func TestB02_NeutralProbeFreesItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		trip(t, b, "a")
		time.Sleep(5 * time.Second)
		for range 100 {
			done, err := b.Acquire(t.Context(), "a")
			require.NoError(t, err)
			require.False(t, ask(b, "a", breaker.Success), "one at a time")
			done(breaker.Neutral)
			require.Equal(t, breaker.HalfOpen, stateOf(b, "a"), "it proves nothing")
		}
		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.Ramping, stateOf(b, "a"))
	})
}

// TestB04: an outcome counts only in the generation in which its request was admitted.
func TestB04_OutcomesOfAnotherGenerationAreIgnored(t *testing.T) {
	acquire := func(t *testing.T, b *breaker.Breaker) func(breaker.Outcome) {
		done, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		return done
	}
	t.Run("a success from before does not close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{})
			early := acquire(t, b)
			trip(t, b, "a")
			time.Sleep(5 * time.Second)
			probe := acquire(t, b)
			early(breaker.Success)
			require.Equal(t, breaker.HalfOpen, stateOf(b, "a"))
			probe(breaker.Failure)
			require.Equal(t, breaker.Open, stateOf(b, "a"))
		})
	})
	t.Run("failures from before do not open", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{Ramp: -1})
			var early []func(breaker.Outcome)
			for range 40 {
				early = append(early, acquire(t, b))
			}
			trip(t, b, "a")
			early[0](breaker.Failure)
			time.Sleep(5 * time.Second)
			probe := acquire(t, b)
			early[1](breaker.Failure)
			require.Equal(t, breaker.HalfOpen, stateOf(b, "a"))
			probe(breaker.Success)
			for _, done := range early {
				done(breaker.Failure)
			}
			require.Equal(t, breaker.Closed, stateOf(b, "a"))
		})
	})
	t.Run("a probe of an earlier half-open time is none of this one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{Probes: 2})
			trip(t, b, "a")
			time.Sleep(5 * time.Second)
			first, second := acquire(t, b), acquire(t, b)
			first(breaker.Failure)
			require.Equal(t, breaker.Open, stateOf(b, "a"))
			time.Sleep(10 * time.Second)
			third := acquire(t, b)
			second(breaker.Success)
			third(breaker.Success)
			require.Equal(t, breaker.HalfOpen, stateOf(b, "a"), "one of its own probes has succeeded, not two")
			require.True(t, ask(b, "a", breaker.Success))
			require.Equal(t, breaker.Ramping, stateOf(b, "a"))
		})
	})
	t.Run("a neutral probe of an earlier half-open time frees no place of this one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{Probes: 2})
			trip(t, b, "a")
			time.Sleep(5 * time.Second)
			first, second := acquire(t, b), acquire(t, b)
			first(breaker.Failure)
			time.Sleep(10 * time.Second)
			acquire(t, b)
			acquire(t, b)
			second(breaker.Neutral)
			require.False(t, ask(b, "a", breaker.Success))
		})
	})
	t.Run("an outcome of the ramp counts when it is over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{MinRequests: 2, FailureRatio: 1})
			b.SetRand(func() float64 { return 0 })
			trip(t, b, "a")
			time.Sleep(4 * time.Second)
			require.True(t, ask(b, "a", breaker.Success))
			require.Equal(t, breaker.Ramping, stateOf(b, "a"))
			one, two := acquire(t, b), acquire(t, b)
			time.Sleep(4 * time.Second)
			require.True(t, ask(b, "a", breaker.Neutral))
			one(breaker.Failure)
			two(breaker.Failure)
			require.Equal(t, breaker.Open, stateOf(b, "a"))
		})
	})
}

func TestLostProbesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{Probes: 2, ProbeTimeout: 3 * time.Second})
		trip(t, b, "a")
		time.Sleep(5 * time.Second)
		lost, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(time.Second)
		_, err = b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(2*time.Second - 1)
		require.False(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.HalfOpen, stateOf(b, "a"))
		time.Sleep(1)
		require.False(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.Open, stateOf(b, "a"), "a probe without an answer has failed")
		require.Equal(t, 10*time.Second, waitOf(t, b, "a"))
		time.Sleep(10 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		lost(breaker.Failure)
		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.Ramping, stateOf(b, "a"))
	})
}

// The defaults: a probe has as long as the breaker was to be open.
func TestProbeTimeoutIsTheOpenTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{OpenFor: 7 * time.Second})
		trip(t, b, "a")
		time.Sleep(7 * time.Second)
		_, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(7*time.Second - 1)
		ask(b, "a", breaker.Success)
		require.Equal(t, breaker.HalfOpen, stateOf(b, "a"))
		time.Sleep(1)
		ask(b, "a", breaker.Success)
		require.Equal(t, breaker.Open, stateOf(b, "a"))
	})
}

func TestDoneCountsOnce(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	done, err := b.Acquire(t.Context(), "a")
	require.NoError(t, err)
	for range 100 {
		done(breaker.Failure)
	}
	require.Equal(t, breaker.Closed, stateOf(b, "a"))
	var wg sync.WaitGroup
	done, err = b.Acquire(t.Context(), "a")
	require.NoError(t, err)
	for range 100 {
		wg.Go(func() { done(breaker.Failure) })
	}
	wg.Wait()
	require.Equal(t, breaker.Closed, stateOf(b, "a"))
	for range 17 {
		ask(b, "a", breaker.Failure)
	}
	require.Equal(t, breaker.Closed, stateOf(b, "a"), "19 until here")
	ask(b, "a", breaker.Failure)
	require.Equal(t, breaker.Open, stateOf(b, "a"))
}

func TestRampGrowsToAll(t *testing.T) {
	for _, tt := range []struct {
		name string
		ramp time.Duration
		want time.Duration
	}{{"as long as the open time", 0, 5 * time.Second}, {"its own time", 20 * time.Second, 20 * time.Second}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker(t, breaker.Config{Ramp: tt.ramp})
				trip(t, b, "a")
				time.Sleep(5 * time.Second)
				require.True(t, ask(b, "a", breaker.Success))
				i := 0
				b.SetRand(func() float64 { i++; return float64(i%1000) / 1000 }) // evenly spread
				for tenth := range 10 {
					admitted := 0
					for range 1000 {
						if ask(b, "a", breaker.Success) {
							admitted++
						}
					}
					share := 0.1 + 0.9*float64(tenth)/10
					require.InDelta(t, 1000*share, admitted, 2)
					require.InDelta(t, share, b.Stats().Keys["a"].Share, 1e-6)
					require.Equal(t, breaker.Ramping, stateOf(b, "a"))
					time.Sleep(tt.want / 10)
				}
				for range 1000 {
					require.True(t, ask(b, "a", breaker.Success))
				}
				require.Equal(t, breaker.Closed, stateOf(b, "a"))
			})
		})
	}
}

func TestRefusalsOfARampHaveAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		trip(t, b, "a")
		time.Sleep(5 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		_, err := b.Acquire(t.Context(), "a")
		var e *breaker.OpenError
		require.ErrorAs(t, err, &e)
		require.Equal(t, breaker.Ramping, e.State)
		require.Positive(t, e.RetryAfter())
	})
}

func TestFailuresOnTheRampOpenForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{Ramp: time.Minute})
		b.SetRand(func() float64 { return 0 })
		trip(t, b, "a")
		time.Sleep(4 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		for range 4 {
			require.True(t, ask(b, "a", breaker.Failure))
			require.Equal(t, breaker.Ramping, stateOf(b, "a"))
		}
		require.True(t, ask(b, "a", breaker.Failure))
		require.Equal(t, breaker.Open, stateOf(b, "a"), "5 failures, where the share that is admitted is small")
		require.Equal(t, 8*time.Second, waitOf(t, b, "a"))

		time.Sleep(8 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		time.Sleep(30 * time.Second)
		for range 10 { // of 20 × 0.55
			require.True(t, ask(b, "a", breaker.Failure))
			require.Equal(t, breaker.Ramping, stateOf(b, "a"))
		}
		require.True(t, ask(b, "a", breaker.Failure))
		require.Equal(t, breaker.Open, stateOf(b, "a"))
		require.Equal(t, 16*time.Second, waitOf(t, b, "a"))
	})
}

func TestNoRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		b := newBreaker(t, breaker.Config{Ramp: -1, Observe: seen.observe})
		b.SetRand(func() float64 { return 0.99999 })
		trip(t, b, "a")
		time.Sleep(6 * time.Second)
		for range 100 {
			require.True(t, ask(b, "a", breaker.Success))
		}
		require.Equal(t, []string{"closed open", "open half_open", "half_open closed"}, seen.transitions())
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
		require.Equal(t, &breaker.OpenError{Key: "a", State: breaker.Isolated}, e, "nobody knows until when: final")
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
			"closed isolated", "isolated closed", "closed open", "open isolated", "isolated closed", "closed open",
		}, seen.transitions())
	})
}

func TestResetWhileAProbeRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		trip(t, b, "a")
		time.Sleep(5 * time.Second)
		probe, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		b.Reset("a")
		probe(breaker.Failure)
		require.Equal(t, breaker.Closed, stateOf(b, "a"))
		trip(t, b, "a")
		time.Sleep(5 * time.Second)
		require.True(t, ask(b, "a", breaker.Success), "no place is taken by the probe of before")
	})
}

func TestForget(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	b.Forget("nobody")
	trip(t, b, "a")
	early, err := b.Acquire(t.Context(), "b")
	require.NoError(t, err)
	b.Forget("a")
	b.Forget("b")
	require.Empty(t, b.Stats().Keys)
	early(breaker.Failure)
	require.True(t, ask(b, "a", breaker.Success))
	require.Equal(t, breaker.Closed, stateOf(b, "a"))
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
		require.EqualValues(t, 10, b.Stats().Refused)
		require.Len(t, seen.events, 11)
		time.Sleep(5 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.Ramping, stateOf(b, "a"))
	})
}

// TestB10: each key has a state of its own, in bounded memory.
func TestB10_OneKeyDoesNotOpenAnother(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	trip(t, b, "bad")
	for i := range 100 {
		require.True(t, ask(b, fmt.Sprint("good ", i), breaker.Success))
	}
	require.Equal(t, 1, b.Stats().Open)
	require.Len(t, b.Stats().Keys, 101)
}

func TestB10_KeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 10})
		trip(t, b, "bad")
		busy, err := b.Acquire(t.Context(), "busy")
		require.NoError(t, err)
		for i := range 10_000 {
			require.True(t, ask(b, fmt.Sprint(i), breaker.Neutral))
		}
		s := b.Stats()
		require.Len(t, s.Keys, 10)
		require.EqualValues(t, 10_000-8, s.Overflowed)
		require.Equal(t, breaker.Open, s.Keys["bad"].State)

		trip(t, b, "newcomer")
		require.False(t, ask(b, "another", breaker.Success), "they share one state")
		require.Equal(t, breaker.Open, b.Stats().Shared.State)
		require.NotContains(t, b.Stats().Keys, "newcomer")
		require.False(t, ask(b, "bad", breaker.Success))
		require.True(t, ask(b, "7", breaker.Success), "whoever has a state keeps it")

		// Idle and closed ones make room, after two looks at least a window apart.
		for range 25 {
			time.Sleep(time.Second)
			ask(b, "7", breaker.Success)
			ask(b, "newcomer", breaker.Success)
		}
		s = b.Stats()
		require.Contains(t, s.Keys, "newcomer")
		require.Contains(t, s.Keys, "bad", "an open one is not forgotten for a new key")
		require.Contains(t, s.Keys, "busy", "nor one with a request in flight")
		require.Contains(t, s.Keys, "7", "nor one in use")
		require.NotContains(t, s.Keys, "3")
		require.Less(t, len(s.Keys), 10)
		busy(breaker.Failure)
	})
}

// An open key that nobody asks for any more gives up its place after an hour: hosts that died would
// fill the table.
func TestAbandonedKeysAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 3})
		trip(t, b, "open")
		b.Isolate("isolated")
		trip(t, b, "probed")
		time.Sleep(5 * time.Second)
		ask(b, "probed", breaker.Neutral)
		for ; time.Since(b.Base()) < breaker.Abandoned; time.Sleep(time.Minute) {
			require.True(t, ask(b, "new", breaker.Success))
			require.Len(t, b.Stats().Keys, 3)
			require.NotContains(t, b.Stats().Keys, "new")
		}
		time.Sleep(time.Minute)
		require.True(t, ask(b, "new", breaker.Success))
		require.Equal(t, map[string]breaker.KeyStats{
			"isolated": {State: breaker.Isolated}, "new": {State: breaker.Closed, Share: 1},
		}, b.Stats().Keys)
	})
}

// A key is not forgotten while its next opening would still be a longer one.
func TestTheSeriesOutlivesIdleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 1, OpenFor: time.Minute, MaxOpen: time.Hour})
		trip(t, b, "a")
		time.Sleep(time.Minute)
		require.True(t, ask(b, "a", breaker.Success))
		for range 110 { // a minute of ramp, and a minute until it is calm
			time.Sleep(time.Second)
			ask(b, "b", breaker.Success)
		}
		require.Contains(t, b.Stats().Keys, "a")
		trip(t, b, "a")
		require.Equal(t, 2*time.Minute, waitOf(t, b, "a"))
		time.Sleep(2 * time.Minute)
		require.True(t, ask(b, "a", breaker.Success))
		for range 300 {
			time.Sleep(time.Second)
			ask(b, "b", breaker.Success)
		}
		require.Contains(t, b.Stats().Keys, "b", "a has ramped up, unseen, and is calm")
	})
}

func TestIsolatedKeysStandOnTop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 2})
		ask(b, "a", breaker.Success)
		ask(b, "b", breaker.Success)
		b.Isolate("c")
		b.Isolate("d")
		require.False(t, ask(b, "c", breaker.Success))
		require.False(t, ask(b, "d", breaker.Success))
		require.True(t, ask(b, "e", breaker.Success))
		require.Len(t, b.Stats().Keys, 4)
		require.EqualValues(t, 1, b.Stats().Overflowed)
		b.Forget("c")
		b.Forget("d")
		b.Forget("a")
		require.True(t, ask(b, "f", breaker.Success))
		require.True(t, ask(b, "g", breaker.Success))
		require.Len(t, b.Stats().Keys, 2, "b and f")
	})
}

// Keys come and go on all processors while others look them up: nobody gets another's state, and
// the bound holds.
func TestTableUnderContention(t *testing.T) {
	const keys = 64
	b := newBreaker(t, breaker.Config{MaxKeys: keys / 2, Window: time.Millisecond, Observe: func(context.Context, breaker.Event) {}})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				key := fmt.Sprint((i*7 + g) % keys)
				switch {
				case i%50 == 0:
					b.Forget(key)
				case i%77 == 0:
					b.Reset(key)
				case i%301 == 0:
					if n := len(b.Stats().Keys); n > keys/2 {
						panic(n)
					}
				default:
					if !ask(b, key, breaker.Success) {
						panic("refused: " + key)
					}
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, len(b.Stats().Keys), keys/2)
}

// TestB15: an observer may use the breaker that it observes, and gets each key's transitions in
// order.
func TestB15_ObserversMayReenter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *breaker.Breaker
		var order []string
		within := map[string]bool{}
		b = newBreaker(t, breaker.Config{Observe: func(_ context.Context, e breaker.Event) {
			if e.Kind != breaker.Transition {
				return
			}
			require.False(t, within[e.Key], "one after the other")
			within[e.Key] = true
			defer delete(within, e.Key)
			order = append(order, e.Key+" "+string(e.From)+" "+string(e.To))
			b.Stats()
			if e.Key == "a" && e.To == breaker.Open {
				b.Isolate("a") // these events come after this one
				b.Reset("a")
				require.True(t, ask(b, "a", breaker.Success))
				trip(t, b, "b") // another key's need not wait
			}
		}})
		for range 20 {
			ask(b, "a", breaker.Failure)
		}
		require.Equal(t, []string{"a closed open", "b closed open", "a open isolated", "a isolated closed"}, order)
	})
}

func TestB15_ASlowObserverHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen recorder
		enter, leave := make(chan struct{}, 100), make(chan struct{})
		b := newBreaker(t, breaker.Config{Ramp: -1, Observe: func(ctx context.Context, e breaker.Event) {
			if e.Kind == breaker.Transition {
				seen.observe(ctx, e)
				enter <- struct{}{}
				<-leave
			}
		}})
		blocked := make(chan struct{})
		go func() {
			defer close(blocked)
			for range 20 {
				ask(b, "a", breaker.Failure)
			}
		}()
		<-enter
		require.False(t, ask(b, "a", breaker.Success), "refused at once")
		time.Sleep(5 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, []string{"closed open"}, seen.transitions(), "the others wait for the first")
		close(leave)
		<-blocked
		require.Equal(t, []string{"closed open", "open half_open", "half_open closed"}, seen.transitions())
	})
}

func TestPanicsOfObserversPassAndHarmNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		panics := true
		var seen recorder
		b := newBreaker(t, breaker.Config{Ramp: -1, Observe: func(ctx context.Context, e breaker.Event) {
			seen.observe(ctx, e)
			if panics {
				panic("observer")
			}
		}})
		for range 19 {
			ask(b, "a", breaker.Failure)
		}
		require.PanicsWithValue(t, "observer", func() { ask(b, "a", breaker.Failure) })
		require.PanicsWithValue(t, "observer", func() { ask(b, "a", breaker.Failure) }, "refused")
		time.Sleep(5 * time.Second)
		require.PanicsWithValue(t, "observer", func() { ask(b, "a", breaker.Success) }, "as a probe")
		panics = false
		require.True(t, ask(b, "a", breaker.Success), "the place of that probe is free")
		require.Equal(t, []string{"closed open", "open half_open", "half_open closed"}, seen.transitions())
	})
}

// TestB16: everything may be read while everything happens.
func TestB16_StateIsReadWhileItChanges(t *testing.T) {
	b, err := breaker.New(breaker.Config{
		OpenFor: time.Millisecond, MaxOpen: 2 * time.Millisecond, MinRequests: 2, SlowAfter: time.Nanosecond, Probes: 2,
		Observe: func(context.Context, breaker.Event) {},
	})
	require.NoError(t, err)
	var wg sync.WaitGroup
	outcomes := []breaker.Outcome{breaker.Success, breaker.Failure, breaker.Neutral}
	for g := range 6 {
		wg.Go(func() {
			for i := range 2000 {
				key := fmt.Sprint(i % 3)
				switch {
				case i%400 == 0:
					b.Isolate(key)
				case i%100 == 1:
					b.Reset(key)
				case i%20 == 2:
					for _, s := range b.Stats().Keys {
						if s.Share < 0 || s.Share > 1 {
							panic(s.Share)
						}
					}
				default:
					ask(b, key, outcomes[(i+g)%3])
				}
			}
		})
	}
	wg.Wait()
}

// TestB13: only the monotonic clock counts.
func TestB13_StepsOfTheWallClock(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	require.NotEqual(t, b.Base(), b.Base().Round(0), "the base keeps its monotonic reading: time.Since sees no wall clock")
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{OpenFor: time.Hour, MaxOpen: time.Hour})
		trip(t, b, "a")
		time.Sleep(time.Hour - 1)
		require.False(t, ask(b, "a", breaker.Success))
		time.Sleep(1)
		require.True(t, ask(b, "a", breaker.Success))
	})
}

func TestEventsInLogs(t *testing.T) {
	for _, tt := range []struct {
		e    slog.LogValuer
		want string
	}{
		{breaker.Event{Kind: breaker.Transition, Key: "k", From: breaker.Closed, To: breaker.Open, Duration: time.Second, Requests: 9, Failures: 5, Slow: 2},
			"b.event=transition b.from=closed b.to=open b.duration=1s b.detail.key=k b.detail.requests=9 b.detail.failures=5 b.detail.slow=2"},
		{breaker.Event{Kind: breaker.Transition, Key: "k", From: breaker.HalfOpen, To: breaker.Ramping, Requests: 1},
			"b.event=transition b.from=half_open b.to=ramping b.detail.key=k b.detail.requests=1 b.detail.failures=0 b.detail.slow=0"},
		{breaker.Event{Kind: breaker.Refused, Key: "k", From: breaker.Open, To: breaker.Open},
			"b.event=refused b.state=open b.detail.key=k"},
		{breaker.ThrottleEvent{Key: "k", Requests: 3, Accepted: 1},
			"b.event=throttled b.detail.key=k b.detail.requests=3 b.detail.accepted=1"},
	} {
		var out strings.Builder
		slog.New(slog.NewTextHandler(&out, nil)).Info("", "b", tt.e)
		require.Contains(t, out.String(), tt.want)
	}
}
