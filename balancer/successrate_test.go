package balancer_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/balancer"
)

func TestSuccessRateEjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(addrs(6)...), Policy: balancer.RoundRobin(),
			Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				if n++; e.Addr == "10.0.0.0:80" && n%2 == 0 { // never many in a row
					return answer(500), nil
				}
				return answer(200), nil
			}).wrap,
			Outlier: balancer.OutlierConfig{Consecutive: -1, Base: 30 * time.Second},
		})
		// With 6 endpoints in turn, parity would always hit the same: shift it.
		for i := range 4000 {
			if i%7 == 0 {
				mu.Lock()
				n++
				mu.Unlock()
			}
			_, err := get(t.Context(), b)
			require.NoError(t, err)
			time.Sleep(5 * time.Millisecond)
		}
		s := statusOf(t, b, "10.0.0.0:80")
		require.Equal(t, balancer.Ejected, s.State)
		require.Equal(t, balancer.ReasonSuccessRate, s.Reason)
		require.Equal(t, uint64(1), b.Stats().Ejections)
	})
	t.Run("not by a single failure", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(6)...)
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static(f.addrs()...),
				Wrap:     f.wrap,
				Policy:   balancer.RoundRobin(),
			})
			for range 5 {
				load(t, b, time.Millisecond, 5*time.Second)
				f.set("10.0.0.0:80", server{status: 500})
				load(t, b, time.Millisecond, 6*time.Millisecond)
				f.set("10.0.0.0:80", server{})
				load(t, b, time.Millisecond, 5*time.Second)
			}
			require.NotZero(t, b.Stats().Failures)
			require.Zero(t, b.Stats().Ejections)
		})
	})
}

// everyone is a user's own policy that leaves every choice to chance. Latencies are measured
// nevertheless.
type everyone struct{}

func (everyone) Pick(*balancer.View, *http.Request) int { return -1 }

// Whatever happens to a target of n endpoints, the last one is never ejected, nor more than the
// share, and every ejected endpoint comes back.
func TestL03_NeverEverybody(t *testing.T) {
	type step struct {
		bad   []bool // by endpoint
		sends int
		pause time.Duration
	}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(rt, "hosts")
		share := rapid.SampledFrom([]float64{0, 0.1, 0.3, 0.5, 1}).Draw(rt, "share")
		consecutive := rapid.IntRange(1, 5).Draw(rt, "consecutive")
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				bad:   rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "bad"),
				sends: rapid.IntRange(1, 40).Draw(t, "sends"),
				pause: time.Duration(rapid.IntRange(0, 20000).Draw(t, "pause")) * time.Millisecond,
			}
		}), 1, 8).Draw(rt, "steps")
		allowed := share
		if allowed == 0 {
			allowed = 0.3
		}
		limit := max(1, int(allowed*float64(n)))
		var fault error
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(n)...)
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static(
					addrs(n)...), Wrap: f.wrap, Policy: balancer.Random(), SlowStart: -1,
				Outlier: balancer.OutlierConfig{
					Consecutive:  consecutive,
					MaxEjected:   share,
					MinEndpoints: 2,
					MinRequests:  5,
					Interval:     time.Second,
					Base:         5 * time.Second,
					Max:          10 * time.Second,
				},
			})
			look := func() {
				ejected, rows := 0, b.Endpoints("http://users.internal")
				for _, h := range rows {
					if h.State == balancer.Ejected {
						ejected++
					}
				}
				if ejected > limit || len(rows) > 0 && ejected == len(rows) {
					fault = errors.Join(
						fault,
						fmt.Errorf("%d of %d endpoints ejected, allowed are %d", ejected, n, limit),
					)
				}
			}
			for _, s := range steps {
				for i, bad := range s.bad {
					v := server{}
					if bad {
						v.status = 500
					}
					f.set(addrs(n)[i], v)
				}
				for range s.sends {
					if _, err := get(t.Context(), b); err != nil {
						fault = errors.Join(fault, err)
					}
					look()
				}
				for range 10 {
					time.Sleep(s.pause / 10)
					look()
				}
			}
			for _, a := range addrs(n) {
				f.set(a, server{})
			}
			time.Sleep(15 * time.Second)
			for range 10 {
				_, _ = get(t.Context(), b)
			}
			if s := b.Stats(); s.Available != n || s.InFlight != 0 {
				fault = errors.Join(
					fault,
					fmt.Errorf("%d of %d available at the end, %d in flight", s.Available, n, s.InFlight),
				)
			}
		})
		if fault != nil {
			rt.Fatal(fault)
		}
	})
}
