//go:build !race

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

// A quietServer answers requests without bodies, each with the same bytes, and allocates nothing
// for one.
func quietServer(t testing.TB) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"+
		"Content-Length: 1024\r\n\r\n%s", bytes.Repeat([]byte("x"), 1024))
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewReader(conn); skipHeader(in) == nil; {
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func skipHeader(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil || len(line) == 2 {
			return err
		}
	}
}

// proxied returns a function that sends a request to addr and reads the answer, and that allocates
// nothing.
func proxied(t testing.TB, addr string) func() {
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	request := []byte("GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: wrk\r\nAccept: */*\r\n\r\n")
	in := bufio.NewReader(conn)
	return func() {
		_, err := conn.Write(request)
		if err == nil {
			err = skipHeader(in)
		}
		if err == nil {
			_, err = in.Discard(1024)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What a proxied request allocates, all of net/http included: no more than through a plain
// httputil.ReverseProxy, whose transport has goroutines of its own, and little more for the rest.
func TestAllocationsOfAProxiedRequest(t *testing.T) {
	addr := quietServer(t)
	target := &url.URL{Scheme: "http", Host: addr}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	own := &http.Transport{}
	t.Cleanup(own.CloseIdleConnections)
	rewrite := func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.SetXForwarded()
	}
	plain := &http.Server{Handler: &httputil.ReverseProxy{Transport: own, Rewrite: rewrite}}
	go plain.Serve(ln)
	t.Cleanup(func() { plain.Close() })
	const upstream = "upstreams: {app: {hosts: [%s]}}\nroutes: [{upstream: app%s}]\n"
	gateway := func(text string) float64 {
		return testing.AllocsPerRun(2000, proxied(t, startLogged(t, text, io.Discard).addr))
	}
	bare := testing.AllocsPerRun(2000, proxied(t, ln.Addr().String()))
	metrics := gateway("telemetry: {access_log: {output: none}}\n" + fmt.Sprintf(upstream, addr, ""))
	// What other routes and upstreams have must not be paid for by this one.
	beside := gateway("telemetry: {access_log: {output: none}}\nserver: {h2c: true}\n" +
		fmt.Sprintf(upstream, addr, `}, {host: "*.b.test", upstream: app, max_body: 1KiB,
  headers: {request: {set: {A: b}}, response: {remove: [C]}}}, {path: /old/, redirect: {to: "/new/*"}`))
	full := gateway("limits: {address: {rate: 1000000/s, burst: 1000000, by: address}}\n" +
		fmt.Sprintf(upstream, addr, ", limits: [address]"))
	t.Logf("ReverseProxy %v, gateway with metrics %v, with limit and access log too %v", bare, metrics, full)
	require.LessOrEqual(t, metrics, bare)
	require.LessOrEqual(t, beside, metrics)
	require.LessOrEqual(t, full, bare+10)
}
