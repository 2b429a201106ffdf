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

// demoBackends are what the gateway proxies to without a configuration.
var demoBackends = []struct {
	name    string
	latency time.Duration
}{{"fast", 2 * time.Millisecond}, {"medium", 15 * time.Millisecond}, {"slow", 60 * time.Millisecond}}

// A demo is the demo backends, while they run.
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

// config is the configuration that describes the demo, in the same form as a file.
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

// demoBackend answers after about latency with its name, and shows what reached it.
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

// demoHints is what a person could try, once the gateway listens.
func demoHints(w io.Writer, public, admin string) {
	fmt.Fprintf(w, `The gateway listens on http://%[1]s before three demo backends: fast (2 ms), medium (15 ms), slow (60 ms). Try:

  curl -i http://%[1]s/hello       # X-Backend says who answered
  for i in $(seq 50); do curl -s http://%[1]s/; done | sort | uniq -c
  curl -N http://%[1]s/events      # streams
  for i in $(seq 20); do curl -s -o /dev/null -w '%%{http_code}\n' http://%[1]s/limited/; done | sort | uniq -c    # 429 after 10
  curl http://%[2]s/upstreams      # what the balancer knows of each backend
  curl http://%[2]s/limits         # and /objectives, /metrics, /readyz

The access log follows. Ctrl-C drains and ends. For backends of your own: -config; examples/gateway/gateway.yaml is a commented configuration.

`, public, admin)
}
