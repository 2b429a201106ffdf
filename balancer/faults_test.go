//go:build unix

package balancer_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/internal/faultproxy"
)

// serveRaw runs script on every connection to a listener of its own, and returns its address.
func serveRaw(t *testing.T, script func(c net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				script(c)
			})
		}
	})
	return ln.Addr().String()
}

// blackhole returns an address at which the kernel drops SYNs: its queue of connections is full.
func blackhole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr // full
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue does not fill")
	return ""
}

func TestL06_BlackholedEndpoint(t *testing.T) {
	const connect = 200 * time.Millisecond
	hole := blackhole(t)
	eps := []balancer.Endpoint{{Addr: hole}}
	for i := range 3 {
		eps = append(
			eps,
			balancer.Endpoint{Addr: backend.StartProcess(t, backend.Config{Name: fmt.Sprint(i)}).Addr},
		)
	}
	tr := backend.Transport(backend.HTTP1)
	var swallowed atomic.Int64 // dials
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: connect}).DialContext(ctx, network, addr)
		if err != nil {
			swallowed.Add(1)
		}
		return conn, err
	}
	b := newBalancer(t, balancer.Config{
		Resolver:  balancer.NewPushed(eps...),
		Transport: tr,
		Policy:    balancer.RoundRobin(),
		Outlier:   balancer.OutlierConfig{Base: time.Minute},
	})
	for range 200 {
		before := swallowed.Load()
		status, err := get(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.LessOrEqual(t, swallowed.Load()-before, int64(1), "failover takes one connect timeout")
	}
	require.EqualValues(t, 5, swallowed.Load(), "after five failures in a row it is ejected")
	require.Equal(t, balancer.Ejected, statusOf(t, b, hole).State)
}

// A process that is stopped accepts connections and says nothing.
func TestL07_StoppedEndpoint(t *testing.T) {
	var procs []*backend.Process
	var eps []balancer.Endpoint
	for i := range 3 {
		p := backend.StartProcess(t, backend.Config{Name: fmt.Sprint(i)})
		procs, eps = append(procs, p), append(eps, balancer.Endpoint{Addr: p.Addr})
	}
	tr := backend.Transport(backend.HTTP1)
	tr.ResponseHeaderTimeout = 2 * time.Second
	b := newBalancer(t, balancer.Config{
		Resolver:  balancer.NewPushed(eps...),
		Transport: tr,
		Policy:    balancer.RoundRobin(),
		Outlier:   balancer.OutlierConfig{Consecutive: 2, Base: time.Minute},
	})
	for range 9 {
		_, err := get(t.Context(), b)
		require.NoError(t, err)
	}
	procs[0].Pause()
	failed := 0
	for i := range 60 {
		req, err := http.NewRequestWithContext(
			t.Context(),
			http.MethodPost,
			"http://users.internal/",
			strings.NewReader("order"),
		)
		require.NoError(t, err)
		req.Header.Set(backend.IDField, fmt.Sprint(i))
		start := time.Now()
		resp, err := b.RoundTrip(req)
		require.Less(t, time.Since(start), 30*time.Second, "the header timeout bounds it")
		if err != nil {
			failed++
			continue
		}
		resp.Body.Close()
	}
	require.Equal(t, 2, failed, "until it is ejected")
	require.Equal(t, balancer.Ejected, statusOf(t, b, procs[0].Addr).State)
	procs[0].Resume()
	require.Eventually(t, func() bool {
		n := 0
		for _, p := range procs {
			n += p.Requests()
		}
		return n >= 9+58
	}, time.Minute, 10*time.Millisecond)
	seen := map[string]int{}
	for _, p := range procs {
		for id, n := range p.Counts() {
			seen[id] += n
		}
	}
	for i := range 60 {
		require.LessOrEqual(t, seen[fmt.Sprint(i)], 1, "POST %d is executed once at most", i)
	}
}

// roll restarts procs one after the other, rounds times, while requests go to them. It returns the
// number of requests.
func roll(
	t *testing.T,
	b *balancer.Balancer,
	target string,
	procs []*backend.Process,
	rounds int,
) (sent int64) {
	t.Helper()
	var wg sync.WaitGroup
	var stop atomic.Bool
	var count atomic.Int64
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				req, _ := http.NewRequestWithContext(
					ctx,
					http.MethodGet,
					target+"/?delay=20ms&bytes=100000",
					nil,
				)
				resp, err := b.RoundTrip(req)
				if err == nil {
					var n int64
					n, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err == nil && (resp.StatusCode != 200 || n != 100000) {
						err = fmt.Errorf("status %d, %d bytes", resp.StatusCode, n)
					}
				}
				cancel()
				count.Add(1)
				if err != nil {
					t.Errorf("request %d: %v", count.Load(), err)
				}
			}
		})
	}
	for range rounds {
		for _, p := range procs {
			require.NoError(t, p.Terminate(t.Context()))
			p.Restart()
			// The next one is restarted when this one is back, as an orchestrator does it.
			require.Eventually(t, func() bool {
				for _, h := range b.Endpoints(target) {
					if h.State != balancer.Healthy {
						return false
					}
				}
				return true
			}, time.Minute, 5*time.Millisecond)
		}
	}
	stop.Store(true)
	wg.Wait()
	return count.Load()
}

// Real processes are restarted one after the other. They end their connections in order: by
// Connection: close, and by GOAWAY. With TRIVET_SOAK=1 there are 20 rounds.
func TestL13_RollingRestarts(t *testing.T) {
	rounds := 1
	if os.Getenv("TRIVET_SOAK") != "" {
		rounds = 20
	}
	for _, proto := range []backend.Protocol{backend.HTTP1, backend.HTTP2, backend.H2C} {
		t.Run("protocol="+string(proto), func(t *testing.T) {
			t.Parallel() // most of it is waiting
			var procs []*backend.Process
			var eps []balancer.Endpoint
			for i := range 3 {
				p := backend.StartProcess(
					t,
					backend.Config{Name: fmt.Sprint(i), Protocol: proto, Grace: time.Second},
				)
				procs, eps = append(procs, p), append(eps, balancer.Endpoint{Addr: p.Addr})
			}
			b := newBalancer(t, balancer.Config{
				Resolver: balancer.NewPushed(eps...), Transport: backend.Transport(proto), SlowStart: -1,
				Health: balancer.HealthConfig{
					Path:     "/healthz",
					Interval: 20 * time.Millisecond,
					Fall:     1,
					Rise:     1,
				},
			})
			sent := roll(t, b, procs[0].URL.Scheme+"://app.test", procs, rounds)
			require.Greater(t, sent, int64(100))
			for _, p := range procs {
				require.NotZero(t, p.Requests())
			}
			t.Logf(
				"%d rounds of 3, %d requests, 0 failed (below %.4f %% with 95 %% confidence)",
				rounds,
				sent,
				300/float64(sent),
			)
		})
	}
}

// The server closes an idle connection just as a request is written to it.
func TestL14_KeepAliveRace(t *testing.T) {
	var requests atomic.Int32
	addr := serveRaw(t, func(c net.Conn) {
		buf := bufio.NewReader(c)
		for i := 0; ; i++ {
			req, err := http.ReadRequest(buf)
			if err != nil {
				return
			}
			if i == 1 { // the second on a connection finds it closing
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			requests.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(addr), Transport: backend.Transport(backend.HTTP1),
	})
	for range 50 {
		status, err := get(t.Context(), b)
		require.NoError(t, err, "what may be repeated is repeated")
		require.Equal(t, 200, status)
	}
	require.Zero(t, b.Stats().Failures)
	before := requests.Load()
	failed := 0
	for range 20 {
		req, err := http.NewRequestWithContext(
			t.Context(),
			http.MethodPost,
			"http://users.internal/",
			strings.NewReader("order"),
		)
		require.NoError(t, err)
		resp, err := b.RoundTrip(req)
		if err != nil {
			failed++
			require.False(t, notSent(err), "nobody knows whether it was executed: %v", err)
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	require.NotZero(t, failed, "a POST is not repeated")
	require.Equal(t, int32(20-failed), requests.Load()-before, "nor executed twice")
}

func TestL15_SlowUpstreams(t *testing.T) {
	drip := func(c net.Conn, head, every string) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		if _, err := io.WriteString(c, head); err != nil {
			return
		}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(c, every); err != nil {
				return
			}
		}
	}
	for name, head := range map[string]string{
		"header": "HTTP/1.1 200 OK\r\nX-Slow: ",
		"body":   "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
		"status": "",
	} {
		t.Run(name, func(t *testing.T) {
			addr := serveRaw(t, func(c net.Conn) { drip(c, head, "x") })
			tr := backend.Transport(backend.HTTP1)
			tr.ResponseHeaderTimeout = 200 * time.Millisecond
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr), Transport: tr})
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			start := time.Now()
			_, err := get(ctx, b)
			require.Error(t, err)
			if name == "body" {
				require.ErrorIs(
					t,
					err,
					context.DeadlineExceeded,
					"the time of a body is the caller's to bound",
				)
			} else {
				require.Less(
					t, time.Since(start), 450*time.Millisecond,
					"the header has a timeout as a whole, not for each byte",
				)
				require.Equal(t, uint64(1), b.Stats().Failures)
			}
			require.Zero(t, b.Stats().InFlight)
		})
	}
}

// Close lets running requests come to their end, but does not wait for ever: an upgraded connection
// may be open for hours.
func TestL34_CloseDrainsWithADeadline(t *testing.T) {
	begun := make(chan struct{})
	be := backend.Start(
		t,
		backend.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				close(begun)
				<-time.After(100 * time.Millisecond) // the request takes as long as that
				return
			}
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = rw.WriteString(
				"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			)
			_ = rw.Flush()
			_, _ = io.Copy(io.Discard, rw)
		})},
	)
	b, err := balancer.New(balancer.Config{Resolver: balancer.Static(be.Addr)})
	require.NoError(t, err)
	req, err := http.NewRequest("GET", "http://app.test/socket", nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	resp, err := b.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	require.Equal(t, 1, b.Stats().Streams)
	done := make(chan error, 1)
	go func() {
		_, err := get(t.Context(), b)
		done <- err
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, b.Close(ctx), context.DeadlineExceeded, "the upgraded connection is still open")
	require.NoError(t, <-done, "no accepted request is lost")
	require.Equal(t, 1, b.Stats().Streams)
	require.NoError(t, resp.Body.Close())
	require.NoError(t, b.Close(t.Context()))
	require.Zero(t, b.Stats().Streams)
}

// Truncated and reset responses are the endpoint's failures. Half of a response is never taken for
// the whole.
func TestResponsesThatBreakOff(t *testing.T) {
	for _, proto := range []backend.Protocol{backend.HTTP1, backend.HTTP2, backend.H2C} {
		for cut, name := range map[faultproxy.Cut]string{
			faultproxy.Reset:     "reset",
			faultproxy.Truncate:  "truncated",
			faultproxy.HalfClose: "half closed",
		} {
			t.Run(fmt.Sprintf("%s/protocol=%s", name, proto), func(t *testing.T) {
				be := backend.Start(t, backend.Config{Protocol: proto})
				p := faultproxy.Start(t, be.Addr)
				b := newBalancer(t, balancer.Config{
					Resolver: balancer.Static(p.Addr), Transport: backend.Transport(proto),
				})
				target := &url.URL{
					Scheme:   be.URL.Scheme,
					Host:     "app.test",
					Path:     "/",
					RawQuery: "bytes=1000000",
				}
				client := &http.Client{Transport: b}
				p.Set(faultproxy.Fault{Cut: cut, After: 50_000})
				resp, err := client.Get(target.String())
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				require.Error(t, err)
				require.Equal(t, uint64(1), b.Stats().Failures)
				require.Zero(t, b.Stats().InFlight)
				p.Set(faultproxy.Fault{})
				require.Eventually(t, func() bool {
					resp, err := client.Get(target.String())
					if err != nil {
						return false
					}
					defer resp.Body.Close()
					n, err := io.Copy(io.Discard, resp.Body)
					return err == nil && n == 1_000_000
				}, time.Minute, 10*time.Millisecond)
			})
		}
	}
}
