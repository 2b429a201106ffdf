package balancer

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// settled requires that nobody is in g, and that it has kept no place from anybody.
func settled(t *testing.T, g *gate) {
	t.Helper()
	require.Zero(t, g.used.Load())
	require.Zero(t, g.owed)
	require.Zero(t, g.queued())
}

func TestGatesAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(2)
		require.True(t, g.enter())
		require.True(t, g.enter())
		require.False(t, g.enter())
		var order []int
		for i := range 2 {
			go func() {
				if err := g.wait(t.Context()); err != nil {
					t.Error(err)
				}
				order = append(order, i)
			}()
			synctest.Wait()
		}
		require.Equal(t, 2, g.queued())
		require.ErrorIs(t, g.wait(t.Context()), ErrFull, "the queue is full")
		g.leave()
		require.False(t, g.enter(), "newcomers do not overtake")
		synctest.Wait()
		require.Equal(t, []int{0}, order)
		g.leave()
		synctest.Wait()
		require.Equal(t, []int{0, 1}, order)
		g.leave()
		g.leave()
		settled(t, g)
		require.True(t, g.enter())
	})
}

func TestWaitingHasAnEnd(t *testing.T) {
	gone := errors.New("gone")
	for name, tt := range map[string]struct {
		end   func(context.Context) (context.Context, context.CancelFunc)
		after time.Duration
		cause error
	}{
		"by itself": {context.WithCancel, maxQueueTime, nil},
		"by the deadline": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, maxQueueTime/4)
		}, maxQueueTime / 4, context.DeadlineExceeded},
		"by its caller": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			stop := time.AfterFunc(maxQueueTime/2, func() { cancel(gone) })
			return ctx, func() { stop.Stop() }
		}, maxQueueTime / 2, gone},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(1)
				require.True(t, g.enter())
				start := time.Now()
				ctx, cancel := tt.end(t.Context())
				defer cancel()
				err := g.wait(ctx)
				require.ErrorIs(t, err, ErrFull)
				if tt.cause != nil {
					require.ErrorIs(t, err, tt.cause)
				}
				require.Equal(t, tt.after, time.Since(start))
				g.leave()
				settled(t, g)
			})
		})
	}
}

// A place that comes to a request as its wait ends is taken or passed on, never lost.
func TestPlacesThatComeAtTheLastMoment(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1)
			require.True(t, g.enter())
			got := make(chan error, 1)
			go func() { got <- g.wait(t.Context()) }()
			synctest.Wait()
			go func() {
				time.Sleep(maxQueueTime)
				g.leave()
			}()
			if <-got == nil {
				g.leave()
			}
			synctest.Wait()
			settled(t, g)
		})
	}
}

// Whatever happens at once, no more than the limit are in, and at the end nobody is.
func TestGatesUnderLoad(t *testing.T) {
	const limit = 4
	g := newGate(limit)
	var in, admitted, refused atomic.Int64
	var wg sync.WaitGroup
	for range 4 * limit {
		wg.Go(func() {
			for range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(2) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(50))*time.Microsecond, cancel)
				}
				if !g.enter() {
					if g.wait(ctx) != nil {
						refused.Add(1)
						cancel()
						continue
					}
				}
				if n := in.Add(1); n > limit {
					t.Errorf("%d are in", n)
				}
				admitted.Add(1)
				if rand.IntN(4) == 0 {
					for range rand.IntN(2000) { // a busy moment
						_ = in.Load()
					}
				}
				in.Add(-1)
				g.leave()
				cancel()
			}
		})
	}
	wg.Wait()
	settled(t, g)
	require.NotZero(t, admitted.Load())
	t.Logf("%d admitted, %d refused", admitted.Load(), refused.Load())
}

// A request leaves the queue when the place that was left to it is still to come. That one goes to
// nobody, whoever waits by then.
func TestPlacesOfRequestsThatHaveLeft(t *testing.T) {
	g := newGate(1)
	require.True(t, g.enter())
	_, left, err := g.line()
	require.NoError(t, err)
	g.used.Add(-1) // leave of the first, before it has the lock
	g.waiting.Remove(left)
	require.EqualValues(t, 0, g.used.Add(-1))
	g.owed++ // as at the end of wait
	require.True(t, g.enter())
	place, _, err := g.line()
	require.NoError(t, err)
	g.used.Add(1)
	g.leave() // of the first, with the lock
	select {
	case <-place:
		t.Fatal("two are in")
	default:
	}
	g.leave()
	<-place
	g.leave()
	settled(t, g)
}

// A request has counted itself out and not yet handed over its place, when one that waits gives
// up: the place is free for newcomers, and nobody else may get it.
func TestPlacesAreNotGivenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		require.True(t, g.enter())
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { first <- g.wait(ctx) }()
		synctest.Wait()
		g.used.Add(-1) // the first half of leave
		cancel()
		require.Error(t, <-first)
		require.True(t, g.enter(), "a newcomer has the place")
		second := make(chan error, 1)
		go func() { second <- g.wait(t.Context()) }()
		synctest.Wait()
		g.handOver() // the second half
		synctest.Wait()
		require.Empty(t, second, "two would have one place")
		g.leave()
		require.NoError(t, <-second)
		g.leave()
		require.Zero(t, g.used.Load())
		require.Zero(t, g.owed)
	})
}

// An atOnce context ends at the moment at which a place becomes free.
type atOnce struct {
	context.Context
	free func()
}

func (c atOnce) Done() <-chan struct{} {
	c.free()
	return c.Context.Done()
}

func TestPlacesThatComeAtTheLastMomentAreTaken(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	g := newGate(1)
	for range 100 {
		require.True(t, g.enter())
		require.NoError(t, g.wait(atOnce{over, g.leave}))
		g.leave()
		require.Zero(t, g.used.Load())
		require.Zero(t, g.owed)
	}
}
