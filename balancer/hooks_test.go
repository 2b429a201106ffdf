package balancer_test

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// panicky is a Resolver that panics at its first calls.
type panicky struct {
	calls atomic.Int64
	next  balancer.Resolver
}

func (p *panicky) Resolve(
	ctx context.Context, target *url.URL, refresh <-chan struct{}, update func([]balancer.Endpoint, error),
) {
	if p.calls.Add(1) <= 2 {
		panic("resolver")
	}
	p.next.Resolve(ctx, target, refresh, update)
}

// TestHooksThatPanicOnTheBalancersGoroutines end neither the process nor what they were called for.
func TestHooksThatPanicOnTheBalancersGoroutines(t *testing.T) {
	t.Run("Observe", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1", "b:1"), Wrap: ok200,
				Health: balancer.HealthConfig{
					Interval: time.Second,
					Check: func(context.Context, balancer.Endpoint, http.RoundTripper) error {
						return errors.New("down")
					},
				},
				Observe: func(_ context.Context, e balancer.Event) {
					if e.Kind != balancer.Attempted {
						panic("observer")
					}
				},
			})
			_, err := get(t.Context(), b)
			require.NoError(t, err)
			time.Sleep(time.Minute) // endpoints are found to be down meanwhile, which is told
			require.Positive(t, b.Stats().Panics)
			_, err = get(t.Context(), b)
			require.NoError(t, err)
		})
	})
	t.Run("Resolver", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := &panicky{next: balancer.Static("a:1")}
			b := newBalancer(t, balancer.Config{Resolver: r, Wrap: ok200})
			_, err := get(t.Context(), b)
			require.ErrorContains(t, err, "hook panicked: resolver")
			time.Sleep(time.Second)
			_, err = get(t.Context(), b)
			require.Error(t, err, "it panics again")
			time.Sleep(time.Minute) // it is asked again after a random wait
			_, err = get(t.Context(), b)
			require.NoError(t, err)
			require.EqualValues(t, 2, b.Stats().Panics)
			require.EqualValues(t, 3, r.calls.Load())
		})
	})
	t.Run("Allow", func(t *testing.T) {
		resolver := balancer.DNS(balancer.DNSConfig{Allow: func(netip.Addr) bool { panic("allow") }})
		b := newBalancer(t, balancer.Config{Resolver: resolver, Wrap: ok200})
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1:1/", nil)
		require.NoError(t, err)
		_, err = b.RoundTrip(req)
		require.ErrorContains(t, err, "hook panicked: allow")
	})
}
