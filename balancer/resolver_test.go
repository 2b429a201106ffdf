package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/balancer"
)

var ok200 = upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
	return answer(200), nil
}).wrap

func addrsOf(b *balancer.Balancer) []string {
	var addrs []string
	for _, h := range b.Endpoints("http://users.internal") {
		if h.State != balancer.Draining {
			addrs = append(addrs, h.Addr)
		}
	}
	return addrs
}

func TestPushedReplacesTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := []balancer.Endpoint{{Addr: "b:1"}, {Addr: "a:1"}}
		p := balancer.NewPushed(set...)
		set[0].Addr = "" // the set is the resolver's own
		var seen events
		b := newBalancer(t, balancer.Config{Resolver: p, Wrap: ok200, Observe: seen.observe})
		pickOf(t, b)
		require.Equal(t, []string{"a:1", "b:1"}, addrsOf(b))
		p.Set(balancer.Endpoint{Addr: "c:1"}, balancer.Endpoint{Addr: "c:1", Weight: 2},
			balancer.Endpoint{Addr: "a:1"})
		synctest.Wait()
		require.Equal(t, []string{"a:1", "c:1"}, addrsOf(b), "an address counts once")
		p.Set(balancer.Endpoint{Addr: "a:1"}, balancer.Endpoint{Addr: "c:1"})
		synctest.Wait()
		require.Len(t, seen.of(balancer.TargetResolved), 2, "what does not change is not an event")
		p.Set()
		synctest.Wait()
		require.Empty(t, addrsOf(b))
		_, err := get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
	})
}

func TestAddressesWithoutAPortGetTheTargets(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("10.0.0.1", "10.0.0.2:81", "fd00::1", "[fd00::2]:82", "[fd00::3]",
			"unix:/run/x.sock"),
		Wrap: ok200,
	})
	for target, want := range map[string][]string{
		"http://users.internal": {"10.0.0.1:80", "10.0.0.2:81", "[fd00::1]:80", "[fd00::2]:82",
			"[fd00::3]:80", "unix:/run/x.sock"},
		"https://users.internal": {"10.0.0.1:443", "10.0.0.2:81", "[fd00::1]:443", "[fd00::2]:82",
			"[fd00::3]:443", "unix:/run/x.sock"},
		"https://users.internal:8443": {"10.0.0.1:8443", "10.0.0.2:81", "[fd00::1]:8443", "[fd00::2]:82",
			"[fd00::3]:8443", "unix:/run/x.sock"},
	} {
		require.NoError(t, b.Warm(t.Context(), target, 0))
		var addrs []string
		for _, h := range b.Endpoints(target) {
			addrs = append(addrs, h.Addr)
		}
		require.Equal(t, want, addrs)
	}
}

// An error leaves the set as it is.
func TestResolverErrorsKeepTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := make(scripted)
		var seen events
		b := newBalancer(t, balancer.Config{Resolver: r, Wrap: ok200, Observe: seen.observe})
		go func() { r <- said{[]balancer.Endpoint{{Addr: "a:1"}}, nil} }()
		pickOf(t, b)
		r <- said{nil, errors.New("SERVFAIL")}
		synctest.Wait()
		pickOf(t, b)
		require.Equal(t, []string{"a:1"}, addrsOf(b))
		resolved := seen.of(balancer.TargetResolved)
		require.Len(t, resolved, 2)
		require.EqualError(t, resolved[1].Err, "SERVFAIL", "an alarm can be raised")
		require.Equal(t, 1, resolved[1].Endpoints)
	})
}

// scripted is a resolver that says what it is sent.
type scripted chan said

type said struct {
	set []balancer.Endpoint
	err error
}

func (s scripted) Resolve(
	ctx context.Context, _ *url.URL, _ <-chan struct{}, update func([]balancer.Endpoint, error),
) {
	for {
		select {
		case v := <-s:
			update(v.set, v.err)
		case <-ctx.Done():
			return
		}
	}
}

// Trouble with the endpoints is a reason to ask for fresher ones.
func TestResolversAreHinted(t *testing.T) {
	for name, wrap := range map[string]func(balancer.Endpoint, http.RoundTripper) http.RoundTripper{
		"no hosts": nil,
		"refused": upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
			return nil, unsent{}
		}).wrap,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := hinted{hints: make(chan struct{})}
				if name != "no hosts" {
					h.set = []balancer.Endpoint{{Addr: "a:1"}}
				}
				b := newBalancer(t, balancer.Config{Resolver: h, Wrap: wrap})
				_, err := get(t.Context(), b)
				require.ErrorIs(t, err, balancer.ErrNoEndpoints)
				<-h.hints
			})
		})
	}
}

type hinted struct {
	set   []balancer.Endpoint
	hints chan struct{}
}

func (h hinted) Resolve(
	ctx context.Context, _ *url.URL, refresh <-chan struct{}, update func([]balancer.Endpoint, error),
) {
	update(h.set, nil)
	select {
	case <-refresh:
		close(h.hints)
	case <-ctx.Done():
	}
	<-ctx.Done()
}

// A Reload before the first resolution: the old resolver's end must not look like an answer.
func TestReloadBeforeTheFirstResolution(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: parting{}, Wrap: ok200})
		done := make(chan error, 1)
		go func() {
			_, err := get(t.Context(), b)
			done <- err
		}()
		synctest.Wait()
		r := make(scripted)
		require.NoError(t, b.Reload(balancer.Config{Resolver: r, Wrap: ok200}))
		synctest.Wait()
		r <- said{[]balancer.Endpoint{{Addr: "a:1"}}, nil}
		require.NoError(t, <-done)
	})
}

// parting is a resolver that speaks only when it has to go.
type parting struct{}

func (parting) Resolve(
	ctx context.Context, _ *url.URL, _ <-chan struct{}, update func([]balancer.Endpoint, error),
) {
	<-ctx.Done()
	update(nil, context.Cause(ctx))
}

// Subsets of all clients are of the same size, and a change of the set moves little.
func TestSubsetMovesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(t, "hosts")
		size := rapid.IntRange(1, 30).Draw(t, "size")
		key := rapid.String().Draw(t, "key")
		all := make([]balancer.Endpoint, n)
		for i := range all {
			all[i].Addr = fmt.Sprintf("10.0.0.%d:80", i)
		}
		before := subsetOf(all, key, size)
		if want := min(n, size); len(before) != want {
			t.Fatalf("%d endpoints, want %d", len(before), want)
		}
		gone := rapid.IntRange(0, n-1).Draw(t, "gone")
		after := subsetOf(slices.Delete(slices.Clone(all), gone, gone+1), key, size)
		moved := 0
		for _, a := range after {
			if !slices.Contains(before, a) {
				moved++
			}
		}
		if slices.Contains(before, all[gone].Addr) && n > size {
			moved--
		}
		if moved != 0 {
			t.Fatalf("%v became %v without %s", before, after, all[gone].Addr)
		}
	})
}

func subsetOf(all []balancer.Endpoint, key string, size int) []string {
	ctx, cancel := context.WithCancel(context.Background())
	var got []string
	r := balancer.Subset(balancer.NewPushed(all...), key, size)
	target := &url.URL{Scheme: "http", Host: "users.internal"}
	r.Resolve(ctx, target, nil, func(set []balancer.Endpoint, _ error) {
		for _, e := range set {
			got = append(got, e.Addr)
		}
		cancel()
	})
	return got
}

// Endpoints that a control plane gives no address must not become this very machine.
func TestPushedEndpointsWithoutAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		p := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
		b := newBalancer(t, balancer.Config{Resolver: p, Wrap: ok200, Observe: seen.observe})
		pickOf(t, b)
		p.Set(balancer.Endpoint{}, balancer.Endpoint{Addr: "b:1"}, balancer.Endpoint{Addr: "unix:"})
		synctest.Wait()
		require.Equal(t, []string{"b:1"}, addrsOf(b))
		var errs []error
		for _, e := range seen.of(balancer.TargetResolved) {
			errs = append(errs, e.Err)
		}
		require.ErrorContains(t, errors.Join(errs...), "endpoint 0 has no address")
		require.ErrorContains(t, errors.Join(errs...), "endpoint 2 has no address")
	})
}
