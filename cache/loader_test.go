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
