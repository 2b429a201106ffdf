package balancer

import (
	"context"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A reloading is a group that has picked an endpoint for a request under one configuration and goes
// by another one when the reply comes.
type reloading struct {
	g      *group
	picked choice
	e      *endpoint // that was picked
}

// newReloading makes a group of six endpoints in two zones. Before its Reload the endpoint picked
// has a cost of 10 ms if before keeps costs.
func newReloading(t *testing.T, before, after Config) *reloading {
	t.Helper()
	for _, cfg := range []*Config{&before, &after} {
		cfg.Resolver = Static("unused")
		var err error
		*cfg, err = cfg.withDefaults()
		require.NoError(t, err)
	}
	r := &reloading{g: newGroup(&before)}
	r.g.update([]Endpoint{
		{Addr: "a:1", Zone: "a"}, {Addr: "b:1", Zone: "a"}, {Addr: "c:1", Zone: "a"},
		{Addr: "d:1", Zone: "b"}, {Addr: "e:1", Zone: "b"}, {Addr: "f:1", Zone: "b"},
	}, 0, func(*endpoint) {})
	var ok bool
	r.picked, ok = r.g.pick(new(View), r.g.config.Load(), nil, nil, 1)
	require.True(t, ok)
	r.e = r.picked.endpoint
	r.g.setCost(r.g.config.Load(), r.e, 10*float64(ms))
	r.g.reload(&after, 2)
	return r
}

func observeNothing(context.Context, Event) {}

// A reply that comes after a Reload, or a body that breaks off then, has the consequences that the
// present configuration wants.
func TestRepliesAfterAReloadGoByThePresentConfiguration(t *testing.T) {
	strict := OutlierConfig{Consecutive: 1}
	off := OutlierConfig{Consecutive: -1}
	for name, fail := range map[string]func(r *reloading){
		"a failure":     func(r *reloading) { r.g.reply(&r.picked, 3, 1, Failure, 0) },
		"a broken body": func(r *reloading) { r.g.finish(&r.picked, 3, true) },
		"a failure that another goroutine has counted": func(r *reloading) {
			r.e.failures.Store(1)
			r.e.returning = true
			r.g.ejectFailing(r.e, 3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("ejection has been switched off", func(t *testing.T) {
				r := newReloading(t, Config{Outlier: strict}, Config{
					Zone: "a", Outlier: off, Observe: observeNothing,
				})
				fail(r)
				require.Zero(t, r.e.ejectedUntil)
				s := r.g.current.Load()
				require.Len(t, s.tiers, 2, "one for each zone")
				require.Len(t, s.tiers[0].endpoints, 3)
				require.Empty(t, r.g.takeEvents())
			})
			t.Run("ejection has been switched on", func(t *testing.T) {
				r := newReloading(t, Config{Outlier: off}, Config{
					Zone: "a", Outlier: strict, Observe: observeNothing,
				})
				fail(r)
				require.Positive(t, r.e.ejectedUntil)
				require.Len(t, r.g.current.Load().tiers, 2, "one for each zone")
				events := r.g.takeEvents()
				require.Len(t, events, 1)
				require.Equal(t, Ejected, events[0].State)
			})
			t.Run("the observer has gone", func(t *testing.T) {
				r := newReloading(t, Config{Outlier: strict, Observe: observeNothing}, Config{
					Outlier: strict,
				})
				fail(r)
				require.Positive(t, r.e.ejectedUntil)
				require.Empty(t, r.g.takeEvents())
			})
		})
	}
}

// What a reply after a Reload teaches is kept as the present estimator keeps it, whatever the one
// before kept.
func TestRepliesAfterAReloadTeachThePresentEstimator(t *testing.T) {
	outcomes := map[string]func(r *reloading){
		"success":  func(r *reloading) { r.g.reply(&r.picked, 50*ms, 40*ms, Success, 0) },
		"canceled": func(r *reloading) { r.g.reply(&r.picked, 50*ms, 40*ms, Canceled, 0) },
		"busy":     func(r *reloading) { r.g.reply(&r.picked, 50*ms, 40*ms, Busy, time.Second) },
		"failure":  func(r *reloading) { r.g.reply(&r.picked, 50*ms, 40*ms, Failure, 0) },
		"broken":   func(r *reloading) { r.g.finish(&r.picked, 50*ms, true) },
		"failure like all others": func(r *reloading) {
			r.g.commonFault.Store(true)
			r.g.reply(&r.picked, 50*ms, 40*ms, Failure, 0)
		},
	}
	policies := map[string]Policy{
		"adaptive": Adaptive(), "plain": PeakEWMA(time.Second), "none": RoundRobin(),
	}
	for from, before := range policies {
		for to, after := range policies {
			for outcome, reply := range outcomes {
				t.Run(from+" to "+to+"/"+outcome, func(t *testing.T) {
					r := newReloading(t, Config{Policy: before}, Config{Policy: after})
					want := newReloading(t, Config{Policy: after}, Config{Policy: after})
					reply(r)
					reply(want)
					require.InEpsilon(t, want.e.cost.Load(), r.e.cost.Load(), 1e-3)
					require.InEpsilon(t, want.e.mean.Load(), r.e.mean.Load(), 1e-3)
					require.InEpsilon(t, want.e.score.Load(), r.e.score.Load(), 1e-3)
					require.Equal(t, want.e.penalty.Load(), r.e.penalty.Load())
					require.Equal(t, want.e.restricted.Load(), r.e.restricted.Load())
				})
			}
		}
	}
	r := newReloading(t, Config{Policy: RoundRobin()}, Config{})
	outcomes["canceled"](r)
	require.InEpsilon(t, math.Cbrt(float64(40*ms)), r.e.mean.Load(), 1e-3)
}

// reloadDuring returns a Balancer that has been reloaded during its only request. It is for bubbles
// of synctest.
func reloadDuring(t *testing.T, before, after Config, status int, header http.Header) *Balancer {
	t.Helper()
	var b *Balancer
	wrap := func(Endpoint, http.RoundTripper) http.RoundTripper {
		return tripper(func(*http.Request) (*http.Response, error) {
			require.NoError(t, b.Reload(after))
			synctest.Wait() // the new resolver has spoken, and no tick comes before the reply
			return &http.Response{
				StatusCode: status, Header: header.Clone(), Body: io.NopCloser(strings.NewReader("x")),
			}, nil
		})
	}
	before.Wrap, after.Wrap = wrap, wrap
	before.Resolver, after.Resolver = Static("a:1", "b:1", "c:1"), Static("a:1", "b:1", "c:1")
	var err error
	b, err = New(before)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.WithoutCancel(t.Context()))) })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://users.internal/", nil)
	require.NoError(t, err)
	resp, err := b.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return b
}

// The event of an attempt is for the observer that its request began with. What happens to an
// endpoint is for the present one, and need not wait for a tick.
func TestObserversOfAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var before, after []EventKind
		note := func(kinds *[]EventKind) func(context.Context, Event) {
			return func(ctx context.Context, e Event) {
				if ctx == t.Context() { // not those of the resolver
					*kinds = append(*kinds, e.Kind)
				}
			}
		}
		outlier := OutlierConfig{Consecutive: 1}
		reloadDuring(t, Config{Outlier: outlier, Observe: note(&before)},
			Config{Outlier: outlier, Observe: note(&after)}, http.StatusBadGateway, http.Header{})
		require.Equal(t, []EventKind{Attempted}, before)
		require.Contains(t, after, EndpointChanged)
	})
}

// The load that a response tells is for those who pick by it now.
func TestLoadOfAResponseAfterAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		header := http.Header{LoadHeader: {load{inFlight: 5, latency: time.Millisecond}.String()}}
		b := reloadDuring(t, Config{}, Config{Policy: Probing(ProbingConfig{})}, http.StatusOK, header)
		p := (*b.pools.Load())[targetKey{"http", "users.internal"}]
		require.Positive(t, p.group.config.Load().probes.last.Load())
	})
}
