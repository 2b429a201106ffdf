package cache_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func TestABulkLoadThatIsGivenUpIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{MaxBackground: -1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.LoadMany(ctx, []string{"k", "l", "k"},
			func(ctx context.Context, _ []string) (map[string]int, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		require.Zero(t, m.Stats().Loading)
		require.Equal(t, uint64(2), m.Stats().Misses)
	})
}

func TestLoadMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{ErrorTTL: func(_ string, err error) time.Duration {
			return time.Minute
		}})
		m.Set("there", 1)
		slow := make(chan struct{})
		go m.Load(t.Context(), "elsewhere", func(context.Context, string) (int, error) {
			<-slow
			return 2, nil
		})
		synctest.Wait()
		var asked [][]string
		bulk := func(_ context.Context, keys []string) (map[string]int, error) {
			asked = append(asked, keys)
			close(slow)
			return map[string]int{"new": 3, "unasked": 4}, nil
		}
		keys := []string{"there", "new", "elsewhere", "absent", "new", "there"}
		got, err := m.LoadMany(t.Context(), keys, bulk)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"there": 1, "new": 3, "elsewhere": 2}, got)
		require.Equal(t, [][]string{{"new", "absent"}}, asked)
		_, ok := m.Get("unasked")
		require.False(t, ok)

		// That "absent" is not there was kept.
		got, err = m.LoadMany(t.Context(), []string{"absent", "there"}, bulk)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"there": 1}, got)
		_, err = m.Load(t.Context(), "absent", nil)
		require.ErrorIs(t, err, cache.ErrNotFound)

		got, err = m.LoadMany(t.Context(), nil, bulk)
		require.NoError(t, err)
		require.Empty(t, got)
	})
}

func TestLoadManyHasWhatCouldBeHad(t *testing.T) {
	broken := errors.New("broken")
	m := newMemory(t, cache.MemoryConfig[string, int]{ErrorTTL: func(_ string, err error) time.Duration {
		return time.Minute
	}})
	m.Set("there", 1)
	_, err := m.Load(t.Context(), "bad", func(context.Context, string) (int, error) { return 0, broken })
	require.ErrorIs(t, err, broken)
	// A kept error of one key does not keep the others from being loaded.
	got, err := m.LoadMany(t.Context(), []string{"bad", "bad", "new", "there"},
		func(_ context.Context, keys []string) (map[string]int, error) {
			return map[string]int{"new": 2}, nil
		})
	require.ErrorIs(t, err, broken)
	require.Equal(t, 1, strings.Count(err.Error(), "broken"))
	require.Equal(t, map[string]int{"there": 1, "new": 2}, got)

	got, err = m.LoadMany(t.Context(), []string{"x", "y", "there"},
		func(context.Context, []string) (map[string]int, error) {
			panic("in bulk")
		})
	require.ErrorContains(t, err, "in bulk")
	require.Equal(t, 1, strings.Count(err.Error(), "in bulk"), "not once for each key")
	require.Equal(t, map[string]int{"there": 1}, got)
}

func TestLoadManyLeavesAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		slow := make(chan struct{})
		go m.Load(t.Context(), "slow", func(context.Context, string) (int, error) { <-slow; return 1, nil })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := m.LoadMany(ctx, []string{"slow", "quick"},
			func(context.Context, []string) (map[string]int, error) {
				return map[string]int{"quick": 2}, nil
			})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, map[string]int{"quick": 2}, got)
		close(slow)
	})
}

func TestLoadManyRefreshesStaleKeysTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{TTL: minute, Stale: time.Hour, MaxBackground: 1})
		m.Set("a", 1)
		m.Set("b", 1)
		time.Sleep(2 * time.Minute)
		calls := 0
		bulk := func(_ context.Context, keys []string) (map[string]int, error) {
			calls++
			return map[string]int{"a": 2, "b": 2}, nil
		}
		got, err := m.LoadMany(t.Context(), []string{"a", "b"}, bulk)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"a": 1, "b": 1}, got)
		synctest.Wait()
		require.Equal(t, 1, calls)
		for _, k := range []string{"a", "b"} {
			v, ok := m.Get(k)
			require.True(t, ok)
			require.Equal(t, 2, v)
		}
	})
}

// A key that cannot be compared makes LoadMany panic, as it would a map; that must not leave
// loads behind that never end.
func TestLoadManyThatPanicsLeavesNoLoadBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[any, int]{})
		load := func(context.Context, []any) (map[any]int, error) { return map[any]int{"a": 1}, nil }
		require.Panics(t, func() { _, _ = m.LoadMany(t.Context(), []any{"a", []int{1}}, load) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		v, err := m.Load(ctx, "a", func(context.Context, any) (int, error) { return 1, nil })
		require.NoError(t, err)
		require.Equal(t, 1, v)
		require.NoError(t, m.Close(ctx))
	})
}

// What a bulk loader has got before it failed is returned and kept; its error is that of the other
// keys, and of the caller whose loader it is, even if that has got all of its keys.
func TestLoadManyKeepsThePartThatCameWithAnError(t *testing.T) {
	broken := errors.New("shard 2 is down")
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{ErrorTTL: func(k string, err error) time.Duration {
			require.ErrorIs(t, err, broken)
			return time.Minute
		}})
		release := make(chan struct{})
		part := func(context.Context, []string) (map[string]int, error) {
			<-release
			return map[string]int{"a": 1, "b": 2}, broken
		}
		type result struct {
			found map[string]int
			err   error
		}
		results := make(chan result, 1)
		go func() {
			found, err := m.LoadMany(t.Context(), []string{"a", "b", "c", "d"}, part)
			results <- result{found, err}
		}()
		synctest.Wait()
		waiter := make(chan error, 2)
		go func() {
			found, err := m.LoadMany(t.Context(), []string{"a"}, nil)
			if found["a"] != 1 {
				err = errors.Join(err, errors.New("no value"))
			}
			waiter <- err
		}()
		go func() {
			_, err := m.Load(t.Context(), "c", nil)
			waiter <- err
		}()
		synctest.Wait()
		close(release)
		r := <-results
		found, err := r.found, r.err
		require.ErrorIs(t, err, broken)
		require.ErrorIs(t, err, cache.ErrLoad)
		require.Equal(t, 1, strings.Count(err.Error(), "shard 2"), "once, not for each key")
		require.Equal(t, map[string]int{"a": 1, "b": 2}, found)
		errs := []error{<-waiter, <-waiter}
		if errs[0] != nil {
			errs[0], errs[1] = errs[1], errs[0]
		}
		require.NoError(t, errs[0], "another caller that wants what was got has no error")
		require.ErrorIs(t, errs[1], broken)
		for k, want := range map[string]int{"a": 1, "b": 2} {
			v, ok := m.Get(k)
			require.True(t, ok)
			require.Equal(t, want, v)
		}
		_, err = m.Load(t.Context(), "d", nil)
		require.ErrorIs(t, err, broken, "kept")
		require.EqualValues(t, 2, m.Stats().LoadErrors)

		m.Clear()
		found, err = m.LoadMany(t.Context(), []string{"a", "b"}, part)
		require.ErrorIs(t, err, broken, "all is there, and the error is not lost")
		require.Len(t, found, 2)
	})
}
