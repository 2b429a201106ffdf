package balancer_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

type stub struct{}

func (stub) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: 200,
		Header:     http.Header{},
		Body:       io.NopCloser(strings.NewReader("ok")),
		Request:    r,
	}, nil
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, hosts := range []int{4, 32} {
		var addrs []string
		for i := range hosts {
			addrs = append(addrs, fmt.Sprintf("10.0.0.%d:80", i))
		}
		bal, err := balancer.New(balancer.Config{
			Resolver: balancer.Static(addrs...),
			Wrap:     func(balancer.Endpoint, http.RoundTripper) http.RoundTripper { return stub{} },
		})
		require.NoError(b, err)
		defer bal.Close(b.Context())
		for name, rt := range map[string]http.RoundTripper{"stub": stub{}, "balancer": bal} {
			b.Run(fmt.Sprintf("hosts=%d/rt=%s", hosts, name), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					req, _ := http.NewRequest("GET", "http://a.test/", nil)
					for pb.Next() {
						resp, err := rt.RoundTrip(req)
						if err != nil {
							b.Error(err)
							return
						}
						resp.Body.Close()
					}
				})
			})
		}
	}
}

// endpointSets returns two sets of 1,000 endpoints that have none in common.
func endpointSets() (sets [2][]balancer.Endpoint) {
	for i := range 1000 {
		for k := range sets {
			sets[k] = append(sets[k], balancer.Endpoint{Addr: fmt.Sprintf("10.%d.%d.%d:80", k, i/250, i%250)})
		}
	}
	return sets
}

// BenchmarkReplace replaces all 1,000 endpoints of a target.
func BenchmarkReplace(b *testing.B) {
	sets := endpointSets()
	pushed := balancer.NewPushed(sets[0]...)
	replaced := make(chan struct{}, 1)
	bal, err := balancer.New(
		balancer.Config{Resolver: pushed, Observe: func(_ context.Context, e balancer.Event) {
			if e.Kind == balancer.TargetResolved {
				replaced <- struct{}{}
			}
		}},
	)
	require.NoError(b, err)
	defer bal.Close(b.Context())
	require.NoError(b, bal.Warm(b.Context(), "http://a.test", 0))
	<-replaced
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		pushed.Set(sets[i%2]...)
		<-replaced
	}
}

// BenchmarkPickDuringReplace measures requests over a stub, one after the other. It does so with
// and without the set of 1,000 endpoints being replaced 20 times a second, so that the difference
// is not the machine's.
func BenchmarkPickDuringReplace(b *testing.B) {
	for _, replace := range []bool{false, true} {
		b.Run(fmt.Sprintf("replace=%v", replace), func(b *testing.B) {
			sets := endpointSets()
			pushed := balancer.NewPushed(sets[0]...)
			bal, err := balancer.New(balancer.Config{
				Resolver: pushed,
				Wrap:     func(balancer.Endpoint, http.RoundTripper) http.RoundTripper { return stub{} },
			})
			require.NoError(b, err)
			defer bal.Close(b.Context())
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				tick := time.NewTicker(50 * time.Millisecond)
				defer tick.Stop()
				for i := 1; replace; i++ {
					select {
					case <-tick.C:
						pushed.Set(sets[i%2]...)
					case <-stop:
						return
					}
				}
			}()
			req, err := http.NewRequest("GET", "http://a.test/", nil)
			require.NoError(b, err)
			over, worst := 0, time.Duration(0)
			for b.Loop() {
				start := time.Now()
				resp, err := bal.RoundTrip(req)
				took := time.Since(start)
				if err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
				worst = max(worst, took)
				if took > 50*time.Microsecond {
					over++
				}
			}
			close(stop)
			<-stopped
			b.ReportMetric(1e6*float64(over)/float64(b.N), "over-50us-ppm")
			b.ReportMetric(float64(worst.Microseconds()), "worst-us")
		})
	}
}
