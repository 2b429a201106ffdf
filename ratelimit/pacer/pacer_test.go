package pacer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/pacer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func newPacer(t testing.TB, cfg pacer.Config) *pacer.Pacer {
	t.Helper()
	p, err := pacer.New(cfg)
	require.NoError(t, err)
	return p
}

// eachProtocol runs f with a real server of h over each protocol.
func eachProtocol(t *testing.T, h func() http.Handler, f func(t *testing.T, url string, c *http.Client)) {
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		t.Run("protocol="+string(p), func(t *testing.T) {
			b := backend.Start(t, backend.Config{Protocol: p, Handler: h()})
			transport := backend.Transport(p)
			defer transport.CloseIdleConnections()
			f(t, b.URL.String(), &http.Client{Transport: transport})
		})
	}
}

// answer is a RoundTripper that gives the same answer each time.
func answer(status int, fields ...string) roundTripFunc {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(fields); i += 2 {
			h.Set(fields[i], fields[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: http.NoBody, Request: r}, nil
	}
}

func send(t testing.TB, rt http.RoundTripper, url string) error {
	t.Helper()
	return sendCtx(t, t.Context(), rt, url)
}

func sendCtx(t testing.TB, ctx context.Context, rt http.RoundTripper, url string) error {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	require.NoError(t, err)
	resp, err := rt.RoundTrip(r)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

func TestNewNamesEveryFault(t *testing.T) {
	_, err := pacer.New(pacer.Config{MaxKeys: -1})
	for _, want := range []string{
		"Rate.Limit: 0 is less than 1", "Rate.Window: 0s is not between", "MaxKeys: -1 is negative",
	} {
		require.ErrorContains(t, err, "pacer: Config."+want)
	}
	_, err = pacer.New(pacer.Config{Rate: ratelimit.PerSecond(1_000_000_000).WithBurst(1 << 40)})
	require.ErrorContains(t, err, "pacer: Config.Rate.Burst: 1099511627776 is more than 2147483647")
}

func TestPacerPaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10).WithBurst(2)})
		rt := p.Transport(answer(200))
		start := time.Now()
		var at []time.Duration
		for range 6 {
			require.NoError(t, send(t, rt, "http://a/"))
			at = append(at, time.Since(start).Round(time.Millisecond))
		}
		const ms = time.Millisecond
		require.Equal(t, []time.Duration{0, 0, 100 * ms, 200 * ms, 300 * ms, 400 * ms}, at)
		require.NoError(t, send(t, rt, "http://b/"))
		require.Equal(t, 400*ms, time.Since(start).Round(ms), "hosts have paces of their own")
		s := p.Stats()
		require.EqualValues(t, 7, s.Sent)
		require.EqualValues(t, 4, s.Waited)
		require.Equal(t, 2, s.Keys)
	})
}

// TestPacerOneHostOnePace: however a host is written.
func TestPacerOneHostOnePace(t *testing.T) {
	p := newPacer(t, pacer.Config{Rate: ratelimit.PerHour(1).WithBurst(20), MaxQueue: -1})
	rt := p.Transport(answer(200))
	for _, url := range []string{
		"http://example.org/", "http://EXAMPLE.org/x", "http://example.org:80/", "http://example.org./",
		"http://example.org.:80", "http://example.org:",
	} {
		require.NoError(t, send(t, rt, url))
	}
	require.Equal(t, 1, p.Stats().Keys)
	for i, url := range []string{
		"http://example.org:443/", "https://[::1]/", "https://[::2]:443", "https://[::1]:444",
	} {
		require.NoError(t, send(t, rt, url))
		require.Equal(t, 2+i, p.Stats().Keys, url)
	}
	require.NoError(t, send(t, rt, "https://[::2]"))
	require.Equal(t, 5, p.Stats().Keys)
	one := p.TransportFor("backend", answer(200))
	require.NoError(t, send(t, one, "http://x/"))
	require.NoError(t, send(t, one, "http://y/"))
	require.Equal(t, 6, p.Stats().Keys)
}

// TestR26_CancelReturnsTheReservation: who leaves uses nothing up, in the queue and at its head,
// and leaves nothing behind.
func TestR26_CancelReturnsTheReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerMinute(1), MaxWait: -1})
		require.NoError(t, p.Wait(t.Context(), "a"))
		start := time.Now()
		cause := errors.New("changed my mind")
		for range 5 {
			ctx, cancel := context.WithCancelCause(t.Context())
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					err := p.Wait(ctx, "a")
					var paced *pacer.Error
					if !errors.As(err, &paced) || !paced.NotSent() || paced.Key != "a" ||
						!errors.Is(err, cause) || !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			require.Equal(t, 10, p.Stats().Waiting)
			time.Sleep(time.Second)
			cancel(cause)
			wg.Wait()
			require.Zero(t, p.Stats().Waiting)
		}
		require.NoError(t, p.Wait(t.Context(), "a"))
		require.Equal(
			t, time.Minute, time.Since(start).Round(time.Millisecond), "fifty who left have used nothing",
		)
		require.EqualValues(t, 50, p.Stats().Canceled)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, p.Wait(gone, "b"), context.Canceled)
		require.NoError(t, p.Wait(t.Context(), "b"))
	})
}

// TestR26_RandomCancels: with waiters that leave at random, those who stay go in order and at the
// full pace, never above it.
func TestR26_RandomCancels(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type caller struct{ comes, stays time.Duration }
		var callers []caller
		for range rapid.IntRange(1, 40).Draw(rt, "callers") {
			callers = append(callers, caller{
				time.Duration(rapid.IntRange(0, 3000).Draw(rt, "comes")) * time.Millisecond,
				time.Duration(rapid.IntRange(1, 3000).Draw(rt, "stays")) * time.Millisecond,
			})
		}
		burst := rapid.Int64Range(1, 3).Draw(rt, "burst")
		synctest.Test(t, func(t *testing.T) {
			p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10).WithBurst(burst), MaxWait: -1})
			start := time.Now()
			var mu sync.Mutex
			var sent []time.Duration
			var wg sync.WaitGroup
			for _, c := range callers {
				wg.Go(func() {
					time.Sleep(c.comes)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					stop := time.AfterFunc(c.stays, cancel)
					defer stop.Stop()
					if err := p.Wait(ctx, "a"); err == nil {
						mu.Lock()
						sent = append(sent, time.Since(start))
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			for i := range sent {
				for j := i; j < len(sent); j++ {
					n, span := float64(j-i+1), sent[j]-sent[i]
					if n > float64(burst)+span.Seconds()*10+1e-6 {
						rt.Fatalf("%v in %v", n, span)
					}
				}
			}
			s := p.Stats()
			if s.Waiting != 0 || s.Sent+s.Canceled != uint64(len(callers)) {
				rt.Fatalf("%+v", s)
			}
			time.Sleep(time.Second) // everything is earned again
			for range burst {
				from := time.Now()
				if err := p.Wait(t.Context(), "a"); err != nil || time.Since(from) != 0 {
					rt.Fatalf("a token was lost: %v %v", err, time.Since(from))
				}
			}
		})
	})
}

func TestPacerDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(1), MaxWait: 3 * time.Second, MaxQueue: 10})
		start := time.Now()
		closed := new(closeCounter)
		rt := p.Transport(answer(200))
		require.NoError(t, send(t, rt, "http://a/"))
		ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, "POST", "http://a/", closed)
		require.NoError(t, err)
		_, err = rt.RoundTrip(r)
		require.ErrorIs(t, err, pacer.ErrTooLong)
		require.Zero(t, time.Since(start), "it is known at once")
		require.EqualValues(t, 1, closed.n.Load(), "the body is closed")
		var wait interface{ RetryAfter() time.Duration }
		require.ErrorAs(t, err, &wait)
		require.Equal(t, time.Second, wait.RetryAfter().Round(time.Millisecond))
		require.Contains(t, err.Error(), "(a)")

		var wg sync.WaitGroup
		var tooLong atomic.Int64
		for range 5 {
			wg.Go(func() {
				if err := send(t, rt, "http://a/"); errors.Is(err, pacer.ErrTooLong) {
					tooLong.Add(1)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		require.EqualValues(t, 2, tooLong.Load(), "turns four and five are more than MaxWait away")
		require.EqualValues(t, 3, p.Stats().Refused)
	})
}

// TestPacerSaysHowLongIsLeft: who leaves while waiting is told what is left, not what there was.
func TestPacerSaysHowLongIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerMinute(6).WithBurst(1)})
		require.NoError(t, p.Wait(t.Context(), "a"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(4*time.Second, cancel)
		var e *pacer.Error
		require.ErrorAs(t, p.Wait(ctx, "a"), &e)
		require.ErrorIs(t, e, context.Canceled)
		require.Equal(t, 6*time.Second, e.RetryAfter())
	})
}

type closeCounter struct{ n atomic.Int64 }

func (c *closeCounter) Read([]byte) (int, error) { return 0, io.EOF }

func (c *closeCounter) Close() error { c.n.Add(1); return nil }

func TestPacerQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerMinute(60).WithBurst(1), MaxQueue: 3, MaxWait: -1})
		var wg sync.WaitGroup
		var full atomic.Int64
		var mu sync.Mutex
		var order []int
		for i := range 10 {
			wg.Go(func() {
				err := p.Wait(t.Context(), "a")
				if errors.Is(err, pacer.ErrQueueFull) {
					full.Add(1)
				} else if err == nil {
					mu.Lock()
					order = append(order, i)
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		require.EqualValues(t, 6, full.Load())
		require.Equal(t, []int{0, 1, 2, 3}, order, "in order of arrival")
		none := newPacer(t, pacer.Config{Rate: ratelimit.PerMinute(60).WithBurst(1), MaxQueue: -1})
		require.NoError(t, none.Wait(t.Context(), "a"))
		require.ErrorIs(t, none.Wait(t.Context(), "a"), pacer.ErrQueueFull)
		time.Sleep(time.Second)
		require.NoError(t, none.Wait(t.Context(), "a"))
	})
}

// TestR27_RepeatsArePaced: a pacer inside a retrier paces each attempt, and passes errors through.
func TestR27_RepeatsArePaced(t *testing.T) {
	p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(1_000_000)})
	paced := p.Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
		return nil, errors.New("reset")
	}))
	for range 3 { // what a retrier outside does
		require.EqualError(t, send(t, paced, "http://a/"), "reset")
	}
	require.EqualValues(t, 3, p.Stats().Sent, "repeats are paced")
}

func TestEvent(t *testing.T) {
	var b strings.Builder
	log := slog.New(slog.NewTextHandler(&b, nil))
	log.Info("", "e", pacer.Event{Outcome: pacer.Sent, Duration: time.Second, Key: "h"})
	require.Contains(t, b.String(), ` e.event=turn e.outcome=sent e.duration=1s e.detail.key=h`)
}

// TestPacerOverRealServers: a client in front of a limiter, over both protocols.
func TestPacerOverRealServers(t *testing.T) {
	limiter := func(burst int64, noHeaders bool) *ratelimit.Limiter {
		l, err := ratelimit.New(ratelimit.Config{NoHeaders: noHeaders, Policies: []ratelimit.Policy{{
			Name: "p", Rate: ratelimit.PerSecond(50).WithBurst(burst), Missing: ratelimit.MissingReject,
			Key: func(*http.Request) (string, bool) { return "all", true },
		}}})
		require.NoError(t, err)
		return l
	}
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	// Requests that a busy machine holds up arrive together, but none comes before its time. The
	// server admits 46 together: of requests that nobody paces it refuses four.
	var mu sync.Mutex
	var arrived []time.Time
	arrive := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			arrived = append(arrived, time.Now())
			mu.Unlock()
			next.ServeHTTP(w, r)
		})
	}
	eachProtocol(t, func() http.Handler {
		arrived = nil
		return arrive(limiter(46, true).Middleware(ok))
	}, func(t *testing.T, url string, c *http.Client) {
		var events atomic.Int64
		p := newPacer(t, pacer.Config{
			Rate:    ratelimit.PerSecond(45).WithBurst(4),
			Observe: func(context.Context, pacer.Event) { events.Add(1) },
		})
		c.Transport = p.Transport(c.Transport)
		defer c.CloseIdleConnections()
		start := time.Now()
		var wg sync.WaitGroup
		var refused atomic.Int64
		for range 50 {
			wg.Go(func() {
				resp, err := c.Get(url)
				if err != nil {
					t.Error(err)
					return
				}
				if resp.StatusCode != 200 {
					refused.Add(1)
				}
				resp.Body.Close()
			})
		}
		wg.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, arrived, 50)
		for i, at := range arrived {
			earliest := time.Duration(i+1-4)*time.Second/45 - time.Millisecond
			require.GreaterOrEqual(t, at.Sub(start), earliest, "request %d is above the rate", i)
		}
		require.EqualValues(t, 50, p.Stats().Sent)
		require.EqualValues(t, 50, events.Load())
		require.Zero(t, refused.Load(), "the server's own limit is wider")
	})
	// With a rate far above the server's: the fields of its answers make the pace.
	eachProtocol(t, func() http.Handler {
		return limiter(25, false).Middleware(ok)
	}, func(t *testing.T, url string, c *http.Client) {
		p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10_000)})
		c.Transport = p.Transport(c.Transport)
		defer c.CloseIdleConnections()
		for i := range 60 {
			resp, err := c.Post(url, "text/plain", strings.NewReader("body"))
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, 200, resp.StatusCode, i)
		}
		require.EqualValues(t, 60, p.Stats().Hints)
	})
	b := backend.Start(t, backend.Config{})
	b.Close()
	p := newPacer(t, pacer.Config{Rate: ratelimit.PerSecond(10)})
	require.Error(t, send(t, p.Transport(nil), b.URL.String()), "next's errors pass through")
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
