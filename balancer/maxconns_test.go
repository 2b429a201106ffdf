package balancer_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// holding answers each request with a body that lasts until the test lets it end, or with what
// answers says.
type holding struct {
	at      []string // the endpoints of the requests that have come
	answers func(r *http.Request) *http.Response
}

func (h *holding) wrap(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
	return upstream(func(e balancer.Endpoint, r *http.Request) (*http.Response, error) {
		h.at = append(h.at, e.Addr)
		if h.answers != nil {
			if resp := h.answers(r); resp != nil {
				return resp, nil
			}
		}
		resp := answer(200)
		resp.Body = io.NopCloser(&io.LimitedReader{R: zeros{}, N: 1 << 40})
		return resp, nil
	}).wrap(e, next)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func send(ctx context.Context, b *balancer.Balancer) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://users.internal/", nil)
	if err != nil {
		return nil, err
	}
	return b.RoundTrip(req)
}

// hold begins n requests that last until their body is closed.
func hold(t *testing.T, b *balancer.Balancer, n int) (bodies []io.Closer) {
	t.Helper()
	for range n {
		resp, err := send(t.Context(), b)
		require.NoError(t, err)
		bodies = append(bodies, resp.Body)
	}
	t.Cleanup(func() {
		for _, body := range bodies {
			body.Close()
		}
	})
	return bodies
}

func TestL51_EndpointsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &holding{}
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1"), MaxConns: 2, Wrap: h.wrap,
		})
		bodies := hold(t, b, 2)
		type result struct {
			resp *http.Response
			err  error
		}
		results := make(chan result, 2)
		for range 2 {
			go func() {
				resp, err := send(t.Context(), b)
				results <- result{resp, err}
			}()
		}
		synctest.Wait()
		require.Len(t, h.at, 2)
		require.Equal(t, 2, b.Stats().Queued)
		require.Equal(t, 4, b.Stats().InFlight)
		require.Equal(t, 2, b.Endpoints("http://users.internal")[0].Queued)

		_, err := send(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrFull, "the queue is full")
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		status, wait := balancer.ErrorStatus(err)
		require.Equal(t, 503, status)
		require.Equal(t, time.Second, wait)

		require.NoError(t, bodies[0].Close())
		r := <-results
		require.NoError(t, r.err)
		require.NoError(t, r.resp.Body.Close())
		r = <-results
		require.NoError(t, r.err)
		defer r.resp.Body.Close()
		require.Len(t, h.at, 4)
		require.Zero(t, b.Stats().Queued)
		require.EqualValues(t, 1, b.Stats().Full)
		require.EqualValues(t, 1, b.Stats().NoEndpoints)
		require.Zero(t, b.Stats().Failures)
	})
}

func TestL51_WaitsAreShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1"), MaxConns: 1, Wrap: (&holding{}).wrap,
		})
		hold(t, b, 1)
		start := time.Now()
		_, err := send(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrFull)
		require.Equal(t, time.Second, time.Since(start))

		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err = send(ctx, b)
		require.ErrorIs(t, err, balancer.ErrFull, "a deadline makes a refusal of it")
		require.True(t, notSent(err))
		require.Equal(t, 200*time.Millisecond, time.Since(start))

		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, leave)
		_, err = send(ctx, b)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, balancer.ErrFull)
		require.Equal(t, 1, b.Stats().InFlight)
		require.EqualValues(t, 2, b.Stats().Full)
	})
}

func TestFullEndpointsArePassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &holding{}
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1", "c:1"), MaxConns: 1, Policy: rather("b:1"), Wrap: h.wrap,
		})
		bodies := hold(t, b, 3)
		slices.Sort(h.at[1:])
		require.Equal(t, []string{"b:1", "a:1", "c:1"}, h.at)
		require.Zero(t, b.Stats().Repicked, "nothing was sent in vain")
		go func() {
			time.Sleep(time.Millisecond)
			bodies[0].Close()
		}()
		resp, err := send(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, "b:1", h.at[3], "the request waits for the endpoint that it would rather have")
		require.NoError(t, resp.Body.Close())
	})
}

// Whatever ends a request gives its place back.
func TestPlacesAreGivenBack(t *testing.T) {
	var answers func(r *http.Request) *http.Response
	h := &holding{answers: func(r *http.Request) *http.Response { return answers(r) }}
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1"), MaxConns: 1, Wrap: h.wrap})
	for range 3 {
		answers = func(*http.Request) *http.Response { panic("bug") }
		require.PanicsWithValue(t, "bug", func() { _, _ = send(t.Context(), b) })

		answers = func(*http.Request) *http.Response { return answer(204) }
		_, err := send(t.Context(), b)
		require.NoError(t, err)

		answers = func(*http.Request) *http.Response { return answer(101) } // unasked
		_, err = send(t.Context(), b)
		require.Error(t, err)
		require.NotErrorIs(t, err, balancer.ErrFull)

		answers = func(*http.Request) *http.Response { return nil }
		resp, err := send(t.Context(), b)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		_ = resp.Body.Close()
		require.Zero(t, b.Stats().InFlight)
	}
}

func TestUpgradedConnectionsTakeAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1"), MaxConns: 1, Wrap: handshake(nil).wrap,
		})
		open := openSocket(t, b)
		_, err := send(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrFull)
		require.NoError(t, open.Close())
		require.NoError(t, openSocket(t, b).Close())
	})
}

func TestMaxConnsAfterAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := balancer.Config{
			Resolver: balancer.NewPushed(balancer.Endpoint{Addr: "a:1"}), MaxConns: 1,
			Wrap: (&holding{}).wrap,
		}
		b := newBalancer(t, cfg)
		first := hold(t, b, 1)
		require.NoError(t, b.Reload(cfg))
		_, err := send(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrFull, "a Reload gives no fresh places")
		cfg.MaxConns = 3
		require.NoError(t, b.Reload(cfg))
		hold(t, b, 3)
		_, err = send(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrFull)
		require.NoError(t, first[0].Close(), "it gives back a place of the old bound")
		_, err = send(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrFull)
		cfg.MaxConns = -1
		require.NoError(t, b.Reload(cfg))
		hold(t, b, 2000)
	})
}

func TestMaxConnsByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1"), Wrap: (&holding{}).wrap})
		hold(t, b, 1024)
		_, err := send(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrFull)
	})
}

// Streams of HTTP/2 are bounded like connections, and the client is told when to come again.
func TestL51_StreamsAreBoundedThroughAHandler(t *testing.T) {
	var begun atomic.Int32
	end := make(chan struct{})
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		begun.Add(1)
		<-end
	}))
	upstream.EnableHTTP2 = true
	upstream.StartTLS()
	defer upstream.Close()
	target, err := url.Parse(upstream.URL)
	require.NoError(t, err)
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(target.Host), MaxConns: 3,
		Transport: upstream.Client().Transport.(*http.Transport),
	})
	h, err := b.Handler(target, balancer.HandlerConfig{})
	require.NoError(t, err)
	const clients = 12
	answers := make(chan *httptest.ResponseRecorder, clients)
	for range clients {
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			answers <- w
		}()
	}
	for range clients - 3 {
		w := <-answers
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
	}
	require.EqualValues(t, 3, begun.Load())
	close(end)
	for range 3 {
		require.Equal(t, http.StatusOK, (<-answers).Code)
	}
}
