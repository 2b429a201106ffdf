package cache_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strings"
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

// A bound of which a quarter is less than the least weight still holds an entry.
func TestTheLeastMaxWeightHoldsAnEntry(t *testing.T) {
	for most := int64(1); most <= 8; most++ {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			MaxWeight: most, Weigher: func(_ string, v int) int64 { return int64(v) },
		})
		heaviest := max(1, int(most/4))
		require.True(t, m.Set("k", heaviest), most)
		require.False(t, m.Set("k", heaviest+1), most)
	}
}
