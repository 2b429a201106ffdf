package cache_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

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

// A load that was given up, or that Close ended, has not taken too long: its event says what the
// loader said, and comes when it has returned.
func TestALoadThatWasEndedDidNotTimeOut(t *testing.T) {
	for name, end := range map[string]func(*cache.Memory[string, int], func()){
		"given up": func(_ *cache.Memory[string, int], leave func()) { leave() },
		"Close": func(m *cache.Memory[string, int], _ func()) {
			if err := m.Close(context.Background()); err != nil {
				panic(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told := make(chan cache.MemoryEvent[string, int], 9)
				m := newMemory(t, cache.MemoryConfig[string, int]{
					MaxBackground: -1, LoadTimeout: time.Hour,
					Observe: func(_ context.Context, e cache.MemoryEvent[string, int]) {
						told <- e
					},
				})
				ctx, leave := context.WithCancel(t.Context())
				go func() {
					_, _ = m.Load(ctx, "k", func(ctx context.Context, _ string) (int, error) {
						<-ctx.Done()
						time.Sleep(time.Second)
						return 0, errors.New("the query was canceled")
					})
				}()
				synctest.Wait()
				start := time.Now()
				go end(m, leave)
				synctest.Wait()
				require.Empty(t, told, "the loader has not returned")
				time.Sleep(time.Second)
				synctest.Wait()
				require.Equal(t, time.Second, time.Since(start))
				require.Len(t, told, 1)
				require.ErrorContains(t, (<-told).Err, "the query was canceled")
				leave()
			})
		})
	}
}
