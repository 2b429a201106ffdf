package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

type timeoutError struct{}

func (timeoutError) Error() string { return "slow" }

func (timeoutError) Timeout() bool { return true }

func (timeoutError) Temporary() bool { return true }

func TestHandlerErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		status int
		after  string
	}{
		"not sent":           {unsent{1500 * time.Millisecond}, 503, "2"},
		"not sent, no wait":  {notSentOnly{}, 503, "1"},
		"refused for good":   {unsent{}, 503, ""},
		"too many targets":   {balancer.ErrTooManyTargets, 503, ""},
		"broken":             {io.ErrUnexpectedEOF, 502, ""},
		"timeout":            {fmt.Errorf("read: %w", timeoutError{}), 504, ""},
		"deadline":           {context.DeadlineExceeded, 504, ""},
		"secret in the text": {errors.New("dial 10.1.2.3:80"), 502, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static("a:1")})
			f := newFront(t, false, b, balancer.HandlerConfig{
				Transport: func(http.RoundTripper) http.RoundTripper {
					return roundTripper(func(*http.Request) (*http.Response, error) { return nil, tt.err })
				},
			}, nil)
			resp, err := f.client.Get(f.URL)
			require.NoError(t, err)
			body := readAll(t, resp)
			require.Equal(t, tt.status, resp.StatusCode)
			require.Equal(t, tt.after, resp.Header.Get("Retry-After"))
			require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			require.Contains(t, body, fmt.Sprintf(`"status":%d`, tt.status))
			require.NotContains(t, body, "10.1.2.3", "no internals")
		})
	}
	t.Run("real ones", func(t *testing.T) {
		be := backend.Start(t, serving(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		}))
		tr := backend.Transport(backend.HTTP1)
		tr.ResponseHeaderTimeout = 50 * time.Millisecond
		p := balancer.NewPushed(balancer.Endpoint{Addr: be.Addr})
		b := newBalancer(t, balancer.Config{Resolver: p, Transport: tr})
		hc := balancer.HandlerConfig{ModifyResponse: func(r *http.Response) error {
			if r.Request.URL.Path == "/bad" {
				return errors.New("refused by ModifyResponse")
			}
			return nil
		}}
		limit := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Body = http.MaxBytesReader(w, r.Body, 1000)
				if r.URL.Path == "/impatient" {
					_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				}
				next.ServeHTTP(w, r)
			})
		}
		f := newFront(t, false, b, hc, limit)
		status := func(raw string) int {
			s, _ := ask(t, f, raw)
			return s
		}
		require.Equal(t, 502, status("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n"))
		require.Equal(t, 413,
			status("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n"+strings.Repeat("x", 2000)))
		require.Equal(t, 400,
			status("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"))
		// HTTP/1.1 ends the connection when a read deadline has passed.
		f2 := newFront(t, true, b, hc, limit)
		body, halt := io.Pipe()
		defer halt.Close()
		late, err := f2.client.Post(f2.URL+"/impatient", "text/plain", body)
		require.NoError(t, err)
		late.Body.Close()
		require.Equal(t, 408, late.StatusCode)
		require.Zero(t, b.Stats().Failures, "clients cannot have endpoints blamed")
		be.Set(backend.Behaviour{Hang: true})
		require.Equal(t, 504, status("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
		be.Set(backend.Behaviour{Abort: true})
		require.Equal(t, 502, status("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"))
		be.Close()
		resp, err := f.client.Get(f.URL)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 503, resp.StatusCode)
		require.Equal(t, "1", resp.Header.Get("Retry-After"))
	})
	t.Run("an ErrorHandler of one's own", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
		f := newFront(t, false, b, balancer.HandlerConfig{
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				if errors.Is(err, balancer.ErrNoEndpoints) {
					w.WriteHeader(http.StatusTeapot)
				}
			},
		}, nil)
		resp, err := f.client.Get(f.URL)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusTeapot, resp.StatusCode)
	})
	t.Run("configuration", func(t *testing.T) {
		b := newBalancer(t, balancer.Config{Resolver: balancer.NewPushed()})
		_, err := b.Handler(nil, balancer.HandlerConfig{})
		require.ErrorContains(t, err, "target is required")
		target := &url.URL{Scheme: "ftp", Host: "a", User: url.UserPassword("u", "secret")}
		_, err = b.Handler(target, balancer.HandlerConfig{TrustedProxies: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"), {},
			netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 90),
		}})
		require.ErrorContains(t, err, "balancer: Handler: target ")
		require.ErrorContains(t, err, "want scheme://host")
		require.ErrorContains(t, err, "balancer: HandlerConfig.TrustedProxies[1]: is not a prefix")
		require.ErrorContains(t, err,
			"balancer: HandlerConfig.TrustedProxies[2]: ::ffff:10.0.0.0/90 is an IPv4 address")
		require.NotContains(t, err.Error(), "secret")
	})
}

func TestErrorStatus(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		wait   time.Duration
	}{
		{unsent{1500 * time.Millisecond}, 503, 1500 * time.Millisecond},
		{fmt.Errorf("wrapped: %w", notSentOnly{}), 503, time.Second},
		{unsent{}, 503, 0},
		{&balancer.NoEndpointsError{Tried: 2, Err: unsent{}}, 503, 0},
		{&balancer.NoEndpointsError{Tried: 2, Err: unsent{-time.Second}}, 503, 0},
		{&balancer.NoEndpointsError{Tried: 2, Err: unsent{time.Minute}}, 503, time.Minute},
		{&balancer.NoEndpointsError{Tried: 2, Err: io.EOF}, 503, time.Second},
		{&balancer.NoEndpointsError{}, 503, time.Second},
		{balancer.ErrTooManyTargets, 503, 0},
		{balancer.ErrClosed, 503, 0},
		{&http.MaxBytesError{}, 413, 0},
		{timeoutError{}, 504, 0},
		{fmt.Errorf("wrapped: %w", context.DeadlineExceeded), 504, 0},
		{io.EOF, 502, 0},
		{nil, 502, 0},
	} {
		status, wait := balancer.ErrorStatus(tt.err)
		require.Equal(t, tt.status, status, "%v", tt.err)
		require.Equal(t, tt.wait, wait, "%v", tt.err)
	}
}

type notSentOnly struct{}

func (notSentOnly) Error() string { return "not sent" }

func (notSentOnly) NotSent() bool { return true }
