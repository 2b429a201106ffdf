package versioning_test

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// TestStepsThatChangeUnderWay: whatever the new steps are, the weight never falls, and no new step
// that is greater is left out.
func TestStepsThatChangeUnderWay(t *testing.T) {
	for _, tt := range []struct {
		before []float64
		after  []float64
		want   []float64 // weights that follow 0.5
	}{
		{[]float64{0.05, 0.5}, []float64{0.05, 0.1, 0.25, 0.5, 0.75}, []float64{0.75, 1}},
		{[]float64{0.05, 0.5}, []float64{0.1}, []float64{1}},
		{[]float64{0.05, 0.5}, []float64{0.8}, []float64{0.8, 1}},
		{[]float64{0.5}, []float64{0.01, 0.05, 0.1}, []float64{1}},
		{[]float64{0.5}, []float64{0.6, 0.7}, []float64{0.6, 0.7, 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRollout(t, rolloutOf(tt.before...))
			h := r.Handler(newArm("stable"), newArm("canary"))
			for r.State().Weight < 0.5 {
				require.NoError(t, r.Promote(t.Context()))
			}
			require.NoError(t, r.Reload(rolloutOf(tt.after...)))
			require.Equal(t, 0.5, r.State().Weight)
			var weights []float64
			for last := 0.5; r.State().Phase == versioning.PhaseRunning; time.Sleep(time.Second) {
				if w := r.State().Weight; w != last {
					weights = append(weights, w)
					last = w
				}
				users(h, 0, 10)
			}
			require.Equal(t, versioning.PhasePromoted, r.State().Phase)
			require.Equal(t, tt.want, weights)
			require.NoError(t, r.Close(t.Context()))
		})
	}
}

// TestMinimumsAfterStepsChanged: a weight that is no step's has the minimums of the step below it.
func TestMinimumsAfterStepsChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRollout(t, rolloutOf(0.5))
		h := r.Handler(newArm("stable"), newArm("canary"))
		time.Sleep(time.Second)
		cfg := rolloutOf(0.4, 0.7)
		cfg.Steps[0].MinTime, cfg.Steps[0].Deadline = time.Hour, 2*time.Hour
		require.NoError(t, r.Reload(cfg))
		users(h, 0, 1000)
		time.Sleep(59 * time.Minute)
		require.Equal(t, 0.5, r.State().Weight)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 0.7, r.State().Weight)
		require.NoError(t, r.Switch(t.Context()))
		require.Equal(t, 1.0, r.State().Weight)
		require.ErrorIs(t, r.Switch(t.Context()), versioning.ErrPhase)
		require.NoError(t, r.Close(t.Context()))
	})
}

// TestV15_SkippedRequestsAreInFlight: stable is not drained while it answers one that was skipped.
func TestV15_SkippedRequestsAreInFlight(t *testing.T) {
	cfg := rolloutOf(1)
	cfg.Manual, cfg.TagField = true, "Surrogate-Key"
	cfg.Skip = func(r *http.Request) bool { return r.URL.Path == "/skip" }
	r := newRollout(t, cfg)
	entered, goOn := make(chan struct{}), make(chan struct{})
	arm := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/skip" {
			entered <- struct{}{}
			<-goOn
		}
	})
	h := r.Handler(arm, newArm("canary"))
	done := make(chan http.Header)
	go func() { done <- serve(h, request("GET", "/skip")).Header() }()
	<-entered
	require.NoError(t, r.Switch(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.Drained(ctx), context.Canceled)
	close(goOn)
	require.Empty(t, <-done, "its answer is not touched")
	require.NoError(t, r.Drained(t.Context()))
	require.Zero(t, r.Stats().Requests["stable"], "it is not counted")

	tr := r.Transport(tripper(func(*http.Request) (*http.Response, error) {
		return nil, context.Canceled
	}), tripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: &lateEOF{"x"}}, nil
	}))
	resp, err := tr.RoundTrip(request("GET", "/skip"))
	require.NoError(t, err)
	require.Empty(t, resp.Header)
	require.Equal(t, 1, r.Stats().InFlight["canary"])
	require.NoError(t, resp.Body.Close())
	require.Zero(t, r.Stats().InFlight["canary"])
}

// TestAStoreInMemoryIsBounded: replicas that come and go in one epoch do not fill it.
func TestAStoreInMemoryIsBounded(t *testing.T) {
	store := versioning.NewMemoryRolloutStore()
	_, changed, err := store.Change(t.Context(), "shop", versioning.RolloutState{
		Release: "v2", Phase: versioning.PhaseRunning, Epoch: 1,
	})
	require.NoError(t, err)
	require.True(t, changed)
	var shared versioning.RolloutShared
	for i := range 1000 {
		for _, evidence := range []string{"old", "new"} {
			shared, err = store.Sync(t.Context(), "shop", versioning.RolloutReport{
				Replica: strconv.Itoa(i), Epoch: 1, Evidence: []byte(evidence),
			})
			require.NoError(t, err)
		}
	}
	require.Len(t, shared.Evidence, 512)
	require.Equal(t, "new", string(shared.Evidence["0"]))
}

// TestV18_ARollbackInAStoreThatForgot: the store has lost its writes, and somebody has told it of a
// rollback since. That is adopted, although its revision is lower.
func TestV18_ARollbackInAStoreThatForgot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, rolloutOf(0.05))
		for range 5 {
			require.NoError(t, f.replicas[0].Pause(t.Context()))
			require.NoError(t, f.replicas[0].Resume(t.Context()))
		}
		state := f.replicas[0].State()
		fresh := versioning.NewMemoryRolloutStore()
		state.Phase, state.Weight, state.Revision, state.Text = versioning.PhaseRolledBack, 0, 0, "bad"
		_, changed, err := fresh.Change(t.Context(), "shop", state)
		require.NoError(t, err)
		require.True(t, changed)
		f.store.set(func() { f.store.MemoryRolloutStore = fresh })
		time.Sleep(3 * time.Second)
		require.Equal(t, versioning.PhaseRolledBack, f.replicas[0].State().Phase)
		require.Equal(t, "bad", f.replicas[0].State().Text)
	})
}

// TestARollbackOfYesterdayIsNotReported: a replica that starts when the release has been rolled
// back already has given it nothing, so there is nothing to purge.
func TestARollbackOfYesterdayIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(0.05)
		cfg.Store = versioning.NewMemoryRolloutStore()
		calls := 0
		cfg.OnRollback = func(context.Context, versioning.Rollback) { calls++ }
		first := newRollout(t, cfg)
		time.Sleep(2 * time.Second)
		require.NoError(t, first.Rollback(t.Context(), "bad"))
		synctest.Wait()
		require.Equal(t, 1, calls)
		second := newRollout(t, cfg)
		time.Sleep(2 * time.Second)
		require.Equal(t, versioning.PhaseRolledBack, second.State().Phase)
		require.Equal(t, 1, calls)
		require.NoError(t, first.Close(t.Context()))
		require.NoError(t, second.Close(t.Context()))
	})
}

// TestManyErrorsAskForFewLooks: a release that fails at everything does not keep a processor busy
// with looks.
func TestManyErrorsAskForFewLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(0.5)
		cfg.OnFail = versioning.Pause
		var looks atomic.Int64
		cfg.Judge = func() (versioning.Decision, string) {
			looks.Add(1)
			return versioning.Advance, ""
		}
		r := newRollout(t, cfg)
		canary := newArm("canary")
		canary.status.Store(500)
		h := r.Handler(newArm("stable"), canary)
		time.Sleep(1500 * time.Millisecond)
		before := looks.Load()
		for i := range 400 {
			users(h, i, 1)
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, versioning.PhasePaused, r.State().Phase)
		n := looks.Load() - before
		require.Greater(t, n, int64(10), "it looks soon after an error")
		require.LessOrEqual(t, n, int64(42))
		require.NoError(t, r.Close(t.Context()))
	})
}

// TestAClientThatLeavesInTheAnswer says nothing about errors, whether the handler notices or not.
func TestAClientThatLeavesInTheAnswer(t *testing.T) {
	r := newRollout(t, rolloutOf(1))
	ctx, cancel := context.WithCancel(t.Context())
	h := r.Handler(newArm("stable"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		cancel()
	}))
	serve(h, request("GET", "/", "User", "a").WithContext(ctx))
	require.NoError(t, r.Pause(t.Context())) // looks
	require.EqualValues(t, 1, r.Verdict().Canary.Canceled)
	require.Zero(t, r.Verdict().Canary.Requests)
}

// TestV17_NobodyActsBeforeTheStoreKnows: a release that this replica has rolled back, which the
// store does not know yet, is not tried again meanwhile.
func TestV17_NobodyActsBeforeTheStoreKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, rolloutOf(0.05))
		r := f.replicas[0]
		f.store.set(func() { f.store.lost = true })
		require.NoError(t, r.Rollback(t.Context(), "bad"))
		f.store.set(func() { f.store.lost = false })
		require.ErrorIs(t, r.Retry(t.Context()), versioning.ErrPhase)
		require.Zero(t, r.State().Weight)
		time.Sleep(2 * time.Second)
		require.Zero(t, r.State().Weight)
		require.NoError(t, r.Retry(t.Context()))
		require.Equal(t, versioning.PhaseRunning, r.State().Phase)
	})
}
