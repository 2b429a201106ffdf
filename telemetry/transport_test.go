package telemetry_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/trivet-go/trivet/telemetry"
)

func TestTransportBodies(t *testing.T) {
	srv := server(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/broken":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/stream":
			w.Header().Set("Content-Type", "text/event-stream")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/long":
			w.Write(make([]byte, 1<<20))
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}))
	tests := []struct {
		name, path string
		use        func(t *testing.T, resp *http.Response, cancel func())
		ended      bool // before the body was touched
		class      string
	}{
		{"without a body", "/", func(*testing.T, *http.Response, func()) {}, true, ""},
		{"stream", "/stream", func(*testing.T, *http.Response, func()) {}, true, ""},
		{"closed early", "/long", func(t *testing.T, resp *http.Response,
			_ func()) {
			require.NoError(t, resp.Body.Close())
		}, false, ""},
		{"broken", "/broken", func(t *testing.T, resp *http.Response, _ func()) {
			_, err := io.ReadAll(resp.Body)
			require.Error(t, err)
		}, false, "body"},
		{"canceled", "/long", func(t *testing.T, resp *http.Response, cancel func()) {
			cancel()
			_, err := io.Copy(io.Discard, resp.Body)
			require.Error(t, err)
		}, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, telemetry.Config{})
			c := &http.Client{Transport: b.Transport(&http.Transport{})}
			ctx, cancel := context.WithCancel(t.Context())
			defer c.CloseIdleConnections() // reaches the transport below: else goleak complains
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+tt.path, nil)
			resp, err := c.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, tt.ended, len(b.spans.Ended()) == 1)
			tt.use(t, resp, cancel)
			resp.Body.Close()
			points := b.points(t, "http.client.request.duration")
			require.Len(t, points, 1)
			require.Len(t, b.spans.Ended(), 1)
			if tt.class == "" {
				require.NotContains(t, points[0], "error.type")
			} else {
				require.Contains(t, points[0], "error.type="+tt.class+" ")
			}
		})
	}
}

// The body of a 101 is the connection: a ReverseProxy with our transport must be able to write to
// it.
func TestTransportKeepsUpgrades(t *testing.T) {
	backend := server(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, "echo ", line)
		rw.Flush()
	}))
	b := newBench(t, telemetry.Config{})
	target, _ := url.Parse(backend.URL)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: b.Transport(&http.Transport{DisableKeepAlives: true}),
	}
	front := server(t, false, b.Middleware(proxy))
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "101 Switching Protocols")
	fmt.Fprint(conn, "hello\n")
	all, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Contains(t, string(all), "echo hello\n")
	require.NoError(t, conn.Close()) // the proxy copies in both directions until then
	require.Contains(t, b.eventually(t, "http.server.request.duration", 1)[0], "status_code=101")
	require.Contains(t, b.points(t, "http.client.request.duration")[0], "status_code=101")
}

func TestTransportOfNil(t *testing.T) {
	b := newBench(t, telemetry.Config{})
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	resp, err := (&http.Client{Transport: b.Transport(nil)}).Get(srv.URL)
	require.NoError(t, err)
	resp.Body.Close()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	require.Equal(t, 404, resp.StatusCode)
}
