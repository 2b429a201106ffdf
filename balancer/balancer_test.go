package balancer_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

func TestMain(m *testing.M) {
	backend.Main()
	// net makes a channel at its first lookup. It must not belong to a synctest bubble.
	broken := net.Resolver{
		PreferGo: true,
		Dial:     func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
	}
	_, _ = broken.LookupHost(context.Background(), "first.test")
	goleak.VerifyTestMain(m)
}

// newBalancer returns a Balancer that is closed at the end of the test.
func newBalancer(t *testing.T, cfg balancer.Config) *balancer.Balancer {
	t.Helper()
	b, err := balancer.New(observed(cfg))
	require.NoError(t, err)
	t.Cleanup(func() {
		// Nothing may run any more: a leaked count of requests in flight fails here.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		require.NoError(t, b.Close(ctx))
	})
	return b
}

func addrOf(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }

// An upstream takes the place of the endpoints' transports.
type upstream func(e balancer.Endpoint, r *http.Request) (*http.Response, error)

// wrap is for [balancer.Config.Wrap].
func (u upstream) wrap(e balancer.Endpoint, _ http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			defer r.Body.Close()
		}
		return u(e, r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer returns a response without a body.
func answer(status int) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
}

// get sends a GET to the target users.internal and returns the answer's status.
func get(ctx context.Context, b *balancer.Balancer) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://users.internal/", nil)
	if err != nil {
		return 0, err
	}
	resp, err := b.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

type pickKey struct{}

// withPick returns a context whose requests write the event of their last attempt to pick, if the
// configuration is observed.
func withPick(ctx context.Context, pick *balancer.Event) context.Context {
	return context.WithValue(ctx, pickKey{}, pick)
}

func observed(cfg balancer.Config) balancer.Config {
	observe := cfg.Observe
	cfg.Observe = func(ctx context.Context, e balancer.Event) {
		if pick, ok := ctx.Value(pickKey{}).(*balancer.Event); ok && e.Kind == balancer.Attempted {
			*pick = e
		}
		if observe != nil {
			observe(ctx, e)
		}
	}
	return cfg
}

// pickOf sends a GET and returns where it went.
func pickOf(t *testing.T, b *balancer.Balancer) balancer.Event {
	t.Helper()
	var pick balancer.Event
	_, err := get(withPick(t.Context(), &pick), b)
	require.NoError(t, err)
	require.NotEmpty(t, pick.Kind, "the Balancer is not observed")
	return pick
}

// statusOf returns what the Balancer says of one endpoint of users.internal.
func statusOf(t *testing.T, b *balancer.Balancer, addr string) balancer.EndpointStatus {
	t.Helper()
	for _, h := range b.Endpoints("http://users.internal") {
		if h.Addr == addr {
			return h
		}
	}
	t.Fatalf("no endpoint %s", addr)
	return balancer.EndpointStatus{}
}

// events collects what a Balancer observes.
type events struct {
	mu  sync.Mutex // guards the field below
	all []balancer.Event
}

func (e *events) observe(_ context.Context, ev balancer.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) of(kind balancer.EventKind) []balancer.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []balancer.Event
	for _, ev := range e.all {
		if ev.Kind == kind {
			found = append(found, ev)
		}
	}
	return found
}

func TestRequestsKeepTheTargetsName(t *testing.T) {
	srv := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) }),
	)
	t.Cleanup(srv.Close)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addrOf(srv))})
	resp, err := (&http.Client{Transport: b}).Get("http://users.internal/42")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "users.internal", string(body))
	require.Equal(t, "users.internal", resp.Request.URL.Host)
	require.Equal(t, uint64(1), b.Stats().Requests)
}

func TestTargetsAreOfSchemeAndHost(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static("a:1"), MaxTargets: 2,
		Wrap: upstream(
			func(balancer.Endpoint, *http.Request) (*http.Response, error) { return answer(200), nil },
		).wrap,
	})
	send := func(url string) error {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		require.NoError(t, err)
		_, err = b.RoundTrip(req)
		return err
	}
	require.NoError(t, send("http://users.internal/1"))
	require.NoError(t, send("http://USERS.internal/2"), "the host's case does not matter")
	require.NoError(t, send("https://users.internal/3"))
	require.Equal(t, 2, b.Stats().Targets)
	err := send("http://orders.internal/")
	require.ErrorIs(t, err, balancer.ErrTooManyTargets)
	require.True(t, notSent(err))
	require.Len(t, b.Endpoints("http://Users.Internal"), 1)
	require.Equal(t, uint64(2), b.Endpoints("http://users.internal")[0].Requests)
	require.Nil(t, b.Endpoints("http://orders.internal"))
	require.Nil(t, b.Endpoints("users.internal"))
}

func notSent(err error) bool {
	var n interface{ NotSent() bool }
	return errors.As(err, &n) && n.NotSent()
}

func TestRequestsThatCannotBeSent(t *testing.T) {
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1")})
	for name, change := range map[string]func(*http.Request){
		"no URL":  func(r *http.Request) { r.URL = nil },
		"no host": func(r *http.Request) { r.URL.Host = "" },
		"scheme":  func(r *http.Request) { r.URL.Scheme = "ftp" },
		"CONNECT": func(r *http.Request) { r.Method = http.MethodConnect },
	} {
		t.Run(name, func(t *testing.T) {
			body := &closing{Reader: strings.NewReader("x")}
			req, err := http.NewRequest(http.MethodPost, "http://users.internal/", body)
			require.NoError(t, err)
			change(req)
			_, err = b.RoundTrip(req)
			require.ErrorContains(t, err, "balancer: ")
			require.True(t, notSent(err))
			require.True(t, body.closed(), "RoundTrip owns the body even when it fails")
		})
	}
	require.Zero(t, b.Stats().Targets)
}

// closing is a body that knows whether it has been closed.
type closing struct {
	io.Reader
	mu     sync.Mutex // guards closes
	closes int
}

func (c *closing) Read(p []byte) (int, error) {
	if c.closed() { // as real bodies do
		return 0, http.ErrBodyReadAfterClose
	}
	return c.Reader.Read(p)
}

func (c *closing) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closes++
	return nil
}

func (c *closing) closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closes > 0
}

func TestCloseWaitsForRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := balancer.New(balancer.Config{
			Resolver: balancer.Static("a:1"),
			Health:   balancer.HealthConfig{Path: "/healthz"},
			Wrap: upstream(func(_ balancer.Endpoint, r *http.Request) (*http.Response, error) {
				time.Sleep(time.Second)
				return answer(200), nil
			}).wrap,
			Transport: &http.Transport{
				DialContext: func(
					context.Context, string, string,
				) (net.Conn, error) {
					return nil, errors.New("no checks here")
				},
			},
		})
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() {
			_, err := get(t.Context(), b)
			done <- err
		}()
		synctest.Wait()
		short, cancel := context.WithTimeoutCause(
			t.Context(),
			300*time.Millisecond,
			errors.New("grace is over"),
		)
		defer cancel()
		require.EqualError(t, b.Close(short), "grace is over")
		start := time.Now()
		require.NoError(t, b.Close(t.Context()), "a second Close waits on")
		require.InDelta(t, 700*time.Millisecond, time.Since(start), float64(20*time.Millisecond))
		require.NoError(t, <-done, "requests that run are not cut")
		_, err = get(t.Context(), b)
		require.ErrorIs(t, err, balancer.ErrClosed)
		require.True(t, notSent(err))
		require.ErrorIs(t, b.Reload(balancer.Config{Resolver: balancer.Static("a:1")}), balancer.ErrClosed)
	})
}

func TestIdleTargetsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet(t)
		net.serve("a:1", http.NotFoundHandler())
		b := newBalancer(t, balancer.Config{
			Resolver:    balancer.Static("a:1"),
			Transport:   net.transport(),
			IdleTimeout: time.Minute,
		})
		_, err := get(t.Context(), b)
		require.NoError(t, err)
		time.Sleep(55 * time.Second)
		_, err = get(t.Context(), b)
		require.NoError(t, err)
		time.Sleep(55 * time.Second)
		synctest.Wait()
		require.Equal(t, 1, b.Stats().Targets)
		require.Equal(t, 1, net.open("a:1"))
		time.Sleep(7 * time.Second)
		synctest.Wait()
		s := b.Stats()
		require.Zero(t, s.Targets)
		require.Equal(t, uint64(2), s.Requests, "counters do not fall")
		require.Zero(t, net.open("a:1"))
		_, err = get(t.Context(), b)
		require.NoError(t, err, "it comes back with the next request")
	})
}

func TestStatsAndEndpointsAreJSON(t *testing.T) {
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.NewPushed(
			balancer.Endpoint{Addr: "a:1", Weight: 3, Zone: "z", Labels: map[string]string{"k": "v"}},
		),
		Wrap: upstream(
			func(balancer.Endpoint, *http.Request) (*http.Response, error) { return answer(500), nil },
		).wrap,
	})
	pickOf(t, b)
	s := b.Stats()
	require.Equal(t, uint64(1), s.Requests)
	require.Equal(t, uint64(1), s.Failures)
	require.Equal(t, map[string]uint64{"a:1": 1}, s.EndpointRequests)
	require.Equal(t, map[string]uint64{"a:1": 1}, s.EndpointFailures)
	require.Equal(t, map[string]int{"a:1": 0}, s.EndpointInFlight)
	text, err := json.Marshal(s)
	require.NoError(t, err)
	var counts map[string]any
	require.NoError(t, json.Unmarshal(text, &counts))
	require.Equal(t, 1.0, counts["requests"])
	require.Equal(t, map[string]any{"a:1": 1.0}, counts["endpoint_requests"])
	require.Equal(t, 0.0, counts["panics"])
	for key := range counts {
		require.Regexp(t, "^[a-z_]+$", key)
	}
	table, err := json.Marshal(b.Endpoints("http://users.internal"))
	require.NoError(t, err)
	var rows []map[string]any
	require.NoError(t, json.Unmarshal(table, &rows))
	require.Len(t, rows, 1)
	require.Equal(t, "a:1", rows[0]["addr"])
	require.Equal(t, "healthy", rows[0]["state"])
	require.Equal(t, 3.0, rows[0]["weight"])
	require.Equal(t, "z", rows[0]["zone"])
	require.Equal(t, map[string]any{"k": "v"}, rows[0]["labels"])
	require.Equal(t, 1.0, rows[0]["requests"])
	require.Equal(t, 1.0, rows[0]["failures"])
	require.Equal(t, 1.0, rows[0]["failures_in_a_row"])
}
