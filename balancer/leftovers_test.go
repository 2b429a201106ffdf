//go:build unix

package balancer_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// A server that refuses before a 100 (Continue) still takes Content-Length bytes for the body.
// Unless they are the body or the connection ends, it swallows the request of the next user.
func TestL17_RefusedExpectationsLeaveTheConnectionClean(t *testing.T) {
	var mu sync.Mutex
	var lines, bodies []string
	addr := serveRaw(t, func(c net.Conn) {
		buf := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(buf)
			if err != nil {
				return
			}
			mu.Lock()
			lines = append(lines, req.Method+" "+req.URL.Path)
			mu.Unlock()
			status := "200 OK"
			if req.Header.Get("Expect") != "" {
				status = "417 Expectation Failed"
			}
			if _, err := io.WriteString(c, "HTTP/1.1 "+status+"\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if len(body) > 0 {
				mu.Lock()
				bodies = append(bodies, string(body))
				mu.Unlock()
			}
			if err != nil {
				return
			}
		}
	})
	tr := backend.Transport(backend.HTTP1)
	tr.ExpectContinueTimeout = 10 * time.Second
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr), Transport: tr})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	for range 20 {
		resp, err := f.client.Do(expecting(t, f.URL))
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 417, resp.StatusCode)
		resp, err = f.client.Get(f.URL + "/next")
		require.NoError(t, err)
		require.Equal(t, "ok", readAll(t, resp))
		require.Equal(t, 200, resp.StatusCode)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, lines, 40)
	for i, line := range lines {
		require.Equal(t, []string{"POST /", "GET /next"}[i%2], line)
	}
	for _, body := range bodies {
		require.True(t, strings.HasPrefix(smuggled, body), "%q", body)
	}
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

func expecting(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequest("POST", url, strings.NewReader(smuggled))
	require.NoError(t, err)
	req.Header.Set("Expect", "100-continue")
	return req
}

// A connection that authenticates its client is not used for the next client.
func TestL31_ConnectionsThatAreAuthenticated(t *testing.T) {
	for _, scheme := range []string{"NTLM", "negotiate"} {
		addr := serveRaw(t, func(c net.Conn) {
			buf := bufio.NewReader(c)
			who := "nobody"
			for {
				req, err := http.ReadRequest(buf)
				if err != nil {
					return
				}
				if _, token, ok := strings.Cut(req.Header.Get("Authorization"), " "); ok {
					who = token
				}
				if _, err := fmt.Fprintf(
					c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(who), who,
				); err != nil {
					return
				}
				if req.Close {
					return
				}
			}
		})
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
		f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
		for range 10 {
			req, err := http.NewRequest("GET", f.URL, nil)
			require.NoError(t, err)
			req.Header.Set("Authorization", scheme+" alice")
			resp, err := f.client.Do(req)
			require.NoError(t, err)
			require.Equal(t, "alice", readAll(t, resp))
			resp, err = f.client.Get(f.URL)
			require.NoError(t, err)
			require.Equal(t, "nobody", readAll(t, resp))
		}
	}
}

// asked picks the endpoint whose address the request's context holds, under asked{}.
type asked struct{}

func (asked) Pick(v *balancer.View, r *http.Request) int {
	return rather(r.Context().Value(asked{}).(string)).Pick(v, r)
}
