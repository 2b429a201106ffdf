//go:build unix

package balancer_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

const askForWebsocket = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

// A tunneled is an upgraded connection through a Handler, seen from both ends.
type tunneled struct {
	client, server net.Conn
	fromServer     *bufio.Reader // what the client reads
	fromClient     *bufio.Reader // what the server reads
	end            func()        // ends the contexts of the front's requests
	b              *balancer.Balancer
}

// openTunnel opens one, for a client that sends early right behind its request.
func openTunnel(t *testing.T, early string) *tunneled {
	t.Helper()
	servers := make(chan net.Conn)
	done := make(chan struct{})
	readers := make(chan *bufio.Reader, 1)
	addr := serveRaw(t, func(c net.Conn) {
		buf := bufio.NewReader(c)
		if _, err := http.ReadRequest(buf); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade, X-Named\r\n"+
			"Upgrade: websocket\r\nX-Named: 1\r\nKeep-Alive: 1\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n")
		readers <- buf
		servers <- c
		<-done
	})
	t.Cleanup(func() { close(done) })
	u := &tunneled{b: newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})}
	var ctx context.Context
	ctx, u.end = context.WithCancel(t.Context())
	h := newFront(t, false, u.b, balancer.HandlerConfig{}, nil).Config.Handler
	f := httptest.NewUnstartedServer(h)
	f.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	f.Start()
	t.Cleanup(f.Close)
	t.Cleanup(u.end)
	var err error
	u.client, err = net.Dial("tcp", addrOf(f))
	require.NoError(t, err)
	t.Cleanup(func() { u.client.Close() })
	require.NoError(t, u.client.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(u.client, askForWebsocket+early)
	require.NoError(t, err)
	u.fromServer = bufio.NewReader(u.client)
	resp, err := http.ReadResponse(u.fromServer, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	require.Equal(t, http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "X-Kept": {"1"},
	}, resp.Header)
	u.fromClient, u.server = <-readers, <-servers
	require.NoError(t, u.server.SetDeadline(time.Now().Add(time.Minute)))
	return u
}

func TestL44_BytesBehindAnUpgradeRequestReachTheServer(t *testing.T) {
	for _, early := range []string{"", "early", strings.Repeat("early", 500)} {
		u := openTunnel(t, early)
		_, err := io.WriteString(u.client, "later")
		require.NoError(t, err)
		got := make([]byte, len(early)+len("later"))
		_, err = io.ReadFull(u.fromClient, got)
		require.NoError(t, err)
		require.Equal(t, early+"later", string(got))
	}
}

// When the front ends, both peers are told by a close frame, unless it would stand inside another.
func TestL34_UpgradedConnectionsEndWithACloseFrame(t *testing.T) {
	const whole, half, closing = "\x82\x03abc", "\x82\x05ab", "\x88\x02\x03\xe8"
	masked := "\x82\x83\x00\x00\x00\x00abc"
	for name, tt := range map[string]struct {
		fromServer, fromClient string
		toClient, toServer     bool // a close frame
	}{
		"silence":                 {"", "", true, true},
		"between frames":          {whole, masked, true, true},
		"within the server's":     {whole + half, masked, false, true},
		"within the client's":     {whole, masked + "\x82\x85\x00\x00", true, false},
		"within a header":         {"\x82", masked, false, true},
		"the server has closed":   {whole + closing, masked, false, true},
		"both are within a frame": {half, "\x82", false, false},
		"a fragmented message":    {"\x02\x01a\x00\x01b", masked, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			u := openTunnel(t, "")
			for _, side := range []struct {
				from net.Conn
				to   *bufio.Reader
				say  string
			}{{u.server, u.fromServer, tt.fromServer}, {u.client, u.fromClient, tt.fromClient}} {
				_, err := io.WriteString(side.from, side.say)
				require.NoError(t, err)
				got := make([]byte, len(side.say))
				_, err = io.ReadFull(side.to, got)
				require.NoError(t, err)
				require.Equal(t, side.say, string(got))
			}
			u.end()
			read := func(r *bufio.Reader, c net.Conn) []byte {
				var got []byte
				for {
					b, err := r.ReadByte()
					if err != nil {
						c.Close()
						return got
					}
					got = append(got, b)
				}
			}
			told := make(chan []byte, 1)
			go func() { told <- read(u.fromClient, u.server) }()
			client := read(u.fromServer, u.client)
			if tt.toClient {
				require.Equal(t, "\x88\x02\x03\xe9", string(client))
			} else {
				require.Empty(t, client)
			}
			server := <-told
			if tt.toServer {
				require.Len(t, server, 8)
				require.Equal(t, "\x88\x82", string(server[:2]))
				require.Equal(t, []byte{0x03, 0xE9}, []byte{server[6] ^ server[2], server[7] ^ server[3]})
			} else {
				require.Empty(t, server)
			}
			require.Eventually(t, func() bool { return u.b.Stats().Streams == 0 }, 20*time.Second,
				time.Millisecond)
		})
	}
}

// Peers that neither read nor close are not waited for.
func TestL34_UpgradedConnectionsEndAlthoughNobodyListens(t *testing.T) {
	u := openTunnel(t, "")
	go func() {
		for { // until the front does not take more
			if _, err := u.server.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	require.Equal(t, 1, u.b.Stats().Streams)
	u.end()
	require.Eventually(t, func() bool { return u.b.Stats().Streams == 0 }, 20*time.Second, time.Millisecond)
}

// One that goes takes the other along.
func TestUpgradedConnectionsEndTogether(t *testing.T) {
	for _, client := range []bool{true, false} {
		u := openTunnel(t, "")
		gone, left := u.client, u.server
		if !client {
			gone, left = u.server, u.client
		}
		_ = gone.(*net.TCPConn).SetLinger(0) // a reset
		gone.Close()
		_, err := io.ReadAll(left)
		_ = err // the end, one way or another
		require.Eventually(t, func() bool { return u.b.Stats().Streams == 0 }, 20*time.Second,
			time.Millisecond)
	}
}

// RFC 9110, section 7.8: an Upgrade in an HTTP/1.0 request means nothing.
func TestL19_HTTP10RequestsDoNotUpgrade(t *testing.T) {
	be := backend.Start(t, backend.Config{Handler: websocketEcho(true)})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	for _, raw := range []string{
		"GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", // Connection does not name it
	} {
		require.Contains(t, exchange(t, f.Listener.Addr().String(), raw), `plain ""`)
	}
	require.Zero(t, b.Stats().Streams)
}

// websocketEcho upgrades to websocket, or to anything if loose is true, and echoes lines.
func websocketEcho(loose bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := r.Header.Get("Upgrade")
		if to == "" || !loose && to != "websocket" {
			fmt.Fprintf(w, "plain %q", to)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", to)
		_ = rw.Flush()
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = rw.WriteString("echo " + line)
			_ = rw.Flush()
		}
	})
}

func TestHandlerUpgradesToWebsocket(t *testing.T) {
	be := backend.Start(t, backend.Config{Handler: websocketEcho(false)})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	// Fields set by middleware around bring a wrapper into play: it must let the connection be
	// taken over.
	f := newFront(t, false, b, balancer.HandlerConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Outer", "1")
			next.ServeHTTP(w, r)
		})
	})
	conn, err := net.Dial("tcp", f.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn,
		"GET /socket HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	buf := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buf, nil)
	require.NoError(t, err)
	require.NotEqual(t, 101, resp.StatusCode, "this backend is strict about case: %d", resp.StatusCode)
	conn.Close()

	conn, err = net.Dial("tcp", f.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn,
		"GET /socket HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n")
	buf = bufio.NewReader(conn)
	resp, err = http.ReadResponse(buf, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	require.Equal(t, "1", resp.Header.Get("X-Outer"))
	for i := range 3 {
		fmt.Fprintf(conn, "hello %d\n", i)
		line, err := buf.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("echo hello %d\n", i), line)
	}
	require.Equal(t, 1, b.Stats().Streams)
	require.Eventually(t, func() bool { return b.Stats().InFlight == 1 }, 10*time.Second, time.Millisecond,
		"the request that was not upgraded has ended, and this one counts until it does")
	conn.Close()
	require.Eventually(t, func() bool { return b.Stats().Streams == 0 }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, time.Minute, time.Millisecond)
}

// Of an upgraded connection each side may finish while the other still speaks.
func TestUpgradedConnectionsHalfClose(t *testing.T) {
	for _, clientFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("clientFirst=%v", clientFirst), func(t *testing.T) {
			speak := func(c net.Conn, r io.Reader, first bool, word string) string {
				var heard []byte
				if !first {
					heard, _ = io.ReadAll(r)
				}
				_, _ = io.WriteString(c, word)
				_ = c.(*net.TCPConn).CloseWrite()
				if first {
					heard, _ = io.ReadAll(r)
				}
				return string(heard)
			}
			heard := make(chan string, 1)
			var b *balancer.Balancer
			addr := serveRaw(t, func(c net.Conn) {
				buf := bufio.NewReader(c)
				if _, err := http.ReadRequest(buf); err != nil {
					return
				}
				_, _ = io.WriteString(c,
					"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
				heard <- speak(c, buf, !clientFirst, "from the server")
			})
			b = newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
			f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
			c, err := net.Dial("tcp", f.Listener.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			buf := bufio.NewReader(c)
			resp, err := http.ReadResponse(buf, nil)
			require.NoError(t, err)
			require.Equal(t, 101, resp.StatusCode)
			if !clientFirst {
				said, err := buf.Peek(len("from the server"))
				require.NoError(t, err)
				require.Equal(t, "from the server", string(said))
			}
			require.Equal(t, 1, b.Stats().Streams, "it is counted until both have finished")
			require.Equal(t, "from the server", speak(c, buf, clientFirst, "from the client"))
			require.Equal(t, "from the client", <-heard)
			require.Eventually(t, func() bool { return b.Stats().Streams == 0 }, time.Minute,
				time.Millisecond)
		})
	}
}

// RFC 9110, section 7.8: the new protocol follows the request. What a client sends of its body
// after a 101 would be taken for it.
func TestL20_A101BeforeTheRequestHasEndedIsRefused(t *testing.T) {
	for whole, want := range map[bool]string{true: "101", false: "502"} {
		addr := serveRaw(t, func(c net.Conn) {
			buf := bufio.NewReader(c)
			r, err := http.ReadRequest(buf)
			if err != nil {
				return
			}
			if whole {
				_, _ = io.Copy(io.Discard, r.Body)
			}
			_, _ = io.WriteString(c,
				"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(io.Discard, buf)
		})
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
		f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
		c, err := net.Dial("tcp", addrOf(f.Server))
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Content-Length: 1000000\r\n\r\n")
		if whole {
			_, err = c.Write(make([]byte, 1_000_000))
			require.NoError(t, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Equal(t, want, resp.Status[:3])
		c.Close()
		require.Eventually(t, func() bool {
			s := b.Stats()
			return s.Streams == 0 && s.InFlight == 0
		}, 20*time.Second, time.Millisecond)
	}
}

func TestL18_TunnelsDoNotPoisonConnections(t *testing.T) {
	be := backend.Start(t, backend.Config{Handler: websocketEcho(true)})
	counted := countConns(t, be.Addr)
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(counted.addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	addr := f.Listener.Addr().String()
	for name, raw := range map[string]string{
		"CONNECT":           "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
		"CONNECT with path": "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			before := b.Stats().Requests
			require.Contains(t, exchange(t, addr, raw), "HTTP/1.1 405 ")
			require.Equal(t, before, b.Stats().Requests, "no endpoint hears of it")
		})
	}
	t.Run("Upgrade", func(t *testing.T) {
		answer := exchange(t, addr,
			"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: foo/2\r\n\r\n")
		require.Contains(t, answer, "HTTP/1.1 200 ")
		require.Contains(t, answer, `plain ""`)
		require.Zero(t, b.Stats().Streams)
	})
	t.Run("after a websocket", func(t *testing.T) {
		for range 5 {
			c, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			require.Equal(t, 101, resp.StatusCode)
			fmt.Fprint(c, smuggled)
			c.Close()
			next, err := f.client.Get(f.URL)
			require.NoError(t, err)
			require.Equal(t, `plain ""`, readAll(t, next), "the connection of a tunnel serves nobody else")
		}
	})
}

func TestL19_OnlyWebsocketIsUpgradedTo(t *testing.T) {
	be := backend.Start(t, backend.Config{Handler: websocketEcho(true)})
	b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
	f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
	for _, fields := range []string{
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
		"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
		"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
		"Connection: Upgrade\r\nupgrade: TLS/1.3\r\n",
		"Connection: Upgrade\r\nUpgrade: \r\nUpgrade: h2c\r\n",
		"Connection: Upgrade\r\nUpgrade: web\tsocket\r\n",
	} {
		answer := exchange(t, f.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: a\r\n"+fields+"\r\n")
		require.Contains(t, answer, "HTTP/1.1 200 ", "%q", fields)
		require.Contains(t, answer, `plain ""`, "%q", fields)
	}
	require.Zero(t, b.Stats().Streams)
}

func TestL20_OnlyAnAskedFor101Upgrades(t *testing.T) {
	asking := "Connection: Upgrade\r\nUpgrade: websocket\r\n"
	for name, tt := range map[string]struct{ fields, answer, want string }{
		"200 that claims it": {asking,
			"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n" +
				"ok", "200"},
		"101 not asked for": {"",
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "502"},
		"101 without a protocol": {"", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "502"},
		"asked, none named":      {asking, "HTTP/1.1 101 Switching Protocols\r\n\r\n", "502"},
		"another protocol": {asking,
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "502"},
		"two protocols": {asking,
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
				"Upgrade: h2c\r\n\r\n", "502"},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var after bytes.Buffer // what came after the request
			addr := serveRaw(t, func(c net.Conn) {
				buf := bufio.NewReader(c)
				if _, err := http.ReadRequest(buf); err != nil {
					return
				}
				_, _ = io.WriteString(c, tt.answer+"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
				rest, _ := io.ReadAll(buf)
				mu.Lock()
				defer mu.Unlock()
				after.Write(rest)
			})
			b := newBalancer(t, balancer.Config{Resolver: balancer.Static(addr)})
			f := newFront(t, false, b, balancer.HandlerConfig{}, nil)
			answer := exchange(t, f.Listener.Addr().String(),
				"GET / HTTP/1.1\r\nHost: a\r\n"+tt.fields+"\r\n")
			require.Regexp(t, "^HTTP/1.1 "+tt.want, answer)
			require.NotContains(t, answer, "poison")
			s := b.Stats()
			require.Zero(t, s.Streams)
			require.Zero(t, s.InFlight)
			b.CloseIdleConnections()
			mu.Lock()
			defer mu.Unlock()
			require.Empty(t, after.String(), "nothing of the client's goes past HTTP")
		})
	}
	t.Run("and the client's connection cannot be taken over", func(t *testing.T) {
		be := backend.Start(t, backend.Config{Handler: websocketEcho(false)})
		b := newBalancer(t, balancer.Config{Resolver: balancer.Static(be.Addr)})
		f := newFront(t, false, b, balancer.HandlerConfig{}, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(struct{ http.ResponseWriter }{plainWriter{w}}, r)
			})
		})
		answer := exchange(t, f.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: a\r\n"+asking+"\r\n")
		require.Regexp(t, "^HTTP/1.1 502", answer)
		require.Eventually(t, func() bool { return b.Stats().Streams == 0 }, 10*time.Second, time.Millisecond,
			"the upstream's connection is not left behind")
	})
}

// plainWriter hides what the writer below can do.
type plainWriter struct{ w http.ResponseWriter }

func (p plainWriter) Header() http.Header { return p.w.Header() }

func (p plainWriter) Write(b []byte) (int, error) { return p.w.Write(b) }

func (p plainWriter) WriteHeader(code int) { p.w.WriteHeader(code) }
