package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// demoBackends are the backends that the gateway proxies to without a configuration.
var demoBackends = []struct {
	name    string
	latency time.Duration
}{{"fast", 2 * time.Millisecond}, {"medium", 15 * time.Millisecond}, {"slow", 60 * time.Millisecond}}

// A demo runs the demo backends.
type demo struct {
	servers []*http.Server
	addrs   []string
	done    sync.WaitGroup
}

// startDemo starts the demo backends on free loopback ports.
func startDemo() (*demo, error) {
	d := &demo{}
	for _, b := range demoBackends {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			d.close()
			return nil, err
		}
		srv := &http.Server{Handler: demoBackend(b.name, b.latency), ReadHeaderTimeout: 5 * time.Second}
		d.servers = append(d.servers, srv)
		d.addrs = append(d.addrs, ln.Addr().String())
		d.done.Go(func() { _ = srv.Serve(ln) })
	}
	return d, nil
}

func (d *demo) close() {
	for _, s := range d.servers {
		_ = s.Close()
	}
	d.done.Wait()
}

// config returns the text of a configuration file for the demo.
func (d *demo) config() string {
	return fmt.Sprintf(`
objectives:
  demo: {availability: 0.999, latency: 250ms, latency_target: 0.99}
limits:
  per-address: {rate: 10/m, burst: 10, by: address}
upstreams:
  demo:
    hosts: [%s]
    health: {path: /healthz, interval: 1s, timeout: 500ms}
routes:
  - upstream: demo
  - {path: /limited/, upstream: demo, limits: [per-address]}
`, strings.Join(d.addrs, ", "))
}

// demoBackend returns a handler that answers after about latency with the request and its own name.
func demoBackend(name string, latency time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: event %d from %s\n\n", i, name)
			if http.NewResponseController(w).Flush() != nil || !sleep(r.Context(), 500*time.Millisecond) {
				return
			}
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if !sleep(r.Context(), latency/2+rand.N(latency)) {
			return
		}
		w.Header().Set("X-Backend", name)
		fmt.Fprintf(w, "%s %s, answered by %s\n", r.Method, r.URL.Path, name)
	})
	return mux
}

// sleep reports whether d has passed before the end of ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// demoHints writes what a person could try with the gateway.
func demoHints(w io.Writer, public, admin string) {
	const loop = `for i in $(seq 20); do curl -s -o /dev/null -w '%{http_code}\n'`
	fmt.Fprintf(w, `The gateway listens on http://%[1]s.
Behind it are three demo backends: fast (2 ms), medium (15 ms), slow (60 ms). Try:

  curl -i http://%[1]s/hello       # X-Backend names the backend that answered
  for i in $(seq 50); do curl -s http://%[1]s/; done | sort | uniq -c
  curl -N http://%[1]s/events      # streams
  %[3]s http://%[1]s/limited/; done | sort | uniq -c    # 429 after 10
  curl http://%[2]s/upstreams      # the state of each backend
  curl http://%[2]s/limits         # and /objectives, /metrics, /readyz

The access log follows. Ctrl-C drains the gateway and ends it. For backends of your own use -config;
examples/gateway/gateway.yaml shows every key.

`, public, admin, loop)
}
