package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

func TestNoEndpointsErrors(t *testing.T) {
	t.Run("all refuse", func(t *testing.T) {
		var sent atomic.Int32
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1", "c:1", "d:1", "e:1", "f:1"),
			Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
				sent.Add(1)
				return nil, unsent{7 * time.Second}
			}).wrap,
		})
		_, err := get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		require.ErrorIs(t, err, unsent{7 * time.Second})
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, 6, none.Tried, "refusals cost nothing: all are asked")
		require.Equal(t, int32(6), sent.Load())
		require.Equal(t, 7*time.Second, none.RetryAfter())
		require.True(t, none.NotSent())
		require.Equal(t, "http://users.internal", none.Target)
		require.EqualError(t, err, "balancer: no endpoints for http://users.internal: tried 6: breaker: open")
		require.Equal(t, uint64(1), b.Stats().NoEndpoints)
	})
	t.Run("all refuse for good", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1"),
			Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
				return nil, fmt.Errorf("wrapped: %w", unsent{})
			}).wrap,
		})
		_, err := get(t.Context(), b)
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, 2, none.Tried)
		require.Zero(t, none.RetryAfter(), "nobody repeats what is refused for good")
	})
	t.Run("dials are bounded", func(t *testing.T) {
		var dials atomic.Int32
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1"),
			Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				dials.Add(1)
				return nil, errRefused
			}},
		})
		_, err := get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		require.ErrorIs(t, err, errRefused)
		require.Equal(t, int32(4), dials.Load())
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, time.Second, none.RetryAfter())
	})
	t.Run("empty set", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
		_, err := get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		require.EqualError(t, err, "balancer: no endpoints for http://users.internal")
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, time.Second, none.RetryAfter(), "one may come")
	})
	t.Run("resolver fails", func(t *testing.T) {
		broken := errors.New("no such service")
		b := newBalancer(t, balancer.Config{Resolver: failing{broken}})
		_, err := get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		require.ErrorIs(t, err, broken)
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, time.Second, none.RetryAfter(), "one may come")
	})
}

// failing is a resolver that says err once.
type failing struct{ err error }

func (f failing) Resolve(
	ctx context.Context,
	_ *url.URL,
	_ <-chan struct{},
	update func([]balancer.Endpoint, error),
) {
	update(nil, f.err)
	<-ctx.Done()
}

// The wait for the first answer of a resolver ends with the request's context.
func TestWaitingForAResolverHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: mute{}})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("too late"))
		defer cancel()
		start := time.Now()
		_, err := get(ctx, b)
		require.EqualError(t, err, "too late")
		require.Equal(t, time.Second, time.Since(start))
	})
	t.Run("Close ends it too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, err := balancer.New(balancer.Config{Resolver: mute{}})
			require.NoError(t, err)
			done := make(chan error)
			go func() {
				_, err := get(t.Context(), b)
				done <- err
			}()
			synctest.Wait()
			require.NoError(t, b.Close(t.Context()))
			require.ErrorIs(t, <-done, balancer.ErrClosed)
		})
	})
	t.Run("and so does a resolver that gives up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBalancer(t, balancer.Config{Resolver: mute{returns: true}})
			_, err := get(t.Context(), b)
			require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		})
	})
}

// mute is a resolver that says nothing.
type mute struct{ returns bool }

func (m mute) Resolve(
	ctx context.Context,
	_ *url.URL,
	_ <-chan struct{},
	_ func([]balancer.Endpoint, error),
) {
	if !m.returns {
		<-ctx.Done()
	}
}
