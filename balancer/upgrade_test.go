//go:build unix

package balancer_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
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
			"Upgrade: websocket\r\nX-Named: 1\r\nKeep-Alive: 1\r\nX-Kept: 1\r\n\r\n")
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
	require.NoError(t, u.client.SetDeadline(time.Now().Add(30*time.Second)))
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
	require.NoError(t, u.server.SetDeadline(time.Now().Add(30*time.Second)))
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
