package main

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/program"
)

// startNginx runs an nginx that answers with its name.
func startNginx(t *testing.T, name string) *program.Process {
	t.Helper()
	return program.Nginx(t, func(addr string) string {
		return fmt.Sprintf(`	keepalive_requests 100000;
	server {
		listen %[1]s;
		location / { add_header X-Backend %[2]s; return 200 "%[2]s\n"; }
	}`, addr, name)
	})
}

// Without a retry layer, the requests that a server was answering when it was killed fail: at most
// one for each worker. All others must succeed.
func TestNginxBackendKilledUnderLoad(t *testing.T) {
	a, b := startNginx(t, "a"), startNginx(t, "b")
	p, _ := launchWith(t, fmt.Sprintf(`
upstreams:
  app: {hosts: [%s, %s], health: {path: /, interval: 200ms}}
routes: [{upstream: app}]
`, a.Addr, b.Addr))
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
		require.Eventually(t, func() bool { return served.Load() >= n }, 5*time.Minute, time.Millisecond)
	}
	reach(2000)
	require.NotZero(t, byA.Load())
	require.Zero(t, failed.Load())
	a.Kill()
	killedAt := served.Load()
	reach(killedAt + 4000)
	close(stop)
	wg.Wait()
	t.Logf("%d requests served, %d failed, of %d workers", served.Load(), failed.Load(), workers)
	require.LessOrEqual(t, failed.Load(), int64(workers))
}
