package versioning_test

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// TestStepsThatChangeUnderWay: whatever the new steps are, the weight never falls, and no new step that
// is greater is left out.
func TestStepsThatChangeUnderWay(t *testing.T) {
	for _, tt := range []struct {
		before []float64
		after  []float64
		want   []int // weights that follow 5000
	}{
		{[]float64{0.05, 0.5}, []float64{0.05, 0.1, 0.25, 0.5, 0.75}, []int{7500, 10_000}},
		{[]float64{0.05, 0.5}, []float64{0.1}, []int{10_000}},
		{[]float64{0.05, 0.5}, []float64{0.8}, []int{8000, 10_000}},
		{[]float64{0.5}, []float64{0.01, 0.05, 0.1}, []int{10_000}},
		{[]float64{0.5}, []float64{0.6, 0.7}, []int{6000, 7000, 10_000}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRollout(t, rolloutOf(tt.before...))
			h := r.Handler(newArm("stable"), newArm("canary"))
			for r.State().Weight < 5000 {
				require.NoError(t, r.Promote(t.Context()))
			}
			require.NoError(t, r.Reload(rolloutOf(tt.after...)))
			require.Equal(t, 5000, r.State().Weight)
			var weights []int
			for last := 5000; r.State().Phase == versioning.PhaseRunning; time.Sleep(time.Second) {
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
		require.Equal(t, 5000, r.State().Weight)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 7000, r.State().Weight)
		require.NoError(t, r.Switch(t.Context()))
		require.Equal(t, 10_000, r.State().Weight)
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
