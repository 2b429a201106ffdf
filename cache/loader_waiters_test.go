package cache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

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
