package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

var errHook = errors.New("a bug of the user's")

// hooks returns a configuration each function of which calls its fault of that name, if there is
// one, and is right otherwise. What the functions are called for is "bad" or any other key.
func hooks(faults map[string]func(key string)) cache.MemoryConfig[string, int] {
	at := func(hook, key string) {
		if fault := faults[hook]; fault != nil {
			fault(key)
		}
	}
	return cache.MemoryConfig[string, int]{
		Weigher:      func(k string, _ int) int64 { at("Weigher", k); return 1 },
		MaxWeight:    100,
		TTL:          func(k string, _ int) time.Duration { at("TTL", k); return time.Minute },
		Tags:         func(k string, _ int) []string { at("Tags", k); return []string{"t"} },
		ErrorTTL:     func(k string, _ error) time.Duration { at("ErrorTTL", k); return time.Second },
		Stale:        time.Hour,
		StaleIfError: 2 * time.Hour,
		LoadTimeout:  time.Minute,
		Observe: func(_ context.Context, e cache.MemoryEvent[string, int]) {
			at("Observe "+string(e.Kind), e.Key)
		},
	}
}

var endings = map[string]func(){
	"panic":            func() { panic(errHook) },
	"panic of a value": func() { panic("a bug of the user's") },
	"Goexit":           runtime.Goexit,
}

func faulty(hook string, end func()) map[string]func(string) {
	return map[string]func(string){hook: func(key string) {
		if key == "bad" {
			end()
		}
	}}
}

// Whatever ends in the functions of the user's that a load calls on its own goroutine, that load
// fails, and that of no other key of the same call; the cache is as good as before.
func TestC74_AFaultOfTheUsersInALoadFailsThatLoadAlone(t *testing.T) {
	for _, hook := range []string{"Weigher", "TTL", "Tags", "Observe load", "Observe removal"} {
		for ending, end := range endings {
			for _, way := range []string{"Load", "LoadMany", "refresh", "refresh many"} {
				t.Run(fmt.Sprint(hook, ", ", ending, ", ", way), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						calls := 0
						faults := faulty(hook, func() { calls++; end() })
						fault := faults[hook]
						faults[hook] = nil
						m := newMemory(t, hooks(faults))
						if way != "Load" && way != "LoadMany" || hook == "Observe removal" {
							m.Set("bad", 1)
							m.Set("good", 1)
							time.Sleep(2 * time.Minute) // so a load is a refresh
						}
						if hook == "Observe removal" && (way == "Load" || way == "LoadMany") {
							time.Sleep(90 * time.Minute) // beyond Stale
						}
						faults[hook] = fault
						one := func(_ context.Context, k string) (int, error) { return 2, nil }
						many := func(context.Context, []string) (map[string]int, error) {
							return map[string]int{"bad": 2, "good": 2}, nil
						}
						var err error
						var got map[string]int
						switch way {
						case "Load", "refresh":
							_, err = m.Load(t.Context(), "bad", one)
							got = map[string]int{}
							got["good"], _ = m.Load(t.Context(), "good", one)
						default:
							got, err = m.LoadMany(t.Context(), []string{"bad", "good", "bad"}, many)
						}
						synctest.Wait()
						require.Equal(t, 1, calls)
						if way == "Load" || way == "LoadMany" {
							require.ErrorIs(t, err, cache.ErrLoad)
							var e *cache.LoadError
							require.ErrorAs(t, err, &e)
							require.Equal(t, ending != "Goexit", e.Panic != nil)
							require.Equal(t, ending == "panic", errors.Is(err, errHook))
							if way == "Load" || ending != "Goexit" || hook[:3] == "Obs" {
								require.Equal(t, 2, got["good"])
							}
							require.NotContains(t, got, "bad")
							require.GreaterOrEqual(t, m.Stats().LoadErrors, uint64(1))
						} else {
							require.NoError(t, err, "nobody waits for a refresh")
						}
						require.Zero(t, m.Stats().Loading)
						clear(faults)
						for _, k := range []string{"bad", "good"} { // no lock is held, no load is left behind
							require.True(t, m.Set(k, 3))
							m.Delete(k)
							v, err := m.Load(t.Context(), k, func(context.Context, string) (int, error) {
								return 4, nil
							})
							require.NoError(t, err)
							require.Equal(t, 4, v)
						}
					})
				})
			}
		}
	}
}

// So it is with Observe when it hears of a load that is over because of LoadTimeout, or of a
// refusal, and with ErrorTTL: whoever waits gets an answer.
func TestC74_AFaultOfTheUsersWhenALoadFails(t *testing.T) {
	for ending, end := range endings {
		for _, many := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, hooks(faulty("Observe load", end)))
				start := time.Now()
				slow := func(ctx context.Context, _ string) (int, error) {
					time.Sleep(time.Hour)
					return 1, nil
				}
				var err error
				if many {
					_, err = m.LoadMany(t.Context(), []string{"bad", "x", "y"},
						func(ctx context.Context, _ []string) (map[string]int, error) {
							_, _ = slow(ctx, "")
							return nil, nil
						})
				} else {
					_, err = m.Load(t.Context(), "bad", slow)
				}
				require.Equal(t, time.Minute, time.Since(start))
				require.ErrorIs(t, err, context.DeadlineExceeded, ending)
				time.Sleep(time.Hour)
				require.Zero(t, m.Stats().Loading)

				m = newMemory(t, hooks(map[string]func(string){"ErrorTTL": func(string) { end() }}))
				_, err = m.Load(t.Context(), "bad", func(context.Context, string) (int, error) {
					return 0, cache.ErrNotFound
				})
				require.ErrorIs(t, err, cache.ErrLoad)
				v, err := m.Load(t.Context(), "bad", func(context.Context, string) (int, error) {
					return 1, nil
				})
				require.NoError(t, err)
				require.Equal(t, 1, v)
			})
		}
	}
}

// On a caller's own goroutine a panic passes through. No lock is held then, and the next call
// finds the cache in order.
func TestC74_APanicOfAHookPassesThroughItsCaller(t *testing.T) {
	panicking := func(hook string) map[string]func(string) { return faulty(hook, endings["panic"]) }
	for _, hook := range []string{"Weigher", "TTL", "Tags", "Observe removal"} {
		faults := map[string]func(string){}
		m := newMemory(t, hooks(faults))
		m.Set("bad", 1)
		m.Set("other", 1)
		faults[hook] = panicking(hook)[hook]
		require.PanicsWithError(t, errHook.Error(), func() { m.Set("bad", 2) }, hook)
		v, ok := m.Get("bad")
		require.True(t, ok)
		require.Equal(t, hook == "Observe removal", v == 2, "%s: Set is over when it is observed", hook)
		require.True(t, m.Set("other", 2))
		if hook == "Observe removal" {
			require.Panics(t, func() { m.Delete("bad") })
			_, ok = m.Get("bad")
			require.False(t, ok)
			require.True(t, m.SetItem("bad", cache.MemoryItem[int]{Value: 1}))
			require.Panics(t, m.Clear)
		}
		clear(faults)
		m.Clear()
		require.Zero(t, m.Stats().Entries)
	}
	m := newMemory(t, hooks(panicking("Observe refusal")))
	require.Panics(t, func() { m.SetItem("bad", cache.MemoryItem[int]{TTL: -1}) })
	require.EqualValues(t, 1, m.Stats().Refusals)
	require.False(t, m.SetItem("good", cache.MemoryItem[int]{TTL: -1}))

	file := saved(t, hooks(nil), func(m *cache.Memory[string, int]) { m.Set("bad", 1); m.Set("good", 2) })
	faults := panicking("Weigher")
	m = newMemory(t, hooks(faults))
	require.Panics(t, func() { _ = m.Restore(bytes.NewReader(file)) })
	require.Zero(t, m.Stats().Loading)
	clear(faults)
	require.NoError(t, m.Restore(bytes.NewReader(file)))
	require.Equal(t, 2, m.Stats().Entries)
}

// A value that was stored is there, though the load that brought it failed for its observer.
func TestC74_WhatALoadBroughtStaysThoughItsObserverPanicked(t *testing.T) {
	m := newMemory(t, hooks(faulty("Observe load", endings["panic"])))
	_, err := m.Load(t.Context(), "bad", func(context.Context, string) (int, error) { return 7, nil })
	require.EqualError(t, err, "cache: load: panic of Observe: a bug of the user's")
	v, err := m.Load(t.Context(), "bad", nil)
	require.NoError(t, err)
	require.Equal(t, 7, v)
	st := m.Stats()
	require.EqualValues(t, 1, st.Loads)
	require.EqualValues(t, 1, st.LoadErrors)
}

// An observer that stores again what has left makes something else leave, and so on: that has an
// end, and each value that was stored leaves once or is there.
func TestAnObserverThatStoresAgainComesToAnEnd(t *testing.T) {
	for name, cfg := range map[string]cache.MemoryConfig[int, int]{
		"entries": {MaxEntries: 50},
		"LRU":     {MaxEntries: 50, Eviction: cache.LRU},
		"weights": {MaxWeight: 200, Weigher: func(k, _ int) int64 { return int64(1 + k%5) }},
	} {
		t.Run(name, func(t *testing.T) {
			var m *cache.Memory[int, int]
			versions := 0
			held, left := map[int]bool{}, map[int]int{}
			refused := 0
			store := func(k int) {
				versions++
				v := versions
				held[v] = true // before: it may leave within Set
				if !m.Set(k, v) {
					delete(held, v)
					refused++
				}
			}
			cfg.Observe = func(_ context.Context, e cache.MemoryEvent[int, int]) {
				if e.Kind == cache.MemoryRemoved {
					left[e.Value]++
					store(e.Key)
				}
			}
			m = newMemory(t, cfg)
			for k := range 100 {
				store(k)
			}
			require.Positive(t, refused)
			require.EqualValues(t, refused, m.Stats().Refusals)
			for _, v := range m.All() {
				left[v]++
			}
			for v := range held {
				require.Equal(t, 1, left[v], v)
			}
			require.Len(t, left, len(held))
			require.Less(t, versions, 100*400)
		})
	}
}

// Two caches may store for each other: one takes what the other gives up.
func TestTwoCachesMayHandEntriesOnToEachOther(t *testing.T) {
	var small, large *cache.Memory[int, int]
	small = newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 10,
		Observe: func(_ context.Context, e cache.MemoryEvent[int, int]) { large.Set(e.Key, e.Value) }})
	large = newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 20,
		Observe: func(_ context.Context, e cache.MemoryEvent[int, int]) { small.Set(e.Key, e.Value) }})
	for k := range 100 {
		small.Set(k, k)
	}
	require.Equal(t, 10, small.Stats().Entries)
	require.Equal(t, 20, large.Stats().Entries)
}

// Many observers at a time on goroutines of their own are not nested: each may store.
func TestObserversOnManyGoroutinesMayStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m *cache.Memory[int, int]
		var refused atomic.Int64
		m = newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 1000,
			Observe: func(_ context.Context, e cache.MemoryEvent[int, int]) {
				if e.Kind == cache.MemoryRemoved && e.Key < 500 {
					time.Sleep(time.Second) // all are here at once
					if !m.Set(1000+e.Key, 1) {
						refused.Add(1)
					}
				}
			}})
		for k := range 500 {
			m.Set(k, k)
		}
		for k := range 500 {
			go m.Delete(k)
		}
		time.Sleep(time.Minute)
		require.Zero(t, refused.Load())
		require.Equal(t, 500, m.Stats().Entries)
	})
}

// An observer of loads that loads is on another goroutine each time; that has an end, too.
func TestAnObserverThatLoadsComesToAnEnd(t *testing.T) {
	var m *cache.Memory[int, int]
	var loads atomic.Int64
	var last error
	load := func(context.Context, int) (int, error) { loads.Add(1); return 1, nil }
	m = newMemory(t, cache.MemoryConfig[int, int]{
		Observe: func(ctx context.Context, e cache.MemoryEvent[int, int]) {
			if e.Kind == cache.MemoryLoaded {
				if _, err := m.Load(ctx, e.Key+1, load); err != nil {
					last = err
				}
			}
		},
	})
	_, err := m.Load(t.Context(), 0, load)
	require.NoError(t, err)
	require.ErrorContains(t, last, "nested too deep")
	require.Less(t, loads.Load(), int64(50))
	require.Greater(t, loads.Load(), int64(10))

	// A chain of loaders is as long as it has to be.
	var chain func(ctx context.Context, n int) (int, error)
	chain = func(ctx context.Context, n int) (int, error) {
		if n == 0 {
			return 0, nil
		}
		v, err := m.Load(ctx, -n+1, func(ctx context.Context, k int) (int, error) { return chain(ctx, -k) })
		return v + 1, err
	}
	quiet := newMemory(t, cache.MemoryConfig[int, int]{})
	m = quiet
	v, err := chain(t.Context(), 1000)
	require.NoError(t, err)
	require.Equal(t, 1000, v)
}
