package benchmarks_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bufbuild/httplb"
	"github.com/bufbuild/httplb/attribute"
	"github.com/bufbuild/httplb/conn"
	"github.com/bufbuild/httplb/picker"
	"github.com/bufbuild/httplb/resolver"
	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// BenchmarkBalancerPick compares what a request costs beside the request itself: 32 endpoints over
// a stub, and of httplb also its pickers alone, which learn nothing of latencies or failures. All
// are taken in turn, ten times; a line gives the median, and the least and the greatest of the ten.
// The stub's own time is a line too, and not subtracted; so are two readings of the clock, which no
// measuring of latencies can do without.
func BenchmarkBalancerPick(b *testing.B) {
	const hosts, rounds, requests = 32, 10, 200_000
	addrs := make([]string, hosts)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("10.0.0.%d:80", i)
	}
	req, err := http.NewRequest(http.MethodGet, "http://app.test/", nil)
	require.NoError(b, err)
	send := func(rt http.RoundTripper) func() {
		return func() {
			resp, err := rt.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			resp.Body.Close()
		}
	}
	type subject struct {
		name string
		do   func()
	}
	subjects := []subject{
		{"clock", func() { _ = time.Since(time.Now()) }},
		{"stub", send(stub{})},
	}
	for _, p := range []struct {
		name   string
		policy balancer.Policy
	}{
		{"adaptive", balancer.Adaptive()}, {"p2c", balancer.LeastRequest(2)},
		{"least", balancer.LeastRequest(0)}, {"turn", balancer.RoundRobin()},
	} {
		bal, err := balancer.New(balancer.Config{
			Resolver: balancer.Static(addrs...), Policy: p.policy,
			Wrap: func(balancer.Endpoint, http.RoundTripper) http.RoundTripper { return stub{} },
		})
		require.NoError(b, err)
		defer bal.Close(context.Background())
		subjects = append(subjects, subject{"trivet/policy=" + p.name, send(bal)})
	}
	for _, p := range []struct {
		name string
		make func(picker.Picker, conn.Conns) picker.Picker
	}{{"p2c", picker.NewPowerOfTwo}, {"least", picker.NewLeastLoadedRandom}, {"turn", picker.NewRoundRobin}} {
		client := httplb.NewClient(
			httplb.WithResolver(fixed(addrs)),
			httplb.WithPicker(p.make),
			httplb.WithTransport("http", stub{}),
		)
		defer client.Close()
		subjects = append(subjects, subject{"httplb/policy=" + p.name, send(client.Transport)})
		alone := p.make(nil, conns(addrs))
		subjects = append(subjects, subject{"httplb-picker-alone/policy=" + p.name, func() {
			_, done, err := alone.Pick(req)
			if err != nil {
				b.Error(err)
			}
			if done != nil {
				done()
			}
		}})
	}
	for _, workers := range []int{1, 2} {
		took := make([][]float64, len(subjects))
		for range rounds {
			for i, s := range subjects {
				start := time.Now()
				var wg sync.WaitGroup
				for range workers {
					wg.Go(func() {
						for range requests / workers {
							s.do()
						}
					})
				}
				wg.Wait()
				took[i] = append(took[i], float64(time.Since(start))/requests)
			}
		}
		for i, s := range subjects {
			slices.Sort(took[i])
			b.Run(fmt.Sprintf("%s/workers=%d", s.name, workers), func(b *testing.B) {
				for b.Loop() { // it is measured already
				}
				b.ReportMetric((took[i][rounds/2-1]+took[i][rounds/2])/2, "ns/op")
				b.ReportMetric(took[i][0], "least-ns")
				b.ReportMetric(took[i][rounds-1], "greatest-ns")
			})
		}
	}
}

// A stub answers at once; it is httplb's kind of transport too.
type stub struct{}

func (stub) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{},
		Body:       io.NopCloser(strings.NewReader("ok")),
		Request:    r,
	}, nil
}

func (stub) NewRoundTripper(string, string, httplb.TransportConfig) httplb.RoundTripperResult {
	return httplb.RoundTripperResult{RoundTripper: stub{}}
}

// fixed are the addresses that httplb resolves everything to.
type fixed []string

func (f fixed) New(_ context.Context, _, _ string, receiver resolver.Receiver, _ <-chan struct{}) io.Closer {
	addrs := make([]resolver.Address, len(f))
	for i, a := range f {
		addrs[i].HostPort = a
	}
	receiver.OnResolve(addrs)
	return io.NopCloser(nil)
}

// conns are connections to nowhere for a picker to choose from.
type conns []string

func (c conns) Len() int            { return len(c) }
func (c conns) Get(i int) conn.Conn { return nowhere(c[i]) }

type nowhere string

func (n nowhere) RoundTrip(*http.Request, func()) (*http.Response, error) { return nil, io.EOF }
func (n nowhere) Scheme() string                                          { return "http" }

func (n nowhere) Address() resolver.Address         { return resolver.Address{HostPort: string(n)} }
func (n nowhere) UpdateAttributes(attribute.Values) {}
func (n nowhere) Prewarm(context.Context) error     { return nil }
