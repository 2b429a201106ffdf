package redislimit_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/ratelimit"
	"github.com/trivet-go/trivet/ratelimit/redislimit"
)

// Redis is not there: the process counts for itself, at its share of the limit, and nobody waits
// for it.
func ExampleNew() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer client.Close()
	store, err := redislimit.New(client, redislimit.Config{Timeout: time.Second})
	if err != nil {
		log.Fatal(err)
	}
	limiter, err := ratelimit.New(ratelimit.Config{
		Store: store,
		Policies: []ratelimit.Policy{{
			Name:       "api",
			Rate:       ratelimit.PerHour(100).WithBurst(8),
			Key:        func(r *http.Request) (string, bool) { return r.Header.Get("X-Api-Key"), true },
			Missing:    ratelimit.MissingReject,
			LocalShare: 0.25, // four processes
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		d, err := limiter.TakeKeys(context.Background(), []string{"alice"})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.Allowed, d.Degraded, d.Remaining)
	}
	// Output:
	// true true 1
	// true true 0
	// false true 0
}
