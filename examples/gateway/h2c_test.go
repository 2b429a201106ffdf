package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// clearClient returns a client that speaks HTTP/2 in clear.
func clearClient(t *testing.T) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestHTTP2InClear(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, simple("server: {h2c: true, max_body: 1KiB}\n", b.Addr))
	for major, c := range map[int]*http.Client{1: client(t), 2: clearClient(t)} {
		resp, body := get(t, c, g.url)
		require.Equal(t, "backend\n", body)
		require.Equal(t, major, resp.ProtoMajor)
		resp, err := c.Post(g.url, "text/plain", strings.NewReader(strings.Repeat("x", 2<<10)))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 413, resp.StatusCode, "the bounds hold here, too")
	}
	cfg, err := parseConfig("f", []byte(simple("", b.Addr)))
	require.NoError(t, err)
	require.EqualError(t, g.reload(cfg), "needs a restart to change: server.h2c")

	plain := start(t, simple("", b.Addr))
	_, err = clearClient(t).Get(plain.url)
	require.Error(t, err, "not by default")
	// An upgrade would carry requests past what the gateway checks.
	resp, _ := do(t, client(t), request(t, "GET", g.url, "Connection", "Upgrade, HTTP2-Settings",
		"Upgrade", "h2c", "HTTP2-Settings", "AAMAAABkAAQAAP__"))
	require.Equal(t, 200, resp.StatusCode)
}
