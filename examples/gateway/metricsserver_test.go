package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/backend"
)

func TestMetricsListener(t *testing.T) {
	b := backend.Start(t, backend.Config{})
	text := func(paths string) string {
		return simple("admin: {metrics: {listen: \"127.0.0.1:0\", paths: ["+paths+"]}}\n", b.Addr)
	}
	p, file := launchWith(t, text("/metrics, /healthz"))
	url := "http://" + p.await(t, p.stderr, `msg=listening .* metrics=(\S+)`)[1]
	c := client(t)
	status := func(method, path string) int {
		req := request(t, method, url+path)
		req.Host = "gateway.example.com" // a name that is not loopback, as from another machine
		resp, _ := do(t, c, req)
		return resp.StatusCode
	}
	get(t, c, "http://"+p.addr)
	_, body := get(t, c, url+"/metrics")
	require.Contains(t, body, "http_server_request_duration")
	require.Equal(t, 200, status("GET", "/healthz"))
	for _, path := range []string{
		"/readyz", "/", "/upstreams", "/purge", "/rollouts", "/limits", "/metrics/", "//metrics",
		"/debug/pprof/", "/healthz/../metrics",
	} {
		require.Equal(t, 404, status("GET", path), path)
		require.Equal(t, 404, status("POST", path), path)
	}
	for _, method := range []string{"POST", "HEAD", "PUT", "DELETE", "OPTIONS"} {
		require.Equal(t, 405, status(method, "/metrics"), method)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: a\r\nA: %s\r\n\r\n", strings.Repeat("a", 64<<10))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 431, resp.StatusCode)

	// A reload changes the paths.
	require.NoError(t, os.WriteFile(file, []byte(text("/readyz")), 0o600))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	p.await(t, p.stderr, "msg=reloaded")
	require.Equal(t, []int{200, 404, 404},
		[]int{status("GET", "/readyz"), status("GET", "/metrics"), status("GET", "/healthz")})
	// The address needs a restart.
	require.NoError(t, os.WriteFile(file, []byte(simple("", b.Addr)), 0o600))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	p.await(t, p.stderr, "needs a restart to change: admin.metrics.listen")
	require.Equal(t, 200, status("GET", "/readyz"))
}

func TestFaultsOfTheMetricsListener(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"{listen: \"0.0.0.0:9100\", paths: [/metrics, /purge]}",
			`paths[1]: "/purge" is not one of: /metrics, /healthz, /readyz`},
		{"{listen: \":9100\", paths: [/metrics/]}",
			`paths[0]: "/metrics/" is not one of: /metrics, /healthz, /readyz`},
		{"{listen: \":9100\", paths: [/readyz, /readyz]}", `paths[1]: "/readyz" stands here twice`},
		{"{listen: \":9100\"}", `paths: at least one is required`},
		{"{paths: [/metrics]}", `listen: is required, since there are paths`},
		{"{listen: \"a b\", paths: [/metrics]}", `listen: "a b" is not an address such as 127.0.0.1:8080`},
		{"{adr: a}", `adr: unknown key: the keys here are listen, paths`},
	} {
		_, err := parseConfig("f", []byte(minimalConfig+"admin: {metrics: "+tt.text+"}"))
		require.EqualError(t, err, "f:6: admin.metrics."+tt.want)
	}
}
