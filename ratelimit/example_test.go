package ratelimit_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/trivet-go/trivet/ratelimit"
)

func Example() {
	limiter, err := ratelimit.New(ratelimit.Config{
		Policies: []ratelimit.Policy{{
			Name:    "per-client",
			Rate:    ratelimit.PerMinute(60).WithBurst(2),
			Key:     ratelimit.ByPeer, // no proxy in front: nothing a client says is believed
			Missing: ratelimit.MissingReject,
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := limiter.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello")
	}))
	for range 3 {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		h := w.Header()
		fmt.Printf("%d, RateLimit: %s, Retry-After: %q\n", w.Code, h.Get("RateLimit"), h.Get("Retry-After"))
	}
	// Output:
	// 200, RateLimit: "per-client";r=1;t=1, Retry-After: ""
	// 200, RateLimit: "per-client";r=0;t=1, Retry-After: ""
	// 429, RateLimit: "per-client";r=0;t=1, Retry-After: "1"
}

// Several policies are charged together or not at all. What comes by another way than HTTP, here
// out of a queue, is counted with the requests that the same limiter's Middleware decides.
func ExampleLimiter_TakeKeys() {
	limiter, err := ratelimit.New(ratelimit.Config{
		Policies: []ratelimit.Policy{
			{
				Name: "user", Rate: ratelimit.PerHour(10).WithBurst(2),
				Key: ratelimit.ByHeader("X-User"), Missing: ratelimit.MissingReject,
			},
			{
				Name: "tenant", Rate: ratelimit.PerHour(100).WithBurst(100),
				Key: ratelimit.ByHeader("X-Tenant"), Missing: ratelimit.MissingReject,
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		d, err := limiter.TakeKeys(context.Background(), []string{"alice", "acme"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed, d.Violated(), d.Claims()[1].Remaining)
	}
	// Output:
	// true [] 99
	// true [] 98
	// false [user] 98
}

// The key of several parts: each client has so much of each route.
func ExampleJoin() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(http.ResponseWriter, *http.Request) {})
	key := ratelimit.Join(ratelimit.ByPeer, ratelimit.ByPattern(mux))
	keyOf := func(path string) string {
		k, _ := key(httptest.NewRequest("GET", path, nil))
		return k
	}
	fmt.Println(keyOf("/items/1") == keyOf("/items/2"), keyOf("/items/1") == keyOf("/"))
	// Output: true false
}

// Behind proxies, name them: then the address that the last of them has seen counts, and what a
// client claims does not.
func ExampleByIP() {
	key, err := ratelimit.ByIP(ratelimit.IPConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	})
	if err != nil {
		log.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "10.0.0.1:443" // our proxy
	r.Header.Set("X-Forwarded-For", "203.0.113.9, 198.51.100.7")
	fmt.Println(key(r))
	r.Header.Set("X-Forwarded-For", "2001:db8:1:2:3:4:5:6")
	fmt.Println(key(r)) // a client has a whole /64
	// Output:
	// 198.51.100.7 true
	// 2001:db8:1:2:: true
}

// Trusting everybody's X-Forwarded-For gives each client as many limits as it likes: the left-most
// address is whatever it sent.
func ExampleByIP_incorrect() {
	everybody, err := ratelimit.ByIP(ratelimit.IPConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
	})
	if err != nil {
		log.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "192.0.2.1:1234" // a client, no proxy
	for _, made := range []string{"198.51.100.1", "198.51.100.2"} {
		r.Header.Set("X-Forwarded-For", made)
		key, _ := everybody(r)
		fmt.Println(key)
	}
	key, _ := ratelimit.ByPeer(r)
	fmt.Println(key, "is right")
	// Output:
	// 198.51.100.1
	// 198.51.100.2
	// 192.0.2.1 is right
}

// What a request costs may be known only afterwards: the tokens of a language model, the bytes of
// an answer.
func ExampleDecision_Charge() {
	byKey := ratelimit.ByHeader("X-Api-Key")
	limiter, err := ratelimit.New(ratelimit.Config{
		PassDecision: true,
		Policies: []ratelimit.Policy{
			{
				Name: "requests", Rate: ratelimit.PerMinute(60).WithBurst(60),
				Key: byKey, Missing: ratelimit.MissingReject,
			},
			{
				Name: "tokens", Rate: ratelimit.PerMinute(1000).WithBurst(1000),
				Key: byKey, Missing: ratelimit.MissingReject,
				Cost: func(*http.Request) int64 { return 1 }, // so that a key in debt waits
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := limiter.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d, ok := ratelimit.FromContext(r.Context()); ok {
			if err := d.Charge(r.Context(), 1500, "tokens"); err != nil {
				log.Print(err)
			}
		}
	}))
	for range 2 {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/complete", nil)
		r.Header.Set("X-Api-Key", "secret")
		handler.ServeHTTP(w, r)
		fmt.Printf("%d, Retry-After: %q\n", w.Code, w.Header().Get("Retry-After"))
	}
	// Output:
	// 200, Retry-After: ""
	// 429, Retry-After: "31"
}

// A limit on what fails: good log-ins are free, of wrong passwords five are answered.
func ExamplePolicy_countIf() {
	limiter, err := ratelimit.New(ratelimit.Config{Policies: []ratelimit.Policy{{
		Name: "failed-log-ins", Rate: ratelimit.PerHour(5).WithBurst(5),
		Key: ratelimit.ByPeer, Missing: ratelimit.MissingReject,
		CountIf: func(status int) bool { return status == http.StatusUnauthorized },
	}}})
	if err != nil {
		log.Fatal(err)
	}
	handler := limiter.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "right" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	for _, password := range []string{"right", "wrong"} {
		var codes []int
		for range 8 {
			r := httptest.NewRequest("POST", "/log-in", nil)
			r.SetBasicAuth("alice", password)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			codes = append(codes, w.Code)
		}
		fmt.Println(codes)
	}
	// Output:
	// [200 200 200 200 200 200 200 200]
	// [401 401 401 401 401 429 429 429]
}

func ExampleConcurrency_Middleware() {
	concurrency, err := ratelimit.NewConcurrency(ratelimit.ConcurrencyConfig{
		Limit: 1, Key: ratelimit.ByPeer, Missing: ratelimit.MissingReject,
	})
	if err != nil {
		log.Fatal(err)
	}
	var handler http.Handler
	handler = concurrency.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		second := httptest.NewRecorder() // while this one is in flight
		handler.ServeHTTP(second, r)
		fmt.Fprint(w, second.Code)
	}))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(w.Code, w.Body, concurrency.Stats().InFlight)
	// Output: 200 429 0
}
