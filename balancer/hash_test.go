package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/balancer"
)

type keyOf struct{}

// byContext takes the key from the context, since the tests' requests are all the same.
func byContext(r *http.Request) (string, bool) {
	key, ok := r.Context().Value(keyOf{}).(string)
	return key, ok
}

func pickFor(ctx context.Context, b *balancer.Balancer, key string) (balancer.Event, error) {
	var pick balancer.Event
	_, err := get(withPick(context.WithValue(ctx, keyOf{}, key), &pick), b)
	if err == nil && pick.Kind == "" {
		err = errors.New("the Balancer is not observed")
	}
	return pick, err
}

// When an endpoint leaves, only its keys move. When it comes back, only they move back.
func TestL27_MinimalRemap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(rt, "hosts")
		weights := rapid.SliceOfN(rapid.SampledFrom([]uint32{0, 1, 2, 7, math.MaxUint32}), n, n).
			Draw(rt, "weights")
		keys := rapid.SliceOfN(rapid.String(), 1, 30).Draw(rt, "keys")
		gone := rapid.IntRange(0, n-1).Draw(rt, "gone")
		place := func(skip int) map[string]string {
			var set []balancer.Endpoint
			for i, w := range weights {
				if i != skip {
					set = append(set, balancer.Endpoint{Addr: addrs(n)[i], Weight: w})
				}
			}
			b, err := balancer.New(observed(balancer.Config{
				Resolver: balancer.NewPushed(set...), Wrap: ok200,
				Policy: balancer.Hash(balancer.HashConfig{Key: byContext}),
			}))
			if err != nil {
				rt.Fatal(err)
			}
			defer b.Close(t.Context())
			placed := map[string]string{}
			for range 2 { // the second time nothing may differ
				for _, k := range keys {
					p, err := pickFor(t.Context(), b, k)
					if err != nil {
						rt.Fatal(err)
					}
					if was, ok := placed[k]; ok && was != p.Endpoint.Addr {
						rt.Fatalf(
							"key %q moved from %s to %s though nothing changed",
							k,
							was,
							p.Endpoint.Addr,
						)
					}
					placed[k] = p.Endpoint.Addr
				}
			}
			return placed
		}
		before := place(-1)
		if n == 1 {
			return
		}
		for k, now := range place(gone) {
			if was := before[k]; was != now && was != addrs(n)[gone] {
				rt.Fatalf("key %q moved from %s to %s though %s left", k, was, now, addrs(n)[gone])
			}
		}
	})
}

// However skewed the keys are, no endpoint has more than Bound times the average in flight.
func TestL27_BoundedLoad(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(rt, "hosts")
		bound := rapid.SampledFrom([]float64{1.01, 1.25, 2, 5}).Draw(rt, "bound")
		weights := rapid.SliceOfN(rapid.Uint32Range(1, 4), n, n).Draw(rt, "weights")
		sends := rapid.SliceOfN(rapid.IntRange(0, 3), 1, 60).Draw(rt, "keys") // few keys: skew
		var fault error
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(n)...)
			var set []balancer.Endpoint
			all := uint32(0)
			for i, a := range addrs(n) {
				f.set(a, server{delay: 5 * time.Second})
				set = append(set, balancer.Endpoint{Addr: a, Weight: weights[i]})
				all += weights[i]
			}
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.NewPushed(set...), Wrap: f.wrap,
				Policy: balancer.Hash(
					balancer.HashConfig{Key: byContext, Bound: bound},
				), SlowStart: -1, IdleTimeout: -1,
			})
			if err := b.Warm(t.Context(), "http://users.internal", 0); err != nil {
				fault = err
				return
			}
			time.Sleep(12 * time.Second) // the probation with one request at a time is over
			for i, key := range sends {
				go func() { _, _ = pickFor(t.Context(), b, fmt.Sprint(key)) }()
				synctest.Wait()
				for _, h := range b.Endpoints("http://users.internal") {
					limit := int(math.Ceil(bound * float64(i+1) / float64(all) * float64(h.Weight)))
					if h.InFlight > limit {
						fault = fmt.Errorf(
							"%d of %d requests on one of %d endpoints, allowed are %d",
							h.InFlight,
							i+1,
							n,
							limit,
						)
					}
				}
			}
			time.Sleep(10 * time.Second)
		})
		if fault != nil {
			rt.Fatal(fault)
		}
	})
}

func TestHash(t *testing.T) {
	t.Run("replicas agree", func(t *testing.T) {
		var first map[string]string
		for range 3 {
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static(addrs(7)...),
				Policy:   balancer.Hash(balancer.HashConfig{Key: byContext}),
				Wrap:     ok200,
			})
			placed := map[string]string{}
			for i := range 50 {
				p, err := pickFor(t.Context(), b, fmt.Sprint(i))
				require.NoError(t, err)
				require.Equal(t, balancer.ReasonHash, p.Reason)
				placed[fmt.Sprint(i)] = p.Endpoint.Addr
			}
			if first == nil {
				first = placed
			}
			require.Equal(t, first, placed)
		}
	})
	t.Run("no key", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(addrs(3)...), Wrap: ok200,
			Policy: balancer.Hash(balancer.HashConfig{Key: byContext, Next: balancer.RoundRobin()}),
		})
		got := map[string]bool{}
		for range 10 {
			p := pickOf(t, b)
			require.Equal(t, balancer.ReasonTurn, p.Reason)
			got[p.Endpoint.Addr] = true
		}
		require.Len(t, got, 3)
	})
	byKey := balancer.Hash(balancer.HashConfig{Key: byContext})
	for name, policy := range map[string]balancer.Policy{
		"spilled tiers":          byKey,
		"spilled tiers, cookies": balancer.Sticky(balancer.StickyConfig{Secret: secret, Next: byKey}),
	} {
		// Half of the first priority is down, and the share of the second is chosen by the key too.
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChecks()
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.NewPushed(tiers()...), Wrap: ok200, PanicBelow: -1,
					Policy: policy,
					Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
				})
				pickOf(t, b)
				c.set("p0-0:1", errCheck)
				c.set("p0-1:1", errCheck)
				time.Sleep(20 * time.Second)
				second := 0
				for k := range 200 {
					first, err := pickFor(t.Context(), b, fmt.Sprint(k))
					require.NoError(t, err)
					for range 5 {
						p, err := pickFor(t.Context(), b, fmt.Sprint(k))
						require.NoError(t, err)
						require.Equal(t, first.Endpoint.Addr, p.Endpoint.Addr)
					}
					if first.Endpoint.Priority == 1 {
						second++
					}
				}
				require.InDelta(t, 60, second, 30)
			})
		})
	}
}
