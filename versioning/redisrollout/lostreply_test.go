package redisrollout_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/faultproxy"
	"github.com/trivet-go/trivet/versioning"
)

// A lossyClient is a client whose connections break when the server's reply arrives.
type lossyClient struct {
	*redis.Client
	proxy *faultproxy.Proxy
	once  atomic.Bool // the next connection is whole again
}

func newLossyClient(t *testing.T, s *server, maxRetries int) *lossyClient {
	c := &lossyClient{proxy: faultproxy.Start(t, s.Addr)}
	c.Client = redis.NewClient(&redis.Options{
		Addr: c.proxy.Addr, MaxRetries: maxRetries, PoolSize: 1,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if c.once.Swap(false) {
				c.proxy.Set(faultproxy.Fault{})
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// lose loses the next reply, or all until the client is mended.
func (c *lossyClient) lose(cut faultproxy.Cut, once bool) {
	c.proxy.Set(faultproxy.Fault{Cut: cut})
	c.once.Store(once)
}

func (c *lossyClient) mend() { c.proxy.Set(faultproxy.Fault{}) }

// TestALostReplyChangesTheStateOnce: the server has made a change, and the connection breaks before
// it says so. A call that is repeated, by the store or by a person, does not make it twice.
func TestALostReplyChangesTheStateOnce(t *testing.T) {
	s := startRedis(t)
	for _, maxRetries := range []int{0, -1} { // go-redis' default, and none
		for _, cut := range []faultproxy.Cut{faultproxy.Reset, faultproxy.Truncate} {
			for _, once := range []bool{true, false} {
				name := fmt.Sprintf("retries-%d-cut-%d-once-%v", maxRetries+1, cut, once)
				t.Run(name, func(t *testing.T) {
					loseReplies(t, name, newLossyClient(t, s, maxRetries), cut, once)
				})
			}
		}
	}
}

func loseReplies(t *testing.T, name string, client *lossyClient, cut faultproxy.Cut, once bool) {
	store := newStore(t, client, patient)
	r, err := versioning.NewRollout(versioning.RolloutConfig{
		Name: name, Release: "v2", Store: store, Missing: versioning.MissingStable, Manual: true,
		Key:      func(*http.Request) (string, bool) { return "", false },
		Steps:    []versioning.Step{{Weight: 0.1}, {Weight: 0.2}, {Weight: 0.3}, {Weight: 0.4}},
		Interval: 100 * time.Hour, // nobody else asks the store
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close(context.Background())) })
	eventually(t, "the beginning", func() bool { return r.State().Phase == versioning.PhaseRunning })
	require.NoError(t, r.Promote(t.Context()))
	for _, action := range []struct {
		name  string
		do    func(context.Context) error
		phase versioning.Phase
		step  int
	}{
		{"promote", r.Promote, versioning.PhaseRunning, 1},
		{"pause", r.Pause, versioning.PhasePaused, 1},
		{"resume", r.Resume, versioning.PhaseRunning, 1},
		{"promote", r.Promote, versioning.PhaseRunning, 2},
		{"retry", func(ctx context.Context) error {
			client.mend()
			require.NoError(t, r.Rollback(ctx, "bad"))
			client.lose(cut, once)
			return r.Retry(ctx)
		}, versioning.PhaseRunning, -1},
	} {
		before := r.State().Revision
		client.lose(cut, once)
		err := action.do(t.Context())
		if !once {
			require.ErrorIs(t, err, versioning.ErrRolloutStore, action.name)
			client.mend()
			if action.name == "retry" {
				action.do = r.Retry
			} else {
				require.Equal(t, before, r.State().Revision, "the answer is not known")
			}
			err = action.do(t.Context())
		}
		require.NoError(t, err, action.name)
		state := r.State()
		require.Equal(t, action.phase, state.Phase, action.name)
		require.Equal(t, action.step, state.Step, action.name)
		shared, err := store.Sync(t.Context(), name, versioning.RolloutReport{})
		require.NoError(t, err)
		require.Equal(t, shared.State.Revision, state.Revision)
		if action.name != "retry" {
			require.Equal(t, before+1, state.Revision, "one change")
		}
	}
	require.Zero(t, store.Stats().Refused)
}
