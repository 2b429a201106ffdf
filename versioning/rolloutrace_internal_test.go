package versioning

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func reloadable(release string, store RolloutStore) RolloutConfig {
	return RolloutConfig{
		Name: "shop", Release: release, Steps: []Step{{Weight: 0.5, MinTime: time.Hour}},
		Missing: MissingStable, Manual: true, Store: store,
		Key: func(r *http.Request) (string, bool) { return r.Header.Get("User"), true },
	}
}

// TestARollbackIsOfTheReleaseThatItWasCalledFor: another one that is tried by the time that the
// rollback gets its turn goes on.
func TestARollbackIsOfTheReleaseThatItWasCalledFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemoryRolloutStore()
		r, err := NewRollout(reloadable("v2", store))
		require.NoError(t, err)
		defer func() { require.NoError(t, r.Close(context.Background())) }()
		synctest.Wait()
		require.NoError(t, r.Promote(t.Context()))
		require.EqualValues(t, 0.5, r.State().Weight)

		r.lock() // while somebody waits for a slow Store
		reloaded, rolled := make(chan error), make(chan error)
		go func() { reloaded <- r.Reload(reloadable("v3", store)) }()
		synctest.Wait()
		looked := make(chan struct{})
		go func() {
			r.look(true)
			close(looked)
		}()
		synctest.Wait()
		go func() { rolled <- r.Rollback(context.Background(), "v2 is bad") }()
		synctest.Wait()
		require.Zero(t, r.State().Weight, "at once")
		r.unlock()
		require.NoError(t, <-reloaded)
		require.ErrorIs(t, <-rolled, ErrPhase, "nothing was rolled back")
		<-looked
		synctest.Wait()
		s := r.State()
		require.Equal(t, "v3", s.Release)
		require.Equal(t, PhaseRunning, s.Phase)
		require.NoError(t, r.Promote(t.Context()))
		require.EqualValues(t, 0.5, r.State().Weight)
	})
}

// TestARollbackKeepsWhatIsReloadedMeanwhile: it must not bring back the release of a moment ago.
func TestARollbackKeepsWhatIsReloadedMeanwhile(t *testing.T) {
	for range 3000 {
		r, err := NewRollout(reloadable("v2", nil))
		require.NoError(t, err)
		require.NoError(t, r.Promote(t.Context()))
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = r.Rollback(context.Background(), "v2 is bad") // whichever is the first
		}()
		require.NoError(t, r.Reload(reloadable("v3", nil)))
		<-done
		require.Equal(t, "v3", r.State().Release)
		require.NoError(t, r.Close(context.Background()))
	}
}
