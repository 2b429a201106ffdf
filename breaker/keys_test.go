package breaker_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/breaker"
)

func TestForget(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	b.Forget("nobody")
	trip(t, b, "a")
	early, err := b.Acquire(t.Context(), "b")
	require.NoError(t, err)
	b.Forget("a")
	b.Forget("b")
	require.Empty(t, b.Stats().Keys)
	early(breaker.Failure)
	require.True(t, ask(b, "a", breaker.Success))
	require.Equal(t, breaker.Closed, stateOf(b, "a"))
}

// TestB10: each key has a state of its own, in bounded memory.
func TestB10_OneKeyDoesNotOpenAnother(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	trip(t, b, "bad")
	for i := range 100 {
		require.True(t, ask(b, fmt.Sprint("good ", i), breaker.Success))
	}
	require.Equal(t, 1, b.Stats().Open)
	require.Len(t, b.Stats().Keys, 101)
}

func TestB10_KeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 10})
		trip(t, b, "bad")
		busy, err := b.Acquire(t.Context(), "busy")
		require.NoError(t, err)
		for i := range 10_000 {
			require.True(t, ask(b, fmt.Sprint(i), breaker.Neutral))
		}
		s := b.Stats()
		require.Len(t, s.Keys, 10)
		require.EqualValues(t, 10_000-8, s.Overflowed)
		require.Equal(t, breaker.Open, s.Keys["bad"].State)

		trip(t, b, "newcomer")
		require.False(t, ask(b, "another", breaker.Success), "they share one state")
		require.Equal(t, breaker.Open, b.Stats().Shared.State)
		require.NotContains(t, b.Stats().Keys, "newcomer")
		require.False(t, ask(b, "bad", breaker.Success))
		require.True(t, ask(b, "7", breaker.Success), "whoever has a state keeps it")

		// Idle and closed ones make room, after two looks at least a window apart.
		for range 25 {
			time.Sleep(time.Second)
			ask(b, "7", breaker.Success)
			ask(b, "newcomer", breaker.Success)
		}
		s = b.Stats()
		require.Contains(t, s.Keys, "newcomer")
		require.Contains(t, s.Keys, "bad", "an open one is not forgotten for a new key")
		require.Contains(t, s.Keys, "busy", "nor one with a request in flight")
		require.Contains(t, s.Keys, "7", "nor one in use")
		require.NotContains(t, s.Keys, "3")
		require.Less(t, len(s.Keys), 10)
		busy(breaker.Failure)
	})
}

// An open key that nobody asks for any more gives up its place after an hour: hosts that died would
// fill the table.
func TestAbandonedKeysAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 3})
		trip(t, b, "open")
		b.Isolate("isolated")
		trip(t, b, "probed")
		time.Sleep(5 * time.Second)
		ask(b, "probed", breaker.Neutral)
		for ; time.Since(b.Base()) < breaker.Abandoned; time.Sleep(time.Minute) {
			require.True(t, ask(b, "new", breaker.Success))
			require.Len(t, b.Stats().Keys, 3)
			require.NotContains(t, b.Stats().Keys, "new")
		}
		time.Sleep(time.Minute)
		require.True(t, ask(b, "new", breaker.Success))
		require.Equal(t, map[string]breaker.KeyStats{
			"isolated": {State: breaker.Isolated}, "new": {State: breaker.Closed, Share: 1},
		}, b.Stats().Keys)
	})
}

// Nor do requests whose end is lost, such as a body that nobody closes, keep a key for ever.
func TestKeysWithLostRequestsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 2})
		lost, err := b.Acquire(t.Context(), "lost")
		require.NoError(t, err)
		_, err = b.Acquire(t.Context(), "used")
		require.NoError(t, err)
		for ; time.Since(b.Base()) < breaker.Abandoned; time.Sleep(time.Minute) {
			require.True(t, ask(b, "new", breaker.Success))
			require.True(t, ask(b, "used", breaker.Success))
			require.NotContains(t, b.Stats().Keys, "new")
		}
		for range 2 {
			require.True(t, ask(b, "new", breaker.Success))
			time.Sleep(time.Minute)
		}
		keys := b.Stats().Keys
		require.Contains(t, keys, "new")
		require.NotContains(t, keys, "lost")
		require.Contains(t, keys, "used", "others of its requests do end")
		lost(breaker.Failure)
		require.Equal(t, keys, b.Stats().Keys)
	})
}

// A request that has just begun is not lost, however long nobody asked before.
func TestKeysWithNewRequestsAreNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 1})
		require.True(t, ask(b, "a", breaker.Neutral))
		require.True(t, ask(b, "new", breaker.Success)) // a sweep finds it unused
		time.Sleep(2 * breaker.Abandoned)
		_, err := b.Acquire(t.Context(), "a")
		require.NoError(t, err)
		require.True(t, ask(b, "new", breaker.Success))
		require.Contains(t, b.Stats().Keys, "a")
	})
}

// A key is not forgotten while its next opening would still be a longer one.
func TestTheSeriesOutlivesIdleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 1, OpenFor: time.Minute, MaxOpen: time.Hour})
		trip(t, b, "a")
		time.Sleep(time.Minute)
		require.True(t, ask(b, "a", breaker.Success))
		for range 110 { // a minute of ramp, and a minute until it is calm
			time.Sleep(time.Second)
			ask(b, "b", breaker.Success)
		}
		require.Contains(t, b.Stats().Keys, "a")
		trip(t, b, "a")
		require.Equal(t, 2*time.Minute, waitOf(t, b, "a"))
		time.Sleep(2 * time.Minute)
		require.True(t, ask(b, "a", breaker.Success))
		for range 300 {
			time.Sleep(time.Second)
			ask(b, "b", breaker.Success)
		}
		require.Contains(t, b.Stats().Keys, "b", "a has ramped up, unseen, and is calm")
	})
}

func TestIsolatedKeysStandOnTop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{MaxKeys: 2})
		ask(b, "a", breaker.Success)
		ask(b, "b", breaker.Success)
		b.Isolate("c")
		b.Isolate("d")
		require.False(t, ask(b, "c", breaker.Success))
		require.False(t, ask(b, "d", breaker.Success))
		require.True(t, ask(b, "e", breaker.Success))
		require.Len(t, b.Stats().Keys, 4)
		require.EqualValues(t, 1, b.Stats().Overflowed)
		b.Forget("c")
		b.Forget("d")
		b.Forget("a")
		require.True(t, ask(b, "f", breaker.Success))
		require.True(t, ask(b, "g", breaker.Success))
		require.Len(t, b.Stats().Keys, 2, "b and f")
	})
}

// Keys come and go on all processors while others look them up: nobody gets another's state, and
// the bound holds.
func TestTableUnderContention(t *testing.T) {
	const keys = 64
	b := newBreaker(
		t,
		breaker.Config{
			MaxKeys: keys / 2,
			Window:  time.Millisecond,
			Observe: func(context.Context, breaker.Event) {},
		},
	)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				key := fmt.Sprint((i*7 + g) % keys)
				switch {
				case i%50 == 0:
					b.Forget(key)
				case i%77 == 0:
					b.Reset(key)
				case i%301 == 0:
					if n := len(b.Stats().Keys); n > keys/2 {
						panic(n)
					}
				default:
					if !ask(b, key, breaker.Success) {
						panic("refused: " + key)
					}
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, len(b.Stats().Keys), keys/2)
}

// The table compared with a map.
func TestKeysComeAndGoAsInAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const most = 40
		b := newBreaker(t, breaker.Config{MaxKeys: most})
		model := map[string]bool{}
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 199), 200, 400).Draw(rt, "keys") {
			key := fmt.Sprint(n % 100)
			switch {
			case n >= 150:
				b.Forget(key)
				delete(model, key)
			case len(model) < most:
				ask(b, key, breaker.Success)
				model[key] = true
			default:
				ask(b, key, breaker.Success)
			}
		}
		keys := map[string]bool{}
		for key := range b.Stats().Keys {
			keys[key] = true
		}
		if !maps.Equal(model, keys) {
			rt.Fatalf("%v, but should be %v", keys, model)
		}
		before := b.Stats().Overflowed
		for key := range model {
			ask(b, key, breaker.Success)
		}
		if b.Stats().Overflowed != before {
			rt.Fatal("a key that is listed is not found")
		}
	})
}

// A circuit is not forgotten while its open time lasts, however long nobody asks.
func TestOpenKeysAreNotForgottenBeforeTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{
			MaxKeys: 1, OpenFor: 5 * breaker.Abandoned, MaxOpen: 5 * breaker.Abandoned,
		})
		trip(t, b, "a")
		for range 3 {
			require.True(t, ask(b, "new", breaker.Success))
			time.Sleep(breaker.Abandoned)
		}
		require.Equal(t, breaker.Open, b.Stats().Keys["a"].State)
	})
}
