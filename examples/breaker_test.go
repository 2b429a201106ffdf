package examples_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/breaker"
)

// A fleet is three servers behind a balancer with a breaker for each, of which the first answers
// 500 while broken.
type fleet struct {
	addrs    []string
	broken   atomic.Bool
	asked    [3]atomic.Int64
	balancer *balancer.Balancer
	breaker  *breaker.Breaker
	client   *http.Client

	mu          sync.Mutex // guards the field below
	transitions []breaker.Event
}

func newFleet(t *testing.T, outlier balancer.OutlierConfig, cfg breaker.Config) *fleet {
	f := &fleet{}
	for i := range 3 {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f.asked[i].Add(1)
			if i == 0 && f.broken.Load() {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}))
		t.Cleanup(server.Close)
		f.addrs = append(f.addrs, server.Listener.Addr().String())
	}
	cfg.Observe = func(_ context.Context, e breaker.Event) {
		if e.Kind == breaker.Transition {
			f.mu.Lock()
			f.transitions = append(f.transitions, e)
			f.mu.Unlock()
		}
	}
	var err error
	f.breaker, err = breaker.New(cfg)
	require.NoError(t, err)
	f.balancer, err = balancer.New(balancer.Config{
		Resolver: balancer.Static(f.addrs...),
		Policy:   balancer.RoundRobin(), // does not shun the broken one by itself
		Outlier:  outlier,
		Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
			return f.breaker.TransportFor(e.Addr, next)
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.balancer.Close(context.Background()) })
	f.client = &http.Client{Transport: f.balancer}
	return f
}

// get returns the status of one request.
func (f *fleet) get(t *testing.T) int {
	t.Helper()
	resp, err := f.client.Get("http://app.test/")
	require.NoError(t, err)
	resp.Body.Close()
	return resp.StatusCode
}

// opened returns the endpoints whose breaker has opened, once for each time.
func (f *fleet) opened() (addrs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.transitions {
		if e.To == breaker.Open {
			addrs = append(addrs, e.Key)
		}
	}
	return addrs
}

var noOutliers = balancer.OutlierConfig{Consecutive: -1, Deviations: -1}

// One of three endpoints answers 500. Its breaker opens and the others stay closed; from then on
// no request fails, since the balancer takes what the breaker refuses to another endpoint.
func TestABreakerForEachEndpointHidesTheBrokenOne(t *testing.T) {
	f := newFleet(t, noOutliers, breaker.Config{OpenFor: time.Hour})
	f.broken.Store(true)
	failed := 0
	for len(f.opened()) == 0 {
		if f.get(t) != http.StatusOK {
			failed++
		}
	}
	require.LessOrEqual(t, failed, 20, "as many as open a breaker by default")
	require.Equal(t, []string{f.addrs[0]}, f.opened())

	before := f.asked[0].Load()
	for range 300 {
		require.Equal(t, http.StatusOK, f.get(t))
	}
	require.Equal(t, before, f.asked[0].Load(), "the broken server was asked")
	keys := f.breaker.Stats().Keys
	require.Equal(t, breaker.Open, keys[f.addrs[0]].State)
	require.Equal(t, breaker.Closed, keys[f.addrs[1]].State)
	require.Equal(t, breaker.Closed, keys[f.addrs[2]].State)
	for _, e := range f.balancer.Endpoints("http://app.test") {
		require.Equal(t, balancer.Healthy, e.State, "%s: what a breaker refuses is nobody's failure", e.Addr)
	}
}

// Outlier ejection and breakers together take the broken endpoint out and nobody else: neither
// flaps, and the set is never empty.
func TestBreakersAndOutlierEjectionTogether(t *testing.T) {
	f := newFleet(t, balancer.OutlierConfig{}, breaker.Config{MinRequests: 5, OpenFor: time.Hour})
	f.broken.Store(true)
	failed := 0
	for range 1000 {
		if f.get(t) != http.StatusOK {
			failed++
		}
	}
	require.LessOrEqual(t, failed, 10)
	require.LessOrEqual(t, len(f.opened()), 1, "one breaker opened, once")
	require.NotContains(t, f.opened(), f.addrs[1])
	require.NotContains(t, f.opened(), f.addrs[2])
	available := 0
	for _, e := range f.balancer.Endpoints("http://app.test") {
		if e.State == balancer.Healthy {
			available++
		}
	}
	require.GreaterOrEqual(t, available, 2)
	require.Zero(t, f.balancer.Stats().NoEndpoints)
}

// If the breakers of all endpoints are open, the balancer's error says how long to wait.
func TestAllBreakersOpenTellTheWait(t *testing.T) {
	f := newFleet(t, noOutliers, breaker.Config{})
	require.Equal(t, http.StatusOK, f.get(t))
	for _, addr := range f.addrs {
		for {
			done, err := f.breaker.Acquire(t.Context(), addr)
			if err != nil {
				require.ErrorIs(t, err, breaker.ErrOpen)
				break
			}
			done(breaker.Failure)
		}
	}
	_, err := f.client.Get("http://app.test/")
	require.ErrorIs(t, err, balancer.ErrNoEndpoints)
	require.ErrorIs(t, err, breaker.ErrOpen)
	var wait interface{ RetryAfter() time.Duration }
	require.True(t, errors.As(err, &wait))
	require.Greater(t, wait.RetryAfter(), time.Second, "the open time is 5 s, varied by a fifth")
	require.LessOrEqual(t, wait.RetryAfter(), 6*time.Second)
}
