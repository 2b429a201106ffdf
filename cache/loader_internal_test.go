package cache

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A caller of Load finds an entry that asks for a refresh, and before it starts that
// the key is set. The refresh has lost its reason, and must not overwrite what is set
// in place while it is under way.
func TestARefreshDecidedBeforeASetDoesNotOverwriteWhatComesAfter(t *testing.T) {
	for _, many := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m, err := NewMemory(MemoryConfig[string, int]{})
			require.NoError(t, err)
			m.SetItem("k", MemoryItem[int]{Value: -1, TTL: time.Minute})
			hash := m.hash("k")
			m.shard(hash).find(hash, "k").extended().took = time.Hour
			m.random = func() float64 { // called between the decision and the refresh
				m.Set("k", 1)
				return 0.999
			}
			database := 1
			release := make(chan struct{})
			if many {
				_, err = m.LoadMany(t.Context(), []string{"k"},
					func(context.Context, []string) (map[string]int, error) {
						old := database
						<-release
						return map[string]int{"k": old}, nil
					})
			} else {
				_, err = m.Load(t.Context(), "k", func(context.Context, string) (int, error) {
					old := database
					<-release
					return old, nil
				})
			}
			require.NoError(t, err)
			synctest.Wait()
			database = 2
			m.Set("k", 2)
			close(release)
			synctest.Wait()
			v, ok := m.Get("k")
			require.True(t, ok)
			require.Equal(t, 2, v)
		})
	}
}

// Whoever Close ends gets ErrClosed, also when the loader has returned before its caller looks.
func TestC42_CloseDoesNotLookLikeAFailureOfTheLoader(t *testing.T) {
	m, err := NewMemory(MemoryConfig[string, int]{})
	require.NoError(t, err)
	hash := m.hash("k")
	s := m.shard(hash)
	f, mine, err := m.join(t.Context(), s, hash, "k", func() (*call, error) {
		return m.newCall(t.Context(), false)
	})
	require.NoError(t, err)
	require.True(t, mine)
	go m.run(f, func(ctx context.Context, _ string) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
	require.NoError(t, m.Close(t.Context()))
	_, err, again := m.await(t.Context(), f, 0)
	require.False(t, again)
	require.Equal(t, ErrClosed, err)
}

func background(m *Memory[string, int]) int {
	m.loads.mu.Lock()
	defer m.loads.mu.Unlock()
	return m.loads.background
}

// The room for loads that nobody waits for is given back once, however a load and its waiters meet.
func TestRoomForBackgroundLoadsIsGivenBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMemory(MemoryConfig[string, int]{
			MaxBackground: 2, Stale: time.Minute, EarlyRefresh: -1,
			TTL: func(string, int) time.Duration { return time.Minute },
		})
		require.NoError(t, err)
		// A refresh whose value becomes too old meanwhile has a waiter, who leaves.
		m.Set("k", 1)
		time.Sleep(2*time.Minute - time.Second)
		slow := func(context.Context, string) (int, error) { time.Sleep(5 * time.Second); return 2, nil }
		v, err := m.Load(t.Context(), "k", slow)
		require.NoError(t, err)
		require.Equal(t, 1, v)
		time.Sleep(2 * time.Second)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = m.Load(short, "k", slow)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, background(m))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Zero(t, background(m))
	})

	// A waiter leaves as the load ends.
	m, err := NewMemory(MemoryConfig[string, int]{})
	require.NoError(t, err)
	for range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := m.Load(ctx, "k", func(context.Context, string) (int, error) { cancel(); return 1, nil })
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
		m.Delete("k")
	}
	require.NoError(t, m.Close(context.Background()))
	require.Zero(t, background(m))
}
