package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// unsent is the error of a wrapper, such as a breaker, that has refused a request.
type unsent struct{ after time.Duration }

func (unsent) Error() string { return "breaker: open" }

func (unsent) NotSent() bool { return true }

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
		"429":         {status: 429, want: "rejected"},
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
		"wrapper refuses":   {err: fmt.Errorf("wrapped: %w", unsent{}), want: "not_sent"},
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
				require.NoError(t, send(func(*http.Request) {})) // for the server's settings
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

// A request whose deadline has passed before an endpoint is chosen, because it has waited
// elsewhere, blames none, also while nobody knows what is usual. One that an endpoint lets wait
// does.
func TestARequestThatComesTooLateBlamesNoEndpoint(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	be := backend.Start(t, serving(func(http.ResponseWriter, *http.Request) { <-release }))
	var outcomes []balancer.Outcome
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(be.Addr),
		Observe: func(_ context.Context, e balancer.Event) {
			if e.Kind == balancer.Attempted {
				outcomes = append(outcomes, e.Outcome)
			}
		},
	})
	send := func(deadline time.Time) {
		ctx, cancel := context.WithDeadline(t.Context(), deadline)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", "http://api.test/", nil)
		require.NoError(t, err)
		_, err = b.RoundTrip(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.NoError(t, b.Warm(t.Context(), "http://api.test", 0))
	for range 10 {
		send(time.Now().Add(-time.Millisecond))
	}
	require.Zero(t, b.Stats().Failures)
	require.Len(t, outcomes, 10)
	require.NotContains(t, outcomes, balancer.Failure)
	for !slices.Contains(outcomes, balancer.Failure) { // on a busy machine one comes too late, too
		send(time.Now().Add(20 * time.Millisecond))
	}
	require.Equal(t, uint64(1), b.Stats().Failures)
}
