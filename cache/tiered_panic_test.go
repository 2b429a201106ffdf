package cache_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A breakingFar panics, or ends its goroutine, in one of its methods.
type breakingFar struct {
	*farStore
	in   string
	exit bool
}

func (s *breakingFar) meet(name string) {
	switch {
	case s.in != name:
	case s.exit:
		runtime.Goexit()
	default:
		panic("far")
	}
}

func (s *breakingFar) Get(ctx context.Context, key cache.Key) (*cache.Resource, cache.Mark, error) {
	pcs := make([]byte, 4096)
	if n := runtime.Stack(pcs, false); onTurn(string(pcs[:n])) {
		s.meet("get")
	}
	return s.farStore.Get(ctx, key)
}

func (s *breakingFar) Lock(ctx context.Context, key cache.Key, limit time.Duration) (cache.FarLock, error) {
	s.meet("lock")
	return s.farStore.Lock(ctx, key, limit)
}

func (s *breakingFar) Unlock(ctx context.Context, key cache.Key, token uint64, stored bool) error {
	s.meet("unlock")
	return s.farStore.Unlock(ctx, key, token, stored)
}

func (s *breakingFar) Sync(ctx context.Context) error {
	s.meet("sync")
	return s.farStore.Sync(ctx)
}

// A panic of Far on a goroutine of the library's ends no process and keeps no request waiting.
func TestAFarThatPanicsFailsOnlyItself(t *testing.T) {
	for _, in := range []string{"lock", "get", "unlock"} {
		for _, exit := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
				require.NoError(t, err)
				far := &breakingFar{farStore: &farStore{server: newFarServer()}, exit: exit}
				tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far})
				require.NoError(t, err)
				c := newCache(t, cache.Config{Store: tiered})
				h := c.Middleware(numbered("Cache-Control", "max-age=600"))
				p := &tier{tiered: tiered}
				p.run()
				defer p.stop()
				far.in = in
				require.Equal(t, "1", text(t, get(h, "/")))
				synctest.Wait()
				require.Positive(t, tiered.Stats().Failures, in)
				far.in = ""
				require.True(t, fromCache(get(h, "/")))
			})
		}
	}
}

// A panic of Sync passes through Run, which does not wait for Watch.
func TestRunReturnsFromAPanicOfSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
		require.NoError(t, err)
		far := &breakingFar{farStore: &farStore{server: newFarServer()}, in: "sync"}
		tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far})
		require.NoError(t, err)
		require.PanicsWithValue(t, "far", func() { _ = tiered.Run(t.Context()) })
	})
}

// onTurn reports whether a stack is that of the goroutine which takes a lock.
func onTurn(stack string) bool { return strings.Contains(stack, ".(*Tiered).take(") }
