package balancer_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// A fleet is upstream servers in fake time.
type fleet struct {
	mu    sync.Mutex // guards serve
	serve map[string]server
}

type server struct {
	delay  time.Duration
	status int   // zero means 200
	err    error // instead of an answer
	cut    bool  // the body breaks off
}

func newFleet(addrs ...string) *fleet {
	f := &fleet{serve: map[string]server{}}
	for _, a := range addrs {
		f.serve[a] = server{}
	}
	return f
}

func (f *fleet) set(addr string, s server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serve[addr] = s
}

func (f *fleet) addrs() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for a := range f.serve {
		all = append(all, a)
	}
	return all
}

func (f *fleet) wrap(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
	return upstream(func(e balancer.Endpoint, r *http.Request) (*http.Response, error) {
		f.mu.Lock()
		s := f.serve[e.Addr]
		f.mu.Unlock()
		if s.delay > 0 {
			timer := time.NewTimer(s.delay)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		if s.err != nil {
			return nil, s.err
		}
		resp := answer(max(s.status, 200))
		if s.cut {
			resp.Body = io.NopCloser(broken{})
		}
		return resp, nil
	}).wrap(e, next)
}

// load sends a request every gap for d, waits for all of them, and returns how many there were and
// how many failed.
func load(t *testing.T, b *balancer.Balancer, gap, d time.Duration) (sent, failed int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	ticker := time.NewTicker(gap)
	defer ticker.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-ticker.C {
		sent++
		wg.Go(func() {
			if status, err := get(t.Context(), b); err != nil || status >= 500 {
				mu.Lock()
				defer mu.Unlock()
				failed++
			}
		})
	}
	wg.Wait()
	return sent, failed
}

func addrs(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("10.0.0.%d:80", i)
	}
	return all
}

func TestL01_AllEndpointsDown(t *testing.T) {
	for _, all := range []bool{true, false} { // or one left of five, which is below the share too
		t.Run(fmt.Sprintf("all=%v/panic=default", all), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChecks()
				var seen events
				hosts := addrs(5)
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(
						hosts...), Wrap: ok200, Observe: seen.observe, IdleTimeout: -1, SlowStart: -1,
					Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
				})
				pickOf(t, b)
				for i, a := range hosts {
					if all || i > 0 {
						c.set(a, errCheck)
					}
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				got := map[string]bool{}
				for range 200 {
					p := pickOf(t, b)
					require.Equal(t, 1, b.Stats().Panicking)
					got[p.Endpoint.Addr] = true
				}
				require.Len(t, got, 5, "all get requests, whatever is known of them")
				require.Equal(t, 1, b.Stats().Panicking)
				began := seen.of(balancer.PanicChanged)
				require.Len(t, began, 1)
				require.True(t, began[0].Panicking)
				require.Equal(t, 5, began[0].Endpoints)
				for _, a := range hosts {
					c.set(a, nil)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				pickOf(t, b)
				require.Len(t, seen.of(balancer.PanicChanged), 2)
				require.Zero(t, b.Stats().Panicking)
			})
		})
	}
	t.Run("panic=never", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newChecks()
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1", "b:1"), Wrap: ok200, PanicBelow: -1,
				Health: balancer.HealthConfig{Check: c.check, Interval: time.Second},
			})
			pickOf(t, b)
			c.set("a:1", errCheck)
			c.set("b:1", errCheck)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			start := time.Now()
			_, err := get(t.Context(), b)
			require.ErrorIs(t, err, balancer.ErrNoEndpoints)
			require.True(t, notSent(err))
			require.Zero(t, time.Since(start), "it does not block")
		})
	})
}

func TestL02_BlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(addrs(10)...)
		for _, a := range f.addrs() {
			f.set(a, server{delay: 10 * time.Millisecond})
		}
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(f.addrs()...), Wrap: f.wrap})
		load(t, b, time.Millisecond, 5*time.Second)
		f.set("10.0.0.3:80", server{delay: 100 * time.Microsecond, status: 500})
		sent, failed := load(t, b, time.Millisecond, time.Second)
		require.Less(t, failed*10, sent, "no more than its fair share")
		more, later := load(t, b, time.Millisecond, 15*time.Second)
		require.LessOrEqual(t, 1000*(failed+later), sent+more, "0.1 %% of all, where taking turns has 10 %%")
		require.NotZero(t, b.Stats().Ejections)
	})
}

// Whatever the policy, the black hole gets fewer requests than its fair share once it has been
// ejected.
func TestFailuresInARowEject(t *testing.T) {
	for name, fault := range map[string]server{
		"500":     {status: 500},
		"502":     {status: 502},
		"broken":  {err: io.ErrUnexpectedEOF},
		"refused": {err: &balancerDial{}},
		"cut":     {cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(addrs(4)...)
				f.set("10.0.0.0:80", fault)
				var seen events
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(
						f.addrs()...), Wrap: f.wrap, Policy: balancer.RoundRobin(), Observe: seen.observe,
					Outlier: balancer.OutlierConfig{Consecutive: 3, Base: 10 * time.Second},
				})
				load(t, b, 10*time.Millisecond, time.Second)
				s := statusOf(t, b, "10.0.0.0:80")
				require.Equal(t, balancer.Ejected, s.State)
				require.Equal(t, balancer.ReasonConsecutiveFailures, s.Reason)
				require.Equal(t, uint64(3), s.Failures)
				require.Equal(t, uint64(1), b.Stats().Ejections)
				changed := seen.of(balancer.EndpointChanged)
				require.Len(t, changed, 1)
				require.Equal(t, balancer.Ejected, changed[0].State)
				require.InDelta(
					t,
					10*time.Second,
					changed[0].EjectedFor,
					float64(time.Second)+1,
					"give or take a tenth",
				)
				require.Equal(t, 3, b.Stats().Available)
			})
		})
	}
}

type balancerDial struct{}

func (*balancerDial) Error() string { return "connection refused" }

func TestEjectionsGrowAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(addrs(4)...)
		f.set("10.0.0.0:80", server{status: 500})
		var seen events
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(f.addrs()...), Wrap: f.wrap, Policy: balancer.RoundRobin(),
			Observe: seen.observe, SlowStart: -1,
			Outlier: balancer.OutlierConfig{Base: 10 * time.Second, Max: 25 * time.Second},
		})
		load(t, b, 10*time.Millisecond, 2*time.Minute)
		var lengths []time.Duration
		for _, e := range seen.of(balancer.EndpointChanged) {
			if e.State == balancer.Ejected {
				lengths = append(lengths, e.EjectedFor)
			}
		}
		require.GreaterOrEqual(t, len(lengths), 4)
		for i, want := range []time.Duration{
			10 * time.Second, 20 * time.Second, 25 * time.Second, 25 * time.Second,
		} {
			require.InDelta(t, want, lengths[i], float64(want)/10+1)
		}
		f.set("10.0.0.0:80", server{})
		load(t, b, 10*time.Millisecond, 3*time.Minute)
		s := statusOf(t, b, "10.0.0.0:80")
		require.Equal(t, balancer.Healthy, s.State)
		require.Zero(t, s.Ejections, "good intervals let the count fall")
		require.Empty(t, s.Reason)
	})
}

func TestL12_ReturningEndpointsAreNotSwamped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(addrs(4)...)
		for _, a := range f.addrs() {
			f.set(a, server{delay: 5 * time.Millisecond})
		}
		back := "10.0.0.0:80"
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static(f.addrs()...), Wrap: f.wrap, SlowStart: 10 * time.Second,
			Outlier: balancer.OutlierConfig{Base: 10 * time.Second},
		})
		f.set(back, server{delay: 5 * time.Millisecond, status: 500})
		load(t, b, time.Millisecond, 2*time.Second)
		require.Equal(t, balancer.Ejected, statusOf(t, b, back).State)
		f.set(back, server{delay: time.Millisecond}) // fast, since it has nothing to do
		for statusOf(t, b, back).State == balancer.Ejected {
			load(t, b, time.Millisecond, 50*time.Millisecond)
		}
		var shares []float64
		for range 10 {
			before := statusOf(t, b, back).Requests
			sent, failed := load(t, b, time.Millisecond, time.Second)
			require.Zero(t, failed)
			shares = append(shares, float64(statusOf(t, b, back).Requests-before)/float64(sent))
		}
		fair := 0.25
		require.Less(t, shares[0], fair, "in the first second: %v", shares)
		require.Less(t, shares[0], shares[6], "it grows: %v", shares)
		load(t, b, time.Millisecond, 2*time.Second)
		require.Equal(t, 1.0, statusOf(t, b, back).Share)
		before := statusOf(t, b, back).Requests
		sent, _ := load(t, b, time.Millisecond, 2*time.Second)
		require.Greater(
			t,
			float64(statusOf(t, b, back).Requests-before),
			fair*0.25*float64(sent),
			"no starvation after recovery",
		)
	})
	t.Run("probation", func(t *testing.T) {
		// Until the endpoint has answered once, it gets one request at a time.
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(4)...)
			p := balancer.NewPushed(
				balancer.Endpoint{Addr: "10.0.0.0:80"},
				balancer.Endpoint{Addr: "10.0.0.1:80"},
			)
			b := newBalancer(t, balancer.Config{
				Resolver:  p,
				Wrap:      f.wrap,
				SlowStart: -1,
				Outlier:   balancer.OutlierConfig{Consecutive: -1},
			})
			load(t, b, time.Millisecond, time.Second)
			f.set("10.0.0.2:80", server{delay: time.Hour})
			p.Set(
				balancer.Endpoint{Addr: "10.0.0.0:80"},
				balancer.Endpoint{Addr: "10.0.0.1:80"},
				balancer.Endpoint{Addr: "10.0.0.2:80"},
			)
			synctest.Wait()
			for range 1000 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				go func() {
					defer cancel()
					_, _ = get(ctx, b)
				}()
				synctest.Wait()
				require.LessOrEqual(t, statusOf(t, b, "10.0.0.2:80").InFlight, 1)
			}
			time.Sleep(2 * time.Second)
		})
	})
}

func TestWhatDoesNotEject(t *testing.T) {
	t.Run("429, 503 with Retry-After, client errors", func(t *testing.T) {
		for _, status := range []int{400, 404, 429, 501} {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(addrs(4)...)
				f.set("10.0.0.0:80", server{status: status})
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(f.addrs()...),
					Wrap:     f.wrap,
					Policy:   balancer.RoundRobin(),
				})
				load(t, b, 10*time.Millisecond, 30*time.Second)
				require.Zero(t, b.Stats().Ejections, "status %d", status)
				require.Zero(t, b.Stats().Failures)
			})
		}
	})
	t.Run("callers that leave", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(4)...)
			for _, a := range f.addrs() {
				f.set(a, server{delay: time.Second})
			}
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(f.addrs()...), Wrap: f.wrap})
			for range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(500*time.Millisecond, cancel)
				_, err := get(ctx, b)
				require.ErrorIs(t, err, context.Canceled)
			}
			require.Zero(t, b.Stats().Ejections)
			require.Zero(t, b.Stats().Failures)
		})
	})
	t.Run("a body that the caller cannot provide", func(t *testing.T) {
		f := newFleet("a:1", "b:1")
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1"),
			Wrap: func(e balancer.Endpoint, _ http.RoundTripper) http.RoundTripper {
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					_, err := io.ReadAll(r.Body)
					r.Body.Close()
					return nil, err
				})
			},
		})
		_ = f
		for range 20 {
			req, err := http.NewRequest(
				http.MethodPost,
				"http://users.internal/",
				io.MultiReader(strings.NewReader("x"), broken{}),
			)
			require.NoError(t, err)
			_, err = b.RoundTrip(req)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		}
		require.Zero(t, b.Stats().Failures)
		require.Zero(t, b.Stats().Ejections)
	})
	t.Run("a fault of what all share", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(addrs(10)...)
			for _, a := range f.addrs() {
				f.set(a, server{status: 502, delay: time.Millisecond})
			}
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static(f.addrs()...),
				Wrap:     f.wrap,
				Policy:   balancer.RoundRobin(),
			})
			load(t, b, 5*time.Millisecond, 30*time.Second)
			require.GreaterOrEqual(t, b.Stats().Available, 9, "fewer endpoints would only have more to do")
		})
	})
}
