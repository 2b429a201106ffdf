package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// frame returns a frame of RFC 6455 with a payload of n bytes.
func frame(opcode byte, n int) string {
	head := []byte{0x80 | opcode}
	switch {
	case n < 126:
		head = append(head, byte(n))
	case n < 1<<16:
		head = append(head, 126, byte(n>>8), byte(n))
	default:
		head = append(head, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return string(head) + strings.Repeat("\x88", n)
}

// closeGoingAway is a frame of RFC 6455, section 5.5.1, with the status "going away".
const closeGoingAway = "\x88\x02\x03\xe9"

// A piped upgrade is one through the gateway's bounds and a balancer's Handler, in memory.
type piped struct {
	client, server net.Conn // as the peers have them
	taken          atomic.Int64
	end            func()        // ends the context of the server
	ended          chan struct{} // closed when the handler has returned
}

// A hijackable writer gives its connection away, as net/http does without deadlines.
type hijackable struct {
	http.ResponseWriter
	conn net.Conn
	buf  *bufio.ReadWriter
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, h.buf, h.conn.SetDeadline(time.Time{})
}

func (h hijackable) SetReadDeadline(t time.Time) error { return h.conn.SetReadDeadline(t) }

// pipe upgrades a connection whose client has sent early right behind its request.
func pipe(t *testing.T, idle Timeout, early string, body io.Reader) *piped {
	t.Helper()
	p := &piped{ended: make(chan struct{})}
	var conn, upstream net.Conn
	p.client, conn = net.Pipe()
	p.server, upstream = net.Pipe()
	lb, err := balancer.New(balancer.Config{Resolver: balancer.Static("127.0.0.1:9")})
	require.NoError(t, err)
	h, err := lb.Handler(&url.URL{Scheme: "http", Host: "app"}, balancer.HandlerConfig{
		Transport: func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Body != nil { // a switch within a request is refused
					_, _ = io.Copy(io.Discard, r.Body)
				}
				return &http.Response{StatusCode: 101, Body: upstream, Header: http.Header{
					"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				}}, nil
			})
		},
	})
	require.NoError(t, err)
	from := bufio.NewReader(io.MultiReader(strings.NewReader(early), conn))
	_, err = from.Peek(len(early))
	require.NoError(t, err)
	outer := hijackable{httptest.NewRecorder(), conn, bufio.NewReadWriter(from, bufio.NewWriter(conn))}
	ctx, cancel := context.WithCancel(t.Context())
	p.end = cancel
	req := httptest.NewRequestWithContext(ctx, "GET", "/", body)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	w, r, done := limitStalls(outer, req, bounds{
		stall: Timeout(20 * time.Second), tunnelIdle: idle, taken: &p.taken,
		draining: func() bool { return false },
	})
	go func() {
		defer close(p.ended)
		defer cancel()
		defer done()
		h.ServeHTTP(w, r)
	}()
	resp, err := http.ReadResponse(bufio.NewReader(onlyHeader{p.client}), nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	return p
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An onlyHeader reads no more than is asked for: bytes that follow a header stay where they are.
type onlyHeader struct{ r io.Reader }

func (o onlyHeader) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

// wantGoingAway requires that what is left of a client's words is a close frame.
func wantGoingAway(t *testing.T, fromClient []byte) {
	t.Helper()
	require.Len(t, fromClient, 8)
	require.Equal(t, "\x88\x82", string(fromClient[:2]))
	require.Equal(t, "\x03\xe9", string([]byte{fromClient[6] ^ fromClient[2], fromClient[7] ^ fromClient[3]}))
}

func TestL51_TunnelsThatAreIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipe(t, Timeout(time.Hour), frame(1, 3), nil)
		start := time.Now()
		go func() {
			for range 3 {
				time.Sleep(50 * time.Minute)
				_, _ = io.WriteString(p.client, frame(2, 0))
			}
			time.Sleep(50 * time.Minute)
			_, _ = io.WriteString(p.server, frame(1, 3))
		}()
		heard := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(p.server)
			heard <- all
		}()
		got := make([]byte, len(frame(1, 3)+closeGoingAway))
		_, err := io.ReadFull(p.client, got)
		require.NoError(t, err)
		require.Equal(t, frame(1, 3)+closeGoingAway, string(got))
		require.Equal(t, 260*time.Minute, time.Since(start), "either side's word counts")
		_, err = p.client.Read(got)
		require.ErrorIs(t, err, io.EOF)
		require.Less(t, time.Since(start), 260*time.Minute+2*time.Second)
		<-p.ended
		require.Zero(t, p.taken.Load())
		all := <-heard
		said := frame(1, 3) + strings.Repeat(frame(2, 0), 3)
		require.Equal(t, said, string(all[:len(said)]), "what came behind the request is not lost")
		wantGoingAway(t, all[len(said):])
	})
	synctest.Test(t, func(t *testing.T) {
		p := pipe(t, off, "", nil)
		time.Sleep(1000 * time.Hour)
		require.EqualValues(t, 1, p.taken.Load())
		require.NoError(t, p.client.Close())
		<-p.ended
		require.Zero(t, p.taken.Load())
		_, err := p.server.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
	synctest.Test(t, func(t *testing.T) {
		// The deadlines of a request's body are not those of the tunnel.
		p := pipe(t, Timeout(time.Hour), "", strings.NewReader("a body"))
		time.Sleep(59 * time.Minute)
		go func() { _, _ = io.WriteString(p.client, frame(1, 3)) }()
		_, err := io.ReadFull(p.server, make([]byte, len(frame(1, 3))))
		require.NoError(t, err)
		_, err = io.ReadFull(p.client, make([]byte, len(closeGoingAway)))
		require.NoError(t, err)
		p.server.Close()
		<-p.ended
	})
}

// In the middle of a frame, or of a write, a close frame would be taken for a part of it.
func TestTunnelsAreClosedWithoutAWordInsideAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		half := pipe(t, off, "", nil)
		go func() { _, _ = io.WriteString(half.server, frame(1, 10)[:5]) }()
		_, err := io.ReadFull(half.client, make([]byte, 5))
		require.NoError(t, err)
		writing := pipe(t, off, "", nil)
		go func() { _, _ = io.WriteString(writing.server, frame(1, 10)) }()
		synctest.Wait() // nobody reads what is being written
		start := time.Now()
		for _, p := range []*piped{half, writing} {
			p.end()
			go func() { _, _ = io.Copy(io.Discard, p.server) }()
		}
		<-writing.ended
		<-half.ended
		require.LessOrEqual(t, time.Since(start), 2*time.Second)
		for _, p := range []*piped{half, writing} {
			rest, err := io.ReadAll(p.client)
			require.NoError(t, err)
			require.Empty(t, rest)
			require.Zero(t, p.taken.Load())
		}
	})
}

// sockets is a backend of websockets that answers each line.
func sockets(t *testing.T) *backend.Backend {
	return backend.Start(t, backend.Config{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				return
			}
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n" + upgrade)
			_ = rw.Flush()
			for line, err := rw.ReadString('\n'); err == nil; line, err = rw.ReadString('\n') {
				_, _ = rw.WriteString(frame(1, len(line)))
				_ = rw.Flush()
			}
		})})
}

// dialSocket asks for a websocket and returns the connection and the answer's status.
func dialSocket(t *testing.T, addr string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n"+upgrade)
	buf := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buf, nil)
	require.NoError(t, err)
	return conn, buf, resp
}

// speak sends a line and waits for its answer.
func speak(t *testing.T, conn net.Conn, buf *bufio.Reader) {
	t.Helper()
	fmt.Fprintln(conn, "hello")
	got := make([]byte, len(frame(1, 6)))
	_, err := io.ReadFull(buf, got)
	require.NoError(t, err)
	require.Equal(t, frame(1, 6), string(got))
}

func TestL51_TunnelsAreBounded(t *testing.T) {
	g := start(t, simple("server: {max_tunnels: 2, tunnel_idle: 24h}", sockets(t).Addr))
	first, buf, resp := dialSocket(t, g.addr)
	require.Equal(t, 101, resp.StatusCode)
	_, _, resp = dialSocket(t, g.addr)
	require.Equal(t, 101, resp.StatusCode)
	_, _, resp = dialSocket(t, g.addr)
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	require.EqualValues(t, 1, g.tunnels.refused.Load())
	speak(t, first, buf)
	resp, _ = get(t, client(t), g.url)
	require.Equal(t, 200, resp.StatusCode, "requests have a bound of their own")
	first.Close()
	require.Eventually(t, func() bool { return g.tunnels.open.Load() == 1 }, 30*time.Second, time.Millisecond)
	_, _, resp = dialSocket(t, g.addr)
	require.Equal(t, 101, resp.StatusCode)
}

func TestL51_TunnelIdleEndsAWebsocket(t *testing.T) {
	g := start(t, simple("server: {tunnel_idle: 200ms}", sockets(t).Addr))
	conn, buf, resp := dialSocket(t, g.addr)
	require.Equal(t, 101, resp.StatusCode)
	speak(t, conn, buf)
	rest, err := io.ReadAll(buf)
	require.NoError(t, err)
	require.Equal(t, closeGoingAway, string(rest))
	require.Eventually(t, func() bool {
		s := g.current.Load().upstreams["app"].balancer.Stats()
		return s.Streams == 0 && s.InFlight == 0 && g.tunnels.open.Load() == 0
	}, 30*time.Second, time.Millisecond)
}

// Websockets have the drain's time to end by themselves, and end no drain before that.
func TestL34_WebsocketsGetTheDrainTime(t *testing.T) {
	b := sockets(t)
	p, _ := launchWith(t, simple("server: {drain_delay: 100ms, drain_timeout: 5m}", b.Addr))
	conn, buf, resp := dialSocket(t, p.addr)
	require.Equal(t, 101, resp.StatusCode)
	p.signal(t, syscall.SIGTERM)
	p.await(t, p.stderr, "msg=draining")
	// When the listener is closed, the drain waits for nothing but this connection.
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			return true
		}
		c.Close()
		return false
	}, 30*time.Second, 10*time.Millisecond)
	for range 3 {
		speak(t, conn, buf)
		sleep(t.Context(), 500*time.Millisecond)
	}
	conn.Close()
	require.Equal(t, 0, p.status(t), p.stderr)
}

// TestL36_RedirectsToTheCleanPathReachClientsThatStillSend, as other answers do that come early.
func TestL36_RedirectsToTheCleanPathReachClientsThatStillSend(t *testing.T) {
	g := start(t, inFlow(backend.Start(t, backend.Config{}).Addr, "[{upstream: app, path: /a/}]"))
	for path, want := range map[string]string{"//a/b": "/a/b", "/a": "/a/"} {
		conn, err := net.Dial("tcp", g.addr)
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		const size = 32 << 20
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", path, size)
		piece := make([]byte, 64<<10)
		for range size / len(piece) {
			_, err := conn.Write(piece)
			require.NoError(t, err, path)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.Equal(t, 307, resp.StatusCode)
		require.Equal(t, want, resp.Header.Get("Location"))
		require.NoError(t, conn.Close())
	}
}

// A drain waits for clients that still send and have their answer: the end of the process would
// reset their connections, and the answer could be lost.
func TestL36_LingeringConnectionsAreCounted(t *testing.T) {
	g := start(t, simple("server: {max_body: 1KiB}", backend.Start(t, backend.Config{}).Addr))
	conn, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, 413, resp.StatusCode)
	require.Eventually(t, func() bool { return g.taken.Load() == 1 }, eventually, tick)
	conn.Close()
	require.Eventually(t, func() bool { return g.taken.Load() == 0 }, 30*time.Second, time.Millisecond)
}
