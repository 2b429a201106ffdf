package balancer

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// relayed runs a relay in memory, and returns what its peers have and a function that waits for it.
func relayed(ctx context.Context) (client, server net.Conn, wait func()) {
	client, c := net.Pipe()
	server, s := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		newRelay(c, s, nil).run(ctx)
	}()
	return client, server, func() { <-ended }
}

// A farewell must not wait for a peer that takes nothing, nor keep it from the other peer.
func TestL34_AFarewellThatNobodyTakes(t *testing.T) {
	for name, writes := range map[string]struct{ toClient, toServer bool }{
		"both idle":                     {false, false},
		"the client takes nothing more": {true, false},
		"the server takes nothing more": {false, true},
		"neither takes anything":        {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				client, server, wait := relayed(ctx)
				if writes.toClient {
					go func() { _, _ = server.Write(frame(1, false, 10)) }()
				}
				if writes.toServer {
					go func() { _, _ = client.Write(frame(1, true, 10)) }()
				}
				synctest.Wait()
				start := time.Now()
				cancel()
				wait()
				require.LessOrEqual(t, time.Since(start), 2*farewellTime)
				for _, c := range []net.Conn{client, server} {
					_, err := c.Read(make([]byte, 1))
					require.ErrorIs(t, err, io.EOF)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client, server, wait := relayed(ctx)
		go func() { _, _ = server.Write(frame(1, false, 10)) }() // the client does not read it
		synctest.Wait()
		cancel()
		told, err := io.ReadAll(server)
		require.NoError(t, err)
		require.Len(t, told, 8)
		require.Equal(t, []byte{0x88, 0x82}, told[:2])
		wait()
		_, err = client.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

// Nothing may follow a close frame (RFC 6455, section 5.5.1), whatever the other peer still says.
func TestL34_NothingFollowsAFarewell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client, server, wait := relayed(ctx)
		cancel()
		told := make([]byte, 8)
		_, err := io.ReadFull(client, told[:4])
		require.NoError(t, err)
		require.Equal(t, goingAway(false), told[:4])
		_, err = io.ReadFull(server, told)
		require.NoError(t, err)
		for range 2 {
			_, err = server.Write(frame(1, false, 10))
			require.NoError(t, err)
			_, err = client.Write(frame(1, true, 10))
			require.NoError(t, err)
		}
		for _, c := range []net.Conn{client, server} {
			more, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Empty(t, more)
		}
		wait()
	})
}

// A halfClosed connection tells when its other half hears that nothing more comes.
type halfClosed struct {
	net.Conn
	closed chan struct{}
}

func (h halfClosed) CloseWrite() error {
	close(h.closed)
	return nil
}

// A peer that has been told hears the end at once: it may wait for that before it closes.
func TestL34_AFarewellEndsItsHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client, c := net.Pipe()
		server, s := net.Pipe()
		halves := [...]halfClosed{{c, make(chan struct{})}, {s, make(chan struct{})}}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			newRelay(halves[0], halves[1], nil).run(ctx)
		}()
		start := time.Now()
		cancel()
		for _, peer := range []net.Conn{client, server} {
			go func() { _, _ = io.Copy(io.Discard, peer) }()
		}
		<-halves[0].closed
		<-halves[1].closed
		require.Zero(t, time.Since(start))
		client.Close()
		server.Close()
		<-ended
	})
}
