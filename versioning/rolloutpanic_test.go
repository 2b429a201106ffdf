package versioning_test

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// TestAnObserverThatPanics ends nothing on the Rollout's goroutines: by what the loop does, by a
// failed Store, by the panics of other callbacks. On the goroutine of who calls a method it is the
// caller's.
func TestAnObserverThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var quiet atomic.Bool
		cfg := rolloutOf(0.05)
		store := &sickStore{MemoryRolloutStore: versioning.NewMemoryRolloutStore()}
		cfg.Store = store
		cfg.Observe = func(context.Context, versioning.RolloutEvent) {
			if !quiet.Load() {
				panic("observer")
			}
		}
		cfg.OnRollback = func(context.Context, versioning.Rollback) { panic("purge") }
		cfg.Gate = func(context.Context, versioning.Step) error { panic("gate") }
		cfg.Judge = func() (versioning.Decision, string) { panic("judge") }
		r := newRollout(t, cfg)
		before := uint64(0)
		grows := func(what string, least uint64) {
			t.Helper()
			now := r.Stats().Panics
			require.GreaterOrEqual(t, now-before, least, what)
			before = now
		}
		time.Sleep(2500 * time.Millisecond)
		grows("the beginning, the judge and their events", 3)
		require.Equal(t, versioning.PhasePaused, r.State().Phase, "because of the gate")
		store.set(func() { store.lost = true })
		time.Sleep(time.Second)
		grows("the store's failure", 1)
		store.set(func() { store.lost = false })
		time.Sleep(time.Second)
		grows("its return", 1)

		require.PanicsWithValue(t, "observer", func() { _ = r.Promote(t.Context()) })
		require.Equal(t, versioning.PhaseRunning, r.State().Phase, "it was promoted before")
		quiet.Store(true)
		require.NoError(t, r.Pause(t.Context()), "it keeps no lock")
		require.NoError(t, r.Rollback(t.Context(), "bad"))
		time.Sleep(time.Second)
		grows("the purge", 1)
	})
}

// A bombStore panics as long as it is armed.
type bombStore struct {
	*versioning.MemoryRolloutStore
	sync, change atomic.Bool
}

func (b *bombStore) Sync(
	ctx context.Context, name string, report versioning.RolloutReport,
) (versioning.RolloutShared, error) {
	if b.sync.Load() {
		panic("sync")
	}
	return b.MemoryRolloutStore.Sync(ctx, name, report)
}

func (b *bombStore) Change(
	ctx context.Context, name string, next versioning.RolloutState,
) (versioning.RolloutShared, bool, error) {
	if b.change.Load() {
		panic("change")
	}
	return b.MemoryRolloutStore.Change(ctx, name, next)
}

// TestAStoreThatPanics has failed: nothing is promoted, a rollback is made and told later, methods
// return an error, and no lock is kept.
func TestAStoreThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &bombStore{MemoryRolloutStore: versioning.NewMemoryRolloutStore()}
		store.sync.Store(true)
		var panics atomic.Int64
		cfg := rolloutOf(0.05, 0.5)
		cfg.Store = store
		cfg.Observe = func(_ context.Context, e versioning.RolloutEvent) {
			if e.Kind == versioning.RolloutHookPanic {
				panics.Add(1)
			}
		}
		r := newRollout(t, cfg)
		canary := newArm("canary")
		h := r.Handler(newArm("stable"), canary)
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, versioning.PhaseWaiting, r.State().Phase)
		require.False(t, r.Stats().StoreUp)
		require.EqualValues(t, 2, r.Stats().Panics, "of two looks")
		require.EqualValues(t, 2, r.Stats().Failures)
		store.sync.Store(false)
		store.change.Store(true)
		time.Sleep(time.Second)
		require.Equal(t, versioning.PhaseWaiting, r.State().Phase, "it could not be begun")
		store.change.Store(false)
		time.Sleep(time.Second)
		require.InDelta(t, 0.05, r.Stats().Weight, 1e-9)

		store.change.Store(true)
		require.ErrorIs(t, r.Promote(t.Context()), versioning.ErrRolloutStore)
		users(h, 0, 5000)
		time.Sleep(2 * time.Minute)
		require.InDelta(t, 0.05, r.Stats().Weight, 1e-9, "the loop could not promote it")
		canary.status.Store(500)
		users(h, 0, 5000)
		time.Sleep(2 * time.Second)
		require.Equal(t, versioning.PhaseRolledBack, r.State().Phase)
		store.change.Store(false)
		time.Sleep(2 * time.Second)
		shared, err := store.Sync(t.Context(), "shop", versioning.RolloutReport{})
		require.NoError(t, err)
		require.Equal(t, versioning.PhaseRolledBack, shared.State.Phase)
		require.EqualValues(t, r.Stats().Panics, panics.Load(), "each was observed")
	})
}

// TestShowThatPanics: the request has an outcome all the same, and no memory is kept.
func TestShowThatPanics(t *testing.T) {
	cfg := shadowOf(jsonText(`{"a":1}`))
	cfg.Show = func(string) bool { panic("show") }
	s := newShadow(t, cfg)
	serve(s.Middleware(jsonText(`{"a":2}`)), request("GET", "/"))
	require.Equal(t, map[string]uint64{"panic": 1}, idle(t, s))
	require.EqualValues(t, 1, s.Stats().Panics)
}

// TestAPanicWhileLearning is counted: the request has the outcome of its candidate.
func TestAPanicWhileLearning(t *testing.T) {
	cfg := shadowOf(constant(200, "text/plain", "x"))
	cfg.Learn = 1
	s := newShadow(t, cfg)
	serve(s.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		if r.Header.Get(versioning.ShadowField) != "" {
			panic("learning")
		}
		_, _ = io.WriteString(w, "x")
	})), request("GET", "/"))
	require.Equal(t, map[string]uint64{"learning": 1}, idle(t, s))
	require.EqualValues(t, 1, s.Stats().Panics)
}
