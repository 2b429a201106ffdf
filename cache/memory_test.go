package cache_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
)

func newMemory[K comparable, V any](t testing.TB, cfg cache.MemoryConfig[K, V]) *cache.Memory[K, V] {
	t.Helper()
	m, err := cache.NewMemory(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close(context.Background())) })
	return m
}

func TestNewMemoryRejects(t *testing.T) {
	_, err := cache.NewMemory(cache.MemoryConfig[string, string]{
		MaxEntries: -1, MaxWeight: 5, Eviction: 9, Jitter: 1, IdleTTL: -1, Stale: -1, StaleIfError: -1,
		StaleAfter: -1,
	})
	for _, field := range []string{
		"MaxEntries", "MaxWeight", "Eviction", "Jitter", "IdleTTL", "Stale", "StaleIfError", "StaleAfter",
	} {
		require.ErrorContains(t, err, "cache: MemoryConfig."+field+": ")
	}
	_, err = cache.NewMemory(cache.MemoryConfig[string, string]{StaleAfter: time.Second, Stale: time.Minute})
	require.ErrorContains(t, err, "MemoryConfig.StaleAfter: 1s without a StaleIfError")
	weigher := func(string, string) int64 { return 1 }
	_, err = cache.NewMemory(cache.MemoryConfig[string, string]{Weigher: weigher})
	require.ErrorContains(t, err, "MemoryConfig.MaxWeight: ")
	_, err = cache.NewMemory(cache.MemoryConfig[string, string]{
		Weigher:    weigher,
		MaxWeight:  1,
		MaxEntries: 1,
	})
	require.ErrorContains(t, err, "MemoryConfig.MaxEntries: ")
}

// Each fault can be told by its field, for programs that map it to a place in a file.
func TestEachFaultOfMemoryConfigNamesItsField(t *testing.T) {
	_, err := cache.NewMemory(cache.MemoryConfig[string, int]{
		MaxEntries: -1, Jitter: math.NaN(), Stale: -time.Second, EarlyRefresh: math.Inf(1),
	})
	got := map[string]string{}
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		var fault interface {
			Field() string
			Reason() string
		}
		require.ErrorAs(t, err, &fault)
		got[fault.Field()] = fault.Reason()
	}
	require.Equal(t, map[string]string{
		"MaxEntries":   "-1 is negative",
		"Jitter":       "NaN is not in [0, 1)",
		"Stale":        "-1s is negative",
		"EarlyRefresh": "+Inf is not a finite number",
	}, got)
}

func TestEnumerationsPrintAsWords(t *testing.T) {
	require.Equal(t, "TinyLFU LRU unknown", fmt.Sprint(cache.TinyLFU, cache.LRU, cache.Eviction(9)))
	require.Equal(t, "soft hard unknown", fmt.Sprint(cache.Soft, cache.Hard, cache.Invalidation(0)))
	require.Equal(t, "load removal refusal", fmt.Sprintf("%v %s %v",
		cache.MemoryLoaded, cache.MemoryRemoved, cache.MemoryRefused))
	require.Equal(t, "evicted expired replaced deleted invalidated", fmt.Sprintf("%v %s %v %v %v",
		cache.MemoryEvicted, cache.MemoryExpired, cache.MemoryReplaced, cache.MemoryDeleted,
		cache.MemoryInvalidated))
}

// What a person reads as JSON and what telemetry exports go by the same words.
func TestMemoryStatsAsJSON(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[string, int]{})
	m.Set("k", 1)
	m.Delete("k")
	m.Set("k", 2)
	m.Get("k")
	b, err := json.Marshal(m.Stats())
	require.NoError(t, err)
	require.JSONEq(t, `{
		"hits": 1, "stale_hits": 0, "misses": 0, "fallbacks": 0, "slow": 0, "hit_ratio": 1,
		"loads": 0, "load_errors": 0, "loading": 0,
		"removals": {"evicted": 0, "expired": 0, "replaced": 0, "deleted": 1, "invalidated": 0},
		"refusals": 0, "entries": 1, "weight": 1, "window_share": 0.01}`, string(b))
}

// Whoever reads the figures does not run the observer, nor wait for it.
func TestStatsRemovesNothingAndCallsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var removed []string
		m := newMemory(t, cache.MemoryConfig[string, int]{
			Weigher: func(_ string, v int) int64 { return int64(v) }, MaxWeight: 100,
			Observe: func(_ context.Context, e cache.MemoryEvent[string, int]) {
				removed = append(removed, fmt.Sprint(e.Key, " ", e.Reason))
			},
		})
		m.SetItem("short", cache.MemoryItem[int]{Value: 3, TTL: time.Minute})
		m.SetItem("long", cache.MemoryItem[int]{Value: 5, TTL: time.Hour})
		m.Set("ever", 7)
		time.Sleep(2 * time.Minute)
		for range 2 {
			st := m.Stats()
			require.Equal(t, 2, st.Entries, "what has expired does not count")
			require.EqualValues(t, 12, st.Weight)
			require.Zero(t, st.Removals[cache.MemoryExpired])
			require.Empty(t, removed)
		}
		time.Sleep(2 * time.Hour)
		require.Equal(t, 1, m.Stats().Entries)
		m.Set("new", 1)
		require.Equal(t, []string{"short expired", "long expired"}, removed)
		require.EqualValues(t, 2, m.Stats().Removals[cache.MemoryExpired])
		require.EqualValues(t, 8, m.Stats().Weight)
	})
}

func TestGetSetDelete(t *testing.T) {
	for _, eviction := range []cache.Eviction{cache.TinyLFU, cache.LRU} {
		m := newMemory(t, cache.MemoryConfig[string, string]{Eviction: eviction})
		_, ok := m.Get("a")
		require.False(t, ok)
		require.True(t, m.Set("a", "1"))
		require.True(t, m.Set("a", "2"))
		v, ok := m.Get("a")
		require.True(t, ok)
		require.Equal(t, "2", v)
		require.True(t, m.Delete("a"))
		require.False(t, m.Delete("a"))
		_, ok = m.Get("a")
		require.False(t, ok)
		m.Set("b", "3")
		m.Clear()
		_, ok = m.Get("b")
		require.False(t, ok)
		st := m.Stats()
		require.Equal(t, uint64(1), st.Hits)
		require.Equal(t, uint64(3), st.Misses)
		require.Equal(t, 0.25, st.HitRatio)
		require.Zero(t, st.Entries)
		require.Equal(t, map[cache.MemoryReason]uint64{
			"evicted":     0,
			"expired":     0,
			"replaced":    1,
			"deleted":     2,
			"invalidated": 0,
		}, st.Removals)
	}
}

// Each way to keep a value is overwritten in its own way.
func TestOverwriteEveryKindOfValue(t *testing.T) {
	check := func(name string, overwrite func(t *testing.T)) { t.Run(name, overwrite) }
	check("number", overwrites(1, 2))
	check("float", overwrites(1.5, -2.5))
	check("pointer", overwrites(new(string), new(string)))
	check("string", overwrites("a", "b"))
	check("bool", overwrites(true, false))
	check("struct of a word", overwrites(struct{ a, b int32 }{1, 2}, struct{ a, b int32 }{3, 4}))
	check("interface", overwrites[any](1, "x"))
	check("nothing", overwrites(struct{}{}, struct{}{}))
}

func overwrites[V comparable](a, b V) func(t *testing.T) {
	return func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, V]{})
		for _, want := range []V{a, b, a} {
			require.True(t, m.Set("k", want))
			got, ok := m.Get("k")
			require.True(t, ok)
			require.Equal(t, want, got)
		}
		require.True(t, m.SetItem("k", cache.MemoryItem[V]{Value: b, TTL: time.Hour}))
		got, _ := m.Get("k")
		require.Equal(t, b, got)
		require.Equal(t, 1, m.Stats().Entries)
		require.Equal(t, uint64(3), m.Stats().Removals["replaced"])
	}
}

func TestExactlyTheBoundFits(t *testing.T) {
	for _, entries := range []int{1, 2, 10, 1000, 20_000, 100_000} {
		m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: entries})
		for i := range entries {
			m.Set(i, i)
		}
		require.Equal(t, entries, m.Stats().Entries)
		for i := range entries {
			_, ok := m.Get(i)
			require.True(t, ok)
		}
		for i := range entries {
			m.Set(-i-1, i)
			_, ok := m.Get(-i - 1)
			require.True(t, ok, "what was just set is there")
		}
		require.Equal(t, entries, m.Stats().Entries)
	}
}

// A model of a cache that is never full: exact, and naive.
type model struct {
	values map[int]modelItem
	clock  int
	hard   map[string]int
}

type modelItem struct {
	value   int
	expires time.Time
	tags    []string
	clock   int
}

func (m *model) get(k int) (int, bool) {
	it, ok := m.values[k]
	if !ok || !it.expires.IsZero() && !time.Now().Before(it.expires) {
		return 0, false
	}
	for _, tag := range it.tags {
		if m.hard[tag] > it.clock {
			return 0, false
		}
	}
	return it.value, true
}

func TestBehavesLikeTheModel(t *testing.T) {
	for _, eviction := range []cache.Eviction{cache.TinyLFU, cache.LRU} {
		synctest.Test(t, func(t *testing.T) {
			inBubble := struct{ testing.TB }{t} // without t.Deadline, which a bubble does not have
			rapid.Check(inBubble, func(rt *rapid.T) {
				m := newMemory(t, cache.MemoryConfig[int, int]{Eviction: eviction})
				want := model{values: map[int]modelItem{}, hard: map[string]int{}}
				key := rapid.IntRange(0, 20)
				tag := rapid.SampledFrom([]string{"a", "b", "c"})
				rt.Repeat(map[string]func(*rapid.T){
					"set": func(rt *rapid.T) {
						k, v := key.Draw(rt, "key"), rapid.Int().Draw(rt, "value")
						require.True(rt, m.Set(k, v))
						want.values[k] = modelItem{value: v, clock: want.clock}
					},
					"set item": func(rt *rapid.T) {
						k, v := key.Draw(rt, "key"), rapid.Int().Draw(rt, "value")
						ttl := time.Duration(rapid.IntRange(0, 100).Draw(rt, "ttl")) * time.Second
						tags := rapid.SliceOfN(tag, 0, 3).Draw(rt, "tags")
						require.True(rt, m.SetItem(k, cache.MemoryItem[int]{Value: v, TTL: ttl, Tags: tags}))
						it := modelItem{value: v, tags: tags, clock: want.clock}
						if ttl > 0 {
							it.expires = time.Now().Add(ttl)
						}
						want.values[k] = it
					},
					"delete": func(rt *rapid.T) {
						k := key.Draw(rt, "key")
						_, there := want.get(k)
						require.Equal(rt, there, m.Delete(k))
						delete(want.values, k)
					},
					"invalidate": func(rt *rapid.T) {
						name := tag.Draw(rt, "tag")
						m.InvalidateTag(name, cache.Hard)
						want.clock++
						want.hard[name] = want.clock
					},
					"time passes": func(rt *rapid.T) {
						time.Sleep(time.Duration(rapid.IntRange(1, 50_000).Draw(rt, "ms")) * time.Millisecond)
					},
					"clear": func(rt *rapid.T) {
						if rapid.IntRange(0, 20).Draw(rt, "really") == 0 {
							m.Clear()
							clear(want.values)
						}
					},
					"": func(rt *rapid.T) {
						live := map[int]int{}
						for k := range 21 {
							v, ok := want.get(k)
							got, found := m.Get(k)
							require.Equal(rt, ok, found)
							if ok {
								require.Equal(rt, v, got)
								live[k] = v
							}
						}
						all := map[int]int{}
						for k, v := range m.All() {
							all[k] = v
						}
						require.Equal(rt, live, all)
					},
				})
			})
		})
	}
}

// Of a cache that is too small one can only say what it must not do.
func TestBoundsHoldAndNoWriteIsLost(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.Int64Range(1, 300).Draw(rt, "limit")
		weight := func(k, _ int) int64 { return int64(k%7) * 3 }
		removed := map[int]int{}
		cfg := cache.MemoryConfig[int, int]{
			Eviction: rapid.SampledFrom([]cache.Eviction{cache.TinyLFU, cache.LRU}).Draw(rt, "eviction"),
			Observe: func(_ context.Context, e cache.MemoryEvent[int, int]) {
				if e.Kind == cache.MemoryRemoved {
					removed[e.Key] = e.Value
				}
			},
		}
		weighted := rapid.Bool().Draw(rt, "weighted")
		if weighted {
			// A different weight on each overwrite.
			weight = func(k, v int) int64 { return int64((k+v)%7) * 3 }
			cfg.Weigher, cfg.MaxWeight = weight, limit
		} else {
			cfg.MaxEntries = int(limit)
		}
		m := newMemory(t, cfg)
		last := map[int]int{}
		key := rapid.IntRange(0, 400)
		for i := range rapid.IntRange(1, 600).Draw(rt, "operations") {
			k := key.Draw(rt, "key")
			if i%3 == 0 {
				if v, ok := m.Get(k); ok {
					require.Equal(rt, last[k], v)
				}
				continue
			}
			kept := m.Set(k, i)
			heavy := weighted && max(1, weight(k, i)) > max(1, limit/4)
			require.Equal(rt, !heavy, kept)
			v, ok := m.Get(k)
			require.Equal(rt, kept, ok, "what was set is there")
			if kept {
				require.Equal(rt, i, v)
				last[k] = i
			}
			st := m.Stats()
			require.LessOrEqual(rt, st.Weight, limit)
			var sum int64
			n := 0
			for k, v := range m.All() {
				require.Equal(rt, last[k], v)
				n++
				if weighted {
					sum += max(1, weight(k, v))
				} else {
					sum++
				}
			}
			require.Equal(rt, sum, st.Weight)
			require.Equal(rt, n, st.Entries)
		}
		for k, v := range removed {
			require.LessOrEqual(rt, v, last[k]+600)
		}
	})
}

func TestTooHeavyIsRefusedAndReported(t *testing.T) {
	var events []cache.MemoryEvent[string, string]
	m := newMemory(t, cache.MemoryConfig[string, string]{
		Weigher:   func(_, v string) int64 { return int64(len(v)) },
		MaxWeight: 100,
		Observe: func(_ context.Context, e cache.MemoryEvent[string, string]) {
			events = append(events, e)
		},
	})
	for i := range 10 {
		require.True(t, m.Set(fmt.Sprint(i), "12345"))
	}
	require.True(t, m.Set("big", strings.Repeat("x", 25)))
	require.False(t, m.Set("huge", strings.Repeat("x", 26)))
	require.Equal(t, 11, m.Stats().Entries, "nothing was evicted for it")
	require.Equal(t, uint64(1), m.Stats().Refusals)
	require.Equal(t, cache.MemoryRefused, events[len(events)-1].Kind)

	require.False(t, m.Set("big", strings.Repeat("y", 26)))
	_, ok := m.Get("big")
	require.False(t, ok, "a refused value must not leave the old one behind")
}

func TestC52_KeyFloodStaysInBoundAndSparesHotKeys(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[int, []byte]{
		Weigher:   func(_ int, v []byte) int64 { return int64(len(v)) },
		MaxWeight: 1 << 20,
	})
	for range 5 {
		for k := range 200 {
			if _, ok := m.Get(k); !ok {
				m.Set(k, make([]byte, 1024))
			}
		}
	}
	misses := 0
	for i := range 200_000 {
		m.Set(1000+i, make([]byte, 1024))
		if k := i / 10 % 200; i%10 == 0 { // one read in ten is of a hot key
			if _, ok := m.Get(k); !ok {
				misses++
				m.Set(k, make([]byte, 1024))
			}
		}
		if i%10_000 == 0 {
			require.LessOrEqual(t, m.Stats().Weight, int64(1<<20))
		}
	}
	require.Less(t, misses, 400, "of 20,000 reads of hot keys")
}

func TestOneLargeEntryDoesNotPushOutManyUsedOnes(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[int, int]{
		Weigher:   func(_, v int) int64 { return int64(v) },
		MaxWeight: 1000,
	})
	for range 10 {
		for k := range 1000 {
			if _, ok := m.Get(k); !ok {
				m.Set(k, 1)
			}
		}
	}
	for k := range 50 {
		m.Set(10_000+k, 250)
	}
	small := 0
	for k := range 1000 {
		if _, ok := m.Get(k); ok {
			small++
		}
	}
	// The newest of the large ones is there, since no write is lost; no more.
	require.GreaterOrEqual(t, small, 740)
}

func TestC69_ClockStepsDoNotMatter(t *testing.T) {
	// All times are offsets on the monotonic clock: an entry's life is its TTL. The
	// bubble's clock cannot step, so this pins what would break: that nothing is
	// compared with wall time, by restoring across one.
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{})
		m.SetItem("k", cache.MemoryItem[int]{Value: 1, TTL: time.Hour})
		time.Sleep(time.Hour - 1)
		_, ok := m.Get("k")
		require.True(t, ok)
		time.Sleep(time.Nanosecond)
		_, ok = m.Get("k")
		require.False(t, ok)
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			TTL:     func(k string, _ int) time.Duration { return time.Duration(len(k)) * time.Minute },
			IdleTTL: 90 * time.Second,
		})
		m.Set("aa", 1) // two minutes, or 90 seconds if idle

		m.SetItem("b", cache.MemoryItem[int]{Value: 2, TTL: cache.Forever})    // as long as it is read
		m.SetItem("c", cache.MemoryItem[int]{Value: 3, TTL: 1e9})              // a second
		m.SetItem("idle", cache.MemoryItem[int]{Value: 4, TTL: cache.Forever}) // 90 seconds
		for i := range 20 {
			time.Sleep(10 * time.Second)
			passed := time.Duration(i+1) * 10 * time.Second
			_, ok := m.Get("aa")
			require.Equal(t, passed < 2*time.Minute, ok, passed)
			_, ok = m.Get("b")
			require.True(t, ok)
			_, ok = m.Get("c")
			require.False(t, ok)
		}
		_, ok := m.Get("idle")
		require.False(t, ok)
		require.Equal(t, 1, m.Stats().Entries, "what has expired leaves without being asked for")
		m.Set("b", 2) // whatever is written
		require.Equal(t, uint64(3), m.Stats().Removals["expired"])
		require.Equal(t, 1, m.Stats().Entries)
	})
}

func TestExpiredEntriesLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 50_000})
		random := rand.New(rand.NewPCG(1, 1))
		var longest time.Duration
		for k := range 20_000 {
			ttl := time.Duration(random.ExpFloat64() * float64(time.Hour))
			if k%10 == 0 {
				ttl *= 5000 // most of a year
			}
			longest = max(longest, ttl)
			m.SetItem(k, cache.MemoryItem[int]{Value: k, TTL: ttl + 1})
		}
		for passed := time.Duration(0); passed < longest; {
			step := max(time.Second, passed/3)
			time.Sleep(step)
			passed += step
			fresh := 0
			for range m.All() {
				fresh++
			}
			require.Equal(t, fresh, m.Stats().Entries, "what has expired does not count")
		}
		time.Sleep(time.Hour)
		require.Zero(t, m.Stats().Entries)
	})
}

func TestJitterShortensTTLs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[int, int]{
			TTL:    func(int, int) time.Duration { return 100 * time.Second },
			Jitter: 0.5,
		})
		for k := range 1000 {
			m.Set(k, k)
		}
		fresh := func() (n int) {
			for range m.All() {
				n++
			}
			return n
		}
		time.Sleep(50 * time.Second)
		require.Equal(t, 1000, fresh())
		time.Sleep(25 * time.Second)
		require.InDelta(t, 500, fresh(), 100)
		time.Sleep(25 * time.Second)
		require.Zero(t, fresh())
	})
}

// Everything at once; the race detector looks on.
func TestConcurrentUse(t *testing.T) {
	for _, cfg := range []cache.MemoryConfig[int, int]{
		{MaxEntries: 32_000},
		{MaxEntries: 100, Eviction: cache.LRU, TTL: func(k, _ int) time.Duration {
			return time.Duration(k%5) * time.Millisecond
		}},
		{MaxWeight: 1000, Weigher: func(k, _ int) int64 { return int64(k % 10) }, Stale: time.Millisecond,
			Tags: func(k, _ int) []string { return []string{fmt.Sprint(k % 7)} }},
	} {
		m := newMemory(t, cfg)
		limit := max(int64(cfg.MaxEntries), cfg.MaxWeight)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(g), 1))
				for i := range 4000 {
					k := random.IntN(50_000)
					if i%4 > 0 {
						k %= 100
					}
					switch random.IntN(20) {
					case 0:
						m.Delete(k)
					case 1:
						m.SetItem(k, cache.MemoryItem[int]{
							Value: k,
							TTL:   time.Millisecond,
							Tags:  []string{"x"},
						})
					case 2:
						m.InvalidateTag(fmt.Sprint(k%7), cache.Soft+cache.Invalidation(k%2))
					case 3:
						if i%500 == 0 {
							m.Clear()
						}
						if i%100 == 0 {
							for k, v := range m.All() {
								if k != v {
									panic("a value of another key")
								}
							}
						}
						if st := m.Stats(); st.Weight > limit {
							panic(fmt.Sprint("above the bound: ", st))
						}
					case 4, 5, 6:
						v, err := m.Load(context.Background(), k,
							func(_ context.Context, k int) (int, error) {
								return k, nil
							})
						if err != nil || v != k {
							panic(fmt.Sprint(v, err))
						}
					case 7:
						got, err := m.LoadMany(context.Background(), []int{k, k + 1},
							func(_ context.Context, keys []int) (map[int]int, error) {
								found := map[int]int{}
								for _, k := range keys {
									found[k] = k
								}
								return found, nil
							})
						if err != nil || got[k] != k || got[k+1] != k+1 {
							panic(fmt.Sprint(got, err))
						}
					case 8, 9, 10:
						m.Set(k, k)
					default:
						if v, ok := m.Get(k); ok && v != k {
							panic("a value of another key")
						}
					}
				}
			})
		}
		wg.Wait()
	}
}

// Growing tables lead readers astray; they must find their way.
func TestReadersFindEverythingWhileTablesGrow(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: 200_000})
	for k := range 100 {
		m.Set(k, k)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for k := 0; ; k = (k + 1) % 100 {
				select {
				case <-done:
					return
				default:
				}
				if v, ok := m.Get(k); !ok || v != k {
					panic(fmt.Sprint("lost ", k))
				}
			}
		})
	}
	entries := 150_000
	if raceEnabled {
		entries /= 5
	}
	for k := range entries {
		m.Set(1000+k, k)
	}
	close(done)
	wg.Wait()
}

func TestEventLogValue(t *testing.T) {
	tests := []struct {
		event cache.MemoryEvent[string, int]
		want  string
	}{
		{cache.MemoryEvent[string, int]{Kind: cache.MemoryLoaded, Key: "k", Value: 7, Duration: time.Second},
			"[event=load failed=false background=false duration=1s detail=[key=k]]"},
		{cache.MemoryEvent[string, int]{
			Kind:       cache.MemoryLoaded,
			Key:        "k",
			Err:        cache.ErrNotFound,
			Background: true,
		},
			"[event=load failed=true background=true duration=0s detail=[key=k error=cache: not found]]"},
		{cache.MemoryEvent[string, int]{Kind: cache.MemoryRemoved, Key: "k", Reason: cache.MemoryExpired},
			"[event=removal reason=expired detail=[key=k]]"},
		{
			cache.MemoryEvent[string, int]{Kind: cache.MemoryRefused, Key: "k"},
			"[event=refusal detail=[key=k]]",
		},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, slog.Value(tt.event.LogValue()).String())
	}
}
