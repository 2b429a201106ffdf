package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// What fails once the route's timeout has passed fails for that, unless the client is to blame or
// the request was not sent.
func TestStatusOfFailuresAfterTheRoutesTimeout(t *testing.T) {
	stalled := fmt.Errorf("read: %w", os.ErrDeadlineExceeded)
	for name, tt := range map[string]struct {
		body          error // what reading the client's body fails with; nil for nothing
		err           error // what the upstream's transport fails with; nil for the body's
		before, after int   // the status before the timeout has passed, and after
	}{
		"the body stood still":     {body: stalled, before: 408, after: 408},
		"the body broke off":       {body: io.ErrUnexpectedEOF, before: 400, after: 400},
		"the body is too large":    {body: &http.MaxBytesError{Limit: 1}, before: 413, after: 413},
		"the upstream broke off":   {err: io.ErrUnexpectedEOF, before: 502, after: 504},
		"the upstream is too slow": {err: os.ErrDeadlineExceeded, before: 504, after: 504},
	} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/late=%t", name, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, err := balancer.New(balancer.Config{
						Resolver: balancer.Static("a:1"),
						Wrap: func(balancer.Endpoint, http.RoundTripper) http.RoundTripper {
							return failing{func(r *http.Request) error {
								_, err := io.Copy(io.Discard, r.Body)
								if late {
									<-r.Context().Done()
								}
								if tt.err != nil {
									err = tt.err
								}
								return fmt.Errorf("transport: %w", err)
							}}
						},
					})
					require.NoError(t, err)
					defer func() { require.NoError(t, b.Close(context.WithoutCancel(t.Context()))) }()
					u, err := b.Handler(&url.URL{Scheme: "http", Host: "app.test"},
						balancer.HandlerConfig{ErrorHandler: writeProxyError})
					require.NoError(t, err)
					body := io.Reader(strings.NewReader("hello"))
					if tt.body != nil {
						body = io.MultiReader(body, iotest.ErrReader(tt.body))
					}
					w := httptest.NewRecorder()
					d, err := newDeadline(Route{Timeout: Duration(time.Second)}, "", nil)
					require.NoError(t, err)
					d.Middleware(u).
						ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", body))
					if late {
						require.Equal(t, tt.after, w.Code)
					} else {
						require.Equal(t, tt.before, w.Code)
					}
				})
			})
		}
	}
}

// A refusal says when to come again if it knows that. It stays one after the route's timeout.
func TestRetryAfterOfRefusals(t *testing.T) {
	expired, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	for _, tt := range []struct {
		err  error
		wait string
	}{
		{&balancer.NoEndpointsError{}, "1"},
		{&balancer.NoEndpointsError{Err: refusal(1500 * time.Millisecond)}, "2"},
		{&balancer.NoEndpointsError{Err: refusal(0)}, ""},
		{balancer.ErrTooManyTargets, ""},
	} {
		for _, ctx := range []context.Context{t.Context(), expired} {
			w := httptest.NewRecorder()
			writeProxyError(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil), tt.err)
			require.Equal(t, http.StatusServiceUnavailable, w.Code)
			require.Equal(t, tt.wait, w.Header().Get("Retry-After"))
		}
	}
}

// A failing is a transport that fails all requests.
type failing struct{ fail func(*http.Request) error }

func (f failing) RoundTrip(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	return nil, f.fail(r)
}

// A refusal is the error of a wrapper that has not sent a request. Its value is the wait.
type refusal time.Duration

func (refusal) Error() string               { return "refused" }
func (refusal) NotSent() bool               { return true }
func (r refusal) RetryAfter() time.Duration { return time.Duration(r) }

// An upstream that gets another url is another service. The hosts of the old one are let go.
func TestAReloadOfAnUpstreamsURLLetsTheOldHostsGo(t *testing.T) {
	checks := make(chan string)
	stop := make(chan struct{})
	defer close(stop)
	b := backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/up" {
				select {
				case checks <- r.Host:
				case <-stop:
				}
			}
		})})
	text := func(name string) string {
		return upstreamOf(b.Addr, "url: http://"+name+", health: {path: /up, interval: 10ms}")
	}
	g := start(t, text("one"))
	require.Equal(t, "one", <-checks)
	for _, name := range []string{"two", "three"} {
		old := g.current.Load().upstreams["app"]
		reloadText(t, g, text(name))
		now := g.current.Load().upstreams["app"]
		require.Eventually(t, func() bool { return <-checks == name }, eventually, tick)
		require.NotSame(t, old.balancer, now.balancer)
		require.Eventually(t, func() bool {
			for range 20 { // checks that had begun may come late
				if <-checks != name {
					return false
				}
			}
			return true
		}, eventually, tick)
		require.Equal(t, 1, now.balancer.Stats().Targets)
		resp, _ := get(t, client(t), g.url)
		require.Equal(t, 200, resp.StatusCode)
	}
}
