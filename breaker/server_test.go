package breaker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/breaker"
	"github.com/trivet-go/trivet/internal/backend"
)

// Real servers over both versions of HTTP.
func TestTransportOverRealServers(t *testing.T) {
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		t.Run("protocol="+string(p), func(t *testing.T) {
			hold := make(chan struct{})
			up := backend.Start(
				t,
				backend.Config{
					Protocol: p,
					Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						switch r.URL.Path {
						case "/ok":
							fmt.Fprint(w, "ok")
						case "/500":
							w.WriteHeader(500)
						case "/abort":
							panic(http.ErrAbortHandler)
						case "/cut":
							fmt.Fprint(w, strings.Repeat("x", 10_000))
							_ = http.NewResponseController(w).Flush()
							panic(http.ErrAbortHandler)
						case "/hang":
							select {
							case <-r.Context().Done():
							case <-hold:
							}
						case "/trailer":
							w.Header().Set("Trailer", "Sum")
							w.WriteHeader(103)
							fmt.Fprint(w, "body")
							w.Header().Set("Sum", "42")
						}
					}),
				},
			)
			defer close(hold)
			next := backend.Transport(p)
			defer next.CloseIdleConnections()
			verdictOf := func(f func(c *http.Client)) breaker.Outcome {
				b := newBreaker(t, breaker.Config{MinRequests: 1, FailureRatio: 1})
				f(&http.Client{Transport: b.TransportFor("up", next)})
				if stateOf(b, "up") == breaker.Open {
					return breaker.Failure
				}
				// A failure alone opens; after a success there is one of each, and it does not.
				ask(b, "up", breaker.Failure)
				if stateOf(b, "up") == breaker.Closed {
					return breaker.Success
				}
				return breaker.Neutral
			}
			get := func(path string) func(c *http.Client) {
				return func(c *http.Client) {
					resp, err := c.Get(up.URL.String() + path)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}
			require.Equal(t, breaker.Success, verdictOf(get("/ok")))
			require.Equal(t, breaker.Failure, verdictOf(get("/500")))
			require.Equal(t, breaker.Failure, verdictOf(get("/abort")))
			require.Equal(t, breaker.Failure, verdictOf(get("/cut")), "after 200")
			require.Equal(t, breaker.Neutral, verdictOf(func(c *http.Client) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(10*time.Millisecond, cancel)
				_, err := c.Do(request(ctx, up.URL.String()+"/hang"))
				require.ErrorIs(t, err, context.Canceled)
			}))
			require.Equal(t, breaker.Failure, verdictOf(func(c *http.Client) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				defer cancel()
				_, err := c.Do(request(ctx, up.URL.String()+"/hang"))
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}))
			require.Equal(t, breaker.Failure, verdictOf(func(c *http.Client) {
				c.Timeout = 10 * time.Millisecond
				_, err := c.Get(up.URL.String() + "/hang")
				require.Error(t, err)
			}), "the client's own timeout")
			require.Equal(t, breaker.Success, verdictOf(func(c *http.Client) {
				resp, err := c.Get(up.URL.String() + "/trailer")
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, "body", string(body))
				require.Equal(t, "42", resp.Trailer.Get("Sum"))
			}))
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, ln.Close())
		b := newBreaker(t, breaker.Config{MinRequests: 1})
		next := &http.Transport{}
		_, err = send(b.TransportFor("up", next), request(t.Context(), "http://"+ln.Addr().String()))
		require.Error(t, err)
		require.Equal(t, breaker.Open, stateOf(b, "up"))
	})
}

func TestTransportUpgrades(t *testing.T) {
	up := backend.Start(
		t,
		backend.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			_, _ = rw.WriteString(
				"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
			)
			_ = rw.Flush()
			line, _ := rw.ReadString('\n')
			_, _ = rw.WriteString(line)
			_ = rw.Flush()
		})},
	)
	next := backend.Transport(backend.HTTP1)
	defer next.CloseIdleConnections()
	b := newBreaker(t, breaker.Config{SlowAfter: time.Hour})
	req := request(t.Context(), up.URL.String())
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := b.Transport(next).RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	conn := resp.Body.(io.ReadWriteCloser)
	_, err = io.WriteString(conn, "hello\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
	require.NoError(t, conn.Close())
}

func TestMiddlewareOverRealServers(t *testing.T) {
	for _, p := range []backend.Protocol{backend.HTTP1, backend.HTTP2} {
		t.Run("protocol="+string(p), func(t *testing.T) {
			var seen recorder
			var left atomic.Int32
			b := newBreaker(t, breaker.Config{
				MinRequests: 1, FailureRatio: 1, SlowAfter: time.Hour, Observe: seen.observe,
				Key: func(r *http.Request) (string, bool) { return r.URL.Path, true },
			})
			up := backend.Start(
				t,
				backend.Config{
					Protocol: p,
					Handler: b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						rc := http.NewResponseController(w)
						switch r.URL.Path {
						case "/stream":
							for i := range 3 {
								fmt.Fprint(w, i)
								if err := rc.Flush(); err != nil {
									panic(err)
								}
							}
						case "/trailer":
							w.Header().Set("Link", "</style.css>; rel=preload")
							w.WriteHeader(103)
							w.Header().Set("Trailer", "Sum")
							fmt.Fprint(w, "body")
							w.Header().Set("Sum", "42")
						case "/copy":
							_, _ = io.Copy(w, strings.NewReader(strings.Repeat("x", 100_000)))
						case "/abort":
							panic(http.ErrAbortHandler)
						case "/cut":
							fmt.Fprint(w, "half")
							_ = rc.Flush()
							panic(http.ErrAbortHandler)
						case "/leave":
							fmt.Fprint(w, "begun")
							_ = rc.Flush()
							<-r.Context().Done()
							left.Add(1)
							panic(http.ErrAbortHandler)
						case "/deadline":
							if err := rc.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
								panic(err)
							}
						}
					})),
				},
			)
			next := backend.Transport(p)
			defer next.CloseIdleConnections()
			c := &http.Client{Transport: next}
			get := func(path string) (string, http.Header, error) {
				resp, err := c.Get(up.URL.String() + path)
				if err != nil {
					return "", nil, err
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				return string(body), resp.Trailer, err
			}
			body, _, err := get("/stream")
			require.NoError(t, err)
			require.Equal(t, "012", body)
			body, trailer, err := get("/trailer")
			require.NoError(t, err)
			require.Equal(t, "body", body)
			require.Equal(t, "42", trailer.Get("Sum"))
			body, _, err = get("/copy")
			require.NoError(t, err)
			require.Len(t, body, 100_000)
			_, _, err = get("/deadline")
			require.NoError(t, err)
			_, err = c.Post(up.URL.String()+"/abort", "", nil) // a GET would be sent again by net/http
			require.Error(t, err)
			_, _, err = get("/cut")
			require.Error(t, err)

			ctx, cancel := context.WithCancel(t.Context())
			resp, err := c.Do(request(ctx, up.URL.String()+"/leave"))
			require.NoError(t, err)
			cancel()
			_ = resp.Body.Close()
			require.Eventually(t, func() bool { return left.Load() == 1 }, time.Minute, time.Millisecond)
			up.Close() // waits for the handlers' connections, not for the handlers
			for path, want := range map[string]breaker.State{
				"/stream": breaker.Closed, "/trailer": breaker.Closed, "/copy": breaker.Closed,
				"/deadline": breaker.Closed,
				"/abort":    breaker.Open, "/cut": breaker.Open, "/leave": breaker.Closed,
			} {
				require.Equal(t, want, stateOf(b, path), path)
			}
		})
	}
}

func TestMiddlewareUpgrades(t *testing.T) {
	var b *breaker.Breaker
	stateWithin := make(chan breaker.State, 1)
	b, err := breaker.New(
		breaker.Config{OpenFor: time.Millisecond, ProbeTimeout: time.Hour, MinRequests: 1, Ramp: time.Hour},
	)
	require.NoError(t, err)
	up := backend.Start(
		t,
		backend.Config{Handler: b.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			stateWithin <- stateOf(b, "")
			_, _ = rw.WriteString(
				"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
			)
			_ = rw.Flush()
			line, _ := rw.ReadString('\n')
			_, _ = rw.WriteString(line)
			_ = rw.Flush()
		}))},
	)
	trip(t, b, "")
	require.Eventually(t, func() bool { return ask(b, "", breaker.Neutral) }, time.Minute, time.Millisecond)
	conn, err := net.Dial("tcp", up.Addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(
		conn,
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello\n",
	)
	require.NoError(t, err)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
	require.Equal(t, breaker.Ramping, <-stateWithin, "an upgrade is a success as soon as it is one")
}
