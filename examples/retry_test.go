package examples_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
	"github.com/trivet-go/trivet/internal/backend"
	"github.com/trivet-go/trivet/retry"
)

// Three servers are restarted in turn, each of them many times, while clients send requests that
// may be repeated. None fails: retry asks the balancer for another endpoint.
func TestRollingRestartsLoseNoRepeatableRequest(t *testing.T) {
	var servers [3]*backend.Process
	var addrs []string
	for i := range servers {
		servers[i] = backend.StartProcess(t, backend.Config{Name: "app"})
		addrs = append(addrs, servers[i].Addr)
	}
	lb, err := balancer.New(balancer.Config{Resolver: balancer.Static(addrs...)})
	require.NoError(t, err)
	defer func() { _ = lb.Close(context.Background()) }()
	retrier, err := retry.New(retry.Config{Scope: balancer.Avoid, MaxAttempts: 5})
	require.NoError(t, err)
	client := &http.Client{Transport: retrier.Transport(lb)}

	var sent, failed atomic.Int64
	var first atomic.Pointer[error]
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				sent.Add(1)
				resp, err := client.Get("http://app.test/")
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				if err != nil || resp.StatusCode != http.StatusOK {
					failed.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	rounds := 4
	if os.Getenv("TRIVET_SOAK") == "1" {
		rounds = 50
	}
	served := func() {
		before := sent.Load()
		require.Eventually(t, func() bool { return sent.Load() > before+50 }, time.Minute, time.Millisecond)
	}
	for range rounds {
		for _, s := range servers {
			require.NoError(t, s.Terminate(t.Context()))
			served()
			s.Restart()
			served()
		}
	}
	close(stop)
	clients.Wait()
	t.Logf("%d requests, %d restarts, %d attempts",
		sent.Load(), rounds*len(servers), retrier.Stats().Attempts)
	if err := first.Load(); err != nil {
		t.Fatalf("%d of %d requests failed, the first with %v", failed.Load(), sent.Load(), *err)
	}
}
