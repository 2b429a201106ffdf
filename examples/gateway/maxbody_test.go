package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

// A route's own bound counts instead of the server's, upwards and downwards, at the byte.
func TestBodyBoundOfARoute(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	text := func(server, small string) string {
		return fmt.Sprintf("server: {max_body: %s}\n", server) + inFlow(b.Addr, `
  - {upstream: app}
  - {upstream: app, path: /small, max_body: `+small+`}
  - {upstream: app, path: /large, max_body: 4KiB}
  - {upstream: app, path: /small, methods: [PUT]}`)
	}
	g := start(t, text("1KiB", "10B"))
	c := client(t)
	send := func(method, path string, n int, chunked bool) int {
		body := io.Reader(strings.NewReader(strings.Repeat("x", n)))
		if chunked {
			body = io.MultiReader(body)
		}
		req, err := http.NewRequest(method, g.url+path, body)
		require.NoError(t, err)
		resp, _ := do(t, c, req)
		return resp.StatusCode
	}
	check := func(method, path string, limit int) {
		t.Helper()
		for _, chunked := range []bool{false, true} {
			require.Equal(t, 200, send(method, path, limit, chunked), path)
			require.Equal(t, 413, send(method, path, limit+1, chunked), path)
		}
	}
	check("POST", "/", 1<<10)
	check("POST", "/small", 10)
	check("PUT", "/small", 1<<10) // the route of another method
	check("POST", "/large", 4<<10)

	reloadText(t, g, text("2KiB", "20B"))
	check("POST", "/", 2<<10)
	check("POST", "/small", 20)
	check("POST", "/large", 4<<10)
	reloadText(t, g, text("2KiB", "3KiB"))
	check("POST", "/small", 3<<10)
}
