package balancer_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

func TestAvoidTriesEveryEndpointOnce(t *testing.T) {
	for name, p := range policies() {
		if name == "user's" || name == "user's, wrong" {
			continue // then it is the policy that must avoid them
		}
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.NewPushed(tiers()...), Policy: p, Wrap: ok200,
			})
			ctx := balancer.Avoid(t.Context())
			seen := map[string]int{}
			for range 16 {
				var pick balancer.Event
				_, err := get(withPick(ctx, &pick), b)
				require.NoError(t, err)
				seen[pick.Endpoint.Addr]++
				if len(seen) < 8 {
					require.Equal(t, 1, seen[pick.Endpoint.Addr], "%v", seen)
				}
			}
			require.Len(t, seen, 8, "also those of a lower priority, before any twice")
		})
	}
}

// Hedged attempts run at the same time.
func TestAvoidConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(addrs(6)...)
		for _, a := range f.addrs() {
			f.set(a, server{delay: time.Second})
		}
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addrs(6)...), Wrap: f.wrap})
		ctx := balancer.Avoid(t.Context())
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() { _, _ = get(ctx, b) })
			synctest.Wait()
		}
		for addr, n := range b.Stats().EndpointInFlight {
			require.Equal(t, 1, n, addr)
		}
		wg.Wait()
	})
	// Without synctest the attempts are not so well ordered. Nothing may break.
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addrs(6)...), Wrap: ok200})
	ctx := balancer.Avoid(t.Context())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				_, _ = get(ctx, b)
			}
		})
	}
	wg.Wait()
	require.Zero(t, b.Stats().InFlight)
}

func TestTheEventTellsWhereARequestWent(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("a:1", "b:1"), Policy: first{}, SlowStart: -1,
		Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
			if e.Addr == "a:1" {
				return nil, unsent{}
			}
			return answer(200), nil
		}).wrap,
	})
	pick := pickOf(t, b)
	require.Equal(t, balancer.Endpoint{Addr: "b:1"}, pick.Endpoint)
	require.Equal(t, balancer.ReasonPolicy, pick.Reason)
	require.Equal(t, 1, pick.Repicked)
	one := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1"), Wrap: ok200})
	pick = pickOf(t, one)
	require.Equal(t, balancer.Endpoint{Addr: "a:1"}, pick.Endpoint)
	require.Equal(t, balancer.ReasonOnly, pick.Reason)
	require.Zero(t, pick.Repicked)
}
