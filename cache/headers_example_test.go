package cache_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/trivet-go/trivet/cache"
)

// A handler that knows nothing of caches gets freshness and entity tags. Around these headers
// stands a Cache, or a CDN.
func ExampleHeaders() {
	headers, err := cache.NewHeaders(cache.HeadersConfig{
		TTL:   time.Minute,
		Stale: 10 * time.Second,
		Rules: []cache.HeadersRule{
			{Types: []string{"image/*"}, TTL: 24 * time.Hour},
			{Status: []int{http.StatusNotFound}, TTL: 5 * time.Second},
		},
		Tags: func(r *http.Request) []string { return []string{"article-" + r.PathValue("id")} },
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /articles/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "Article", r.PathValue("id"))
	})
	handler := headers.Middleware(mux)

	r := httptest.NewRequest(http.MethodGet, "/articles/7", nil)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	for _, name := range []string{"Cache-Control", "Surrogate-Key", "ETag"} {
		fmt.Printf("%s: %s\n", name, w.Header().Get(name))
	}

	r.Header.Set("If-None-Match", w.Header().Get("ETag"))
	w = httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	fmt.Println(w.Code)
	// Output:
	// Cache-Control: max-age=60, stale-while-revalidate=10
	// Surrogate-Key: article-7
	// ETag: "VpaLF1-KDg3eb1xoYxye_g"
	// 304
}
