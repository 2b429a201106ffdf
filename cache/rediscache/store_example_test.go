package rediscache_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/redis/go-redis/v9"

	"github.com/trivet-go/trivet/cache"
	"github.com/trivet-go/trivet/cache/rediscache"
)

// Redis is not there: pages are served all the same, from this process and its origin. A purge that
// reaches nobody else is an error.
func ExampleNew() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer client.Close()
	far, err := rediscache.New(client, rediscache.Config{Prefix: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	near, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
	if err != nil {
		log.Fatal(err)
	}
	tiered, err := cache.NewTiered(cache.TieredConfig{Near: near, Far: far})
	if err != nil {
		log.Fatal(err)
	}
	pages, err := cache.New(cache.Config{Store: tiered})
	if err != nil {
		log.Fatal(err)
	}
	h := pages.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, "page")
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	fmt.Println(w.Code, w.Body)
	fmt.Println(pages.PurgeTag(context.Background(), "products", cache.Hard) != nil)
	// Output:
	// 200 page
	// true
}
