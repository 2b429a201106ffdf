package breaker_test

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/breaker"
)

// TestB05: a service that works for its probes only costs ever fewer of them.
func TestB05_FlappingDoublesTheOpenTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{Ramp: -1})
		for _, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
			trip(t, b, "a")
			require.Equal(t, want*time.Second, waitOf(t, b, "a"))
			time.Sleep(want*time.Second - 1)
			require.False(t, ask(b, "a", breaker.Success), "it stays open all the time")
			time.Sleep(time.Nanosecond)
			require.True(t, ask(b, "a", breaker.Success))
			require.Equal(t, breaker.Closed, stateOf(b, "a"))
			time.Sleep(want*time.Second - 1)
		}
		time.Sleep(time.Nanosecond)
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
		openFor := time.Duration(
			rapid.Int64Range(int64(time.Millisecond), int64(365*24*time.Hour)).Draw(rt, "openFor"),
		)
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
			require.Equal(t, breaker.HalfOpen, stateOf(b, "a"),
				"one of its own probes has succeeded, not two")
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
		time.Sleep(time.Nanosecond)
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

// A probe has its whole time, also if another one comes while there is room.
func TestProbesHaveTheirWholeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{Probes: 3, ProbeTimeout: 3 * time.Second, Ramp: -1})
		trip(t, b, "a")
		time.Sleep(5 * time.Second)
		first, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(3*time.Second - 1)
		second, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err, "the first is not lost yet")
		first(breaker.Success)
		third, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		_, err = b.Acquire(t.Context(), "a")
		require.Error(t, err, "one has passed and two are in flight")
		second(breaker.Success)
		third(breaker.Success)
		require.Equal(t, breaker.Closed, stateOf(b, "a"))
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{Probes: 3, ProbeTimeout: 3 * time.Second})
		trip(t, b, "a")
		time.Sleep(5 * time.Second)
		_, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(3 * time.Second)
		require.False(t, ask(b, "a", breaker.Success), "now it is")
		require.Equal(t, breaker.Open, stateOf(b, "a"))
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
		time.Sleep(time.Nanosecond)
		ask(b, "a", breaker.Success)
		require.Equal(t, breaker.Open, stateOf(b, "a"))
	})
}

// A probe has more time after each one that had too little.
func TestSlowButHealthyServicesCloseAgain(t *testing.T) {
	for _, latency := range []time.Duration{6, 10, 20} { // OpenFor is 5 s
		latency *= time.Second
		t.Run(latency.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, err := breaker.New(breaker.Config{})
				require.NoError(t, err)
				trip(t, b, "a")
				for range 10 * 5 * 60 { // ten requests a second
					if done, err := b.Acquire(t.Context(), "a"); err == nil {
						time.AfterFunc(latency, func() { done(breaker.Success) })
					}
					time.Sleep(time.Second / 10)
				}
				require.Equal(t, breaker.Closed, stateOf(b, "a"))
				time.Sleep(latency)
			})
		})
	}
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
	}{
		{"as long as the open time", 0, 5 * time.Second},
		{"its own time", 20 * time.Second, 20 * time.Second},
	} {
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
		require.Equal(t, breaker.Open, stateOf(b, "a"),
			"5 failures, where the share that is admitted is small")
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

func TestResetForgetsTheSeriesOfOpenings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{})
		trip(t, b, "a")
		time.Sleep(5 * time.Second)
		require.True(t, ask(b, "a", breaker.Failure))
		require.Equal(t, 10*time.Second, waitOf(t, b, "a"))
		b.Reset("a")
		trip(t, b, "a")
		require.Equal(t, 5*time.Second, waitOf(t, b, "a"))

		time.Sleep(5 * time.Second)
		require.True(t, ask(b, "a", breaker.Success))
		require.Equal(t, breaker.Ramping, stateOf(b, "a"), "it would open for longer now")
		b.Reset("a")
		trip(t, b, "a")
		require.Equal(t, 5*time.Second, waitOf(t, b, "a"))
	})
}
