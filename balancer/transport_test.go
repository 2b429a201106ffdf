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

// unsent is the error of a wrapper, such as a breaker, that has refused a request.
type unsent struct{ after time.Duration }

func (unsent) Error() string               { return "breaker: open" }
func (unsent) NotSent() bool               { return true }
func (u unsent) RetryAfter() time.Duration { return u.after }

func TestOutcomesOfAttempts(t *testing.T) {
	tests := map[string]struct {
		status  int
		header  http.Header
		err     error
		cancel  bool // the caller leaves meanwhile
		timeout time.Duration
		want    string
		fault   bool // counts against the endpoint
	}{
		"200":         {status: 200, want: "success"},
		"404":         {status: 404, want: "success"},
		"428":         {status: 428, want: "success"},
		"429":         {status: 429, want: "refused"},
		"500":         {status: 500, want: "failure", fault: true},
		"501":         {status: 501, want: "success"},
		"502":         {status: 502, want: "failure", fault: true},
		"503":         {status: 503, want: "failure", fault: true},
		"503 for 2 s": {status: 503, header: http.Header{"Retry-After": {"2"}}, want: "busy"},
		"503 until a date": {
			status: 503,
			header: http.Header{"Retry-After": {"Fri, 31 Dec 1999 23:59:59 GMT"}},
			want:   "busy",
		},
		"503 for nonsense": {status: 503, header: http.Header{"Retry-After": {"soon"}}, want: "busy"},
		"503 for ever": {
			status: 503,
			header: http.Header{"Retry-After": {"99999999999999999999"}},
			want:   "busy",
		},
		"504":               {status: 504, want: "failure", fault: true},
		"505":               {status: 505, want: "success"},
		"broken connection": {err: io.ErrUnexpectedEOF, want: "failure", fault: true},
		"caller leaves":     {cancel: true, want: "canceled"},
		"deadline":          {timeout: time.Second, want: "failure", fault: true},
		"wrapper refuses":   {err: fmt.Errorf("wrapped: %w", unsent{}), want: "unsent"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen events
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static("a:1"), Observe: seen.observe,
					Wrap: upstream(func(_ balancer.Endpoint, r *http.Request) (*http.Response, error) {
						if tt.err != nil {
							return nil, tt.err
						}
						if tt.cancel || tt.timeout > 0 {
							<-r.Context().Done()
							return nil, r.Context().Err()
						}
						resp := answer(tt.status)
						resp.Header = tt.header
						return resp, nil
					}).wrap,
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancel {
					time.AfterFunc(time.Second, cancel)
				}
				if tt.timeout > 0 {
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				status, err := get(ctx, b)
				if tt.status != 0 {
					require.NoError(t, err, "a status is never an error")
					require.Equal(t, tt.status, status)
				} else {
					require.Error(t, err)
				}
				attempts := seen.of(balancer.Attempted)
				require.Len(t, attempts, 1)
				require.Equal(t, balancer.Outcome(tt.want), attempts[0].Outcome)
				want := uint64(0)
				if tt.fault {
					want = 1
				}
				s := b.Stats()
				require.Equal(t, uint64(1), s.Requests)
				require.Equal(t, want, s.Failures)
				require.Zero(t, s.InFlight)
			})
		})
	}
}

// A deadline that is shorter than replies commonly take says nothing about the endpoint.
func TestShortDeadlinesBlameNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1"),
			Wrap: upstream(func(_ balancer.Endpoint, r *http.Request) (*http.Response, error) {
				select {
				case <-time.After(100 * time.Millisecond):
					return answer(200), nil
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
			}).wrap,
		})
		for range 20 {
			_, err := get(t.Context(), b)
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			_, err := get(ctx, b)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Zero(t, b.Stats().Failures)
	})
}

func TestUnsentRequestsGoElsewhere(t *testing.T) {
	dial := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) { return nil, err }
	}
	tests := map[string]struct {
		transport *http.Transport
		wrapper   error // instead of the transport's
		blamed    bool
	}{
		"refused":      {transport: &http.Transport{DialContext: dial(errRefused)}, blamed: true},
		"wrapper":      {wrapper: unsent{}},
		"deep wrapper": {wrapper: fmt.Errorf("telemetry: %w", unsent{})},
	}
	bodies := map[string]func() io.Reader{
		"none":      func() io.Reader { return nil },
		"GetBody":   func() io.Reader { return strings.NewReader("hello") },
		"read once": func() io.Reader { return &closing{Reader: strings.NewReader("hello")} },
	}
	for name, tt := range tests {
		for kind, body := range bodies {
			t.Run(name+"/body="+kind, func(t *testing.T) {
				var got atomic.Pointer[string]
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static("bad:1", "good:1"), Transport: tt.transport, SlowStart: -1,
					Policy: first{}, // bad
					Wrap: func(e balancer.Endpoint, next http.RoundTripper) http.RoundTripper {
						return roundTripper(func(r *http.Request) (*http.Response, error) {
							switch {
							case e.Addr == "bad:1" && tt.wrapper != nil:
								if r.Body != nil {
									r.Body.Close()
								}
								return nil, tt.wrapper
							case e.Addr == "bad:1":
								return next.RoundTrip(r)
							}
							text := []byte("hello")
							if r.Body != nil {
								text, _ = io.ReadAll(r.Body)
								r.Body.Close()
							}
							s := string(text)
							got.Store(&s)
							return answer(200), nil
						})
					},
				})
				var pick balancer.Event
				src := body()
				req, err := http.NewRequestWithContext(
					withPick(t.Context(), &pick),
					http.MethodPost,
					"http://users.internal/",
					src,
				)
				require.NoError(t, err)
				resp, err := b.RoundTrip(req)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, "hello", *got.Load())
				require.Equal(t, "good:1", pick.Endpoint.Addr)
				require.Equal(t, 1, pick.Repicked)
				if c, ok := src.(*closing); ok {
					require.True(t, c.closed())
				}
				s := b.Stats()
				require.Equal(t, uint64(1), s.Repicked)
				if tt.blamed {
					require.Equal(t, uint64(1), s.EndpointFailures["bad:1"])
				} else {
					require.Zero(t, s.EndpointFailures["bad:1"], "a wrapper's refusal blames no endpoint")
				}
			})
		}
	}
}

// first picks the first endpoint that is not to be avoided.
type first struct{}

func (first) Pick(v *balancer.View, _ *http.Request) int {
	for i := range v.Len() {
		if !v.Avoided(i) {
			return i
		}
	}
	return 0
}

func TestSentRequestsAreNotRepeated(t *testing.T) {
	for name, refusal := range map[string]error{
		"broken connection": io.ErrUnexpectedEOF,
		"timeout":           errors.New("net/http: timeout awaiting response headers"),
		"read error":        &net.OpError{Op: "read", Err: errors.New("connection reset by peer")},
	} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int32
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.Static("a:1", "b:1", "c:1"),
				Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
					sent.Add(1)
					return nil, refusal
				}).wrap,
			})
			_, err := get(t.Context(), b)
			require.ErrorIs(t, err, refusal)
			require.False(t, notSent(err))
			require.Equal(t, int32(1), sent.Load())
		})
	}
}

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

func TestNoEndpointsErrors(t *testing.T) {
	t.Run("all refuse", func(t *testing.T) {
		var sent atomic.Int32
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1", "c:1", "d:1", "e:1", "f:1"),
			Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
				sent.Add(1)
				return nil, unsent{7 * time.Second}
			}).wrap,
		})
		_, err := get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		require.ErrorIs(t, err, unsent{7 * time.Second})
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, 6, none.Tried, "refusals cost nothing: all are asked")
		require.Equal(t, int32(6), sent.Load())
		require.Equal(t, 7*time.Second, none.RetryAfter())
		require.True(t, none.NotSent())
		require.Equal(t, "http://users.internal", none.Target)
		require.EqualError(t, err, "balancer: no endpoints for http://users.internal: tried 6: breaker: open")
		require.Equal(t, uint64(1), b.Stats().NoEndpoints)
	})
	t.Run("all refuse for good", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1"),
			Wrap: upstream(func(balancer.Endpoint, *http.Request) (*http.Response, error) {
				return nil, fmt.Errorf("wrapped: %w", unsent{})
			}).wrap,
		})
		_, err := get(t.Context(), b)
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, 2, none.Tried)
		require.Zero(t, none.RetryAfter(), "nobody repeats what is refused for good")
	})
	t.Run("dials are bounded", func(t *testing.T) {
		var dials atomic.Int32
		b := newBalancer(t, balancer.Config{
			Resolver: balancer.Static("a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1"),
			Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				dials.Add(1)
				return nil, errRefused
			}},
		})
		_, err := get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		require.ErrorIs(t, err, errRefused)
		require.Equal(t, int32(4), dials.Load())
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, time.Second, none.RetryAfter())
	})
	t.Run("empty set", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
		_, err := get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		require.EqualError(t, err, "balancer: no endpoints for http://users.internal")
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, time.Second, none.RetryAfter(), "one may come")
	})
	t.Run("resolver fails", func(t *testing.T) {
		broken := errors.New("no such service")
		b := newBalancer(t, balancer.Config{Resolver: failing{broken}})
		_, err := get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		require.ErrorIs(t, err, broken)
		var none *balancer.NoEndpointsError
		require.ErrorAs(t, err, &none)
		require.Equal(t, time.Second, none.RetryAfter(), "one may come")
	})
}

// failing is a resolver that says err once.
type failing struct{ err error }

func (f failing) Resolve(
	ctx context.Context,
	_ *url.URL,
	_ <-chan struct{},
	update func([]balancer.Endpoint, error),
) {
	update(nil, f.err)
	<-ctx.Done()
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

func TestPanicsBelowDoNotLeak(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("a:1"),
		Wrap: upstream(
			func(balancer.Endpoint, *http.Request) (*http.Response, error) { panic("bug") },
		).wrap,
	})
	require.PanicsWithValue(t, "bug", func() { _, _ = get(t.Context(), b) })
	require.Zero(t, b.Stats().InFlight)
	require.Equal(t, uint64(1), b.Stats().Failures)
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

// The wait for the first answer of a resolver ends with the request's context.
func TestWaitingForAResolverHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: mute{}})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("too late"))
		defer cancel()
		start := time.Now()
		_, err := get(ctx, b)
		require.EqualError(t, err, "too late")
		require.Equal(t, time.Second, time.Since(start))
	})
	t.Run("Close ends it too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, err := balancer.New(balancer.Config{Resolver: mute{}})
			require.NoError(t, err)
			done := make(chan error)
			go func() {
				_, err := get(t.Context(), b)
				done <- err
			}()
			synctest.Wait()
			require.NoError(t, b.Close(t.Context()))
			require.ErrorIs(t, <-done, balancer.ErrClosed)
		})
	})
	t.Run("and so does a resolver that gives up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBalancer(t, balancer.Config{Resolver: mute{returns: true}})
			_, err := get(t.Context(), b)
			require.ErrorIs(t, err, balancer.ErrNoEndpoints)
		})
	})
}

// mute is a resolver that says nothing.
type mute struct{ returns bool }

func (m mute) Resolve(
	ctx context.Context,
	_ *url.URL,
	_ <-chan struct{},
	_ func([]balancer.Endpoint, error),
) {
	if !m.returns {
		<-ctx.Done()
	}
}

// If net/http does not send a request, its caller is at fault. Nobody can have endpoints ejected by
// such requests.
func TestRequestsThatNobodyCouldSend(t *testing.T) {
	all := []backend.Protocol{backend.HTTP1, backend.HTTP2, backend.H2C}
	for name, c := range map[string]struct {
		spoil func(r *http.Request)
		over  []backend.Protocol
	}{
		"field value": {func(r *http.Request) { r.Header["X"] = []string{"a\nb"} }, all},
		"field name":  {func(r *http.Request) { r.Header["X Y"] = []string{"b"} }, all},
		"method":      {func(r *http.Request) { r.Method = "A B" }, all[:1]},
		"host's name": {func(r *http.Request) { r.Host = "xn--a\u00e4.test" }, all},
		"path":        {func(r *http.Request) { r.URL.Opaque = "/a\nb" }, all[:1]},
		"no body":     {func(r *http.Request) { r.ContentLength = 3 }, all[:1]},
		"trailer":     {func(r *http.Request) { r.Trailer = http.Header{"A\n": {"x"}} }, all},
		"shorter than said": {func(r *http.Request) {
			r.Method, r.ContentLength, r.Body = "POST", 10, io.NopCloser(strings.NewReader("abc"))
		}, all[:1]},
		"longer than said": {func(r *http.Request) {
			r.Method, r.ContentLength, r.Body = "POST", 1, io.NopCloser(strings.NewReader("abc"))
		}, all[1:]},
		"connection": {func(r *http.Request) { r.Header.Set("Connection", "foo") }, all[1:]},
		"large":      {func(r *http.Request) { r.Header.Set("X", strings.Repeat("x", 2<<20)) }, all[2:]},
		"websocket": {func(r *http.Request) {
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
		}, all[2:]},
	} {
		for _, proto := range c.over {
			t.Run(fmt.Sprintf("%s/protocol=%s", name, proto), func(t *testing.T) {
				be := backend.Start(t, backend.Config{Protocol: proto})
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(be.Addr), Transport: backend.Transport(proto),
				})
				target := be.URL.Scheme + "://users.test/"
				send := func(spoil func(r *http.Request)) error {
					req, err := http.NewRequestWithContext(t.Context(), "GET", target, nil)
					require.NoError(t, err)
					spoil(req)
					resp, err := b.RoundTrip(req)
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
					return err
				}
				require.NoError(t, send(func(*http.Request) {})) // now the server's settings are known
				for range 10 {
					require.Error(t, send(c.spoil))
				}
				require.Zero(t, b.Stats().Failures)
				require.Zero(t, b.Stats().Ejections)
				require.Zero(t, b.Stats().InFlight)
				require.NoError(t, send(func(*http.Request) {}))
			})
		}
	}
}

// Without a Handler, too, a caller gets no connection that switched to a protocol which was not
// asked for.
func TestL20_UnaskedUpgradesAreErrors(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(
			c,
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		)
	})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
	_, err := get(t.Context(), b)
	require.ErrorContains(t, err, "switched to protocol")
	require.Zero(t, b.Stats().Streams)
}

func TestResponsesNameTheCallersRequestAndProxiesAreIgnored(t *testing.T) {
	be := backend.Start(t, backend.Config{})
	template := backend.Transport(backend.HTTP1)
	template.Proxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("asked for a proxy") }
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr), Transport: template})
	req, err := http.NewRequest(http.MethodPost, "http://users.test/", io.NopCloser(strings.NewReader("x")))
	require.NoError(t, err)
	resp, err := b.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Same(t, req, resp.Request)
}
