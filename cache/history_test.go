package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// An operation on one key, as its caller saw it.
type operation struct {
	kind       string // "set", "delete", "get", "load"
	value      int    // set, or got; 0 if there was none
	found      bool   // by delete
	begin, end time.Duration
	read       time.Duration // by a load, if its own loader ran: what it brings is as old as this
}

func (o operation) String() string {
	return fmt.Sprintf("%s %d %v [%d %d] %d", o.kind, o.value, o.found, o.begin, o.end, o.read)
}

// explained reports whether the operations can have happened one after the other, each between
// its begin and its end. What a loader brought counts from when it read it: a value that was set,
// or a deletion, after that must not be undone by it. While a load is under way a miss is
// possible though its value is there by that reckoning, and whoever waits for it gets its value.
func explained(ops []operation) bool {
	type state struct {
		done  uint32
		value int
	}
	seen := map[state]bool{}
	loading := func(o operation) bool {
		for _, l := range ops {
			if l.read != 0 && l.begin <= o.end && o.begin <= l.end {
				return true
			}
		}
		return false
	}
	loaded := func(o operation) bool { // by another's loader under way
		for _, l := range ops {
			if l.read != 0 && l.value == o.value && l.begin <= o.end && o.begin <= l.end {
				return true
			}
		}
		return false
	}
	end := func(o operation) time.Duration {
		if o.read != 0 {
			return o.read
		}
		return o.end
	}
	var try func(s state) bool
	try = func(s state) bool {
		if s.done == 1<<len(ops)-1 {
			return true
		}
		if seen[s] {
			return false
		}
		seen[s] = true
		least := time.Duration(1 << 62)
		for i, o := range ops {
			if s.done>>i&1 == 0 {
				least = min(least, end(o))
			}
		}
		for i, o := range ops {
			if s.done>>i&1 == 1 || o.begin > least {
				continue
			}
			done := s.done | 1<<i
			switch o.kind {
			case "set":
				if try(state{done, o.value}) {
					return true
				}
			case "delete":
				if (o.found == (s.value != 0) || !o.found && loading(o)) && try(state{done, 0}) {
					return true
				}
			case "get":
				if (o.value == s.value || o.value == 0 && loading(o)) && try(state{done, s.value}) {
					return true
				}
			case "load":
				if o.read != 0 && s.value == 0 && try(state{done, o.value}) {
					return true
				}
				if (o.read != 0 || o.value == s.value || loaded(o)) && try(state{done, s.value}) {
					return true
				}
			}
		}
		return false
	}
	return try(state{})
}

func TestTheCheckerOfHistoriesKnowsRightFromWrong(t *testing.T) {
	load := operation{kind: "load", value: 1, begin: 1, end: 8, read: 2}
	set := operation{kind: "set", value: 2, begin: 3, end: 4}
	remove := operation{kind: "delete", begin: 5, end: 6}
	get := func(v int) operation { return operation{kind: "get", value: v, begin: 9, end: 10} }
	require.True(t, explained([]operation{load, get(1)}))
	require.True(t, explained([]operation{load, set, get(2)}))
	require.False(t, explained([]operation{load, set, get(1)}), "overwritten by the load")
	require.False(t, explained([]operation{set, get(0)}), "lost")
	require.False(t, explained([]operation{load, remove, get(1)}), "brought back")
	require.True(t, explained([]operation{load, remove, get(0)}))
}

// Sets, deletions, reads and loads of one key, of whatever kind of value and entry, while its
// chain and table change: each history is one that a cache without concurrency could have had.
func TestHistoriesAreThoseOfOneAfterTheOther(t *testing.T) {
	t.Run("word", func(t *testing.T) {
		same := func(n int) int { return n }
		histories(t, cache.MemoryConfig[int, int]{}, same, same)
	})
	t.Run("pointer", func(t *testing.T) {
		histories(t, cache.MemoryConfig[int, *int]{Eviction: cache.LRU},
			func(n int) *int { return &n }, func(p *int) int { return *p })
	})
	t.Run("string", func(t *testing.T) {
		cfg := cache.MemoryConfig[int, string]{
			Weigher:   func(int, string) int64 { return 1 },
			MaxWeight: 1 << 30,
		}
		number := func(s string) (n int) { _, _ = fmt.Sscan(s, &n); return n }
		histories(t, cfg, func(n int) string { return fmt.Sprint(n) }, number)
	})
}

func histories[V any](t *testing.T, cfg cache.MemoryConfig[int, V], value func(int) V, number func(V) int) {
	start := time.Now()
	now := func() time.Duration { return time.Since(start) }
	rounds := 3000
	if raceEnabled {
		rounds = 600
	}
	for round := range rounds {
		m := newMemory(t, cfg)
		var wg sync.WaitGroup
		var histories [3][]operation
		wg.Go(func() { // neighbours in the chains
			for k := range 100 {
				m.Set(1+k, value(1))
				if k%3 == 0 {
					m.Delete(1 + k/2)
				}
			}
		})
		for g := range histories {
			random := rand.New(rand.NewPCG(uint64(round), uint64(g)))
			wg.Go(func() {
				for i := range 5 {
					o := operation{value: 1000*g + i + 1, begin: now()}
					switch random.IntN(7) {
					case 0, 1:
						o.kind = "set"
						m.Set(0, value(o.value))
					case 2:
						o.kind = "set"
						m.SetItem(0, cache.MemoryItem[V]{Value: value(o.value), TTL: time.Hour})
					case 3:
						o.kind = "delete"
						o.found = m.Delete(0)
					case 4:
						o.kind = "get"
						v, ok := m.Get(0)
						if o.value = 0; ok {
							o.value = number(v)
						}
					default:
						o.kind = "load"
						var read time.Duration
						mine := o.value
						v, err := m.Load(context.Background(), 0, func(context.Context, int) (V, error) {
							read = now()
							for range random.IntN(4) {
								runtime.Gosched()
							}
							return value(mine), nil
						})
						if err != nil {
							panic(err)
						}
						if o.value = number(v); o.value == mine {
							o.read = read
						}
					}
					o.end = now()
					histories[g] = append(histories[g], o)
				}
			})
		}
		wg.Wait()
		var all []operation
		for _, h := range histories {
			all = append(all, h...)
		}
		last := operation{kind: "get", begin: now()}
		if v, ok := m.Get(0); ok {
			last.value = number(v)
		}
		last.end = now()
		all = append(all, last)
		require.True(t, explained(all), "%v", all)
	}
}
