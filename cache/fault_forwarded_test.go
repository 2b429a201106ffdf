package cache_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// negotiating answers in JSON those who accept that, and in HTML the others.
func negotiating() *counted {
	return &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Accept")
		body := "html"
		if r.Header.Get("Accept") == "application/json" {
			body = "json"
		}
		_, _ = io.WriteString(w, body)
	}}
}

// askRaw sends a GET with those lines on a connection of its own.
func askRaw(t *testing.T, server *httptest.Server, target, lines string) string {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: example.com\r\n%s\r\n", target, lines)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return text(t, resp)
}

// A proxy behind the cache does not send what the client names in Connection.
func TestC55_WhatConnectionNamesChoosesNoVariant(t *testing.T) {
	for name, connection := range map[string]string{
		"a field": "Connection: Accept\r\n", "beside others": "Connection: keep-alive , ACCEPT\r\n",
		"two lines": "Connection: close\r\nConnection: x, accept\r\n", "quotes": "Connection: \", Accept\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			upstream := httptest.NewServer(negotiating())
			defer upstream.Close()
			target, err := url.Parse(upstream.URL)
			require.NoError(t, err)
			proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
			server := httptest.NewServer(newCache(t, cache.Config{}).Middleware(proxy))
			defer server.Close()
			const json = "Accept: application/json\r\n"
			require.Equal(t, "html", askRaw(t, server, "/doc", json+connection))
			require.Equal(t, "json", askRaw(t, server, "/doc", json))
		})
	}
}

// What connections of HTTP/1.1 say of themselves is no reason to pass.
func TestC55_OrdinaryConnectionsAreAnsweredFromTheCache(t *testing.T) {
	origin := negotiating()
	h := newCache(t, cache.Config{}).Middleware(origin)
	for _, connection := range []string{
		"", "close", "keep-alive", "Keep-Alive, TE", "te, close", "upgrade, HTTP2-Settings", "Proxy-Connection", ",",
	} {
		require.Equal(t, "html", text(t, get(h, "/doc", "Connection", connection)))
	}
	require.EqualValues(t, 1, origin.calls.Load())
}
