package cache_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/cache"
)

func tagged(string, int) []string { return []string{"t"} }

// Nobody purges without saying how: the zero Invalidation is none.
func TestAnInvalidationThatIsNeitherSoftNorHardDoesNothing(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[string, int]{Tags: tagged})
	m.Set("k", 1)
	var zero cache.Invalidation
	for _, how := range []cache.Invalidation{zero, -1, 3} {
		require.False(t, m.InvalidateTag("t", how))
		_, ok := m.Get("k")
		require.True(t, ok, int(how))
	}
	require.True(t, m.InvalidateTag("t", cache.Soft))
	_, ok := m.Get("k")
	require.False(t, ok)
	m.Set("k", 1)
	require.True(t, m.InvalidateTag("t", cache.Hard))
	_, ok = m.Get("k")
	require.False(t, ok)
}

// A load is under way while its key or its tag is invalidated: what it brings is older.
func TestC45_ALoadUnderWayDoesNotBringBackWhatWasInvalidated(t *testing.T) {
	type memory = *cache.Memory[string, int]
	tests := []struct {
		name       string
		cfg        cache.MemoryConfig[string, int]
		before     func(memory) // the load
		invalidate func(memory)
		want       int // what Get finds then; 0 is nothing
		old        int // what the load's own caller gets
	}{
		{"Set", cache.MemoryConfig[string, int]{}, nil, func(m memory) { m.Set("k", 9) }, 9, 1},
		{"SetItem", cache.MemoryConfig[string, int]{}, nil, func(m memory) {
			m.SetItem("k", cache.MemoryItem[int]{Value: 9, TTL: time.Hour})
		}, 9, 1},
		{"Delete", cache.MemoryConfig[string, int]{}, nil, func(m memory) { m.Delete("k") }, 0, 1},
		{"Clear", cache.MemoryConfig[string, int]{}, nil, func(m memory) { m.Clear() }, 0, 1},
		{"tag", cache.MemoryConfig[string, int]{Tags: tagged}, nil, func(m memory) {
			m.InvalidateTag("t", cache.Hard)
		}, 0, 1},
		{"tag softly", cache.MemoryConfig[string, int]{Tags: tagged}, nil, func(m memory) {
			m.InvalidateTag("t", cache.Soft)
		}, 0, 1},
		{"tag softly, with stale", cache.MemoryConfig[string, int]{
			Tags:  tagged,
			Stale: time.Hour,
		}, nil, func(m memory) {
			m.InvalidateTag("t", cache.Soft)
		}, 0, 1},
		{"tag that others have", cache.MemoryConfig[string, int]{Tags: tagged}, func(m memory) {
			m.Set("other", 1)
		},
			func(m memory) { m.InvalidateTag("t", cache.Hard) }, 0, 1},
		{"tag whose last entry leaves", cache.MemoryConfig[string, int]{Tags: tagged}, func(m memory) {
			m.Set("other", 1)
		},
			func(m memory) { m.InvalidateTag("t", cache.Hard); m.Delete("other") }, 0, 1},
		{"tag among a flood of tags", cache.MemoryConfig[string, int]{Tags: tagged}, nil, func(m memory) {
			m.InvalidateTag("t", cache.Hard)
			for i := range 10_000 {
				m.InvalidateTag(fmt.Sprint("flood-", i), cache.Hard)
			}
		}, 0, 1},
		{"another tag", cache.MemoryConfig[string, int]{Tags: tagged}, nil, func(m memory) {
			m.InvalidateTag("u", cache.Hard)
		}, 1, 1},
		{"tag before the load", cache.MemoryConfig[string, int]{Tags: tagged}, func(m memory) {
			m.InvalidateTag("t", cache.Hard)
		}, func(memory) {}, 1, 1},
	}
	for _, tt := range tests {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", many=", many), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMemory(t, tt.cfg)
					if tt.before != nil {
						tt.before(m)
					}
					release := make(chan struct{})
					got := make(chan int)
					go func() {
						var v int
						var err error
						if many {
							var found map[string]int
							found, err = m.LoadMany(t.Context(), []string{"k", "l"},
								func(context.Context, []string) (map[string]int, error) {
									<-release
									return map[string]int{"k": 1, "l": 1}, nil
								})
							v = found["k"]
						} else {
							v, err = m.Load(t.Context(), "k", func(context.Context, string) (int, error) {
								<-release
								return 1, nil
							})
						}
						require.NoError(t, err)
						got <- v
					}()
					synctest.Wait()
					tt.invalidate(m)
					close(release)
					require.Equal(t, tt.old, <-got)
					v, ok := m.Get("k")
					require.Equal(t, tt.want != 0, ok)
					require.Equal(t, tt.want, v)
				})
			})
		}
	}
}

// Who asks after the invalidation must not get what was loaded before it, though
// it finds that load under way and cannot know the tags yet.
func TestC45_WhoComesAfterAnInvalidationGetsANewerValue(t *testing.T) {
	for i, how := range []cache.Invalidation{cache.Hard, cache.Soft, cache.Hard} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(t, cache.MemoryConfig[string, int]{Tags: tagged})
			s := source{takes: time.Second}
			var wg sync.WaitGroup
			load := func(want int) {
				wg.Go(func() {
					v, err := m.Load(t.Context(), "k", s.load)
					if v != want || err != nil {
						panic(fmt.Sprint(v, err, " want ", want))
					}
				})
				synctest.Wait()
			}
			load(1)
			m.InvalidateTag("t", how)
			for j := range i / 2 * 10_000 { // until t is forgotten
				m.InvalidateTag(fmt.Sprint("flood-", j), cache.Hard)
			}
			load(2)
			got := make(chan map[string]int)
			go func() {
				found, _ := m.LoadMany(t.Context(), []string{"k"},
					func(ctx context.Context, _ []string) (map[string]int, error) {
						v, err := s.load(ctx, "k")
						if err != nil {
							return nil, err
						}
						return map[string]int{"k": v}, nil
					})
				got <- found
			}()
			wg.Wait()
			require.Equal(t, map[string]int{"k": 2}, <-got)
			require.Equal(t, int64(2), s.calls.Load())
		})
	}
}

// The same against a clock of writes, with real goroutines: what Load returns is never older
// than an invalidation that had returned before Load was called.
func TestC45_LoadsNeverReturnWhatWasInvalidatedBeforeThem(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[string, int64]{Tags: func(string, int64) []string {
		return []string{"t"}
	}})
	var database, invalidated atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for i := range int64(5000) {
			database.Store(i)
			m.InvalidateTag("t", cache.Soft+cache.Invalidation(i%2))
			invalidated.Store(i)
		}
	})
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				least := invalidated.Load()
				v, err := m.Load(context.Background(), "k", func(context.Context, string) (int64, error) {
					return database.Load(), nil
				})
				if v < least || err != nil {
					panic(fmt.Sprint("got ", v, err, ", but ", least, " was invalidated before"))
				}
			}
		})
	}
	wg.Wait()
}

func TestSoftInvalidationEndsTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{Tags: tagged, Stale: time.Minute})
		s := source{takes: time.Second}
		m.Set("k", -1)
		m.InvalidateTag("t", cache.Soft)
		_, ok := m.Get("k")
		require.False(t, ok)
		time.Sleep(59 * time.Second)
		v, err := m.Load(t.Context(), "k", s.load)
		require.NoError(t, err)
		require.Equal(t, -1, v, "stale")
		time.Sleep(2 * time.Second)
		v, ok = m.Get("k")
		require.True(t, ok)
		require.Equal(t, 1, v, "refreshed")

		m.InvalidateTag("t", cache.Soft)
		time.Sleep(time.Minute)
		v, err = m.Load(t.Context(), "k", s.load)
		require.NoError(t, err)
		require.Equal(t, 2, v, "beyond stale")
	})
}

func TestRepeatedSoftInvalidationsDoNotProlongTheStaleTime(t *testing.T) {
	for _, read := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(t, cache.MemoryConfig[string, int]{Tags: tagged, StaleIfError: time.Minute})
			s := source{}
			s.fail(cache.ErrNotFound)
			m.Set("k", 1)
			for i := range 10 {
				m.InvalidateTag("t", cache.Soft)
				if read || i == 9 {
					_, err := m.Load(t.Context(), "k", s.load)
					require.Equal(t, i < 3, err == nil, i) // at 0, 20 and 40 seconds
				}
				time.Sleep(20 * time.Second)
			}
		})
	}
}

// With several tags the earliest soft invalidation counts, and any hard one.
func TestSeveralTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{Stale: time.Minute})
		s := source{takes: time.Second}
		m.SetItem("k", cache.MemoryItem[int]{Value: -1, Tags: []string{"a", "b"}})
		m.InvalidateTag("b", cache.Soft)
		time.Sleep(40 * time.Second)
		m.InvalidateTag("a", cache.Soft)
		time.Sleep(20 * time.Second)
		v, err := m.Load(t.Context(), "k", s.load)
		require.NoError(t, err)
		require.Equal(t, 1, v, "a minute after the first")

		for _, tag := range []string{"a", "b"} {
			m.SetItem("k", cache.MemoryItem[int]{Value: -1, Tags: []string{"a", "b"}})
			m.InvalidateTag(tag, cache.Hard)
			v, err = m.Load(t.Context(), "k", s.load)
			require.NoError(t, err)
			require.Positive(t, v)
		}
	})
}

func TestInvalidationTakesTheSameTimeHoweverManyEntries(t *testing.T) {
	allocs := func(entries int) int64 {
		m := newMemory(t, cache.MemoryConfig[int, int]{MaxEntries: entries})
		for k := range entries {
			m.SetItem(k, cache.MemoryItem[int]{Value: k, Tags: []string{"all"}})
		}
		n, _ := allocated(func() {
			attributed(func() {
				for range 10 {
					m.InvalidateTag("all", cache.Hard)
				}
			})
		})
		_, ok := m.Get(entries / 2)
		require.False(t, ok)
		require.Equal(t, entries, m.Stats().Entries, "it looked at none of them")
		for range m.All() {
			t.Fatal("all are gone")
		}
		return n
	}
	require.Equal(t, allocs(10), allocs(20_000))
}

func TestInvalidatedEntriesAreReplacedAsSuch(t *testing.T) {
	m := newMemory(t, cache.MemoryConfig[string, int]{Tags: tagged})
	m.Set("k", 1)
	m.InvalidateTag("t", cache.Hard)
	require.False(t, m.Delete("l"))
	m.Set("k", 2)
	require.Equal(t, uint64(1), m.Stats().Removals["invalidated"])
	v, ok := m.Get("k")
	require.True(t, ok)
	require.Equal(t, 2, v)
}

// Invalidations, loads and time in any order, against a naive model.
func TestTagsAndStalenessBehaveLikeTheModel(t *testing.T) {
	const ttl, stale = 50 * time.Second, 30 * time.Second
	type item struct {
		value int
		since time.Time   // set
		ended []time.Time // soft invalidations since
		gone  bool        // by a hard one
	}
	synctest.Test(t, func(t *testing.T) {
		inBubble := struct{ testing.TB }{t}
		rapid.Check(inBubble, func(rt *rapid.T) {
			m := newMemory(t, cache.MemoryConfig[int, int]{
				TTL: func(int, int) time.Duration { return ttl }, StaleIfError: stale,
				Tags: func(k, _ int) []string {
					return []string{fmt.Sprint(k % 2), fmt.Sprint("third-", k%3)}
				},
			})
			items := map[int]*item{}
			key := rapid.IntRange(0, 8)
			values := 0
			rt.Repeat(map[string]func(*rapid.T){
				"set": func(rt *rapid.T) {
					values++
					k := key.Draw(rt, "key")
					m.Set(k, values)
					items[k] = &item{value: values, since: time.Now()}
				},
				"invalidate": func(rt *rapid.T) {
					k := rapid.IntRange(0, 1).Draw(rt, "tag")
					how := rapid.SampledFrom([]cache.Invalidation{cache.Hard, cache.Soft}).Draw(rt, "how")
					third := rapid.Bool().Draw(rt, "third")
					name, mod := fmt.Sprint(k), 2
					if third {
						name, mod = fmt.Sprint("third-", k), 3
					}
					m.InvalidateTag(name, how)
					for other, it := range items {
						if other%mod != k {
							continue
						}
						if how == cache.Hard {
							it.gone = true
						} else {
							it.ended = append(it.ended, time.Now())
						}
					}
				},
				"time passes": func(rt *rapid.T) {
					time.Sleep(time.Duration(rapid.IntRange(1, 40).Draw(rt, "s")) * time.Second)
				},
				"load fails": func(rt *rapid.T) {
					k := key.Draw(rt, "key")
					v, err := m.Load(context.Background(), k, func(context.Context, int) (int, error) {
						return 0, cache.ErrNotFound
					})
					it := items[k]
					if err == nil {
						require.NotNil(rt, it)
						require.False(rt, it.gone)
						require.Equal(rt, it.value, v)
						// The latest time at which its stale time can have begun.
						end := it.since.Add(ttl)
						if len(it.ended) > 0 && it.ended[len(it.ended)-1].Before(end) {
							end = it.ended[len(it.ended)-1]
						}
						require.Less(rt, time.Since(end), stale)
						if len(it.ended) > 0 {
							require.Less(rt, time.Since(it.ended[0]), 2*stale)
						}
						return
					}
					if it != nil && !it.gone {
						end := it.since.Add(ttl)
						if len(it.ended) > 0 && it.ended[0].Before(end) {
							end = it.ended[0]
						}
						require.GreaterOrEqual(rt, time.Since(end), stale, "it could have been had")
					}
				},
				"": func(rt *rapid.T) {
					for k := range 9 {
						v, ok := m.Get(k)
						it := items[k]
						fresh := it != nil && !it.gone && len(it.ended) == 0 && time.Since(it.since) < ttl
						require.Equal(rt, fresh, ok)
						if ok {
							require.Equal(rt, it.value, v)
						}
					}
				},
			})
		})
	})
}
