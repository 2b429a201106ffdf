package pacer_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/pacer"
)

func Example() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello")
	}))
	defer server.Close()
	p, err := pacer.New(pacer.Config{Rate: ratelimit.PerSecond(100).WithBurst(1)})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: p.Transport(nil)}
	defer client.CloseIdleConnections()
	start := time.Now()
	for range 3 {
		resp, err := client.Get(server.URL)
		if err != nil {
			log.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	fmt.Println(time.Since(start) >= 20*time.Millisecond, p.Stats().Sent)
	// Output: true 3
}

// Endpoints behind one URL have paces of their own: each Transport of balancer.Config.Wrap is for
// the endpoint's address.
func ExamplePacer_TransportFor() {
	p, err := pacer.New(pacer.Config{Rate: ratelimit.PerHour(1), MaxQueue: -1})
	if err != nil {
		log.Fatal(err)
	}
	wrap := func(addr string, next http.RoundTripper) http.RoundTripper { return p.TransportFor(addr, next) }
	ok := roundTripFunc(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, nil
	})
	first, second := wrap("10.0.0.1:80", ok), wrap("10.0.0.2:80", ok)
	for _, endpoint := range []http.RoundTripper{first, second, first} {
		_, err := endpoint.RoundTrip(httptest.NewRequest("GET", "http://users.internal/", nil))
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// <nil>
	// pacer: queue full (10.0.0.1:80)
}
