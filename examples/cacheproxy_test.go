package examples_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/cache"
)

// The balancer behind the cache does not send on what the client names in Connection.
func TestC55_WhatTheBalancerDoesNotSendOnChoosesNoVariant(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Accept")
		_, _ = io.WriteString(w, "<"+r.Header.Get("Accept")+">")
	}))
	defer upstream.Close()
	target, err := url.Parse(upstream.URL)
	require.NoError(t, err)
	lb, err := balancer.New(balancer.Config{Resolver: balancer.Static(target.Host)})
	require.NoError(t, err)
	defer func() { _ = lb.Close(context.Background()) }()
	proxy, err := lb.Handler(target, balancer.HandlerConfig{})
	require.NoError(t, err)
	c, err := cache.New(cache.Config{})
	require.NoError(t, err)
	defer func() { _ = c.Close(context.Background()) }()
	server := httptest.NewServer(c.Middleware(proxy))
	defer server.Close()
	ask := func(lines string) string {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "GET /doc HTTP/1.1\r\nHost: app.test\r\nAccept: application/json\r\n%s\r\n", lines)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		defer resp.Body.Close()
		return read(t, resp)
	}
	require.Equal(t, "<>", ask("Connection: Accept\r\n"))
	require.Equal(t, "<application/json>", ask(""))
}
