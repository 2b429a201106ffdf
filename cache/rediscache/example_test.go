package rediscache_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

// Redis is not there: each MaxSilence everything is dropped, so no value is older than that. A
// change cannot be told, which is an error.
func ExampleInvalidations() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer client.Close()
	invalidations, err := rediscache.NewInvalidations(client, rediscache.InvalidationsConfig{
		Prefix: "shop:", MaxSilence: 200 * time.Millisecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	users, err := cache.NewMemory(cache.MemoryConfig[string, string]{
		MaxEntries: 1000,
		Tags:       func(_, name string) []string { return []string{"users"} },
	})
	if err != nil {
		log.Fatal(err)
	}
	users.Set("7", "Ada")

	ctx, stop := context.WithCancel(context.Background())
	err = invalidations.Run(ctx, func(n rediscache.Notice) { // on a goroutine of its own, in a service
		switch n.Kind {
		case rediscache.NoticeKey:
			users.Delete(n.Key)
		case rediscache.NoticeTag:
			users.InvalidateTag(n.Tag, n.How)
		case rediscache.NoticeGap:
			users.Clear()
			fmt.Println("gap, connected:", n.Connected)
			stop() // this example ends here
		}
	})
	fmt.Println(err)
	_, ok := users.Get("7")
	fmt.Println("kept:", ok)
	fmt.Println("told:", invalidations.Key(context.Background(), "7") == nil)
	// Output:
	// gap, connected: false
	// context canceled
	// kept: false
	// told: false
}
