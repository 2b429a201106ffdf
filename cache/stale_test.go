package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestC41_AStaleKeyIsRefreshedOnceAndRefreshesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var background atomic.Int64
		m := newMemory(t, cache.MemoryConfig[string, int]{TTL: minute, Stale: time.Hour, MaxBackground: 3,
			Observe: func(_ context.Context, e cache.MemoryEvent[string, int]) {
				if e.Kind == cache.MemoryLoaded && e.Background {
					background.Add(1)
				}
			}})
		for k := range 10 {
			m.Set(fmt.Sprint(k), -1)
		}
		time.Sleep(2 * time.Minute)
		s := source{takes: time.Second}
		for range 100 {
			for k := range 10 {
				v, err := m.Load(t.Context(), fmt.Sprint(k), s.load)
				require.NoError(t, err)
				require.Equal(t, -1, v)
			}
		}
		synctest.Wait()
		require.Equal(t, int64(3), s.calls.Load())
		require.Equal(t, 3, m.Stats().Loading)
		require.Equal(t, uint64(1000), m.Stats().StaleHits)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, int64(3), background.Load())
		for k := range 10 { // the next three
			_, err := m.Load(t.Context(), fmt.Sprint(k), s.load)
			require.NoError(t, err)
		}
		synctest.Wait()
		require.Equal(t, int64(6), s.calls.Load())

		one := newMemory(t, cache.MemoryConfig[string, int]{TTL: minute, Stale: time.Hour})
		one.Set("k", -1)
		time.Sleep(2 * time.Minute)
		s.calls.Store(0)
		bulk := func(ctx context.Context, _ []string) (map[string]int, error) {
			v, err := s.load(ctx, "k")
			if err != nil {
				return nil, err
			}
			return map[string]int{"k": v}, nil
		}
		for range 10 {
			_, err := one.Load(t.Context(), "k", s.load)
			require.NoError(t, err)
			_, err = one.LoadMany(t.Context(), []string{"k"}, bulk)
			require.NoError(t, err)
		}
		synctest.Wait()
		require.Equal(t, int64(1), s.calls.Load())
	})
}

// One value through its life: fresh, stale, good for nothing but a fallback, gone.
func TestSoftAndHardTTL(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name    string
		age     time.Duration
		failing bool
		want    int // 0 is the loader's error
		later   int // what is there when background work is done; 0 is nothing
	}{
		{"fresh", 59 * time.Second, false, 1, 1},
		{"stale, at its beginning", 60 * time.Second, false, 1, 2},
		{"stale, at its end", 89 * time.Second, false, 1, 2},
		{"stale and failing", 70 * time.Second, true, 1, 0},
		{"beyond stale", 90 * time.Second, false, 2, 2},
		{"beyond stale and failing", 90 * time.Second, true, 1, 0},
		{"at the end of stale-if-error", 119 * time.Second, true, 1, 0},
		{"gone", 120 * time.Second, true, 0, 0},
		{"gone and loaded", 120 * time.Second, false, 2, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, cache.MemoryConfig[string, int]{
					TTL: minute, Stale: 30 * time.Second, StaleIfError: time.Minute,
				})
				m.Set("k", 1)
				time.Sleep(tt.age)
				s := source{}
				s.calls.Add(1) // the next is the second value
				if tt.failing {
					s.fail(broken)
				}
				for _, many := range []bool{false, true} {
					v, err := m.Load(t.Context(), "k", s.load)
					if many {
						m, e := m.LoadMany(t.Context(), []string{"k"},
							func(ctx context.Context, _ []string) (map[string]int, error) {
								v, err := s.load(ctx, "k")
								if err != nil {
									return nil, err
								}
								return map[string]int{"k": v}, nil
							})
						v, err = m["k"], e
					}
					if tt.want == 0 {
						require.ErrorIs(t, err, broken)
						continue
					}
					require.NoError(t, err)
					if !many {
						require.Equal(t, tt.want, v)
					}
					synctest.Wait()
				}
				synctest.Wait()
				v, ok := m.Get("k")
				require.Equal(t, tt.later != 0, ok)
				require.Equal(t, tt.later, v)
			})
		})
	}
}

func TestStaleIfErrorTriesAgainAfterErrorTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{TTL: minute, StaleIfError: time.Hour,
			ErrorTTL: func(_ string, err error) time.Duration { return 10 * time.Second }})
		m.Set("token", 100)
		time.Sleep(2 * time.Minute)
		var s source
		s.fail(errors.New("identity provider is down"))
		for i := range 31 { // one try each ten seconds, and no caller waits in between
			v, err := m.Load(t.Context(), "token", s.load)
			require.NoError(t, err)
			require.Equal(t, 100, v)
			require.Equal(t, int64(1+i/10), s.calls.Load())
			time.Sleep(time.Second)
		}
		s.fail(nil)
		time.Sleep(10 * time.Second)
		v, err := m.Load(t.Context(), "token", s.load)
		require.NoError(t, err)
		require.Equal(t, 5, v)
	})
}

func TestErrorsAreKeptForTheirTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			IdleTTL: 24 * time.Hour,
			ErrorTTL: func(_ string, err error) time.Duration {
				if errors.Is(err, cache.ErrNotFound) {
					return time.Minute
				}
				return 0
			},
		})
		var s source
		s.fail(cache.ErrNotFound)
		for range 3 {
			_, err := m.Load(t.Context(), "k", s.load)
			require.ErrorIs(t, err, cache.ErrNotFound)
		}
		require.Equal(t, int64(1), s.calls.Load())
		_, ok := m.Get("k")
		require.False(t, ok)
		require.False(t, m.Delete("none"))
		for range m.All() {
			t.Fatal("a kept error is no entry to show")
		}
		require.Equal(t, 1, m.Stats().Entries, "but it counts")

		time.Sleep(time.Minute - 1)
		_, err := m.Load(t.Context(), "k", s.load)
		require.ErrorIs(t, err, cache.ErrNotFound)
		require.Equal(t, int64(1), s.calls.Load())
		time.Sleep(time.Nanosecond)
		s.fail(errors.New("another"))
		_, err = m.Load(t.Context(), "k", s.load)
		require.ErrorContains(t, err, "another")
		_, err = m.Load(t.Context(), "k", s.load)
		require.ErrorContains(t, err, "another")
		require.Equal(t, int64(3), s.calls.Load())

		// C70: what comes to be is not hidden by the kept error.
		s.fail(cache.ErrNotFound)
		m.Load(t.Context(), "k", s.load)
		m.Set("k", 9)
		v, err := m.Load(t.Context(), "k", s.load)
		require.NoError(t, err)
		require.Equal(t, 9, v)
	})
}

func TestKeptErrorsAreWithinTheBound(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 50, ErrorTTL: func(int, error) time.Duration {
		return time.Hour
	}})
	for k := range 1000 {
		_, err := m.Load(t.Context(), k, func(context.Context, int) (int, error) {
			return 0, cache.ErrNotFound
		})
		require.ErrorIs(t, err, cache.ErrNotFound)
		require.LessOrEqual(t, m.Stats().Entries, 50)
	}
}

func TestIdleEntriesAreLoadedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{IdleTTL: time.Minute})
		var s source
		for range 10 { // each read is a use
			v, err := m.Load(t.Context(), "k", s.load)
			require.NoError(t, err)
			require.Equal(t, 1, v)
			time.Sleep(59 * time.Second)
		}
		time.Sleep(2 * time.Second)
		v, _ := m.Load(t.Context(), "k", s.load)
		require.Equal(t, 2, v)
	})
}

func TestShortIdleTTLsAreProlongedByReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{IdleTTL: time.Millisecond})
		m.Set("k", 1)
		for range 50 {
			time.Sleep(900 * time.Microsecond)
			_, ok := m.Get("k")
			require.True(t, ok)
		}
		time.Sleep(time.Millisecond)
		_, ok := m.Get("k")
		require.False(t, ok)
	})
}

func TestTTLsBeyondTheEndOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			Jitter:       0.1,
			Stale:        math.MaxInt64,
			StaleIfError: math.MaxInt64,
		})
		m.SetItem("long", cache.MemoryItem[int]{Value: 1, TTL: math.MaxInt64})
		m.SetItem("short", cache.MemoryItem[int]{Value: 2, TTL: 1})
		time.Sleep(100 * 365 * 24 * time.Hour)
		v, ok := m.Get("long")
		require.True(t, ok)
		require.Equal(t, 1, v)
		_, ok = m.Get("short")
		require.False(t, ok)
		v, err := m.Load(t.Context(), "short", func(context.Context, string) (int, error) { return 3, nil })
		require.NoError(t, err)
		require.Equal(t, 2, v, "stale for ever")
		require.Equal(t, 2, m.Stats().Entries)
	})
}

// To the nanosecond, and without background loads: fresh, stale, good for a failure, gone.
func TestTheEdgesOfTTLStaleAndStaleIfError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			TTL:           minute,
			Stale:         time.Minute,
			StaleIfError:  2 * time.Minute,
			MaxBackground: -1,
		})
		s := source{}
		s.fail(cache.ErrNotFound)
		start := time.Now()
		m.Set("k", 1)
		for _, at := range []struct {
			age   time.Duration
			fresh bool
			calls int64 // of the loader, in all
			fails bool
		}{
			{time.Minute - 1, true, 0, false},
			{time.Minute, false, 0, false},
			{2*time.Minute - 1, false, 0, false},
			{2 * time.Minute, false, 1, false},
			{3*time.Minute - 1, false, 2, false},
			{3 * time.Minute, false, 3, true},
		} {
			time.Sleep(time.Until(start.Add(at.age)))
			_, ok := m.Get("k")
			require.Equal(t, at.fresh, ok, at.age)
			v, err := m.Load(t.Context(), "k", s.load)
			require.Equal(t, at.fails, err != nil, at.age)
			require.Equal(t, !at.fails, v == 1, at.age)
			require.Equal(t, at.calls, s.calls.Load(), at.age)
		}
	})
}

// While a load has failed lately, ErrorTTL puts off every refresh: that of a stale value, and an
// early one.
func TestARefreshThatFailedIsNotTriedAgainWithinErrorTTL(t *testing.T) {
	for name, wait := range map[string]time.Duration{"early": time.Minute - 1, "stale": time.Minute + 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, cache.MemoryConfig[string, int]{
					TTL: minute, Stale: time.Hour, EarlyRefresh: 1e9,
					ErrorTTL: func(string, error) time.Duration { return 10 },
				})
				s := source{takes: time.Microsecond}
				require.Equal(t, 1, loadOne(m, s.load, false))
				s.takes = 0
				time.Sleep(wait - 20)
				s.fail(errors.New("broken"))
				for range 2 {
					time.Sleep(10 * time.Nanosecond) // first the try before, or none
					calls := s.calls.Load()
					for range 5 {
						require.Equal(t, 1, loadOne(m, s.load, false))
						synctest.Wait()
						time.Sleep(time.Nanosecond)
					}
					require.Equal(t, calls+1, s.calls.Load())
					time.Sleep(5 * time.Nanosecond)
				}
			})
		})
	}
}

// A kept error is gone when its time is over: there is no stale one, nor a value in it.
func TestAKeptErrorIsNeverStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			Stale: time.Hour, StaleIfError: time.Hour,
			ErrorTTL: func(string, error) time.Duration { return time.Second },
		})
		s := source{}
		broken := errors.New("broken")
		s.fail(broken)
		for range 2 {
			_, err := m.Load(t.Context(), "k", s.load)
			require.ErrorIs(t, err, broken)
		}
		require.False(t, m.Delete("k"), "Get would not have found it")
		_, err := m.Load(t.Context(), "k", s.load)
		require.ErrorIs(t, err, broken)
		require.EqualValues(t, 2, s.calls.Load())
		time.Sleep(time.Second)
		_, err = m.Load(t.Context(), "k", s.load)
		require.ErrorIs(t, err, broken)
		require.EqualValues(t, 3, s.calls.Load())
		time.Sleep(time.Second)
		s.fail(nil)
		require.Equal(t, 4, loadOne(m, s.load, false))
	})
}
