package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A drain does not end before drain_delay is over, although nothing is in flight: whoever has not
// heard of it still comes. That is so too if drain_timeout, which begins after it, is less.
func TestL34_ADrainLastsForItsDelay(t *testing.T) {
	text := simple("server: {drain_delay: 400ms, drain_timeout: 50ms}", "127.0.0.1:1")
	cfg, err := parseConfig("f", []byte(text))
	require.NoError(t, err)
	g, err := newGateway(cfg, discardLog, io.Discard, io.Discard)
	require.NoError(t, err)
	g.start()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := startServer(g, cfg.Server, ln)
	start := time.Now()
	require.NoError(t, drain(s, syscall.SIGTERM, make(chan os.Signal)))
	require.GreaterOrEqual(t, time.Since(start), 400*time.Millisecond)
}

// A connection is busy while it has a request, and for a second before its first one and after
// each.
func TestL34_ConnectionsAreSilentForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c conns
		conn, other := net.Pipe()
		defer conn.Close()
		defer other.Close()
		silent := func() bool { return c.none(time.Now()) }
		require.True(t, silent())
		for _, state := range []http.ConnState{http.StateNew, http.StateIdle} {
			c.track(conn, state)
			time.Sleep(silence - 1)
			require.False(t, silent(), state)
			time.Sleep(time.Nanosecond)
			require.True(t, silent(), state)
			c.track(conn, http.StateActive)
			time.Sleep(time.Hour)
			require.False(t, silent())
		}
		c.track(conn, http.StateClosed)
		require.True(t, silent())
	})
}
