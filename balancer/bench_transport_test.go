package balancer_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

type stub struct{}

func (stub) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("ok")), Request: r}, nil
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

func BenchmarkReplace(b *testing.B) {
	sets := [2][]balancer.Endpoint{}
	for i := range 1000 {
		for k := range sets {
			sets[k] = append(sets[k], balancer.Endpoint{Addr: fmt.Sprintf("10.%d.%d.%d:80", k, i/250, i%250)})
		}
	}
	pushed := balancer.NewPushed(sets[0]...)
	replaced := make(chan struct{}, 1)
	bal, err := balancer.New(balancer.Config{Resolver: pushed, Observe: func(_ context.Context, e balancer.Event) {
		if e.Kind == balancer.TargetResolved {
			replaced <- struct{}{}
		}
	}})
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
