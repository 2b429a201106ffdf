package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A call that begins between two invalidations of a load under way gets a newer value. What the
// latest invalidation tells is not enough: that one is newer than the call.
func TestC73_ALoadBetweenTwoInvalidationsOfALoadUnderWayGetsANewerValue(t *testing.T) {
	two := func(string, int) []string { return []string{"t", "u"} }
	both := []cache.Invalidation{cache.Hard, cache.Soft}
	for _, first := range both {
		for _, second := range both {
			for _, tags := range [][2]string{{"t", "t"}, {"t", "u"}, {"u", "t"}} {
				for _, many := range []bool{false, true} {
					for _, flood := range []int{0, 10_000} {
						name := fmt.Sprint(first, ", ", second, tags, many, flood)
						t.Run(name, func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								m := newMemory(t, cache.MemoryConfig[string, int]{Tags: two})
								s := source{takes: time.Second}
								early, late := make(chan int, 1), make(chan int, 1)
								go func() { early <- loadOne(m, s.load, many) }()
								synctest.Wait()
								m.InvalidateTag(tags[0], first)
								go func() { late <- loadOne(m, s.load, !many) }()
								synctest.Wait()
								for i := range flood { // until the tags are forgotten
									m.InvalidateTag(fmt.Sprint("flood-", i), cache.Hard)
								}
								m.InvalidateTag(tags[1], second)
								require.Equal(t, 1, <-early)
								require.Equal(t, 2, <-late)
							})
						})
					}
				}
			}
		}
	}
}

// loadOne returns the value of "k", by Load or by LoadMany; 0 if there was an error.
func loadOne(
	m *cache.Memory[string, int], load func(context.Context, string) (int, error), many bool,
) int {
	if !many {
		v, err := m.Load(context.Background(), "k", load)
		if err != nil {
			return 0
		}
		return v
	}
	found, err := m.LoadMany(context.Background(), []string{"k"},
		func(ctx context.Context, keys []string) (map[string]int, error) {
			v, err := load(ctx, keys[0])
			if err != nil {
				return nil, err
			}
			return map[string]int{keys[0]: v}, nil
		})
	if err != nil {
		return 0
	}
	return found["k"]
}

// Nor does a call load again without need: what it waits for was not invalidated before it came.
func TestC73_ALoadBeforeTheInvalidationSharesWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{Tags: tagged})
		m.InvalidateTag("t", cache.Hard)
		m.InvalidateTag("t", cache.Soft)
		s := source{takes: time.Second}
		got := make(chan int, 2)
		go func() { got <- loadOne(m, s.load, false) }()
		synctest.Wait()
		m.InvalidateTag("another", cache.Hard)
		go func() { got <- loadOne(m, s.load, true) }()
		synctest.Wait()
		m.InvalidateTag("t", cache.Hard)
		require.Equal(t, 1, <-got)
		require.Equal(t, 1, <-got)
		require.Equal(t, int64(1), s.calls.Load())
	})
}

// A caller does not look again for ever, however many invalidations come while it waits: the load
// that it starts, or finds started after it came, is the one that it returns.
func TestC73_ACallerLooksAgainOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{Tags: tagged})
		s := source{takes: time.Second}
		got := make(chan int, 2)
		go func() { got <- loadOne(m, s.load, false) }()
		synctest.Wait()
		m.InvalidateTag("t", cache.Hard)
		start := time.Now()
		go func() { got <- loadOne(m, s.load, true) }()
		go func() { // others begin loads all the while
			for range 100 {
				time.Sleep(time.Second / 10)
				m.InvalidateTag("t", cache.Hard)
				go loadOne(m, s.load, false)
			}
		}()
		require.Equal(t, 1, <-got)
		require.Equal(t, 2, <-got)
		require.Equal(t, 2*time.Second, time.Since(start))
		time.Sleep(time.Minute)
	})
}

// Histories of concurrent calls in which invalidations are frequent, of values that have several
// tags: what a call returns was read after each invalidation that had returned before the call.
// So it is if some loads fail and an older value is there for that (hard invalidations).
func TestC73_HistoriesWithFrequentInvalidations(t *testing.T) {
	broken := errors.New("broken")
	for _, failing := range []bool{false, true} {
		cfg := cache.MemoryConfig[int, int64]{Tags: func(k int, _ int64) []string {
			return []string{"all", fmt.Sprint("tag-", k%2)}
		}}
		if failing {
			cfg.StaleIfError = time.Hour
		}
		m := newMemory(t, cfg)
		var database atomic.Int64
		var invalidated [2]atomic.Int64 // by tag: reading of database
		raise := func(a *atomic.Int64, v int64) {
			for old := a.Load(); old < v && !a.CompareAndSwap(old, v); old = a.Load() {
			}
		}
		rounds := 6000
		if raceEnabled {
			rounds = 1500
		}
		done := make(chan struct{})
		var writers, readers sync.WaitGroup
		for g := range 2 {
			random := rand.New(rand.NewPCG(1, uint64(g)))
			writers.Go(func() {
				for range rounds {
					how := cache.Hard
					if !failing && random.IntN(2) == 0 {
						how = cache.Soft
					}
					v := database.Add(1)
					switch tag := random.IntN(3); tag {
					case 2:
						m.InvalidateTag("all", how)
						raise(&invalidated[0], v)
						raise(&invalidated[1], v)
					default:
						m.InvalidateTag(fmt.Sprint("tag-", tag), how)
						raise(&invalidated[tag], v)
					}
					for range random.IntN(4) {
						runtime.Gosched()
					}
				}
			})
		}
		for g := range 4 {
			random := rand.New(rand.NewPCG(2, uint64(g)))
			read := func() (int64, error) {
				v := database.Load()
				for range random.IntN(20) {
					runtime.Gosched()
				}
				if failing && random.IntN(4) == 0 {
					return 0, broken
				}
				return v, nil
			}
			readers.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					k := random.IntN(4)
					least := [2]int64{invalidated[0].Load(), invalidated[1].Load()}
					got := map[int]int64{}
					var err error
					if random.IntN(2) == 0 {
						one := func(context.Context, int) (int64, error) { return read() }
						got[k], err = m.Load(context.Background(), k, one)
					} else {
						got, err = m.LoadMany(context.Background(), []int{k, (k + 1) % 4},
							func(_ context.Context, keys []int) (map[int]int64, error) {
								v, err := read()
								if err != nil {
									return nil, err
								}
								found := map[int]int64{}
								for _, key := range keys {
									found[key] = v
								}
								return found, nil
							})
					}
					if err != nil {
						if !failing || !errors.Is(err, broken) {
							panic(err)
						}
						continue
					}
					for key, v := range got {
						if v < least[key%2] {
							panic(fmt.Sprint("got ", v, ", but ", least[key%2], " was invalidated before"))
						}
					}
				}
			})
		}
		writers.Wait()
		close(done)
		readers.Wait()
	}
}

// A value is stale since the first soft invalidation that it saw: repeated ones do not prolong
// that, whether or not somebody looked between them.
func TestSoftInvalidationsCountFromTheFirstThatAValueSaw(t *testing.T) {
	for _, older := range []bool{false, true} { // than the first of three invalidations
		for _, seen := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, cache.MemoryConfig[string, int]{StaleIfError: time.Hour})
				tagged := cache.MemoryItem[int]{Value: 7, Tags: []string{"t"}}
				m.SetItem("other", tagged)
				if older {
					m.SetItem("k", tagged)
				}
				m.InvalidateTag("t", cache.Soft)
				if !older {
					time.Sleep(time.Minute)
					m.SetItem("k", tagged)
					m.InvalidateTag("t", cache.Soft)
				}
				fail := func(context.Context, string) (int, error) { return 0, errors.New("broken") }
				if seen || !older { // the second is all that tells of the first otherwise
					require.Equal(t, 7, loadOne(m, fail, false))
				}
				time.Sleep(20 * time.Minute)
				m.InvalidateTag("t", cache.Soft)
				time.Sleep(40*time.Minute - 1)
				require.Equal(t, 7, loadOne(m, fail, false))
				time.Sleep(time.Nanosecond)
				require.Zero(t, loadOne(m, fail, false))
			})
		}
	}
}

// An invalidation just before a load began is none of what it brings: a caller that came after it,
// and before the next one, gets that.
func TestAnInvalidationBeforeALoadDoesNotRepeatIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, cache.MemoryConfig[string, int]{
			Tags: func(string, int) []string { return []string{"t"} },
		})
		m.Set("other", 1) // so that the tag is remembered
		m.InvalidateTag("t", cache.Hard)
		s := source{takes: time.Second}
		got := make(chan int, 2)
		go func() { got <- loadOne(m, s.load, false) }()
		synctest.Wait()
		m.InvalidateTag("another", cache.Hard)
		go func() { got <- loadOne(m, s.load, true) }()
		synctest.Wait()
		m.InvalidateTag("t", cache.Hard)
		require.Equal(t, 1, <-got)
		require.Equal(t, 1, <-got)
		require.EqualValues(t, 1, s.calls.Load())
	})
}
