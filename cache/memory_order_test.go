package cache_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// Two events in the less usual order.

var errBroken = errors.New("broken")

func anHour(string, error) time.Duration { return time.Hour }

// failLater begins a load of "k" that fails after a second, and returns what its caller gets.
func failLater(t *testing.T, m *cache.Memory[string, int]) (got func() (int, error)) {
	t.Helper()
	var v int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		v, err = m.Load(t.Context(), "k", func(context.Context, string) (int, error) {
			time.Sleep(time.Second)
			return 0, errBroken
		})
	}()
	synctest.Wait()
	return func() (int, error) { <-done; return v, err }
}

// TestAKeyThatIsDeletedWhileItsLoadFailsKeepsNoError: whoever comes after the deletion loads anew.
func TestAKeyThatIsDeletedWhileItsLoadFailsKeepsNoError(t *testing.T) {
	for name, remove := range map[string]func(m *cache.Memory[string, int]){
		"Delete": func(m *cache.Memory[string, int]) { m.Delete("k") },
		"Clear":  func(m *cache.Memory[string, int]) { m.Clear() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, cache.MemoryConfig[string, int]{ErrorTTL: anHour})
				got := failLater(t, m)
				remove(m)
				_, err := got()
				require.ErrorIs(t, err, errBroken)
				require.Zero(t, m.Stats().Entries)
				s := source{}
				v, err := m.Load(t.Context(), "k", s.load)
				require.NoError(t, err)
				require.Equal(t, 1, v)
				synctest.Wait() // for the loader's goroutine to end
				require.Zero(t, m.Stats().Loading)
			})
		})
	}
}

// TestAKeyThatIsSetWhileItsLoadFails: the value is there, and the failure is nobody's.
func TestAKeyThatIsSetWhileItsLoadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{ErrorTTL: anHour, TTL: minute})
		got := failLater(t, m)
		require.True(t, m.Set("k", 7))
		v, err := got()
		require.NoError(t, err)
		require.Equal(t, 7, v)
		left, ok := m.TimeLeft("k")
		require.True(t, ok)
		require.Equal(t, time.Minute-time.Second, left)
	})
}

// TestAnInvalidationWhileALoadFails: a soft one leaves the old value to stand in, a hard one does
// not.
func TestAnInvalidationWhileALoadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			Tags: tagged, TTL: minute, StaleIfError: time.Hour,
		})
		m.Set("k", 1)
		time.Sleep(time.Minute)
		got := failLater(t, m)
		m.InvalidateTag("t", cache.Soft)
		v, err := got()
		require.NoError(t, err)
		require.Equal(t, 1, v, "a soft one leaves what stands in for an error")

		got = failLater(t, m)
		m.InvalidateTag("t", cache.Hard)
		_, err = got()
		require.ErrorIs(t, err, errBroken)
	})
}

// TestASoftInvalidationAfterTheEndOfTheTTL: it does not give a stale value more time.
func TestASoftInvalidationAfterTheEndOfTheTTL(t *testing.T) {
	for _, at := range []time.Duration{0, time.Minute, 5 * time.Minute, 11*time.Minute - 1} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(t, cache.MemoryConfig[string, int]{
				Tags: tagged, TTL: minute, StaleIfError: 10 * time.Minute,
			})
			s := source{}
			s.fail(errBroken)
			m.Set("k", 1)
			time.Sleep(at)
			m.InvalidateTag("t", cache.Soft)
			end := min(at, time.Minute) + 10*time.Minute
			time.Sleep(end - at - 1)
			v, err := m.Load(t.Context(), "k", s.load)
			require.NoError(t, err, at)
			require.Equal(t, 1, v)
			time.Sleep(time.Nanosecond)
			_, err = m.Load(t.Context(), "k", s.load)
			require.ErrorIs(t, err, errBroken, at)
		})
	}
}

// TestAWaiterThatLeavesAsItsLoadEnds: whichever is first, the caller has one of the two answers,
// the value is kept, and nothing is left under way.
func TestAWaiterThatLeavesAsItsLoadEnds(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(t, cache.MemoryConfig[string, int]{})
			s := source{takes: time.Second}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			v, err := m.Load(ctx, "k", s.load)
			if err == nil {
				require.Equal(t, 1, v)
			} else {
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
			synctest.Wait()
			v, ok := m.Get("k")
			require.True(t, ok)
			require.Equal(t, 1, v)
			require.Zero(t, m.Stats().Loading)
			require.EqualValues(t, 1, m.Stats().Loads)
		})
	}
}
