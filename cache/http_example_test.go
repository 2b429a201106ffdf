package cache_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/trivet-go/trivet/cache"
)

// A handler says for how long its answer may be used; the second request does not reach it.
func ExampleCache_Middleware() {
	c, err := cache.New(cache.Config{IgnoreQuery: []string{"utm_*"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(context.Background())
	handler := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("the handler is asked for", r.URL)
		w.Header().Set("Cache-Control", "max-age=60, stale-while-revalidate=30")
		w.Header().Set("Surrogate-Key", "products product-7")
		fmt.Fprint(w, "tea")
	}))
	for _, target := range []string{"/products/7", "/products/7?utm_source=letter"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
		fmt.Println(w.Body, "-", w.Header().Get("Cache-Status"))
	}
	if err := c.PurgeTag(context.Background(), "product-7", cache.Hard); err != nil {
		log.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/products/7", nil))
	fmt.Println(w.Body, "-", w.Header().Get("Cache-Status"))
	// Output:
	// the handler is asked for /products/7
	// tea - Trivet; fwd=uri-miss; stored
	// tea - Trivet; hit; ttl=60
	// the handler is asked for /products/7
	// tea - Trivet; fwd=uri-miss; stored
}

// A client that keeps what it was told it may keep.
func ExampleCache_Transport() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("the server is asked")
		w.Header().Set("Cache-Control", "private, max-age=60")
		fmt.Fprint(w, "hello")
	}))
	defer server.Close()
	c, err := cache.New(cache.Config{Private: true})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(context.Background())
	client := &http.Client{Transport: c.Transport(nil), Timeout: 10 * time.Second}
	for range 2 {
		resp, err := client.Get(server.URL)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Println(string(body), err)
	}
	client.CloseIdleConnections()
	// Output:
	// the server is asked
	// hello <nil>
	// hello <nil>
}

// A page that depends on a cookie and does not say so is the same page for everybody. Say
// "private", or "no-store", or Vary.
func ExampleCache_Middleware_incorrect() {
	c, err := cache.New(cache.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(context.Background())
	handler := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _ := r.Cookie("name")
		w.Header().Set("Cache-Control", "max-age=60") // and not "private, max-age=60"
		fmt.Fprint(w, "hello ", name.Value)
	}))
	for _, name := range []string{"Ada", "Grace"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.AddCookie(&http.Cookie{Name: "name", Value: name})
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Body)
	}
	// Output:
	// hello Ada
	// hello Ada
}

func ExampleNewMemoryStore() {
	store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{MaxBytes: 256 << 20})
	if err != nil {
		log.Fatal(err)
	}
	// Two routes with rules of their own, one bound, and one purge for both.
	pages, err := cache.New(cache.Config{Store: store})
	if err != nil {
		log.Fatal(err)
	}
	images, err := cache.New(cache.Config{Store: store, MaxObject: 32 << 20})
	if err != nil {
		log.Fatal(err)
	}
	err = images.PurgePrefix(context.Background(), "https://example.com/", cache.Soft)
	fmt.Println(err, pages.Stats().StoreUp, store.Stats().Entries)
	// Output: <nil> true 0
}
