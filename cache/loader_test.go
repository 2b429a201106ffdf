package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A source is a database that counts its queries: values are their numbers.
type source struct {
	calls atomic.Int64
	takes time.Duration
	err   atomic.Pointer[error]
}

func (s *source) fail(err error) { s.err.Store(&err) }

func (s *source) load(ctx context.Context, _ string) (int, error) {
	n := int(s.calls.Add(1))
	if s.takes > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err := s.err.Load(); err != nil && *err != nil {
		return 0, *err
	}
	return n, nil
}

func minute(string, int) time.Duration { return time.Minute }

func TestTenThousandLoadsOfAColdKeyAreOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		var calls atomic.Int64
		release := make(chan struct{})
		var wg sync.WaitGroup
		var wrong atomic.Int64
		for range 10_000 {
			wg.Go(func() {
				v, err := m.Load(context.Background(), "k", func(context.Context, string) (int, error) {
					calls.Add(1)
					<-release
					return 7, nil
				})
				if v != 7 || err != nil {
					wrong.Add(1)
				}
			})
		}
		synctest.Wait() // all wait for the one load
		require.Equal(t, uint64(10_000), m.Stats().Misses)
		close(release)
		wg.Wait()
		require.Equal(t, int64(1), calls.Load())
		require.Zero(t, wrong.Load())
		require.Equal(t, uint64(1), m.Stats().Loads)
	})
}

// The same without holding the loader back: whoever comes late finds the value.
func TestLoadsThatRaceWithTheLandingAreOneCall(t *testing.T) {
	for range 200 {
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		var s source
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if v, err := m.Load(context.Background(), "k", s.load); v != 1 || err != nil {
					panic(fmt.Sprint(v, err))
				}
			})
		}
		wg.Wait()
		require.Equal(t, int64(1), s.calls.Load())
	}
}

func TestEachWaiterLeavesAtItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		s := source{takes: 10 * time.Second}
		start := time.Now()
		var wg sync.WaitGroup
		for i, patience := range []time.Duration{time.Second, 5 * time.Second, time.Hour} {
			wg.Go(func() { // the first is the one that starts the load
				time.Sleep(time.Duration(i) * time.Millisecond)
				cause := fmt.Errorf("patience of %v", patience)
				ctx, cancel := context.WithTimeoutCause(context.Background(), patience, cause)
				defer cancel()
				v, err := m.Load(ctx, "k", s.load)
				if patience < s.takes {
					if err != cause || time.Since(start).Truncate(time.Second) != patience {
						panic(fmt.Sprint(err, time.Since(start)))
					}
				} else if v != 1 || err != nil {
					panic(fmt.Sprint(v, err))
				}
			})
		}
		wg.Wait()
		require.Equal(t, int64(1), s.calls.Load())
	})
}

func TestC23_ACallerThatGivesUpDoesNotCancelTheLoadOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{MaxBackground: -1})
		s := source{takes: time.Second}
		leader, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := m.Load(leader, "k", s.load)
			gone <- err
		}()
		synctest.Wait()
		got := make(chan int)
		go func() {
			v, _ := m.Load(t.Context(), "k", s.load)
			got <- v
		}()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		require.Equal(t, 1, <-got)
		require.Equal(t, int64(1), s.calls.Load())
	})
}

func TestACallerWhoseContextHasEndedStartsNothing(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[string, int]{})
	m.Set("there", 5)
	var s source
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("too late"))
	_, err := m.Load(ctx, "k", s.load)
	require.EqualError(t, err, "too late")
	_, err = m.LoadMany(ctx, []string{"k"}, nil)
	require.EqualError(t, err, "too late")
	require.Zero(t, s.calls.Load())
	v, err := m.Load(ctx, "there", s.load)
	require.NoError(t, err)
	require.Equal(t, 5, v)
}

func TestALoadThatAllHaveLeftGoesOnWithinABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			MaxBackground: 1,
			ErrorTTL: func(string, error) time.Duration {
				return time.Hour
			},
		})
		s := source{takes: 10 * time.Second}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for _, k := range []string{"a", "b"} {
			wg.Go(func() { m.Load(ctx, k, s.load) })
		}
		wg.Wait()
		synctest.Wait()
		require.Equal(t, 1, m.Stats().Loading, "one goes on, one was canceled")
		// The error of the canceled one is not kept for who comes next.
		for _, k := range []string{"a", "b"} {
			_, err := m.Load(t.Context(), k, s.load)
			require.NoError(t, err)
		}
		require.Equal(t, int64(3), s.calls.Load())
	})
}

// Whoever comes after a load was given up must not wait for it, though its loader has not
// noticed yet.
func TestNobodyJoinsALoadThatWasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{MaxBackground: -1})
		release := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.Load(ctx, "k", func(context.Context, string) (int, error) { <-release; return 1, nil })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		start := time.Now()
		v, err := m.Load(t.Context(), "k", func(context.Context, string) (int, error) { return 2, nil })
		require.NoError(t, err)
		require.Equal(t, 2, v)
		require.Equal(t, start, time.Now())
		close(release)
		synctest.Wait()
		v, _ = m.Get("k")
		require.Equal(t, 2, v)
	})
}

type ctxKey struct{}

func TestALoadKeepsTheValuesOfItsFirstCallersContext(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[string, any]{LoadTimeout: time.Minute})
	v, err := m.Load(context.WithValue(t.Context(), ctxKey{}, "trace"), "k",
		func(ctx context.Context, _ string) (any, error) {
			_, limited := ctx.Deadline()
			return fmt.Sprint(ctx.Value(ctxKey{}), limited), nil
		})
	require.NoError(t, err)
	require.Equal(t, "tracetrue", v)
}

func TestWhatEndsALoaderReachesEveryWaiterWrappedOnce(t *testing.T) {
	broken := errors.New("broken")
	var inner *cache.Memory[string, int]
	tests := []struct {
		name   string
		load   func(context.Context, string) (int, error)
		text   string
		is     error
		panics any
	}{
		{"error", func(context.Context, string) (int, error) {
			return 0, broken
		}, "cache: load: broken", broken, nil},
		{"error of a cache behind", func(ctx context.Context, k string) (int, error) {
			return inner.Load(ctx, k, func(context.Context, string) (int, error) { return 0, broken })
		}, "cache: load: broken", broken, nil},
		{"panic", func(context.Context, string) (int, error) {
			panic("at the disco")
		}, "cache: load: panic: at the disco", nil, "at the disco"},
		{"panic with an error", func(context.Context, string) (int, error) {
			panic(broken)
		}, "cache: load: panic: broken", broken, broken},
		{"panic with nil", func(context.Context, string) (int, error) {
			panic(nil)
		}, "cache: load: panic: ", nil, new(runtime.PanicNilError)},
		{"Goexit", func(context.Context, string) (int, error) {
			runtime.Goexit()
			return 0, nil
		}, "cache: load: loader ended its goroutine", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, cache.MemoryConfig[string, int]{})
				inner = newMemory(t, cache.MemoryConfig[string, int]{})
				errs := make([]error, 3)
				var wg sync.WaitGroup
				for i := range errs {
					wg.Go(func() {
						_, errs[i] = m.Load(t.Context(), "k",
							func(ctx context.Context, k string) (int, error) {
								time.Sleep(time.Second)
								return tt.load(ctx, k)
							})
					})
				}
				wg.Wait()
				for _, err := range errs {
					require.ErrorContains(t, err, tt.text)
					require.Equal(t, 1, strings.Count(err.Error(), "cache: load"))
					require.Same(t, errs[0], err)
					require.ErrorIs(t, err, cache.ErrLoad)
					var e *cache.LoadError
					require.ErrorAs(t, err, &e)
					if tt.is != nil {
						require.ErrorIs(t, err, tt.is)
					}
					if tt.panics != nil {
						require.IsType(t, tt.panics, e.Panic)
						require.NotEmpty(t, e.Stack)
					} else {
						require.Nil(t, e.Panic)
					}
				}
				synctest.Wait() // the load's goroutine has ended
				st := m.Stats()
				require.Equal(t, uint64(1), st.LoadErrors)
				require.Zero(t, st.Loading)
				require.Zero(t, st.Entries)
				v, err := m.Load(t.Context(), "k", func(context.Context, string) (int, error) {
					return 3, nil
				})
				require.NoError(t, err, "the next load is a new one")
				require.Equal(t, 3, v)
			})
		})
	}
}

// The user's other functions run within a load, too.
func TestC74_PanicsOfTheConfigurationsFunctionsReachTheWaiters(t *testing.T) {
	oops := func() { panic("oops") }
	for name, cfg := range map[string]cache.MemoryConfig[string, int]{
		"TTL":     {TTL: func(string, int) time.Duration { oops(); return 0 }},
		"Tags":    {Tags: func(string, int) []string { oops(); return nil }},
		"Weigher": {Weigher: func(string, int) int64 { oops(); return 0 }, MaxWeight: 10},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t, cfg)
			var s source
			_, err := m.Load(t.Context(), "k", s.load)
			require.ErrorContains(t, err, "oops")
			require.Panics(t, func() { m.Set("k", 1) })
			require.Zero(t, m.Stats().Entries, "and no lock was left held")
		})
	}
	m := newMemory(t, cache.MemoryConfig[string, int]{ErrorTTL: func(string, error) time.Duration {
		oops()
		return 0
	}})
	s := source{}
	s.fail(cache.ErrNotFound)
	_, err := m.Load(t.Context(), "k", s.load)
	require.ErrorIs(t, err, cache.ErrNotFound)
}

func TestC27_ALoaderThatHangsBlocksNobodyBeyondLoadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events atomic.Int64
		m := newMemory(t, cache.MemoryConfig[string, int]{
			LoadTimeout: time.Second,
			Observe: func(_ context.Context, e cache.MemoryEvent[string, int]) {
				if e.Kind == cache.MemoryLoaded {
					events.Add(1)
				}
			},
		})
		release := make(chan struct{})
		deaf := func(context.Context, string) (int, error) { <-release; return 1, nil }
		start := time.Now()
		_, err := m.Load(t.Context(), "k", deaf)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "LoadTimeout")
		require.Equal(t, time.Second, time.Since(start))
		require.Equal(t, 1, m.Stats().Loading, "it is still there")

		v, err := m.Load(t.Context(), "k", func(context.Context, string) (int, error) { return 2, nil })
		require.NoError(t, err)
		require.Equal(t, 2, v)
		close(release)
		synctest.Wait()
		v, _ = m.Get("k")
		require.Equal(t, 2, v, "what comes too late overwrites nothing")
		require.Equal(t, int64(2), events.Load())
		require.Zero(t, m.Stats().Loading)

		_, err = m.LoadMany(t.Context(), []string{"x", "y"},
			func(ctx context.Context, _ []string) (map[string]int, error) {
				time.Sleep(time.Hour)
				return map[string]int{"x": 1}, nil
			})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Hour)
		_, ok := m.Get("x")
		require.False(t, ok)
	})
}

func TestALoadTimeoutFallsBackOnAStaleValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			LoadTimeout:  time.Second,
			TTL:          minute,
			StaleIfError: time.Hour,
		})
		m.Set("k", 1)
		time.Sleep(2 * time.Minute)
		s := source{takes: time.Minute}
		v, err := m.Load(t.Context(), "k", s.load)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		require.Equal(t, uint64(1), m.Stats().Fallbacks)
	})
}

func TestWithoutLoadTimeoutALoadTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{LoadTimeout: -1})
		s := source{takes: 24 * time.Hour}
		v, err := m.Load(t.Context(), "k", s.load)
		require.NoError(t, err)
		require.Equal(t, 1, v)
	})
}

func TestALoaderThatWaitsForItselfGetsAnError(t *testing.T) {
	a := newMemory(t, cache.MemoryConfig[string, int]{})
	b := newMemory(t, cache.MemoryConfig[string, int]{})
	var loadA, loadB func(context.Context, string) (int, error)
	loadB = func(ctx context.Context, k string) (int, error) { return a.Load(ctx, k, loadA) }
	loadA = func(ctx context.Context, k string) (int, error) { return b.Load(ctx, k, loadB) }
	_, err := a.Load(t.Context(), "k", loadA)
	require.ErrorContains(t, err, "waits for the load that it is part of")
	_, err = a.LoadMany(t.Context(), []string{"k", "l"},
		func(ctx context.Context, keys []string) (map[string]int, error) {
			_, err := a.Load(ctx, "l", loadA)
			return nil, err
		})
	require.ErrorContains(t, err, "waits for the load that it is part of")

	// Other keys are fine.
	v, err := a.Load(t.Context(), "outer", func(ctx context.Context, _ string) (int, error) {
		return a.Load(ctx, "inner", func(context.Context, string) (int, error) { return 4, nil })
	})
	require.NoError(t, err)
	require.Equal(t, 4, v)
}

// A refresh that a loader sets off does not hold that loader up, so it may wait for it.
func TestARefreshMayWaitForTheLoadThatSetItOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{TTL: minute, Stale: time.Hour})
		m.Set("b", 1)
		time.Sleep(2 * time.Minute)
		outer := func(ctx context.Context, _ string) (int, error) {
			v, err := m.Load(ctx, "b", func(ctx context.Context, _ string) (int, error) {
				return m.Load(ctx, "a", nil)
			})
			time.Sleep(time.Second)
			return v + 10, err
		}
		v, err := m.Load(t.Context(), "a", outer)
		require.NoError(t, err)
		require.Equal(t, 11, v)
		synctest.Wait()
		v, ok := m.Get("b")
		require.True(t, ok)
		require.Equal(t, 11, v)
	})
}

func TestC42_CloseEndsLoadsAndWaitsForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := 0
		m := newMemory(t, cache.MemoryConfig[string, int]{TTL: minute, Stale: time.Hour,
			ErrorTTL: func(string, error) time.Duration { kept++; return time.Hour }})
		m.Set("stale", 1)
		time.Sleep(2 * time.Minute)
		m.Set("there", 5)
		ended := make(chan error, 2)
		slow := func(ctx context.Context, _ string) (int, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // clears up
			ended <- context.Cause(ctx)
			return 0, ctx.Err()
		}
		waiter := make(chan error)
		go func() {
			_, err := m.Load(t.Context(), "k", slow)
			waiter <- err
		}()
		v, err := m.Load(t.Context(), "stale", slow) // refreshes in the background
		require.NoError(t, err)
		require.Equal(t, 1, v)
		synctest.Wait()
		require.Equal(t, 2, m.Stats().Loading)

		short, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errors.New("no time"))
		defer cancel()
		go func() { require.EqualError(t, m.Close(short), "no time") }()
		err = <-waiter
		require.ErrorIs(t, err, cache.ErrClosed)
		require.NotErrorIs(t, err, cache.ErrLoad, "no loader has failed")
		require.NoError(t, m.Close(t.Context()))
		require.Len(t, ended, 2)
		require.Equal(t, cache.ErrClosed, <-ended)
		require.Zero(t, m.Stats().Loading)
		require.Zero(t, kept, "that the cache was closed says nothing about a key")

		_, err = m.Load(t.Context(), "k", slow)
		require.ErrorIs(t, err, cache.ErrClosed)
		_, err = m.LoadMany(t.Context(), []string{"there", "k"}, nil)
		require.ErrorIs(t, err, cache.ErrClosed)
		v, err = m.Load(t.Context(), "there", slow)
		require.NoError(t, err)
		require.Equal(t, 5, v)
		v, err = m.Load(t.Context(), "stale", slow)
		require.NoError(t, err)
		require.Equal(t, 1, v)
	})
}

func TestAKeyThatIsNotEqualToItself(t *testing.T) {
	var refused int
	m := newMemory(t, cache.MemoryConfig[float64, int]{
		MaxEntries: 10,
		Observe: func(_ context.Context, e cache.MemoryEvent[float64, int]) {
			if e.Kind == cache.MemoryRefused {
				refused++
			}
		},
	})
	nan := math.NaN()
	require.False(t, m.Set(nan, 1))
	_, ok := m.Get(nan)
	require.False(t, ok)
	require.False(t, m.Delete(nan))
	for i := range 100 {
		v, err := m.Load(t.Context(), nan, func(context.Context, float64) (int, error) { return i, nil })
		require.NoError(t, err)
		require.Equal(t, i, v)
	}
	_, err := m.LoadMany(t.Context(), []float64{nan, 1},
		func(_ context.Context, keys []float64) (map[float64]int, error) {
			return map[float64]int{nan: 1, 1: 2}, nil
		})
	require.NoError(t, err)
	require.Equal(t, 1, m.Stats().Entries)
	require.Equal(t, uint64(1), m.Stats().Refusals)
	require.Equal(t, 1, refused)
	for k := range 100 {
		m.Set(float64(k), k) // evicts
	}
	m.Clear()
}

// A caller that writes its log line next must find the event there.
func TestLoadsAreObservedBeforeTheirCallersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen atomic.Int64
		m := newMemory(t, cache.MemoryConfig[string, int]{
			Observe: func(context.Context, cache.MemoryEvent[string, int]) {
				time.Sleep(time.Second)
				seen.Add(1)
			},
		})
		var s source
		_, err := m.Load(t.Context(), "good", s.load)
		require.NoError(t, err)
		require.EqualValues(t, 1, seen.Load())
		s.fail(errors.New("bad"))
		_, err = m.Load(t.Context(), "bad", s.load)
		require.Error(t, err)
		require.EqualValues(t, 2, seen.Load())
	})
}

func TestObserverMayUseTheCache(t *testing.T) {
	var m *cache.Memory[string, int]
	var seen []string
	m = newMemory(t, cache.MemoryConfig[string, int]{
		MaxEntries: 1,
		Observe: func(_ context.Context, e cache.MemoryEvent[string, int]) {
			m.Get(e.Key) // deadlocks if a lock is held
			m.Stats()
			seen = append(seen, fmt.Sprint(e.Kind, " ", e.Key, " ", e.Value, " ", e.Reason, " ", e.Err))
		},
	})
	m.Set("a", 1)
	m.Set("a", 2)
	m.Set("b", 3)
	m.Delete("b")
	_, err := m.Load(t.Context(), "c", func(context.Context, string) (int, error) { return 4, nil })
	require.NoError(t, err)
	require.NoError(t, m.Close(t.Context()))
	m.Clear()
	require.Equal(t, []string{
		"removal a 1 replaced <nil>", "removal a 2 evicted <nil>", "removal b 3 deleted <nil>",
		"load c 0  <nil>", "removal c 4 deleted <nil>",
	}, seen)
}

// Every value that was stored is reported to leave exactly once, or is still there: who
// holds resources in a cache closes them then.
func TestEachValueLeavesOnce(t *testing.T) {
	var mu sync.Mutex
	left := map[int]int{}
	m := newMemory(t, cache.MemoryConfig[int, int]{
		MaxEntries: 20,
		Observe: func(_ context.Context, e cache.MemoryEvent[int, int]) {
			if e.Kind == cache.MemoryRemoved {
				mu.Lock()
				left[e.Value]++
				mu.Unlock()
			}
		},
	})
	const writers, each = 4, 5000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				m.Set(i%40, w*each+i)
				if i%7 == 0 {
					m.Delete(i % 40)
				}
			}
		})
	}
	wg.Wait()
	for _, v := range m.All() {
		left[v]++
	}
	require.Len(t, left, writers*each)
	for v, n := range left {
		require.Equal(t, 1, n, v)
	}
}

// nil contexts: a fault of the caller, that must not lock others out.
func TestANilContextLocksNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{Stale: time.Hour})
		m.SetItem("k", cache.MemoryItem[int]{Value: 1, TTL: time.Second})
		time.Sleep(2 * time.Second)
		var none context.Context
		load := func(context.Context, string) (int, error) { return 2, nil }
		require.Panics(t, func() { _, _ = m.Load(none, "k", load) })
		v, err := m.Load(t.Context(), "k", load)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		synctest.Wait()
		v, _ = m.Get("k")
		require.Equal(t, 2, v)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, m.Close(ctx))
	})
}
