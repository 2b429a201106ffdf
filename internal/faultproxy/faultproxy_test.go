//go:build unix

package faultproxy_test

import (
	"bytes"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/trivet-go/trivet/internal/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo starts a TCP server that sends back what it reads and closes a connection when the client
// has half-closed it. The channel ended receives the error with which each connection ended.
func echo(t *testing.T) (addr string, ended <-chan error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ends := make(chan error, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, err := io.Copy(struct{ io.Writer }{conn}, conn)
				conn.Close()
				ends <- err
			}()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String(), ends
}

// start returns a Proxy in front of an echo server, and a function that connects to the Proxy.
func start(t *testing.T) (p *faultproxy.Proxy, dial func() *net.TCPConn, ended <-chan error) {
	addr, ended := echo(t)
	p = faultproxy.Start(t, addr)
	return p, func() *net.TCPConn {
		conn, err := net.Dial("tcp", p.Addr)
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		t.Cleanup(func() { conn.Close() })
		return conn.(*net.TCPConn)
	}, ended
}

func send(t *testing.T, conn net.Conn, n int) []byte {
	data := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
	_, err := conn.Write(data)
	require.NoError(t, err)
	return data
}

func requireEcho(t *testing.T, conn net.Conn, n int) {
	t.Helper()
	want := send(t, conn, n)
	got := make([]byte, n)
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestNoFaultForwardsBothWaysAndHalfCloses(t *testing.T) {
	p, dial, ended := start(t)
	conn := dial()
	data := bytes.Repeat([]byte("x"), 3<<20)
	go func() {
		_, _ = conn.Write(data)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Len(t, got, len(data))
	require.NoError(t, <-ended)
	require.Equal(t, 1, p.Accepted())
}

func TestRefuse(t *testing.T) {
	p, dial, _ := start(t)
	open := dial()
	requireEcho(t, open, 10)
	for range 2 {
		p.Set(faultproxy.Fault{Refuse: true})
		_, err := net.Dial("tcp", p.Addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		requireEcho(t, open, 10)
		p.Set(faultproxy.Fault{})
		requireEcho(t, dial(), 10)
	}
}

func TestHang(t *testing.T) {
	p, dial, _ := start(t)
	before := dial()
	requireEcho(t, before, 10)
	p.Set(faultproxy.Fault{Hang: true})
	during := dial() // connections are still accepted
	for _, conn := range []net.Conn{before, during} {
		send(t, conn, 5)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, err := conn.Read(make([]byte, 5))
		require.ErrorContains(t, err, "timeout")
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	}
	p.Set(faultproxy.Fault{})
	for _, conn := range []net.Conn{before, during} {
		got := make([]byte, 5)
		_, err := io.ReadFull(conn, got)
		require.NoError(t, err)
		require.Equal(t, "01234", string(got))
	}
}

func TestLatencyDelaysAndKeepsTheBandwidth(t *testing.T) {
	p, dial, _ := start(t)
	const latency = 100 * time.Millisecond
	p.Set(faultproxy.Fault{Latency: latency})
	conn := dial()
	begin := time.Now()
	requireEcho(t, conn, 10)
	require.GreaterOrEqual(t, time.Since(begin), latency)

	// If each of the fifty chunks waited for the one before, this would take five seconds.
	begin = time.Now()
	go func() { _, _ = conn.Write(make([]byte, 50*16<<10)) }()
	_, err := io.ReadFull(conn, make([]byte, 50*16<<10))
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(begin), latency)
	require.Less(t, time.Since(begin), 30*latency)
}

func TestBandwidth(t *testing.T) {
	p, dial, _ := start(t)
	p.Set(faultproxy.Fault{Bandwidth: 100_000})
	conn := dial()
	begin := time.Now()
	requireEcho(t, conn, 20_000)
	// 200 ms without the pause after the last step, which the client does not see.
	require.GreaterOrEqual(t, time.Since(begin), 180*time.Millisecond)
	p.Set(faultproxy.Fault{})
	begin = time.Now()
	requireEcho(t, conn, 20_000)
	require.Less(t, time.Since(begin), 10*time.Second)
}

func TestReset(t *testing.T) {
	for name, after := range map[string]int64{"at once": 0, "within a chunk": 7} {
		t.Run(name, func(t *testing.T) {
			p, dial, ended := start(t)
			p.Set(faultproxy.Fault{Cut: faultproxy.Reset, After: after})
			conn := dial()
			send(t, conn, 1000)
			got, err := io.ReadAll(conn)
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.Len(t, got, int(after))
			<-ended // the connection to the server has ended too
		})
	}
}

func TestTruncate(t *testing.T) {
	p, dial, ended := start(t)
	p.Set(faultproxy.Fault{Cut: faultproxy.Truncate, After: 7})
	conn := dial()
	send(t, conn, 1000)
	got, err := io.ReadAll(conn)
	require.NoError(t, err, "the connection was closed in order")
	require.Len(t, got, 7)
	<-ended
}

func TestHalfCloseStillCarriesWhatTheClientSends(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	heard := make(chan []byte, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("0123456789"))
		all, _ := io.ReadAll(conn)
		heard <- all
	}()
	p := faultproxy.Start(t, ln.Addr().String())
	p.Set(faultproxy.Fault{Cut: faultproxy.HalfClose, After: 7})
	conn, err := net.Dial("tcp", p.Addr)
	require.NoError(t, err)
	defer conn.Close()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "0123456", string(got))
	send(t, conn, 100)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	require.Len(t, <-heard, 100)
}

func TestCutCountsFromSet(t *testing.T) {
	p, dial, _ := start(t)
	conn := dial()
	requireEcho(t, conn, 1000)
	p.Set(faultproxy.Fault{Cut: faultproxy.Truncate, After: 20})
	requireEcho(t, conn, 10)
	send(t, conn, 100)
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Len(t, got, 10)
}

func TestResetAllEndsOpenConnectionsOnly(t *testing.T) {
	p, dial, ended := start(t)
	conn := dial()
	requireEcho(t, conn, 10)
	require.Equal(t, 1, p.Open())
	p.ResetAll()
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	<-ended
	requireEcho(t, dial(), 10)
	require.Equal(t, 2, p.Accepted())
}

func TestTargetThatIsNotThereResets(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	p := faultproxy.Start(t, ln.Addr().String())
	conn, err := net.Dial("tcp", p.Addr)
	if err == nil { // otherwise the reset came before the dial had returned
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
}
