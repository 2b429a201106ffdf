package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startOnSocket runs a gateway with the configuration text on a unix socket, and returns a client
// whose requests go there.
func startOnSocket(t *testing.T, text, path string) *http.Client {
	t.Helper()
	cfg, err := parseConfig("test", []byte(text))
	require.NoError(t, err)
	g, err := newGateway(cfg, discardLog, os.Stderr, os.Stderr)
	require.NoError(t, err)
	g.start()
	ln, err := listen(cfg.Server.Listen)
	require.NoError(t, err)
	s := startServer(g, cfg.Server, ln)
	t.Cleanup(func() {
		s.close()
		<-s.served
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		g.close(ctx)
	})
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// A proxy in front that speaks through a unix socket has no address: what it says of its client is
// believed only if trusted_proxies has the word unix.
func TestListenOnAUnixSocket(t *testing.T) {
	b := echo(t)
	for list, trusted := range map[string]bool{"unix": true, "0.0.0.0/0": false} {
		t.Run(list, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "gateway") // t.TempDir is longer than a socket's path may be
			require.NoError(t, err)
			t.Cleanup(func() { os.RemoveAll(dir) })
			path := filepath.Join(dir, "s")
			config := simple("server: {listen: unix:"+path+", trusted_proxies: ["+list+"]}\n"+
				"telemetry: {access_log: {output: none}}", b.Addr)
			c := startOnSocket(t, config, path)
			req, err := http.NewRequest(http.MethodGet, "http://shop.test/", nil)
			require.NoError(t, err)
			req.Header.Set("X-Forwarded-For", "203.0.113.9")
			req.Header.Set("X-Real-Ip", "203.0.113.8")
			resp, body := do(t, c, req)
			require.Equal(t, http.StatusOK, resp.StatusCode)
			for _, address := range []string{"203.0.113.9", "203.0.113.8"} {
				require.Equal(t, trusted, strings.Contains(body, address), body)
			}
		})
	}
}

func TestASocketLeftBehindMakesWay(t *testing.T) {
	dir, err := os.MkdirTemp("", "gateway")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	first, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	first.SetUnlinkOnClose(false)

	_, err = listen("unix:" + path)
	require.ErrorContains(t, err, "address already in use", "somebody listens there")
	require.NoError(t, first.Close())
	ln, err := listen("unix:" + path)
	require.NoError(t, err)
	require.NoError(t, ln.Close())

	require.NoError(t, os.WriteFile(path, []byte("a file"), 0o600))
	_, err = listen("unix:" + path)
	require.ErrorContains(t, err, "address already in use", "no socket")
	require.FileExists(t, path)
}
