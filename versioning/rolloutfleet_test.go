package versioning_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// A sickStore is a store that can be lost, hang and lie.
type sickStore struct {
	*versioning.MemoryRolloutStore

	mu    sync.Mutex // guards the fields below
	lost  bool
	hangs bool
	lie   *versioning.RolloutState
	first *versioning.RolloutState // what another replica changes just before the next change
}

var errLost = errors.New("lost")

func (s *sickStore) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// inner is the store behind s, which a test may replace.
func (s *sickStore) inner() *versioning.MemoryRolloutStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.MemoryRolloutStore
}

func (s *sickStore) fails(ctx context.Context) (versioning.RolloutShared, error) {
	s.mu.Lock()
	lost, hangs, lie := s.lost, s.hangs, s.lie
	s.mu.Unlock()
	switch {
	case hangs && raceEnabled:
		// Just before ctx ends: Go's race detector breaks down now and then when timers call
		// functions in a bubble (golang/go#78156).
		select {
		case <-ctx.Done():
		case <-time.After(4 * time.Second):
		}
		return versioning.RolloutShared{}, context.DeadlineExceeded
	case hangs:
		<-ctx.Done()
		return versioning.RolloutShared{}, context.Cause(ctx)
	case lost:
		return versioning.RolloutShared{}, errLost
	case lie != nil:
		return versioning.RolloutShared{State: *lie}, nil
	}
	return versioning.RolloutShared{}, nil
}

func (s *sickStore) Sync(
	ctx context.Context, name string, report versioning.RolloutReport,
) (versioning.RolloutShared, error) {
	if bad, err := s.fails(ctx); err != nil || bad.State.Revision > 0 {
		return bad, err
	}
	return s.inner().Sync(ctx, name, report)
}

func (s *sickStore) Change(
	ctx context.Context, name string, next versioning.RolloutState,
) (versioning.RolloutShared, bool, error) {
	if bad, err := s.fails(ctx); err != nil || bad.State.Revision > 0 {
		return bad, false, err
	}
	s.mu.Lock()
	first := s.first
	s.first = nil
	s.mu.Unlock()
	if first != nil {
		_, _, _ = s.inner().Change(ctx, name, *first)
	}
	return s.inner().Change(ctx, name, next)
}

// A fleet is several replicas on one store.
type fleet struct {
	store    *sickStore
	replicas []*versioning.Rollout
	canary   *armHandler
	handlers []http.Handler
}

func newFleet(t *testing.T, n int, cfg versioning.RolloutConfig) *fleet {
	f := &fleet{
		store:  &sickStore{MemoryRolloutStore: versioning.NewMemoryRolloutStore()},
		canary: newArm("canary"),
	}
	cfg.Store = f.store
	for range n {
		r := newRollout(t, cfg)
		f.replicas = append(f.replicas, r)
		f.handlers = append(f.handlers, r.Handler(newArm("stable"), f.canary))
	}
	time.Sleep(2500 * time.Millisecond) // looks are at whole seconds, and tests between them
	return f
}

// send sends n requests of as many users, each to the next replica.
func (f *fleet) send(from, n int) {
	for i := range n {
		serve(f.handlers[i%len(f.handlers)], request("GET", "/", "User", strconv.Itoa(from+i)))
	}
}

func (f *fleet) weights() (list []float64) {
	for _, r := range f.replicas {
		list = append(list, r.State().Weight)
	}
	return list
}

// TestAFleetHasOneTest: what no replica sees alone all of them see together, and what a client does
// to each of them counts once.
func TestAFleetHasOneTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 4, rolloutOf(0.05))
		require.Equal(t, []float64{0.05, 0.05, 0.05, 0.05}, f.weights())
		// One user who always fails, at all replicas.
		broken := 0
		for users(f.handlers[0], broken, 1) == 0 {
			broken++
		}
		f.canary.status.Store(500)
		for range 40 {
			for i := range f.handlers {
				serve(f.handlers[i], request("GET", "/", "User", strconv.Itoa(broken)))
			}
			f.canary.status.Store(200)
			f.send(1000, 400)
			f.canary.status.Store(500)
		}
		time.Sleep(2 * time.Second)
		require.Equal(t, []float64{0.05, 0.05, 0.05, 0.05}, f.weights(), "%s", f.replicas[0].Verdict().Text)
		v := f.replicas[0].Verdict()
		require.EqualValues(t, 1, v.Errors.Canary)
		require.Equal(t, 4, v.Replicas)
		require.InDelta(t, 40*380, v.Stable.Requests, 1000)

		// Errors of four users, one at each replica.
		for user, failed := 10_000, 0; failed < 4; user++ {
			failed += users(f.handlers[failed], user, 1)
		}
		time.Sleep(2500 * time.Millisecond)
		for _, r := range f.replicas {
			require.Equal(t, versioning.PhaseRolledBack, r.State().Phase, "%s", r.Verdict().Text)
			require.Equal(t, versioning.ReasonErrors, r.State().Reason)
		}
		require.Contains(t, f.replicas[0].State().Text, "canary fails more often: ")
	})
}

func TestAFleetTakesEachStepOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 4, rolloutOf(0.05, 0.5))
		var revisions []uint64
		for i := range 4 {
			f.send(10_000*i, 8000)
			time.Sleep(time.Minute + 5*time.Second)
			revisions = append(revisions, f.replicas[0].State().Revision)
		}
		for _, r := range f.replicas {
			require.Equal(t, versioning.PhasePromoted, r.State().Phase)
		}
		require.Equal(t, []uint64{3, 4, 5, 5}, revisions, "begun, three steps and the end")
		// One rolls back, and so do all.
		require.NoError(t, f.replicas[2].Rollback(t.Context(), "it was not so good"))
		time.Sleep(2 * time.Second)
		require.Equal(t, []float64{0, 0, 0, 0}, f.weights())
	})
}

// TestV17_TheStoreIsLost: the last state stays, nobody promotes, and each replica still rolls
// itself back. The others hear of it when the store is there again.
func TestV17_TheStoreIsLost(t *testing.T) {
	for _, how := range []string{"lost", "hangs", "lies"} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var ups []bool
			cfg := rolloutOf(0.05)
			cfg.Floor = -1
			cfg.Observe = func(_ context.Context, e versioning.RolloutEvent) {
				if e.Kind == versioning.RolloutStoreChange {
					mu.Lock()
					ups = append(ups, e.Up)
					mu.Unlock()
				}
			}
			f := newFleet(t, 2, cfg)
			f.store.set(func() {
				f.store.lost, f.store.hangs = how == "lost", how == "hangs"
				if how == "lies" {
					f.store.lie = &versioning.RolloutState{
						Release: "v2", Phase: "odd", Weight: 2, Revision: 99,
					}
				}
			})
			f.send(0, 10_000)
			time.Sleep(3 * time.Minute)
			require.Equal(t, []float64{0.05, 0.05}, f.weights())
			require.Equal(t, []string{"the store, which does not answer"}, f.replicas[0].Verdict().Missing)
			require.False(t, f.replicas[0].Stats().StoreUp)
			require.ErrorIs(t, f.replicas[0].Promote(t.Context()), versioning.ErrRolloutStore)

			f.canary.status.Store(500)
			for i := range 500 {
				serve(f.handlers[1], request("GET", "/", "User", strconv.Itoa(i)))
			}
			time.Sleep(20 * time.Second)
			require.Equal(t, []float64{0.05, 0}, f.weights(), "each for itself")
			require.Equal(t, versioning.ReasonErrors, f.replicas[1].State().Reason)

			f.store.set(func() { f.store.lost, f.store.hangs, f.store.lie = false, false, nil })
			time.Sleep(20 * time.Second)
			require.Equal(t, []float64{0, 0}, f.weights())
			require.Equal(t, versioning.PhaseRolledBack, f.replicas[0].State().Phase)
			mu.Lock()
			defer mu.Unlock()
			require.Equal(t, []bool{false, false, true, true}, ups)
		})
	}
}

// TestRollbackIsInstantWhileTheStoreHangs: canary gets nothing from the call on, though the store
// keeps somebody waiting.
func TestRollbackIsInstantWhileTheStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, rolloutOf(1))
		f.store.set(func() { f.store.hangs = true })
		time.Sleep(2 * time.Second) // a sync waits
		done := make(chan error)
		go func() { done <- f.replicas[0].Rollback(t.Context(), "") }()
		synctest.Wait()
		require.Zero(t, users(f.handlers[0], 0, 100))
		f.store.set(func() { f.store.hangs = false })
		require.NoError(t, <-done)
		time.Sleep(10 * time.Second)
		require.Equal(t, versioning.PhaseRolledBack, f.replicas[0].State().Phase)
	})
}

// TestV18_TheStoreForgets: it is empty, or has lost its last writes. What was rolled back stays so.
func TestV18_TheStoreForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2, rolloutOf(0.05))
		backup, err := f.store.Sync(t.Context(), "shop", versioning.RolloutReport{})
		require.NoError(t, err)
		require.NoError(t, f.replicas[0].Pause(t.Context()))
		require.NoError(t, f.replicas[0].Rollback(t.Context(), "bad"))
		time.Sleep(2 * time.Second)
		for _, revision := range []uint64{backup.State.Revision, 0} {
			old := versioning.NewMemoryRolloutStore()
			for range revision { // to its revision
				now, err := old.Sync(t.Context(), "shop", versioning.RolloutReport{})
				require.NoError(t, err)
				state := backup.State
				state.Revision = now.State.Revision
				_, changed, err := old.Change(t.Context(), "shop", state)
				require.NoError(t, err)
				require.True(t, changed)
			}
			f.store.set(func() { f.store.MemoryRolloutStore = old })
			time.Sleep(5 * time.Second)
			require.Equal(t, []float64{0, 0}, f.weights())
			now, err := old.Sync(t.Context(), "shop", versioning.RolloutReport{})
			require.NoError(t, err)
			require.Equal(t, versioning.PhaseRolledBack, now.State.Phase)
			require.Equal(t, "bad", now.State.Text)
		}
	})
}

// TestV18_AReplicaThatHasNotRolledBackIsFirst: the store was lost while one replica rolled back,
// and comes back empty. Another one tells it first that the release is tried.
func TestV18_AReplicaThatHasNotRolledBackIsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, rolloutOf(0.05))
		before, err := f.store.Sync(t.Context(), "shop", versioning.RolloutReport{})
		require.NoError(t, err)
		f.store.set(func() { f.store.lost = true })
		require.NoError(t, f.replicas[0].Rollback(t.Context(), "bad"))
		time.Sleep(3 * time.Second)
		running := before.State
		running.Revision = 0
		empty := versioning.NewMemoryRolloutStore()
		f.store.set(func() {
			f.store.MemoryRolloutStore, f.store.first, f.store.lost = empty, &running, false
		})
		for range 500 { // canary gets nothing at any time
			require.Zero(t, f.replicas[0].State().Weight)
			time.Sleep(10 * time.Millisecond)
		}
		now, err := empty.Sync(t.Context(), "shop", versioning.RolloutReport{})
		require.NoError(t, err)
		require.Equal(t, versioning.PhaseRolledBack, now.State.Phase)
		require.Equal(t, versioning.ReasonOperator, now.State.Reason)
		require.Equal(t, "bad", now.State.Text)
	})
}

// TestAReplicaWithAnotherRelease: while a fleet is renewed, two releases are configured. The newer
// one is tried; those that have the older one give it nothing, also after a restart.
func TestAReplicaWithAnotherRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(0.5)
		f := newFleet(t, 2, cfg)
		cfg.Release, cfg.Store = "v3", f.store
		newer := newRollout(t, cfg)
		time.Sleep(3 * time.Second)
		require.Equal(t, 0.5, newer.State().Weight)
		require.Equal(t, []float64{0, 0}, f.weights())
		require.Equal(t, versioning.PhaseSuperseded, f.replicas[0].State().Phase)
		require.ErrorIs(t, f.replicas[0].Promote(t.Context()), versioning.ErrPhase)
		require.ErrorIs(t, f.replicas[0].Rollback(t.Context(), ""), versioning.ErrPhase)
		cfg.Release = "v2"
		restarted := newRollout(t, cfg)
		time.Sleep(3 * time.Second)
		require.Equal(t, versioning.PhaseSuperseded, restarted.State().Phase)
		require.Equal(t, "release v3 is tried", restarted.State().Text)
		require.Equal(t, 0.5, newer.State().Weight)
		require.NoError(t, restarted.Retry(t.Context()))
		time.Sleep(3 * time.Second)
		require.Equal(t, []float64{0.5, 0.5}, f.weights())
		require.Equal(t, versioning.PhaseSuperseded, newer.State().Phase)
	})
}

// TestAReplicaThatStartsLater takes the state as it is, and its age, but its own evidence is its
// own.
func TestAReplicaThatStartsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, rolloutOf(0.05))
		f.send(0, 5000)
		time.Sleep(50 * time.Second)
		cfg := rolloutOf(0.05)
		cfg.Store = f.store
		late := newRollout(t, cfg)
		require.NoError(t, f.replicas[0].Close(t.Context()))
		require.Equal(t, versioning.PhaseWaiting, func() versioning.Phase {
			lost := cfg
			lost.Store = &sickStore{lost: true, MemoryRolloutStore: versioning.NewMemoryRolloutStore()}
			return newRollout(t, lost).State().Phase
		}())
		time.Sleep(5 * time.Second)
		require.Equal(t, 0.05, late.State().Weight)
		require.InDelta(t, 5000, late.Verdict().Stable.Requests+late.Verdict().Canary.Requests, 1)
		time.Sleep(20 * time.Second)
		require.Equal(t, 1.0, late.State().Weight, "by what a replica that is gone has seen")
	})
}

func TestReloadKeepsWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(0.05)
		r := newRollout(t, cfg)
		old := r.Handler(newArm("stable"), newArm("canary"))
		users(old, 0, 5000)
		time.Sleep(30 * time.Second)
		before := r.Verdict()
		require.Positive(t, before.Canary.Requests)

		cfg.Steps[0].MinTime, cfg.Interval = 45*time.Second, 5*time.Second
		require.NoError(t, r.Reload(cfg))
		h := r.Handler(newArm("stable"), newArm("canary"))
		users(h, 0, 1000)
		time.Sleep(6 * time.Second)
		require.Equal(t, before.Canary.Requests+before.Stable.Requests+1000,
			r.Verdict().Canary.Requests+r.Verdict().Stable.Requests)
		users(old, 0, 100)
		require.EqualValues(t, 6100, r.Stats().Requests["stable"]+r.Stats().Requests["canary"])
		time.Sleep(11 * time.Second)
		require.Equal(t, 1.0, r.State().Weight, "the new minimum is in force")

		for field, f := range map[string]func(*versioning.RolloutConfig){
			"Name":  func(c *versioning.RolloutConfig) { c.Name = "other" },
			"Salt":  func(c *versioning.RolloutConfig) { c.Salt = "other" },
			"Store": func(c *versioning.RolloutConfig) { c.Store = versioning.NewMemoryRolloutStore() },
			"Steps": func(c *versioning.RolloutConfig) { c.Steps = nil },
		} {
			bad := cfg
			f(&bad)
			require.ErrorContains(t, r.Reload(bad), "versioning: RolloutConfig."+field+": ")
		}

		// Another release begins anew, and handlers of the one before get nothing.
		cfg.Release = "v3"
		require.NoError(t, r.Reload(cfg))
		require.Equal(t, 0.05, r.State().Weight)
		require.Zero(t, users(h, 0, 1000))
		require.InDelta(t, 250, users(r.Handler(newArm("stable"), newArm("canary")), 0, 5000), 80)
		require.Equal(t, "shop:v3:canary", r.Tag(versioning.Canary))
		cfg.Release = "v2"
		require.NoError(t, r.Reload(cfg))
		require.Equal(t, versioning.PhaseSuperseded, r.State().Phase, "it has had its turn")
		require.NoError(t, r.Retry(t.Context()))
		require.Equal(t, 0.05, r.State().Weight)
		require.NoError(t, r.Close(t.Context()))
		require.ErrorIs(t, r.Reload(cfg), versioning.ErrRolloutClosed)
		require.ErrorIs(t, r.Promote(t.Context()), versioning.ErrRolloutClosed)
		require.ErrorIs(t, r.Rollback(t.Context(), strings.Repeat("x", 5000)), versioning.ErrRolloutClosed)
		require.Equal(t, 0.05, r.State().Weight, "nothing changes any more")
	})
}

func TestTheJudgeIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var says atomic.Value
		says.Store(versioning.Hold)
		cfg := rolloutOf(0.05)
		cfg.Judge = func() (versioning.Decision, string) {
			if says.Load() == versioning.Decision("") {
				panic("judge")
			}
			return says.Load().(versioning.Decision), "3 % of answers differ"
		}
		r := newRollout(t, cfg)
		h := r.Handler(newArm("stable"), newArm("canary"))
		users(h, 0, 5000)
		time.Sleep(10 * time.Minute)
		require.Equal(t, []string{"the judge: 3 % of answers differ"}, r.Verdict().Missing)
		require.Equal(t, versioning.ReasonJudge, r.Verdict().Reason)
		says.Store(versioning.Decision(""))
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{"the judge: it panicked"}, r.Verdict().Missing)
		says.Store(versioning.Advance)
		time.Sleep(2 * time.Second)
		require.Equal(t, 1.0, r.State().Weight)
		says.Store(versioning.RejectRelease)
		time.Sleep(2 * time.Second)
		require.Equal(t, versioning.PhaseRolledBack, r.State().Phase)
		require.Equal(t, "3 % of answers differ", r.State().Text)
	})
}
