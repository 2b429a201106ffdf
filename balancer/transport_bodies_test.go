package balancer_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// A body that has been read from cannot be sent again, whatever a wrapper says.
func TestSpentBodiesAreNotSentAgain(t *testing.T) {
	var sent atomic.Int32
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("a:1", "b:1"),
		Wrap: upstream(func(_ balancer.Endpoint, r *http.Request) (*http.Response, error) {
			sent.Add(1)
			_, _ = r.Body.Read(make([]byte, 1))
			return nil, unsent{}
		}).wrap,
	})
	body := &closing{Reader: strings.NewReader("hello")}
	req, err := http.NewRequest(http.MethodPost, "http://users.internal/", body)
	require.NoError(t, err)
	_, err = b.RoundTrip(req)
	require.ErrorIs(t, err, unsent{})
	require.Equal(t, int32(1), sent.Load())
	require.True(t, body.closed())
}

// A body that fails as the deadline passes is to blame if the transport names it. If the transport
// names the deadline, or if the body failed by the deadline itself, the endpoint took too long.
func TestBodiesThatFailAsTheDeadlinePasses(t *testing.T) {
	stalled := fmt.Errorf("read: %w", os.ErrDeadlineExceeded)
	for name, tt := range map[string]struct {
		body   error // what reading the body fails with
		err    error // what the transport fails with; nil for the body's
		status int
		blamed bool // the endpoint
	}{
		"stands still":          {body: stalled, status: 408},
		"breaks off":            {body: io.ErrUnexpectedEOF, status: 400},
		"is too large":          {body: &http.MaxBytesError{Limit: 1}, status: 413},
		"fails by the deadline": {body: context.DeadlineExceeded, status: 504, blamed: true},
		"fails unnamed":         {body: stalled, err: context.DeadlineExceeded, status: 504, blamed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static("a:1"),
					Wrap: upstream(func(_ balancer.Endpoint, r *http.Request) (*http.Response, error) {
						_, err := io.Copy(io.Discard, r.Body)
						<-r.Context().Done()
						return nil, fmt.Errorf("transport: %w", cmp.Or(tt.err, err))
					}).wrap,
				})
				target := &url.URL{Scheme: "http", Host: "users.internal"}
				h, err := b.Handler(target, balancer.HandlerConfig{})
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				body := io.MultiReader(strings.NewReader("hel"), iotest.ErrReader(tt.body))
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/", body))
				require.Equal(t, tt.status, w.Code)
				require.Equal(t, tt.blamed, b.Stats().Failures > 0)
			})
		})
	}
}

// If a body fails, its sender is at fault, even if GetBody could provide it again. If a transport
// closes a body while reading it, the body has not failed.
func TestFailingBodiesBlameTheirSenders(t *testing.T) {
	gone := errors.New("client gone")
	for _, replayable := range []bool{false, true} {
		for _, proto := range []backend.Protocol{backend.HTTP1, backend.HTTP2, backend.H2C} {
			t.Run(fmt.Sprintf("replayable=%v/protocol=%s", replayable, proto), func(t *testing.T) {
				be := backend.Start(t, backend.Config{Protocol: proto})
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(be.Addr), Transport: backend.Transport(proto),
				})
				for range 10 {
					body := func() io.ReadCloser {
						return &closing{
							Reader: io.MultiReader(strings.NewReader("hel"), iotest.ErrReader(gone)),
						}
					}
					req, err := http.NewRequest(http.MethodPost, be.URL.Scheme+"://users.test/", body())
					require.NoError(t, err)
					if replayable {
						req.GetBody = func() (io.ReadCloser, error) { return body(), nil }
					}
					req.ContentLength = 10
					_, err = b.RoundTrip(req)
					require.ErrorIs(t, err, gone)
					require.ErrorContains(t, err, "balancer: reading the request's body: ")
				}
				require.Zero(t, b.Stats().Failures)
			})
		}
	}
	t.Run("closed by the transport", func(t *testing.T) {
		reset := errors.New("connection reset")
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1"),
			Wrap: upstream(func(_ balancer.Endpoint, r *http.Request) (*http.Response, error) {
				_, _ = r.Body.Read(make([]byte, 1))
				_ = r.Body.Close()
				_, err := r.Body.Read(make([]byte, 1))
				require.Error(t, err)
				return nil, reset
			}).wrap,
		})
		r, w := io.Pipe()
		go func() { _, _ = w.Write([]byte("hello")) }()
		req, err := http.NewRequest(http.MethodPost, "http://users.internal/", r)
		require.NoError(t, err)
		_, err = b.RoundTrip(req)
		require.Equal(t, reset, err)
		require.Equal(t, uint64(1), b.Stats().Failures)
	})
}

// Whatever goes wrong, the request's body is closed and all counters return to zero.
func TestBodiesAreClosedWhateverHappens(t *testing.T) {
	refuse := upstream(
		func(balancer.Endpoint, *http.Request) (*http.Response, error) { return nil, unsent{} },
	).wrap
	for name, cfg := range map[string]balancer.Config{
		"no endpoints":   {Resolver: balancer.NewPushed()},
		"none available": {Resolver: balancer.NewPushed(), PanicBelow: -1},
		"one refuses":    {Resolver: balancer.Static("a:1"), Wrap: refuse},
		"both refuse":    {Resolver: balancer.Static("a:1", "b:1"), Wrap: refuse},
		"nobody listens": {Resolver: balancer.Static("a:1"), Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, errRefused },
		}},
		"resolver failed": {Resolver: failing{errRefused}},
	} {
		for _, replayable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/replayable=%v", name, replayable), func(t *testing.T) {
				b := newBalancer(t, cfg)
				var mu sync.Mutex
				var bodies []*closing
				body := func() *closing {
					mu.Lock()
					defer mu.Unlock()
					bodies = append(bodies, &closing{Reader: strings.NewReader("hello")})
					return bodies[len(bodies)-1]
				}
				req, err := http.NewRequest(http.MethodPost, "http://users.internal/", body())
				require.NoError(t, err)
				if replayable {
					req.GetBody = func() (io.ReadCloser, error) { return body(), nil }
				}
				_, err = b.RoundTrip(req)
				require.ErrorIs(t, err, balancer.ErrNoEndpoints)
				for i, c := range bodies {
					require.True(t, c.closed(), "body %d of %d", i, len(bodies))
				}
				require.Zero(t, b.Stats().InFlight)
			})
		}
	}
}

func TestInflightLastsAsLongAsTheBody(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *http.Response){
		"closed": func(t *testing.T, r *http.Response) { require.NoError(t, r.Body.Close()) },
		"closed twice": func(t *testing.T, r *http.Response) {
			require.NoError(t, r.Body.Close())
			_ = r.Body.Close()
		},
		"read to the end": func(t *testing.T, r *http.Response) {
			_, err := io.Copy(io.Discard, r.Body)
			require.NoError(t, err)
		},
		"read and closed": func(t *testing.T, r *http.Response) {
			_, err := io.Copy(io.Discard, r.Body)
			require.NoError(t, err)
			require.NoError(t, r.Body.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1"),
				Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
					resp := answer(200)
					resp.Body = io.NopCloser(strings.NewReader("hello"))
					return resp, nil
				}).wrap,
			})
			req, err := http.NewRequest(http.MethodGet, "http://users.internal/", nil)
			require.NoError(t, err)
			resp, err := b.RoundTrip(req)
			require.NoError(t, err)
			require.Equal(t, 1, b.Stats().InFlight)
			end(t, resp)
			require.Zero(t, b.Stats().InFlight)
			resp.Body.Close()
			require.Zero(t, b.Stats().InFlight)
		})
	}
}

// A response that breaks off counts against the endpoint, unless the caller left.
func TestBrokenBodies(t *testing.T) {
	for _, leave := range []bool{false, true} {
		t.Run(fmt.Sprintf("callerLeft=%v", leave), func(t *testing.T) {
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1"),
				Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
					resp := answer(200)
					resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("hel"), broken{}))
					return resp, nil
				}).wrap,
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://users.internal/", nil)
			require.NoError(t, err)
			resp, err := b.RoundTrip(req)
			require.NoError(t, err)
			if leave {
				cancel()
			}
			_, err = io.ReadAll(resp.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			resp.Body.Close()
			want := uint64(1)
			if leave {
				want = 0
			}
			require.Equal(t, want, b.Stats().Failures)
			require.Zero(t, b.Stats().InFlight)
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// If a client breaks its own body off while the answer already flows, the response ends there and
// no endpoint is to blame.
func TestBodiesBrokenByTheirSenderBlameNobody(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
		_, _ = io.Copy(io.Discard, c)
	})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
	body, client := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://users.test/", body)
	require.NoError(t, err)
	resp, err := b.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, client.CloseWithError(errors.New("the client is gone")))
	_, err = io.ReadAll(resp.Body)
	require.Error(t, err)
	resp.Body.Close()
	require.Zero(t, b.Stats().Failures)
	require.Zero(t, b.Stats().InFlight)
}
