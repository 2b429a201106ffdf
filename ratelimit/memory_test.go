package ratelimit_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/ratelimit"
)

func newMemory(t testing.TB, maxKeys int) *ratelimit.MemoryStore {
	t.Helper()
	m, err := ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: maxKeys})
	require.NoError(t, err)
	return m
}

func allow(t testing.TB, l *ratelimit.Limiter, keys ...string) bool {
	t.Helper()
	d, err := l.TakeKeys(context.Background(), keys)
	require.NoError(t, err)
	return d.Allowed
}

func TestMemoryStoreConfig(t *testing.T) {
	_, err := ratelimit.NewMemoryStore(ratelimit.MemoryStoreConfig{MaxKeys: -1})
	require.EqualError(t, err, "ratelimit: MemoryStoreConfig.MaxKeys: -1 is negative")
	for _, n := range []int{1, 2, 9, 10, 11, 1000} {
		limiterOn(t, newMemory(t, n), policyOf("p", ratelimit.PerHour(1)))
	}
}

// TestR07_NobodyEvictsHisOwnDebt: a debtor makes up keys until his own is gone, and comes back.
func TestR07_NobodyEvictsHisOwnDebt(t *testing.T) {
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		t.Run("algorithm="+string(algorithm), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := policyOf("p", ratelimit.PerHour(3))
				p.Algorithm = algorithm
				if algorithm == ratelimit.GCRA {
					p.Rate.Burst = 3
				}
				store := newMemory(t, 20)
				l := limiterOn(t, store, p)
				time.Sleep(time.Hour / 2)
				for range 3 {
					require.True(t, allow(t, l, "debtor"))
				}
				require.False(t, allow(t, l, "debtor"))
				for i := range 10_000 {
					for allow(t, l, fmt.Sprint("made up ", i)) { // into as much debt as the debtor's
					}
					require.False(t, allow(t, l, "debtor"), "after %d keys", i)
				}
				require.Zero(t, l.Stats().Memory.Displaced, "whoever comes has nothing left")
				time.Sleep(50 * time.Minute) // most of the debts are paid
				for i := range 100 {
					allow(t, l, fmt.Sprint("later ", i))
				}
				require.Positive(t, l.Stats().Memory.Displaced, "counted")
				time.Sleep(2 * time.Hour)
				require.True(t, allow(t, l, "debtor"), "debts are paid by time")
			})
		})
	}
}

// TestR07_LastWindowsDebtsAreInherited: what was counted in the window before is owed too, as long
// as the sliding one covers it.
func TestR07_LastWindowsDebtsAreInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf("p", ratelimit.PerHour(10))
		p.Algorithm, p.Rate.Burst = ratelimit.SlidingWindow, 0
		l := limiterOn(t, newMemory(t, 1), p) // one set of seven
		time.Sleep(59 * time.Minute)
		for i := range 7 {
			for range 10 {
				require.True(t, allow(t, l, fmt.Sprint(i)))
			}
		}
		time.Sleep(2 * time.Minute)
		d, err := l.TakeKeys(t.Context(), []string{"newcomer"})
		require.NoError(t, err)
		require.False(t, d.Allowed)
		for i := range 7 {
			require.False(t, allow(t, l, fmt.Sprint(i)), "nobody's debt is forgotten")
		}
	})
}

// TestR07_NewcomersAreToldTheTruth: who finds everybody else deep in debt is told how long that
// lasts, and has a place then.
func TestR07_NewcomersAreToldTheTruth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf("p", ratelimit.PerHour(1).WithBurst(1))
		p.Key = func(r *http.Request) (string, bool) { return r.Host, true }
		p.RateFor = func(r *http.Request) ratelimit.Rate {
			if r.Host == "fast" {
				return ratelimit.PerSecond(100).WithBurst(10)
			}
			return ratelimit.Rate{}
		}
		l := limiterOn(t, newMemory(t, 1), p) // one set
		ask := func(host string) ratelimit.Decision {
			d, err := l.Take(t.Context(), &http.Request{Host: host})
			require.NoError(t, err)
			return d
		}
		time.Sleep(time.Second)
		for i := range 7 {
			require.True(t, ask(fmt.Sprint("slow ", i)).Allowed)
		}
		d := ask("fast")
		require.False(t, d.Allowed)
		time.Sleep(d.RetryAfter - 1)
		require.False(t, ask("fast").Allowed)
		time.Sleep(time.Nanosecond)
		require.True(t, ask("fast").Allowed, "after %v", d.RetryAfter)
	})
}

func TestMemoryStoreRetainsWhatItShall(t *testing.T) {
	store := newMemory(t, 1000)
	limiter := func(name string) *ratelimit.Limiter {
		l, err := ratelimit.New(ratelimit.Config{Store: store, Policies: []ratelimit.Policy{{
			Name: name, Rate: ratelimit.PerHour(1).WithBurst(1),
			Key: ratelimit.ByPeer, Missing: ratelimit.MissingReject,
		}}})
		require.NoError(t, err)
		return l
	}
	a, b := limiter("a"), limiter("b")
	require.True(t, allow(t, a, "k"))
	require.True(t, allow(t, b, "k"))
	bytes := store.Stats().Bytes
	store.Retain("a", "none")
	require.Equal(t, bytes/2, store.Stats().Bytes)
	require.False(t, allow(t, b, "k"), "a limiter goes on with what it has")
	require.False(t, allow(t, limiter("a"), "k"))
	require.True(t, allow(t, limiter("b"), "k"))
}

// TestR08_StepsOfTheWallClock: only the monotonic clock counts.
func TestR08_StepsOfTheWallClock(t *testing.T) {
	store := newMemory(t, 10)
	require.NotEqual(
		t, store.Base(), store.Base().Round(0),
		"the base keeps its monotonic reading, so time.Since does not see the wall clock",
	)
	synctest.Test(t, func(t *testing.T) {
		l := limiterOf(t, policyOf("p", ratelimit.PerMinute(1)))
		require.True(t, allow(t, l, "a"))
		require.False(t, allow(t, l, "a"))
		time.Sleep(time.Minute - 1)
		require.False(t, allow(t, l, "a"))
		time.Sleep(time.Nanosecond)
		require.True(t, allow(t, l, "a"))
	})
}

// TestR12_LastToken: 64 goroutines and one token left.
func TestR12_LastToken(t *testing.T) {
	for _, algorithm := range []ratelimit.Algorithm{ratelimit.GCRA, ratelimit.SlidingWindow} {
		for range 50 {
			const limit = 65
			p := policyOf("p", ratelimit.PerDay(limit))
			other := policyOf("other", ratelimit.PerDay(1000).WithBurst(1000))
			if p.Algorithm = algorithm; algorithm == ratelimit.GCRA {
				p.Rate.Burst = limit
			}
			l := limiterOn(t, newMemory(t, 100), p, other)
			for range limit - 1 {
				require.True(t, allow(t, l, "a", "b"))
			}
			var admitted atomic.Int64
			var start, done sync.WaitGroup
			start.Add(1)
			for range 64 {
				done.Go(func() {
					start.Wait()
					if d, err := l.TakeKeys(t.Context(), []string{"a", "b"}); err == nil && d.Allowed {
						admitted.Add(1)
					}
				})
			}
			start.Done()
			done.Wait()
			require.EqualValues(t, 1, admitted.Load())
			require.EqualValues(t, limit, l.Stats().Admitted)
		}
	}
}

// TestLimitersShareAStore: by the names of their policies, and whatever the order in which they
// lock.
func TestLimitersShareAStore(t *testing.T) {
	store := newMemory(t, 100)
	wide := ratelimit.PerDay(1000).WithBurst(1000)
	a, b := policyOf("a", wide), policyOf("b", wide)
	one := limiterOn(t, store, a, b)
	two := limiterOn(t, store, b, a)
	var wg sync.WaitGroup
	for range 4 {
		for _, l := range []*ratelimit.Limiter{one, two} {
			wg.Go(func() {
				for range 20_000 {
					if _, err := l.TakeKeys(t.Context(), []string{"k", "k"}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	require.EqualValues(t, 1000, one.Stats().Admitted+two.Stats().Admitted)

	a.Algorithm, a.Rate.Burst = ratelimit.SlidingWindow, 0
	_, err := ratelimit.New(ratelimit.Config{Store: store, Policies: []ratelimit.Policy{a}})
	require.ErrorContains(t, err, `ratelimit: Config.Store: the store counts policy "a" in another way`)
}
