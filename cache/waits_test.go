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

// Whoever would wait for a load that waits for it is told so at once, in one cache or over several,
// one key or many; the loads that wait for that end with the same error.
func TestLoadersThatWaitForEachOtherAreToldAtOnce(t *testing.T) {
	for _, ring := range []int{2, 3, 7} {
		for _, many := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				caches := make([]*cache.Memory[int, int], 2)
				for i := range caches {
					caches[i] = newMemory(t, cache.MemoryConfig[int, int]{})
				}
				start := time.Now()
				never := func(context.Context, int) (int, error) { panic("its load is under way") }
				next := func(ctx context.Context, k int) (int, error) {
					time.Sleep(time.Second + time.Duration(k)*time.Millisecond) // until all are under way
					other := (k + 1) % ring
					if m := caches[other%2]; !many {
						return m.Load(ctx, other, never)
					}
					found, err := caches[other%2].LoadMany(ctx, []int{other}, nil)
					return found[other], err
				}
				errs := make(chan error)
				for k := range ring {
					go func() {
						_, err := caches[k%2].Load(context.Background(), k, next)
						errs <- err
					}()
				}
				for range ring {
					err := <-errs
					require.ErrorIs(t, err, cache.ErrLoad)
					require.ErrorContains(t, err, "loaders wait for each other's keys")
				}
				require.Less(t, time.Since(start), 2*time.Second)
			})
		}
	}
}

// Nobody else is told that: two loaders may wait for the same third, one after the other or at
// once, and who has left no longer waits.
func TestLoadersThatDoNotWaitForEachOtherAreNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		slow := func(context.Context, string) (int, error) { time.Sleep(time.Second); return 1, nil }
		both := func(ctx context.Context, _ string) (int, error) {
			a, err := m.Load(ctx, "c", slow)
			if err != nil {
				return 0, err
			}
			found, err := m.LoadMany(ctx, []string{"c", "d"},
				func(context.Context, []string) (map[string]int, error) {
					return map[string]int{"d": 2}, nil
				})
			return a + found["d"], err
		}
		var wg sync.WaitGroup
		for _, k := range []string{"a", "b"} {
			wg.Go(func() {
				v, err := m.Load(t.Context(), k, both)
				if v != 3 || err != nil {
					panic(fmt.Sprint(v, err))
				}
			})
		}
		wg.Wait()

		// "x" waits for "y" and leaves; then "y" may wait for "x".
		impatient := func(ctx context.Context, _ string) (int, error) {
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if _, err := m.Load(short, "y", nil); !errors.Is(err, context.DeadlineExceeded) {
				return 0, err
			}
			time.Sleep(2 * time.Second)
			return 7, nil
		}
		got := make(chan int, 1)
		go func() {
			v, err := m.Load(t.Context(), "y", func(ctx context.Context, _ string) (int, error) {
				time.Sleep(2 * time.Second)
				return m.Load(ctx, "x", nil)
			})
			if err != nil {
				panic(err)
			}
			got <- v
		}()
		synctest.Wait()
		v, err := m.Load(t.Context(), "x", impatient)
		require.NoError(t, err)
		require.Equal(t, 7, v)
		require.Equal(t, 7, <-got)
	})
}

// A loader that waits for several loads at once and gets one of them waits for the others still.
func TestALoaderStillWaitsForWhatItHasNotGot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		start := time.Now()
		for key, load := range map[string]func(context.Context, string) (int, error){
			"quick": func(context.Context, string) (int, error) { time.Sleep(time.Second); return 1, nil },
			"slow": func(ctx context.Context, _ string) (int, error) {
				time.Sleep(2 * time.Second)
				return m.Load(ctx, "a", nil)
			},
		} {
			go func() { _, _ = m.Load(t.Context(), key, load) }()
		}
		synctest.Wait()
		_, err := m.Load(t.Context(), "a", func(ctx context.Context, _ string) (int, error) {
			var wg sync.WaitGroup
			for _, key := range []string{"slow", "quick"} {
				wg.Go(func() { _, _ = m.Load(ctx, key, nil) })
				synctest.Wait()
			}
			wg.Wait()
			return 2, nil
		})
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, time.Since(start), "the ring is noticed at once")
	})
}

// A loader does not wait for a load that was given up before it came, nor for one of several that
// it has left: these may wait for it.
func TestALoaderDoesNotWaitForWhatItHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{MaxBackground: -1})
		a := make(chan int, 1)
		askForA := func(ctx context.Context) {
			v, err := m.Load(context.WithoutCancel(ctx), "a", nil)
			if err != nil {
				panic(err)
			}
			a <- v
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.Load(short, "b", func(ctx context.Context, _ string) (int, error) {
			time.Sleep(3 * time.Second)
			askForA(ctx)
			return 1, nil
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		v, err := m.Load(t.Context(), "a", func(ctx context.Context, _ string) (int, error) {
			return m.Load(ctx, "b", func(context.Context, string) (int, error) {
				time.Sleep(5 * time.Second)
				return 2, nil
			})
		})
		require.NoError(t, err)
		require.Equal(t, 2, v)
		require.Equal(t, 2, <-a)

		m.Clear()
		go func() {
			_, _ = m.LoadMany(t.Context(), []string{"c", "d", "e"},
				func(ctx context.Context, _ []string) (map[string]int, error) {
					time.Sleep(2 * time.Second)
					askForA(ctx)
					return nil, nil
				})
		}()
		synctest.Wait()
		v, err = m.Load(t.Context(), "a", func(ctx context.Context, _ string) (int, error) {
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err := m.LoadMany(short, []string{"c", "d", "e"}, nil)
			if !errors.Is(err, context.DeadlineExceeded) {
				return 0, err
			}
			time.Sleep(3 * time.Second)
			return 3, nil
		})
		require.NoError(t, err)
		require.Equal(t, 3, v)
		require.Equal(t, 3, <-a)
	})
}
