package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/freeport"
	"github.com/trivet-go/trivet/internal/program"
)

// startNginx runs an nginx that answers with its name, as one process that can be killed.
func startNginx(t *testing.T, name string) (addr string, cmd *exec.Cmd) {
	t.Helper()
	path := program.Path(t, "nginx")
	addr, dir := freeport.Reserve(t), t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	keepalive_requests 100000;
	server {
		listen %[2]s;
		location / { add_header X-Backend %[3]s; return 200 "%[3]s\n"; }
	}
}`, dir, addr, name), 0o600))
	cmd = exec.Command(path, "-p", dir, "-c", config, "-e", filepath.Join(dir, "error.log"))
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, 10*time.Second, 5*time.Millisecond)
	return addr, cmd
}

// Without a retry layer, the requests that a server was answering when it was killed fail: at most
// one for each worker. All others must succeed.
func TestNginxBackendKilledUnderLoad(t *testing.T) {
	a, victim := startNginx(t, "a")
	b, _ := startNginx(t, "b")
	p, _ := launchWith(t, fmt.Sprintf(`
upstreams:
  app: {hosts: [%s, %s], health: {path: /, interval: 200ms}}
routes: [{upstream: app}]
`, a, b))
	const workers = 16
	c := client(t)
	var served, failed atomic.Int64
	var byA atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := c.Get("http://" + p.addr)
				if err != nil {
					t.Error(err) // the gateway itself must not fail
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					failed.Add(1)
					continue
				}
				served.Add(1)
				if resp.Header.Get("X-Backend") == "a" {
					byA.Add(1)
				}
			}
		})
	}
	reach := func(n int64) {
		t.Helper()
		require.Eventually(t, func() bool { return served.Load() >= n }, 60*time.Second, time.Millisecond)
	}
	reach(2000)
	require.NotZero(t, byA.Load())
	require.Zero(t, failed.Load())
	require.NoError(t, victim.Process.Signal(syscall.SIGKILL))
	killedAt := served.Load()
	reach(killedAt + 4000)
	close(stop)
	wg.Wait()
	t.Logf("%d requests served, %d failed, of %d workers", served.Load(), failed.Load(), workers)
	require.LessOrEqual(t, failed.Load(), int64(workers))
}
