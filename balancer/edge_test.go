package balancer_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

func TestUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) }),
	}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("unix:" + path),
		Health:   balancer.HealthConfig{Path: "/", Interval: 10 * time.Millisecond},
	})
	resp, err := (&http.Client{Transport: b}).Get("http://users.internal/")
	require.NoError(t, err)
	require.Equal(t, "users.internal", readAll(t, resp))
	require.Equal(t, "unix:"+path, b.Endpoints("http://users.internal")[0].Addr)
	require.Eventually(
		t,
		func() bool { return b.Endpoints("http://users.internal")[0].CheckLatency > 0 },
		time.Minute,
		time.Millisecond,
	)
}

// TLS names, HTTP/2 and warm-up go by the target, whatever the endpoint's address is.
func TestTransportsOverTLS(t *testing.T) {
	be := backend.Start(
		t,
		backend.Config{
			Protocol: backend.HTTP2,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, r.Proto, " ", r.Host, " ", r.TLS.ServerName)
			}),
		},
	)
	counted := countConns(t, be.Addr)
	b := newBalancer(t, balancer.Config{
		Resolver:  balancer.Static(counted.addr),
		Transport: &http.Transport{TLSClientConfig: backend.TLS()},
		Conns:     2,
	})
	require.NoError(t, b.Warm(t.Context(), "https://app.test", 4))
	warm := counted.count()
	require.GreaterOrEqual(t, warm, 2, "one for each transport at least")
	for range 10 {
		resp, err := (&http.Client{Transport: b}).Get("https://app.test/")
		require.NoError(t, err)
		require.Equal(t, "HTTP/2.0 app.test app.test", readAll(t, resp))
	}
	require.Equal(t, warm, counted.count(), "requests use what is warm")
	_, err := (&http.Client{Transport: b}).Get("https://other.example/")
	require.ErrorContains(t, err, "certificate")
	require.True(t, notSent(err))
}

func TestConnectionsHaveALifeOverHTTP2(t *testing.T) {
	be := backend.Start(t, backend.Config{Protocol: backend.H2C})
	counted := countConns(t, be.Addr)
	b := newBalancer(t, balancer.Config{
		Resolver:  balancer.Static(counted.addr),
		Transport: backend.Transport(backend.H2C),
		ConnLife:  100 * time.Millisecond,
	})
	require.Eventually(t, func() bool {
		status, err := get(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		return counted.count() >= 4
	}, 20*time.Second, time.Millisecond)
}

// A proxy would pick the endpoint.
func TestProxiesAreNotAsked(t *testing.T) {
	be := backend.Start(t, backend.Config{})
	tr := backend.Transport(backend.HTTP1)
	tr.Proxy = func(*http.Request) (*url.URL, error) {
		t.Error("asked for a proxy")
		return nil, nil
	}
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr), Transport: tr})
	status, err := get(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, 200, status)
}

func TestTheCallersRequestIsTheResponses(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1"), Wrap: ok200})
	for _, body := range []io.Reader{nil, strings.NewReader("x"), &closing{Reader: strings.NewReader("x")}} {
		req, err := http.NewRequest(http.MethodPost, "http://users.internal/", body)
		require.NoError(t, err)
		resp, err := b.RoundTrip(req)
		require.NoError(t, err)
		require.Same(t, req, resp.Request)
	}
}

// Events that are still to be sent when a Reload takes the observer away are dropped.
func TestReloadTakesTheObserverAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := balancer.Config{
			Resolver: balancer.Static("a:1", "b:1", "c:1"),
			Observe:  new(events).observe, Policy: first{}, Outlier: balancer.OutlierConfig{Consecutive: 1},
			Wrap: upstream(func(e balancer.Endpoint, _ *http.Request) (*http.Response, error) {
				resp := answer(200)
				resp.Body = io.NopCloser(broken{}) // ejects at its end, where no event is sent
				return resp, nil
			}).wrap,
		}
		b := newBalancer(t, cfg)
		_, err := get(t.Context(), b)
		require.Error(t, err)
		require.Equal(t, uint64(1), b.Stats().Ejections)
		cfg.Observe = nil
		require.NoError(t, b.Reload(cfg))
		time.Sleep(time.Second)
		require.Equal(t, 1, b.Stats().Targets)
	})
}

// A check that a Reload cuts short says nothing of its endpoint.
func TestReloadDuringAHealthCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		cfg := balancer.Config{
			Resolver: balancer.Static("a:1", "b:1"), Wrap: ok200, Observe: seen.observe, IdleTimeout: -1,
			Health: balancer.HealthConfig{
				Fall:     1,
				Interval: time.Minute,
				Timeout:  30 * time.Second,
				Check: func(ctx context.Context, _ balancer.Endpoint, _ http.RoundTripper) error {
					select {
					case <-time.After(10 * time.Second):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				},
			},
		}
		b := newBalancer(t, cfg)
		pickOf(t, b)
		for range 3 {
			time.Sleep(5 * time.Second)
			require.NoError(t, b.Reload(cfg))
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		require.Empty(t, seen.of(balancer.EndpointChanged))
		require.Equal(t, balancer.Healthy, statusOf(t, b, "a:1").State)
	})
}

func TestObserversThatPanicDoNotLeak(t *testing.T) {
	body := &closing{}
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("a:1"),
		Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body}, nil
		}).wrap,
		Observe: func(_ context.Context, e balancer.Event) {
			if e.Kind == balancer.Attempted {
				panic("bug")
			}
		},
	})
	require.PanicsWithValue(t, "bug", func() { _, _ = get(t.Context(), b) })
	require.Zero(t, b.Stats().InFlight)
	require.Equal(t, uint64(1), b.Stats().Requests)
	require.True(t, body.closed(), "nobody else can")
}

// A wrapper is the user's code. It may ask the Balancer, and if it panics, only one request ends.
func TestWrappersOfAllKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := balancer.NewPushed(balancer.Endpoint{Addr: "a:1"})
		var b *balancer.Balancer
		wrapped := 0
		cfg := balancer.Config{
			Resolver: r,
			Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
				wrapped++
				require.Len(t, b.Endpoints("http://users.internal"), 1)
				require.Equal(t, 1, b.Stats().Targets)
				return ok200(e, next)
			},
		}
		b = newBalancer(t, cfg)
		for range 3 {
			pickOf(t, b)
		}
		require.Equal(t, 1, wrapped)

		bad := cfg
		bad.Wrap = func(balancer.Endpoint, http.RoundTripper) http.RoundTripper { panic("bug") }
		require.NoError(t, b.Reload(observed(bad)))
		for range 3 {
			require.PanicsWithValue(t, "bug", func() { _, _ = get(t.Context(), b) })
		}
		require.Zero(t, b.Stats().InFlight)
		require.NoError(t, b.Reload(observed(cfg)))
		pickOf(t, b)
		require.Equal(t, 2, wrapped)
	})
}

// A target that somebody waits for is not idle.
func TestWaitingTargetsAreNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := lateResolver{after: 10 * time.Minute}
		b := newBalancer(t, balancer.Config{Resolver: late, Wrap: ok200, IdleTimeout: time.Minute})
		start := time.Now()
		status, err := get(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, 10*time.Minute, time.Since(start))
	})
}

type lateResolver struct{ after time.Duration }

func (l lateResolver) Resolve(
	ctx context.Context,
	_ *url.URL,
	_ <-chan struct{},
	update func([]balancer.Endpoint, error),
) {
	select {
	case <-time.After(l.after):
		update([]balancer.Endpoint{{Addr: "a:1"}}, nil)
	case <-ctx.Done():
	}
	<-ctx.Done()
}

// Close ends with its context, though a check does not end with its own.
func TestCloseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := balancer.New(balancer.Config{
			Resolver: balancer.Static("a:1"), Wrap: ok200,
			Health: balancer.HealthConfig{
				Check: func(context.Context, balancer.Endpoint, http.RoundTripper) error {
					time.Sleep(time.Hour) // heeds nothing
					return nil
				},
			},
		})
		require.NoError(t, err)
		_, err = get(t.Context(), b)
		require.NoError(t, err)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, b.Close(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		require.NoError(t, b.Close(t.Context()))
	})
}

// A wrapper that returns neither a response nor an error is broken. It leaves nothing behind.
func TestWrappersThatReturnNothing(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("a:1"),
		Wrap: upstream(
			func(balancer.Endpoint, *http.Request) (*http.Response, error) { return nil, nil },
		).wrap,
	})
	require.Panics(t, func() { _, _ = get(t.Context(), b) })
	s := b.Stats()
	require.Equal(t, uint64(1), s.Requests, "it does not await its header for ever")
	require.Zero(t, s.InFlight)
}
