package main

import (
	"net/http"
	"strings"
	"time"
)

// originAddrs are where the two origins listen, and listenAddr is where the contender does.
var originAddrs = []string{"127.0.0.1:19001", "127.0.0.1:19002"}

const listenAddr = "127.0.0.1:19080"

// serveOrigin runs an origin.
func serveOrigin(args []string) error {
	body := func(n int) []byte { return []byte(strings.Repeat("x", n)) }
	small, big := body(1<<10), body(256<<10)
	mux := http.NewServeMux()
	serve := func(path string, content []byte, cacheControl string, delay time.Duration) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			if delay > 0 {
				time.Sleep(delay)
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Cache-Control", cacheControl)
			_, _ = w.Write(content)
		})
	}
	serve("/1k", small, "no-store", 0)
	serve("/256k", big, "no-store", 0)
	serve("/cached", small, "public, max-age=3600", 0)
	serve("/slow", small, "no-store", 20*time.Millisecond)
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	return http.ListenAndServe(args[0], mux)
}
