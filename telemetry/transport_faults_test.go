package telemetry_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// A caller that gives up on purpose, such as a hedge that won elsewhere, is no error (conventions
// for HTTP spans, "Status"), whatever cause it gives. A deadline is one, and so is a cancellation
// that came from below.
func TestClientCancellation(t *testing.T) {
	mine := errors.New("hedge won elsewhere")
	tests := []struct {
		name  string
		ctx   func(context.Context) (context.Context, context.CancelFunc)
		err   error // what the transport returns; the context's cause if nil
		class string
	}{
		{"canceled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}, nil, ""},
		{"canceled with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(mine)
			return ctx, func() {}
		}, nil, ""},
		{"deadline with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, -1, mine)
		}, nil, "timeout"},
		{"canceled after it failed", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		}, &net.OpError{Op: "dial", Err: errors.New("refused")}, "connect"},
		{"canceled below", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithCancel(ctx)
		}, context.Canceled, "canceled"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, telemetry.Config{})
			ctx, cancel := tt.ctx(t.Context())
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://api.test/", nil)
			_, err := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
				if tt.err != nil {
					return nil, tt.err
				}
				return nil, context.Cause(r.Context()) // as http.Transport does
			})).RoundTrip(req)
			require.Error(t, err)
			point := b.points(t, "http.client.request.duration")[0]
			if tt.class == "" {
				require.NotContains(t, point, "error.type")
				require.NotContains(t, text(b.span(t).Attributes()), "error.type")
				require.Equal(t, codes.Unset, b.span(t).Status().Code)
			} else {
				require.Contains(t, point, "error.type="+tt.class+" ")
				require.Equal(t, codes.Error, b.span(t).Status().Code)
			}
		})
	}
}

// Who waits for a body in one goroutine may close it in another: for net/http that is fine.
func TestTransportBodyClosedWhileRead(t *testing.T) {
	b := newBench(t, telemetry.Config{BodySizes: true})
	for range 100 {
		pr, pw := io.Pipe()
		resp, err := b.Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, ContentLength: -1, Body: pr}, nil
		})).RoundTrip(httptest.NewRequest("GET", "http://api.test/", nil))
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(io.Discard, resp.Body) })
		pw.Write([]byte("x"))
		wg.Go(func() { resp.Body.Close() })
		pw.Write([]byte("y"))
		wg.Wait()
	}
	require.Len(t, b.spans.Ended(), 100)
}

// A RoundTripper that panics takes nothing with it.
func TestTransportThatPanics(t *testing.T) {
	b := newBench(t, telemetry.Config{ActiveRequests: true})
	req := httptest.NewRequest("GET", "http://api.test/", nil)
	require.PanicsWithValue(t, "boom", func() {
		b.Transport(roundTripFunc(func(*http.Request) (*http.Response,
			error) {
			panic("boom")
		})).RoundTrip(req)
	})
	require.True(t, strings.HasSuffix(b.points(t, "http.client.active_requests")[0], " = 0"))
	require.Contains(t, b.points(t, "http.client.request.duration")[0], "error.type=_OTHER")
	require.Equal(t, codes.Error, b.span(t).Status().Code)
}

// An error whose methods panic is the caller's, as it is.
func TestTransportErrorThatPanics(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	_, err := b.Transport(roundTripFunc(func(*http.Request) (*http.Response,
		error) {
		return nil, badError{}
	})).
		RoundTrip(httptest.NewRequest("GET", "http://api.test/", nil))
	require.Equal(t, badError{}, err)
	require.Contains(t, b.points(t, "http.client.request.duration")[0], "error.type=_OTHER")
}

type badError struct{}

func (badError) Error() string { return "bad" }
func (badError) NotSent() bool { panic("not sent") }

// The classes of real failures: what the standard library's errors look like is not ours to choose.
func TestClientErrorsOverNetwork(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := server(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	}))
	closed := httptest.NewServer(nil)
	closed.Close()
	proxy, _ := url.Parse(closed.URL)
	trusting := secure.Client().Transport.(*http.Transport)
	tests := []struct {
		name  string
		next  *http.Transport
		url   string
		class string
	}{
		{"nobody listens", &http.Transport{}, closed.URL, "connect"},
		{"nobody listens at the proxy", &http.Transport{Proxy: http.ProxyURL(proxy)}, "https://api.test/",
			"connect"},
		{"unknown authority", &http.Transport{}, secure.URL, "tls"},
		{"client certificate missing", trusting, secure.URL, "tls"},
		{"no TLS at the other end", &http.Transport{}, strings.Replace(plain.URL, "http:", "https:", 1),
			"tls"},
		{"no such host", &http.Transport{}, "http://nowhere.invalid/", "dns"},
		{"no header in time", &http.Transport{ResponseHeaderTimeout: 10 * time.Millisecond},
			plain.URL + "/hang", "timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, telemetry.Config{})
			defer tt.next.CloseIdleConnections()
			_, err := (&http.Client{Transport: b.Transport(tt.next)}).Get(tt.url)
			require.Error(t, err)
			require.Contains(t, b.points(t, "http.client.request.duration")[0], "error.type="+tt.class+" ",
				err)
		})
	}
}

// On the client, too, streams do not distort latency.
func TestClientStreams(t *testing.T) {
	tests := []struct {
		name    string
		media   string
		length  int64
		seconds float64
	}{
		{"events", "Text/Event-Stream; charset=utf-8", -1, 1},
		{"JSON lines", "application/x-ndjson", -1, 1},
		{"JSON lines in a file", "application/x-ndjson", 4, 3601},
		{"page", "text/html", -1, 3601},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, telemetry.Config{})
				resp, err := b.Transport(roundTripFunc(func(*http.Request) (*http.Response, error) {
					time.Sleep(time.Second)
					return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {tt.media}},
						ContentLength: tt.length, Body: io.NopCloser(strings.NewReader("data"))}, nil
				})).RoundTrip(httptest.NewRequest("GET", "http://api.test/", nil))
				require.NoError(t, err)
				time.Sleep(time.Hour)
				require.NoError(t, resp.Body.Close())
				require.Len(t, b.spans.Ended(), 1)
				m, ok := b.metrics(t)["http.client.request.duration"]
				require.True(t, ok)
				require.Equal(t, tt.seconds, m.Data.(metricdata.Histogram[float64]).DataPoints[0].Sum)
			})
		})
	}
}

// http.Transport sends a request again by GetBody if a connection that it kept turns out to be
// closed.
func TestResentRequestBodyIsCounted(t *testing.T) {
	b := newBench(t, telemetry.Config{BodySizes: true})
	req, _ := http.NewRequest("PUT", "http://api.test/", strings.NewReader("sixty"))
	_, err := b.Transport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
		r.Body.Read(make([]byte, 2)) // as far as the first connection took it
		r.Body.Close()
		again, err := r.GetBody()
		require.NoError(t, err)
		io.Copy(io.Discard, again)
		return &http.Response{StatusCode: 200, Body: http.NoBody}, again.Close()
	})).RoundTrip(req)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(b.points(t, "http.client.request.body.size")[0], " = 5"))
}
