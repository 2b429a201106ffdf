//go:build !race

// Hours of a rollout that is paused, in which the replica and its clock alternate. What runs at
// once is tested with the race detector in rolloutfleet_test.go.

package versioning_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/versioning"
)

// TestAPauseOutlivesTheDeadline: a person who pauses wants to decide, whatever OnDeadline says.
func TestAPauseOutlivesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := rolloutOf(0.05)
		cfg.OnDeadline = versioning.RollBack
		r := newRollout(t, cfg)
		require.NoError(t, r.Pause(t.Context()))
		time.Sleep(3 * time.Hour)
		require.Equal(t, versioning.PhasePaused, r.State().Phase)
		require.Equal(t, 0.05, r.State().Weight)
		require.NoError(t, r.Resume(t.Context()))
		time.Sleep(30 * time.Minute)
		require.Equal(t, versioning.PhaseRunning, r.State().Phase, "the deadline begins again")
		require.NoError(t, r.Close(t.Context()))
	})
}

func TestPauseHoldsAndStillRollsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRollout(t, rolloutOf(0.05))
		canary := newArm("canary")
		h := r.Handler(newArm("stable"), canary)
		require.ErrorIs(t, r.Resume(t.Context()), versioning.ErrPhase)
		require.NoError(t, r.Pause(t.Context()))
		require.ErrorIs(t, r.Pause(t.Context()), versioning.ErrPhase)
		users(h, 0, 5000)
		time.Sleep(time.Hour)
		require.Equal(t, 0.05, r.State().Weight)
		canary.status.Store(500)
		users(h, 0, 5000)
		time.Sleep(2 * time.Second)
		require.Equal(t, versioning.PhaseRolledBack, r.State().Phase)
	})
}
