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

// BenchmarkBalancerPick compares what clients add to the cost of a request. Each sends to 32
// endpoints through a stub transport. The pickers of httplb also run alone; they learn nothing of
// latencies or failures. All run in turn, ten times; each line reports the median, the least and
// the greatest of the ten. Two further lines, which are not subtracted, are the stub alone and two
// readings of the clock, which every client that measures latency needs.
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
		{"adaptive", balancer.Adaptive()},
		{"p2c", balancer.LeastRequest(2)},
		{"least", balancer.LeastRequest(0)},
		{"turn", balancer.RoundRobin()},
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
			httplb.WithResolver(fixed(addrs)), httplb.WithPicker(p.make),
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
				for b.Loop() { // nothing: it has been measured above
				}
				b.ReportMetric((took[i][rounds/2-1]+took[i][rounds/2])/2, "ns/op")
				b.ReportMetric(took[i][0], "least-ns")
				b.ReportMetric(took[i][rounds-1], "greatest-ns")
			})
		}
	}
}

// A stub answers at once. It is a transport for net/http and for httplb.
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

// fixed is a resolver for httplb that answers with these addresses to any name.
type fixed []string

func (f fixed) New(_ context.Context, _, _ string, receiver resolver.Receiver, _ <-chan struct{}) io.Closer {
	addrs := make([]resolver.Address, len(f))
	for i, a := range f {
		addrs[i].HostPort = a
	}
	receiver.OnResolve(addrs)
	return io.NopCloser(nil)
}

// conns lists connections for a picker to choose from. They lead nowhere.
type conns []string

func (c conns) Len() int            { return len(c) }
func (c conns) Get(i int) conn.Conn { return nowhere(c[i]) }

type nowhere string

func (n nowhere) RoundTrip(*http.Request, func()) (*http.Response, error) { return nil, io.EOF }
func (n nowhere) Scheme() string                                          { return "http" }
func (n nowhere) UpdateAttributes(attribute.Values)                       {}
func (n nowhere) Prewarm(context.Context) error                           { return nil }

func (n nowhere) Address() resolver.Address { return resolver.Address{HostPort: string(n)} }
