package balancer_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/trivet-go/trivet/balancer"
)

// named starts a server that answers with its name.
func named(name string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s serves %s%s", name, r.Host, r.URL.Path)
	}))
}

func Example() {
	one, two := named("one"), named("two")
	defer one.Close()
	defer two.Close()

	b, err := balancer.New(balancer.Config{
		Resolver: balancer.Static(one.Listener.Addr().String(), two.Listener.Addr().String()),
		Health:   balancer.HealthConfig{Path: "/healthz"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close(context.Background())
	client := &http.Client{Transport: b}

	two.Close() // a server going down is not an outage
	for range 3 {
		resp, err := client.Get("http://users.internal/42")
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Println(string(body))
	}
	// Output:
	// one serves users.internal/42
	// one serves users.internal/42
	// one serves users.internal/42
}

func ExampleNew() {
	_, err := balancer.New(balancer.Config{
		Conns:   -1,
		Outlier: balancer.OutlierConfig{MaxEjected: 2},
	})
	fmt.Println(err)
	// Output:
	// balancer: Config.Resolver: is required
	// balancer: Config.Conns: -1 is negative
	// balancer: Config.Outlier.MaxEjected: 2 is more than 1
}

func ExampleBalancer_Handler() {
	app := named("app")
	defer app.Close()
	b, err := balancer.New(balancer.Config{Resolver: balancer.Static(app.Listener.Addr().String())})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close(context.Background())
	proxy, err := b.Handler(&url.URL{Scheme: "http", Host: "app.internal"}, balancer.HandlerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()

	req, _ := http.NewRequest("GET", front.URL+"/cart", nil)
	req.Host = "shop.example"
	resp, err := front.Client().Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(string(body))
	// Output: app serves shop.example/cart
}

// A retry layer asks for another endpoint each time.
func ExampleAvoid() {
	one, two := named("one"), named("two")
	defer one.Close()
	defer two.Close()
	seen := map[string]bool{}
	b, err := balancer.New(balancer.Config{
		Resolver: balancer.Static(one.Listener.Addr().String(), two.Listener.Addr().String()),
		Observe: func(_ context.Context, e balancer.Event) {
			if e.Kind == balancer.Attempted {
				seen[e.Endpoint.Addr] = true
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close(context.Background())
	req, _ := http.NewRequest("GET", "http://users.internal/42", nil)
	req = req.WithContext(balancer.Avoid(req.Context())) // once for all attempts
	for range 2 {
		resp, err := b.RoundTrip(req)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	}
	fmt.Println(len(seen), "endpoints have had the request")
	// Output: 2 endpoints have had the request
}

// If each attempt has a context of its own, nothing is remembered: the second attempt may go where
// the first one failed.
func ExampleAvoid_incorrect() {
	one, two := named("one"), named("two")
	defer one.Close()
	defer two.Close()
	seen := map[string]bool{}
	repeated := false
	b, err := balancer.New(balancer.Config{
		Resolver: balancer.Static(one.Listener.Addr().String(), two.Listener.Addr().String()),
		Observe: func(_ context.Context, e balancer.Event) {
			if e.Kind == balancer.Attempted {
				repeated = repeated || seen[e.Endpoint.Addr]
				seen[e.Endpoint.Addr] = true
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close(context.Background())
	for range 20 {
		req, _ := http.NewRequest("GET", "http://users.internal/42", nil)
		ctx := balancer.Avoid(req.Context()) // wrong: it belongs before the loop
		resp, err := b.RoundTrip(req.WithContext(ctx))
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	}
	fmt.Println("an endpoint had it twice:", repeated)
	// Output: an endpoint had it twice: true
}

// The event of an attempt tells where the request went, and why.
func ExampleEvent() {
	app := named("app")
	defer app.Close()
	b, err := balancer.New(balancer.Config{
		Resolver: balancer.NewPushed(balancer.Endpoint{Addr: app.Listener.Addr().String(), Zone: "eu-1a"}),
		Observe: func(_ context.Context, e balancer.Event) {
			if e.Kind == balancer.Attempted {
				fmt.Println(e.Endpoint.Zone, e.Outcome, e.Reason, e.Repicked)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close(context.Background())
	resp, err := (&http.Client{Transport: b}).Get("http://users.internal/42")
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	// Output: eu-1a success only 0
}

// On the server's side: clients with the Probing policy read what the Reporter says.
func ExampleReporter() {
	srv := httptest.NewServer(balancer.Reporter(http.NotFoundHandler()))
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL + balancer.LoadPath)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode, resp.Header.Get(balancer.LoadHeader))
	// Output: 204 in-flight=0, latency=0
}

// A handler in front of a Handler refuses uploads that are too large. Clients get the answer, even
// those that send first and read then.
func ExampleRefuse() {
	limited := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 1<<20 {
			balancer.Refuse(w, r, func(w http.ResponseWriter) {
				http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			})
		}
	})
	w := httptest.NewRecorder()
	limited.ServeHTTP(w, httptest.NewRequest("PUT", "/", strings.NewReader(strings.Repeat("x", 2<<20))))
	fmt.Println(w.Code, w.Header().Get("Connection"))
	// Output: 413 close
}
