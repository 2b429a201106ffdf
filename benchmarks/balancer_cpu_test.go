package benchmarks_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
)

// BenchmarkBalancerCPU compares the processor time that this process spends on a GET of 1 KiB over
// loopback, through a Balancer and through http.Transport, in pairs of blocks. The server is
// another process. Of ten pairs or more it prints the median ratio.
func BenchmarkBalancerCPU(b *testing.B) {
	const requests, clients = 10_000, 8
	server := backend.StartProcess(b, backend.Config{Name: strings.Repeat("x", 1<<10)})
	lb, err := balancer.New(balancer.Config{Resolver: balancer.Static(server.Addr)})
	require.NoError(b, err)
	defer lb.Close(context.Background())
	std := &http.Transport{MaxIdleConnsPerHost: 2 * clients}
	defer std.CloseIdleConnections()
	block := func(rt http.RoundTripper, url string) float64 {
		before := cpuTime()
		client := &http.Client{Transport: rt}
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				for range requests / clients {
					resp, err := client.Get(url)
					if err != nil {
						b.Error(err)
						return
					}
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != http.StatusOK {
						b.Error(resp.Status, err)
						return
					}
				}
			})
		}
		wg.Wait()
		return float64((cpuTime() - before).Nanoseconds()) / requests
	}
	url := "http://" + server.Addr
	var theirs, mine, ratios []float64
	for b.Loop() {
		x, y := block(std, url), block(lb, url)
		theirs, mine, ratios = append(theirs, x), append(mine, y), append(ratios, y/x)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(medianOf(theirs), "transport-cpu-ns")
	b.ReportMetric(medianOf(mine), "trivet-cpu-ns")
	b.ReportMetric(medianOf(ratios), "ratio")
	b.ReportMetric(slices.Min(ratios), "ratio-min")
	b.ReportMetric(slices.Max(ratios), "ratio-max")
}
