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
	"golang.org/x/net/http2"

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
	tr.ResponseHeaderTimeout = 200 * time.Millisecond
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
		require.Less(t, time.Since(start), time.Second, "the header timeout bounds it")
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
	}, 10*time.Second, 10*time.Millisecond)
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
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
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
			}, 10*time.Second, 5*time.Millisecond)
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
					backend.Config{Name: fmt.Sprint(i), Protocol: proto, Grace: 150 * time.Millisecond},
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

func TestL16_FloodsFromUpstream(t *testing.T) {
	flood := func(head, unit, tail string, n int) string {
		return serveRaw(t, func(c net.Conn) {
			buf := bufio.NewReader(c)
			for {
				if _, err := http.ReadRequest(buf); err != nil {
					return
				}
				w := bufio.NewWriterSize(c, 64<<10)
				_, err := w.WriteString(head)
				for i := 0; i < n && err == nil; i++ {
					_, err = w.WriteString(unit)
				}
				_, _ = w.WriteString(tail)
				if w.Flush() != nil || err != nil {
					return
				}
			}
		})
	}
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for name, addr := range map[string]string{
		"informational": flood("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", ok, 1_000_000),
		"one long field": flood(
			"HTTP/1.1 200 OK\r\nX-Long: ", strings.Repeat("x", 1000),
			"\r\nContent-Length: 0\r\n\r\n", 2000,
		),
		"cookies": flood(
			"HTTP/1.1 200 OK\r\n", "Set-Cookie: abcdefgh=1\r\n", "Content-Length: 0\r\n\r\n",
			100_000,
		),
		"chunk extension": flood(
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
			"1;"+strings.Repeat("e", 2000)+"\r\nx\r\n", "0\r\n\r\n", 10_000,
		),
		"trailer": flood(
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
			"X-Trailer: "+strings.Repeat("t", 1000)+"\r\n", "\r\n", 20_000,
		),
	} {
		for _, handler := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/handler=%v", name, handler), func(t *testing.T) {
				// The default transport, with its limits.
				b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
				if !handler {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					_, err := get(ctx, b)
					require.Error(t, err)
					require.NoError(t, ctx.Err(), "it is an error, and not by the deadline: %v", err)
					require.Equal(t, uint64(1), b.Stats().Failures)
					return
				}
				f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
				conn, err := net.Dial("tcp", f.Listener.Addr().String())
				require.NoError(t, err)
				defer conn.Close()
				_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				require.NoError(t, err)
				answer, _ := io.ReadAll(conn)
				require.LessOrEqual(t, strings.Count(string(answer), "HTTP/1.1 103"), 100)
				if strings.Contains(name, "chunk") || name == "trailer" {
					require.NotContains(
						t,
						string(answer),
						"\r\n0\r\n\r\n",
						"what broke off does not look whole",
					)
				} else {
					require.Contains(t, string(answer), "HTTP/1.1 502 ")
				}
			})
		}
	}
}

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

// Frames that a server must not send, or not so many of, end in an error. They cause no panic, and
// no request hangs.
func TestL32_FloodsOfFrames(t *testing.T) {
	for name, script := range map[string]func(fr *http2.Framer) error{
		"frame size 0": func(fr *http2.Framer) error {
			return fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize})
		},
		"window overflow": func(fr *http2.Framer) error {
			return fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		},
		"SETTINGS": func(fr *http2.Framer) error {
			return fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14})
		},
		"PING": func(fr *http2.Framer) error { return fr.WritePing(false, [8]byte{}) },
		"RST":  func(fr *http2.Framer) error { return fr.WriteRSTStream(1, http2.ErrCodeCancel) },
		"empty CONTINUATION": func(fr *http2.Framer) error {
			if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}); err != nil {
				return err
			}
			for range 10_000 {
				if err := fr.WriteContinuation(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		},
		"GOAWAY": func(fr *http2.Framer) error {
			return fr.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := serveRaw(t, func(c net.Conn) {
				if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
					return
				}
				go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
				w := bufio.NewWriter(c)
				fr := http2.NewFramer(w, nil)
				fr.AllowIllegalWrites = true
				if fr.WriteSettings() != nil {
					return
				}
				for script(fr) == nil && w.Flush() == nil {
				}
			})
			good := backend.Start(t, backend.Config{Protocol: backend.H2C})
			b := newBalancer(t, balancer.Config{
				Resolver:  balancer.Static(addr, good.Addr),
				Transport: backend.Transport(backend.H2C),
				Policy:    asked{},
				SlowStart: -1,
			})
			for range 4 {
				ctx, cancel := context.WithTimeout(
					context.WithValue(t.Context(), asked{}, addr),
					300*time.Millisecond,
				)
				_, _ = get(ctx, b) // that it ends is what counts
				cancel()
				status, err := get(context.WithValue(t.Context(), asked{}, good.Addr), b)
				require.NoError(t, err, "the other host is not affected")
				require.Equal(t, 200, status)
			}
			require.Zero(t, b.Stats().InFlight)
		})
	}
}

// asked picks the endpoint whose address the request's context holds, under asked{}.
type asked struct{}

func (asked) Pick(v *balancer.View, r *http.Request) int {
	return rather(r.Context().Value(asked{}).(string)).Pick(v, r)
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
				}, 10*time.Second, 10*time.Millisecond)
			})
		}
	}
}

// A server with a limit that no request could keep is treated as a black hole.
func TestHeaderLimitsThatNobodyCouldKeep(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn) {
		fr := http2.NewFramer(c, c)
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		if fr.WriteSettings(http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 1}) != nil {
			return
		}
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.HeadersFrame); ok { // the one that was sent before the settings came
				_ = fr.WriteRSTStream(f.StreamID, http2.ErrCodeInternal)
			}
		}
	})
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(addr), Transport: backend.Transport(backend.H2C),
	})
	require.Eventually(t, func() bool {
		_, err := get(t.Context(), b)
		return err != nil && strings.Contains(err.Error(), "header list")
	}, 10*time.Second, time.Millisecond)
	before := b.Stats().Failures
	_, err := get(t.Context(), b)
	require.Error(t, err)
	require.Equal(t, before+1, b.Stats().Failures)
}
