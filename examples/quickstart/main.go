// Quickstart is a client whose requests are spread over three servers, one of which fails.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"

	"github.com/trivet-go/trivet/balancer"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(out io.Writer) error {
	// Three servers of one service. "b" fails every request, and does so faster than the others succeed.
	var addrs []string
	for _, name := range []string{"a", "b", "c"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name == "b" {
				http.Error(w, "broken", http.StatusInternalServerError)
				return
			}
			fmt.Fprintf(w, "hello from %s", name)
		}))
		defer server.Close()
		addrs = append(addrs, server.Listener.Addr().String())
	}

	// A Balancer is an http.RoundTripper: it sends each request to one of them.
	b, err := balancer.New(balancer.Config{Resolver: balancer.Static(addrs...)})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: b}
	defer client.CloseIdleConnections()

	// Ten users, a hundred requests each.
	var good, bad atomic.Int64
	var users sync.WaitGroup
	for range 10 {
		users.Go(func() {
			for range 100 {
				resp, err := client.Get("http://greetings.internal/")
				if err != nil {
					bad.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					good.Add(1)
				} else {
					bad.Add(1)
				}
			}
		})
	}
	users.Wait()
	fmt.Fprintf(out, "%d requests answered, %d failed\n", good.Load(), bad.Load())
	for _, host := range b.Hosts("http://greetings.internal") {
		fmt.Fprintf(out, "%s: %d requests, %s %s\n", host.Addr, host.Requests, host.State, host.Reason)
	}
	return nil
}
