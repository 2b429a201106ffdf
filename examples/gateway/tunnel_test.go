package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

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

// Whatever pieces the frames come in, it is known when none is half sent.
func TestFramesAreFollowed(t *testing.T) {
	const header = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\r\n\r\n"
	for range 200 {
		for _, headed := range []bool{false, true} {
			f := frames{begun: headed}
			var text string
			ends := map[int]bool{}
			if headed {
				ends[0] = true
			} else {
				text = header
				ends[len(text)] = true
			}
			for range 1 + rand.IntN(6) {
				size := []int{0, 1, 125, 126, 200, 1<<16 - 1, 1 << 16, 70000}[rand.IntN(8)]
				text += frame([]byte{0, 1, 2, 9, 10}[rand.IntN(5)], size)
				ends[len(text)] = true
			}
			for at := 0; at < len(text); {
				require.Equal(t, ends[at], f.between(), "%d", at)
				next := min(at+1+rand.IntN([]int{1, 3, 200, 1 << 16}[rand.IntN(4)]), len(text))
				f.pass([]byte(text[at:next]))
				at = next
			}
			require.True(t, f.between())
			f.pass([]byte(frame(8, 2)))
			require.False(t, f.between(), "the server has said goodbye itself")
		}
	}
}

// pipe returns a tunnel and what its client has.
func pipe(ts *tunnels, idle Timeout, early string) (*tunnel, *bufio.ReadWriter, net.Conn) {
	client, conn := net.Pipe()
	r := bufio.NewReader(io.MultiReader(strings.NewReader(early), conn))
	_, _ = r.Peek(len(early))
	t, buf := ts.add(conn, bufio.NewReadWriter(r, bufio.NewWriter(conn)), idle, true)
	return t, buf, client
}

func TestL51_TunnelsThatAreIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := &tunnels{}
		tunnel, buf, client := pipe(ts, Timeout(time.Hour), "early")
		defer tunnel.Close()
		require.Equal(t, 5, buf.Reader.Buffered(), "what came behind the request is not lost")
		go func() {
			for range 3 {
				time.Sleep(50 * time.Minute)
				_, _ = io.WriteString(client, "x")
			}
		}()
		got := make([]byte, 8)
		_, err := io.ReadFull(buf, got)
		require.NoError(t, err)
		require.Equal(t, "earlyxxx", string(got))
		go func() {
			time.Sleep(50 * time.Minute)
			_, _ = io.WriteString(tunnel, frame(1, 3))
		}()
		start := time.Now()
		text, err := io.ReadAll(client)
		require.NoError(t, err)
		require.Equal(t, frame(1, 3)+closeGoingAway, string(text))
		require.Equal(t, 110*time.Minute, time.Since(start), "either side's word counts")
		require.Empty(t, ts.all)
	})
	synctest.Test(t, func(t *testing.T) {
		ts := &tunnels{}
		tunnel, _, client := pipe(ts, off, "")
		time.Sleep(1000 * time.Hour)
		require.Len(t, ts.all, 1)
		require.NoError(t, tunnel.Close())
		require.Empty(t, ts.all)
		_, err := client.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

// In the middle of a frame, or of a write, a close frame would be taken for a part of it.
func TestTunnelsAreClosedWithoutAWordInsideAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := &tunnels{}
		half, _, client := pipe(ts, off, "")
		go func() { _, _ = io.WriteString(half, frame(1, 10)[:5]) }()
		_, err := io.ReadFull(client, make([]byte, 5))
		require.NoError(t, err)
		writing, _, other := pipe(ts, off, "")
		wrote := make(chan error, 1)
		go func() {
			_, err := io.WriteString(writing, frame(1, 10))
			wrote <- err
		}()
		synctest.Wait() // nobody reads what is being written
		ts.goAway()
		require.Error(t, <-wrote)
		for _, c := range []net.Conn{client, other} {
			rest, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Empty(t, rest)
		}
		require.Empty(t, ts.all)
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
