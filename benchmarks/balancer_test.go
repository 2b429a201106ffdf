package benchmarks_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bufbuild/httplb"
	"github.com/bufbuild/httplb/conn"
	"github.com/bufbuild/httplb/picker"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/internal/freeport"
	"github.com/trivet-go/trivet/internal/program"
)

// BenchmarkBalancerConnections counts the connections that 8,000 requests, 64 at a time, open to 4
// backends. Each backend answers in 2 ms.
func BenchmarkBalancerConnections(b *testing.B) {
	const requests, concurrency, backends = 8000, 64, 4
	var opened atomic.Int64
	var addrs []string
	for range backends {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(2 * time.Millisecond)
			io.WriteString(w, "ok")
		}))
		srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				opened.Add(1)
			}
		}
		srv.Start()
		defer srv.Close()
		addrs = append(addrs, srv.Listener.Addr().String())
	}
	run := func(name string, start func(b *testing.B) (rt http.RoundTripper, stop func() error)) {
		b.Run("client="+name, func(b *testing.B) {
			before, runs := opened.Load(), 0
			for b.Loop() {
				runs++
				rt, stop := start(b)
				client := &http.Client{Transport: rt}
				var left atomic.Int64
				left.Store(requests)
				var wg sync.WaitGroup
				for range concurrency {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							get(b, client, "http://app.test/")
						}
					})
				}
				wg.Wait()
				require.NoError(b, stop())
			}
			b.ReportMetric(float64(opened.Load()-before)/float64(runs), "conns/run")
		})
	}
	for name, policy := range map[string]balancer.Policy{
		"adaptive": balancer.Adaptive(), "turn": balancer.RoundRobin(),
	} {
		run("trivet/policy="+name, func(b *testing.B) (http.RoundTripper, func() error) {
			bal, err := balancer.New(balancer.Config{Resolver: balancer.Static(addrs...), Policy: policy})
			require.NoError(b, err)
			return bal, func() error { return bal.Close(context.Background()) }
		})
	}
	for name, policy := range map[string]func(picker.Picker, conn.Conns) picker.Picker{
		"p2c": picker.NewPowerOfTwo, "turn": picker.NewRoundRobin,
	} {
		run("httplb/policy="+name, func(b *testing.B) (http.RoundTripper, func() error) {
			client := httplb.NewClient(httplb.WithResolver(fixed(addrs)), httplb.WithPicker(policy))
			return client.Transport, client.Close
		})
	}
}

func get(tb testing.TB, client *http.Client, url string) int {
	resp, err := client.Get(url)
	if err != nil {
		tb.Error(err)
		return 0
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err != nil {
		tb.Error(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// BenchmarkSlowBackend sends 1,000 requests a second through a proxy to two backend processes, one
// of which takes 200 ms longer. Requests are due at fixed times, whether or not earlier ones have
// been answered, and latency is measured from the time when a request was due.
func BenchmarkSlowBackend(b *testing.B) {
	const rate, duration = 1000, 15 * time.Second
	fast := backend.StartProcess(b, backend.Config{Name: "fast"})
	slow := backend.StartProcess(b, backend.Config{
		Name: "slow", Behaviour: backend.Behaviour{Delay: 200 * time.Millisecond},
	})
	for _, proxy := range []struct {
		name  string
		start func(b *testing.B, addrs ...string) string
	}{
		{"trivet", startTrivet},
		{"trivet-checks", startTrivetChecks},
		{"nginx-least_conn", startNginx},
		{"haproxy-leastconn", startHAProxy},
		{"caddy-least_conn", startCaddy},
	} {
		b.Run("proxy="+proxy.name, func(b *testing.B) {
			target := proxy.start(b, fast.Addr, slow.Addr)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
			defer client.CloseIdleConnections()
			get(b, client, target)
			for b.Loop() {
				before := slow.Requests()
				latencies := openLoop(rate, duration, func() { get(b, client, target) })
				slices.Sort(latencies)
				at := func(q float64) float64 {
					return float64(latencies[int(q*float64(len(latencies)-1))]) / float64(time.Millisecond)
				}
				b.ReportMetric(at(0.5), "p50-ms")
				b.ReportMetric(at(0.99), "p99-ms")
				b.ReportMetric(at(0.999), "p99.9-ms")
				b.ReportMetric(100*float64(slow.Requests()-before)/float64(len(latencies)), "slow-%")
			}
		})
	}
}

// openLoop calls do rate times a second, for duration. It returns for each call the time from when
// it was due to when it ended.
func openLoop(rate int, duration time.Duration, do func()) []time.Duration {
	n := int(duration.Seconds() * float64(rate))
	latencies := make([]time.Duration, n)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		wg.Go(func() {
			do()
			latencies[i] = time.Since(due)
		})
	}
	wg.Wait()
	return latencies
}

func startTrivet(b *testing.B, addrs ...string) string {
	return serveTrivet(b, balancer.Config{Resolver: balancer.Static(addrs...)})
}

func startTrivetChecks(b *testing.B, addrs ...string) string {
	return serveTrivet(b, balancer.Config{
		Resolver: balancer.Static(addrs...),
		Health:   balancer.HealthConfig{Path: "/healthz", Interval: time.Second},
	})
}

func serveTrivet(b *testing.B, cfg balancer.Config) string {
	bal, err := balancer.New(cfg)
	require.NoError(b, err)
	h, err := bal.Handler(&url.URL{Scheme: "http", Host: "app.test"}, balancer.HandlerConfig{})
	require.NoError(b, err)
	srv := httptest.NewServer(h)
	b.Cleanup(func() {
		srv.Close()
		require.NoError(b, bal.Close(context.Background()))
	})
	return srv.URL
}

func startNginx(b *testing.B, addrs ...string) string {
	nginx := program.Nginx(b, func(addr string) string {
		return fmt.Sprintf(`	upstream app { least_conn; server %[1]s; server %[2]s; keepalive 256; }
	server {
		listen %[3]s; keepalive_requests 1000000;
		location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }
	}`, addrs[0], addrs[1], addr)
	})
	return "http://" + nginx.Addr
}

func startHAProxy(b *testing.B, addrs ...string) string {
	addr := freeport.Reserve(b)
	conf := fmt.Sprintf(`global
	nbthread 1
defaults
	mode http
	timeout connect 3s
	timeout client 30s
	timeout server 30s
frontend f
	bind %s
	default_backend app
backend app
	balance leastconn
	server a %s
	server b %s
`, addr, addrs[0], addrs[1])
	run(b, addr, conf, "haproxy", "-f")
	return "http://" + addr
}

func startCaddy(b *testing.B, addrs ...string) string {
	addr, dir := freeport.Reserve(b), b.TempDir()
	conf := fmt.Sprintf(`{
	admin off
	auto_https off
	storage file_system %[1]s
}
http://%[2]s {
	reverse_proxy %[3]s %[4]s {
		lb_policy least_conn
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
}
`, dir, addr, addrs[0], addrs[1])
	run(b, addr, conf, "caddy", "run", "--adapter", "caddyfile", "--config")
	return "http://" + addr
}

// run starts a server with a configuration file and waits until it listens.
func run(b *testing.B, addr, conf, name string, args ...string) {
	file := filepath.Join(b.TempDir(), "conf")
	require.NoError(b, os.WriteFile(file, []byte(conf), 0o600))
	server := program.Start(b, addr, name, append(args, file)...)
	b.Cleanup(server.Terminate) // if it were killed, it would leave its workers behind
}
