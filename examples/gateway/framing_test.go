package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

func TestG11_HeaderAndBodyFloodsAreRefused(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, simple("server: {max_header_bytes: 8KiB, max_header_fields: 50, max_body: 1KiB}", b.Addr))
	c := client(t)
	tests := []struct {
		name   string
		change func(*http.Request)
		status int
	}{
		{"within the limits", func(r *http.Request) {
			r.Header.Set("Cookie", strings.Repeat("a=b; ", 20))
		}, 200},
		{"bytes of one field", func(r *http.Request) { r.Header.Set("A", strings.Repeat("a", 20<<10)) }, 431},
		{"bytes of the path", func(r *http.Request) { r.URL.Path = "/" + strings.Repeat("a", 20<<10) }, 431},
		{"query parameters", func(r *http.Request) { r.URL.RawQuery = strings.Repeat("a&", 20<<10) }, 431},
		{"fields", func(r *http.Request) {
			for i := range 60 {
				r.Header.Set(fmt.Sprint("A", i), "")
			}
		}, 431},
		{"lines of one field", func(r *http.Request) { r.Header["A"] = make([]string, 60) }, 431},
		{"cookies", func(r *http.Request) { r.Header.Set("Cookie", strings.Repeat("a=b; ", 60)) }, 431},
		{"body that says its length", func(r *http.Request) {
			r.ContentLength, r.Body = 2<<10, io.NopCloser(bytes.NewReader(make([]byte, 2<<10)))
		}, 413},
		{"body that does not", func(r *http.Request) {
			r.ContentLength, r.Body = -1, io.NopCloser(bytes.NewReader(make([]byte, 2<<10)))
		}, 413},
		{"multipart with many parts", func(r *http.Request) {
			r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
			parts := strings.NewReader(strings.Repeat("--b\r\n\r\n\r\n", 1000))
			r.ContentLength, r.Body = -1, io.NopCloser(parts)
		}, 413},
		{"largest body", func(r *http.Request) {
			r.ContentLength, r.Body = -1, io.NopCloser(bytes.NewReader(make([]byte, 1<<10)))
		}, 200},
	}
	for range 3 { // often enough to eject a host that is blamed
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				req, err := http.NewRequest("POST", g.url, nil)
				require.NoError(t, err)
				tt.change(req)
				resp, _ := do(t, c, req)
				require.Equal(t, tt.status, resp.StatusCode)
			})
		}
	}
	for _, h := range g.current.Load().upstreams["app"].balancer.Endpoints("http://app") {
		require.Equal(t, balancer.Healthy, h.State)
		require.Zero(t, h.Failures, "the client's fault is not the host's")
	}
}

func TestG11_BrokenBodiesAreTheClientsFault(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, simple("", b.Addr))
	for _, body := range []string{
		"zz\r\n",
		"3\r\nabcd\r\n0\r\n\r\n",
		"fffffffffffffffff\r\n",
		"0\r\nno trailer\r\n\r\n",
	} {
		t.Run(body, func(t *testing.T) {
			for range 5 { // often enough to eject a host that is blamed
				conn, err := net.Dial("tcp", g.addr)
				require.NoError(t, err)
				defer conn.Close()
				fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%s", body)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, 400, resp.StatusCode)
				require.True(t, resp.Close, "nobody knows where the next request begins")
			}
		})
	}
	for _, h := range g.current.Load().upstreams["app"].balancer.Endpoints("http://app") {
		require.Equal(t, balancer.Healthy, h.State)
		require.Zero(t, h.Failures)
	}
}

// The upstream gets as many requests as the gateway answers, however ambiguous their framing is.
func TestFraming(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	g := start(t, simple("", b.Addr))
	const (
		hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
		last   = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

		chunked = "Transfer-Encoding: chunked"
		end     = "0\r\n\r\n" // of a chunked body
	)
	inChunk := fmt.Sprintf("%x\r\n%s\r\n%s", len(hidden), hidden, end)
	lengthOfHidden := fmt.Sprintf("Content-Length: %d", len(hidden))
	for name, tt := range map[string]struct {
		head, body string
		want       []int
	}{
		"chunked beside a length":  {"Content-Length: 40\r\n" + chunked, end + hidden, []int{200, 200, 200}},
		"hidden in a chunk":        {"Content-Length: 4\r\n" + chunked, inChunk, []int{200, 200}},
		"two lengths":              {"Content-Length: 1\r\nContent-Length: 2", "ab" + hidden, []int{400}},
		"a list of lengths":        {"Content-Length: 1, 1", "a" + hidden, []int{400}},
		"a signed length":          {"Content-Length: +1", "a" + hidden, []int{400}},
		"an empty length":          {"Content-Length:", hidden, []int{400}},
		"chunked twice":            {chunked + "\r\n" + chunked, end + hidden, []int{501}},
		"another coding":           {"Transfer-Encoding: identity", hidden, []int{501}},
		"a space before the colon": {"Transfer-Encoding : chunked", end + hidden, []int{400}},
		"a folded line":            {"Transfer-Encoding:\r\n chunked", end + hidden, []int{200, 200, 200}},
		"a length that is folded":  {"X: a\r\n Content-Length: 40", hidden, []int{200, 200, 200}},
		"a field with a null":      {"X: a\x00b", hidden, []int{400}},
		"the same length twice": {
			"Content-Length: 1\r\nContent-Length: 1", "a" + hidden, []int{200, 200, 200},
		},
		"chunked in a trailer": {
			chunked, "0\r\nContent-Length: 40\r\n\r\n" + hidden, []int{200, 200, 200},
		},
		"length ended by line feed": {"X: a\n" + lengthOfHidden, hidden, []int{200, 200}},
	} {
		t.Run(name, func(t *testing.T) {
			before := b.Requests()
			conn, err := net.Dial("tcp", g.addr)
			require.NoError(t, err)
			defer conn.Close()
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n%s%s", tt.head, tt.body, last)
			var got []int
			proxied := 0
			for answers := bufio.NewReader(conn); ; {
				resp, err := http.ReadResponse(answers, nil)
				if err != nil {
					break
				}
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				got = append(got, resp.StatusCode)
				if resp.StatusCode == 200 {
					proxied++
				}
			}
			require.Equal(t, tt.want, got)
			require.EqualValues(t, proxied, b.Requests()-before)
		})
	}
}
