package redisrollout_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/versioning"
	"github.com/trivet-go/trivet/versioning/redisrollout"
)

// Redis is not there: nobody knows whether the release was rolled back, so it gets no requests.
func ExampleNew() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer client.Close()
	store, err := redisrollout.New(client, redisrollout.Config{Timeout: time.Second})
	if err != nil {
		log.Fatal(err)
	}
	rollout, err := versioning.NewRollout(versioning.RolloutConfig{
		Name: "shop", Release: "v2", Store: store,
		Key:     func(r *http.Request) (string, bool) { return r.Header.Get("User"), true },
		Missing: versioning.MissingStable,
		Steps:   []versioning.Step{{Weight: 0.05}, {Weight: 0.5}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer rollout.Close(context.Background())
	s := rollout.State()
	fmt.Println(s.Phase, s.Weight)
	// Output:
	// waiting 0
}
