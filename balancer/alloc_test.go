//go:build !race

package balancer_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/balancer"
)

// A request may make two allocations, for the response's body. Those of the transport below do not
// count.
func TestRoundTripAllocates(t *testing.T) {
	resp := answer(200)
	body := io.NopCloser(http.NoBody)
	b := newBalancer(t, balancer.Config{
		Resolver: balancer.Static(addrs(8)...),
		Wrap: func(balancer.Endpoint, http.RoundTripper) http.RoundTripper {
			return roundTripper(func(*http.Request) (*http.Response, error) {
				resp.Body = body
				return resp, nil
			})
		},
	})
	req, err := http.NewRequestWithContext(
		context.Background(),
		http.MethodGet,
		"http://users.internal/",
		nil,
	)
	require.NoError(t, err)
	send := func() {
		r, err := b.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
	}
	for range 1000 {
		send()
	}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, send), 2.0)
}

// Handler allocates less than the ReverseProxy, of which it does more.
func TestAllocsOfAProxiedRequest(t *testing.T) {
	allocs := map[string]float64{}
	for name, h := range proxies(t, memoryServer{bytes.Repeat([]byte("x"), 1024)}) {
		r, w := browserRequest(), &discards{h: http.Header{}}
		allocs[name] = testing.AllocsPerRun(200, func() {
			clear(w.h)
			h.ServeHTTP(w, r)
		})
	}
	t.Logf("%v", allocs)
	require.LessOrEqual(t, allocs["handler"], 0.75*allocs["reverseproxy"])
}
