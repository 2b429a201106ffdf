package blame_test

import (
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
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/blame"
)

func TestLeft(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(ctx context.Context) context.Context
		want bool
	}{
		{"goes on", func(ctx context.Context) context.Context { return ctx }, false},
		{"canceled", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}, true},
		{"canceled for a reason", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(errors.New("no longer needed"))
			return ctx
		}, true},
		{"its time is over", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithDeadline(ctx, time.Unix(0, 0))
			cancel()
			return ctx
		}, false},
		{"told of that by a cancellation", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(fmt.Errorf("try: %w", os.ErrDeadlineExceeded))
			return ctx
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, blame.Left(tt.end(t.Context())))
		})
	}
}

// What net/http says of requests that it does not send is what Request looks for. A new version of
// Go that says it otherwise fails this test.
func TestRequestsThatNetHTTPDoesNotSend(t *testing.T) {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	srv.Config.Protocols = &protocols
	srv.Start()
	defer srv.Close()
	body := func(declared int64) func(*http.Request) {
		return func(r *http.Request) {
			r.Method, r.ContentLength = http.MethodPost, declared
			r.Body = io.NopCloser(strings.NewReader("five!"))
		}
	}
	for name, change := range map[string]func(*http.Request){
		"a method with a space":       func(r *http.Request) { r.Method = "G ET" },
		"a field name with a space":   func(r *http.Request) { r.Header["A B"] = []string{"x"} },
		"a field value with an end":   func(r *http.Request) { r.Header.Set("A", "x\r\nB: y") },
		"no host":                     func(r *http.Request) { r.URL.Host, r.Host = "", "" },
		"a scheme that nobody speaks": func(r *http.Request) { r.URL.Scheme = "gopher" },
		"a body that is longer":       body(4),
	} {
		for version, http2 := range map[string]bool{"HTTP1": false, "HTTP2": true} {
			t.Run(name+"/"+version, func(t *testing.T) {
				var speaks http.Protocols
				speaks.SetHTTP1(!http2)
				speaks.SetUnencryptedHTTP2(http2)
				tr := &http.Transport{Protocols: &speaks}
				defer tr.CloseIdleConnections()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
				require.NoError(t, err)
				change(req)
				requireBlamed(t, tr, req)
			})
		}
	}
	t.Run("a body that is shorter", func(t *testing.T) { // which HTTP/2 leaves to the server
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
		require.NoError(t, err)
		body(6)(req)
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		requireBlamed(t, tr, req)
	})
	t.Run("a path with an end", func(t *testing.T) {
		u, err := url.Parse(srv.URL)
		require.NoError(t, err)
		u.Opaque = "//" + u.Host + "/a\nb"
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		req := (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}).WithContext(t.Context())
		requireBlamed(t, tr, req)
	})
}

// requireBlamed sends req, which tr refuses. Seldom it tells of the connection alone, which it
// closes.
func requireBlamed(t *testing.T, tr *http.Transport, req *http.Request) {
	t.Helper()
	_, err := tr.RoundTrip(req)
	require.Error(t, err)
	if !errors.Is(err, net.ErrClosed) {
		require.True(t, blame.Request(req, err), "%v", err)
	}
}

func TestServersAreToBlame(t *testing.T) {
	req := httptest.NewRequest(http.MethodGet, "http://h/", nil)
	for _, err := range []error{
		&net.OpError{Op: "dial", Err: errors.New("connection refused")},
		io.ErrUnexpectedEOF,
		context.DeadlineExceeded,
		errors.New("http: server gave HTTP response to HTTPS client"),
		errors.New("malformed HTTP response \"net/http: invalid method\""), // what a server wrote
	} {
		require.False(t, blame.Request(req, err), "%v", err)
	}
}

// A server whose limit on headers is below what any server should take is to blame; a client that
// sends more is not its concern.
func TestHeadersThatAreTooLarge(t *testing.T) {
	limit := errors.New("http2: request header list larger than peer's advertised limit")
	req := httptest.NewRequest(http.MethodGet, "http://h/", nil)
	require.False(t, blame.Request(req, limit))
	req.Header.Set("A", strings.Repeat("x", 8<<10))
	require.True(t, blame.Request(req, limit))
	req = httptest.NewRequest(http.MethodGet, "http://h/?"+strings.Repeat("x", 8<<10), nil)
	require.True(t, blame.Request(req, limit), "the target counts too")
}

type reader struct {
	io.Reader
	closed int
}

func (r *reader) Close() error {
	r.closed++
	return nil
}

func TestWatch(t *testing.T) {
	failing := io.MultiReader(strings.NewReader("part"), readerFunc(func([]byte) (int, error) {
		return 0, io.ErrUnexpectedEOF
	}))
	request := func(body io.ReadCloser) (*http.Request, *blame.Upload) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://h/", body)
		require.NoError(t, err)
		return blame.Watch(req)
	}
	t.Run("its sender breaks it off", func(t *testing.T) {
		body := &reader{Reader: failing}
		req, upload := request(body)
		require.False(t, upload.Failed())
		_, err := io.ReadAll(req.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.NoError(t, req.Body.Close())
		require.True(t, upload.Failed())
		require.Equal(t, 1, body.closed)
	})
	t.Run("it ends", func(t *testing.T) {
		req, upload := request(&reader{Reader: strings.NewReader("all")})
		_, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		require.False(t, upload.Failed())
	})
	t.Run("the transport gives up", func(t *testing.T) {
		req, upload := request(&reader{Reader: failing})
		require.NoError(t, req.Body.Close())
		_, err := io.ReadAll(req.Body)
		require.Error(t, err)
		require.False(t, upload.Failed(), "a transport closes the body under its own reader")
	})
	t.Run("in memory", func(t *testing.T) {
		for _, body := range []io.Reader{nil, http.NoBody, strings.NewReader("x")} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://h/", body)
			require.NoError(t, err)
			same, upload := blame.Watch(req)
			require.Same(t, req, same)
			require.False(t, upload.Failed())
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
