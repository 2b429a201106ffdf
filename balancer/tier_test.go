package balancer_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// tiers is a fleet of four endpoints of priority 0 and four of priority 1, called p0-0:1 and so on.
func tiers() []balancer.Endpoint {
	var all []balancer.Endpoint
	for _, a := range []string{"p0-0:1", "p0-1:1", "p0-2:1", "p0-3:1"} {
		all = append(all, balancer.Endpoint{Addr: a}, balancer.Endpoint{Addr: "p1" + a[2:], Priority: 1})
	}
	return all
}

// shareOf returns the share of n requests that goes to addresses with the prefix.
func shareOf(t *testing.T, b *balancer.Balancer, prefix string, n int) float64 {
	t.Helper()
	hits := 0
	for range n {
		if strings.HasPrefix(pickOf(t, b).Endpoint.Addr, prefix) {
			hits++
		}
	}
	return float64(hits) / float64(n)
}

func TestPrioritiesSpillByHealth(t *testing.T) {
	for name, tt := range map[string]struct {
		down string // endpoints, by their last digit before the port
		low  string
		want float64 // share of priority 0
	}{
		"all well":         {want: 1},
		"one of four down": {down: "0", want: 1}, // overprovisioned by 1.4
		"half down":        {down: "01", want: 0.7},
		"one left":         {down: "012", want: 0.35},
		"all down":         {down: "0123", want: 0},
		"the others down":  {low: "0123", want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChecks()
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.NewPushed(tiers()...), Wrap: ok200, IdleTimeout: -1, PanicBelow: -1,
					Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
				})
				pickOf(t, b)
				for _, d := range tt.down {
					c.set("p0-"+string(d)+":1", errCheck)
				}
				for _, d := range tt.low {
					c.set("p1-"+string(d)+":1", errCheck)
				}
				time.Sleep(20 * time.Second)
				synctest.Wait()
				require.InDelta(t, tt.want, shareOf(t, b, "p0", 2000), 0.06)
			})
		})
	}
}

func TestZonesSpillByHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.NewPushed(
				balancer.Endpoint{
					Addr: "here-0:1",
					Zone: "eu-1a",
				},
				balancer.Endpoint{Addr: "here-1:1", Zone: "eu-1a"},
				balancer.Endpoint{Addr: "there-0:1", Zone: "eu-1b"},
				balancer.Endpoint{Addr: "there-1:1"},
				balancer.Endpoint{Addr: "last:1", Zone: "eu-1a", Priority: 1},
			),
			Wrap: ok200, Zone: "eu-1a", IdleTimeout: -1, Health: balancer.HealthConfig{
				Check:    c.check,
				Interval: time.Second,
			},
		})
		require.Equal(t, 1.0, shareOf(t, b, "here", 200))
		c.set("here-0:1", errCheck)
		time.Sleep(20 * time.Second)
		require.InDelta(t, 0.7, shareOf(t, b, "here", 2000), 0.06)
		require.InDelta(t, 0.3, shareOf(t, b, "there", 2000), 0.06)
		c.set("here-1:1", errCheck)
		time.Sleep(20 * time.Second)
		require.Equal(t, 1.0, shareOf(t, b, "there", 200), "another zone before a lower priority")
	})
}

// A zone whose endpoints are all healthy, but much slower than those of the next zone, passes on
// what it cannot carry.
func TestZonesSpillByLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet("here-0:1", "here-1:1", "there-0:1", "there-1:1")
		for _, a := range f.addrs() {
			f.set(a, server{delay: 10 * time.Millisecond})
		}
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.NewPushed(
				balancer.Endpoint{Addr: "here-0:1", Zone: "a"},
				balancer.Endpoint{Addr: "here-1:1", Zone: "a"},
				balancer.Endpoint{Addr: "there-0:1", Zone: "b"},
				balancer.Endpoint{Addr: "there-1:1", Zone: "b"},
			),
			Wrap: f.wrap, Zone: "a",
		})
		there := func() uint64 {
			return statusOf(t, b, "there-0:1").Requests + statusOf(t, b, "there-1:1").Requests
		}
		sent, _ := load(t, b, 5*time.Millisecond, 10*time.Second)
		require.Less(t, float64(there()), 0.05*float64(sent))
		f.set("here-0:1", server{delay: 500 * time.Millisecond})
		f.set("here-1:1", server{delay: 500 * time.Millisecond})
		load(t, b, 5*time.Millisecond, 10*time.Second)
		before := there()
		sent, _ = load(t, b, 5*time.Millisecond, 10*time.Second)
		require.Greater(t, float64(there()-before), 0.2*float64(sent))
		f.set("here-0:1", server{delay: 10 * time.Millisecond})
		f.set("here-1:1", server{delay: 10 * time.Millisecond})
		load(t, b, 5*time.Millisecond, 60*time.Second)
		before = there()
		sent, _ = load(t, b, 5*time.Millisecond, 10*time.Second)
		require.Less(t, float64(there()-before), 0.05*float64(sent), "it comes back")
	})
}

// A tier that grows under health checks does not count as one that fails: its new endpoints are
// pending, not down.
func TestGrowingIsNotFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecks()
		var seen events
		p := balancer.NewPushed(
			balancer.Endpoint{Addr: "p0-0:1"},
			balancer.Endpoint{Addr: "p1-0:1", Priority: 1},
		)
		b := newBalancer(t, balancer.Config{
			Resolver: p, Wrap: ok200, Observe: seen.observe, SlowStart: -1,
			Health: balancer.HealthConfig{
				Interval: 10 * time.Second,
				Check: func(ctx context.Context, e balancer.Endpoint, rt http.RoundTripper) error {
					time.Sleep(time.Second)
					return c.check(ctx, e, rt)
				},
			},
		})
		pickOf(t, b)
		p.Set(tiers()...)
		synctest.Wait()
		require.Equal(t, 1.0, shareOf(t, b, "p0-0", 200))
		require.Empty(t, seen.of(balancer.PanicChanged))
		time.Sleep(2 * time.Second)
		require.Equal(t, 1.0, shareOf(t, b, "p0", 200))
		// If the whole set is new, requests go to it in panic mode.
		p.Set(balancer.Endpoint{Addr: "new-0:1"}, balancer.Endpoint{Addr: "new-1:1"})
		synctest.Wait()
		pickOf(t, b)
		require.Equal(t, 1, b.Stats().Panicking)
	})
}
