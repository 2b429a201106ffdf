package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// leaving sends a GET whose client leaves after d.
func leaving(h http.Handler, target string, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	gone, leave := context.WithCancel(context.Background())
	go func() {
		defer func() { _ = recover() }()
		do(h, httptest.NewRequest(http.MethodGet, target, nil).WithContext(gone))
	}()
	<-ctx.Done()
	leave()
	synctest.Wait()
}

// A handler that sees the end of its context returns in the middle of its body, as if that were
// whole.
func TestC25_WhatAnAbandonedHandlerLeavesIsNotStored(t *testing.T) {
	for name, cfg := range map[string]cache.Config{
		"FetchTimeout": {FetchTimeout: 5 * time.Second}, "no room": {MaxBackground: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newCache(t, cfg).Middleware(http.HandlerFunc(
					func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Cache-Control", "max-age=60")
						for range 10 {
							fmt.Fprint(w, "line ")
							select {
							case <-r.Context().Done():
								return
							case <-time.After(time.Second):
							}
						}
					}))
				leaving(h, "/", 1500*time.Millisecond)
				time.Sleep(20 * time.Second)
				require.Equal(t, strings.Repeat("line ", 10), text(t, get(h, "/")))
			})
		})
	}
}

// What a handler says that was given up before may be what is left when its own calls fail.
func TestC25_WhatAHandlerSaysAfterItWasGivenUpIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Config{FetchTimeout: 5 * time.Second}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				body := "all"
				select {
				case <-r.Context().Done():
					body = "no"
				case <-time.After(10 * time.Second):
				}
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				_, _ = io.WriteString(w, body)
			}))
		leaving(h, "/", time.Second)
		time.Sleep(time.Minute)
		require.Equal(t, "all", text(t, get(h, "/")))
	})
}

func TestC23_NobodyFollowsAFetchThatWasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Config{MaxBackground: -1}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				_, _ = io.WriteString(w, "a")
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Second) // it is slow to see that
				if r.Context().Err() != nil {
					panic(http.ErrAbortHandler)
				}
				_, _ = io.WriteString(w, "b")
			}))
		leaving(h, "/", time.Second)
		require.NotPanics(t, func() { require.Equal(t, "ab", text(t, get(h, "/"))) })
		time.Sleep(time.Minute)
	})
}

// Clients come and go while others join: nobody is cut off because somebody else has left.
func TestC23_WhoLeavesTakesNothingFromThoseWhoCome(t *testing.T) {
	h := newCache(t, cache.Config{MaxBackground: -1}).Middleware(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, "a")
			w.(http.Flusher).Flush()
			runtime.Gosched()
			if r.Context().Err() != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(w, "b")
		}))
	for i := range 300 {
		target := fmt.Sprint("/", i)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		visitAs(h, request(target).WithContext(ctx), &wg)
		stayed := []*visit{visitAs(h, request(target), &wg), visitAs(h, request(target), &wg)}
		wg.Go(cancel)
		wg.Wait()
		for _, v := range stayed {
			require.Nil(t, v.panicked)
			require.Equal(t, "ab", v.body)
		}
	}
}

// One fetch that hangs in its body must not take everybody with it who asks later.
func TestC27_NobodyFollowsABodyThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		h := newCache(t, cache.Config{Wait: 3 * time.Second}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				first := n.Add(1) == 1
				w.Header().Set("Cache-Control", "max-age=60")
				for range 3 {
					_, _ = io.WriteString(w, "a")
					w.(http.Flusher).Flush()
					time.Sleep(2 * time.Second)
				}
				if first {
					time.Sleep(time.Hour)
				}
				_, _ = io.WriteString(w, "b")
			}))
		var wg sync.WaitGroup
		visitAs(h, request("/"), &wg)
		time.Sleep(5 * time.Second)
		visitAs(h, request("/"), &wg)
		synctest.Wait()
		require.EqualValues(t, 1, n.Load(), "it is slow, and goes on")
		time.Sleep(5 * time.Second)
		began := time.Now()
		require.Equal(t, "aaab", text(t, get(h, "/")))
		require.Equal(t, 6*time.Second, time.Since(began))
		wg.Wait()
	})
}

func TestC24_AHandlerThatEndsItsGoroutineEndsItsFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		h := newCache(t, cache.Config{}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1)%2 == 1 {
					runtime.Goexit()
				}
				w.Header().Set("Cache-Control", "max-age=60")
			}))
		require.Equal(t, http.StatusGatewayTimeout, get(h, "/").StatusCode)
		require.Equal(t, http.StatusOK, get(h, "/").StatusCode)
	})
}

// A blockedWriter is that of a client that reads the first byte and no more.
type blockedWriter struct{ *httptest.ResponseRecorder }

func (w *blockedWriter) Write(p []byte) (int, error) {
	if len(p) > 1 {
		time.Sleep(time.Hour)
	}
	return len(p), nil
}

// Followers that do not read cost those who do one wait together, not one each.
func TestC53_ManySlowFollowersHoldUpTheOthersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		more := make(chan struct{})
		body := strings.Repeat("x", 1<<20)
		h := newCache(t, cache.Config{MaxObject: 64 << 10}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				_, _ = io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				<-more
				_, _ = io.WriteString(w, body)
			}))
		var wg sync.WaitGroup
		began := time.Now()
		var took time.Duration
		wg.Go(func() {
			require.Equal(t, "x"+body, text(t, get(h, "/")))
			took = time.Since(began)
		})
		synctest.Wait()
		for range 5 {
			wg.Go(func() {
				defer func() { _ = recover() }()
				h.ServeHTTP(&blockedWriter{httptest.NewRecorder()}, request("/"))
			})
			synctest.Wait()
		}
		close(more)
		wg.Wait()
		require.Equal(t, 10*time.Second, took)
	})
}

// A fetch that must be made anew takes the conditions out of its request while others look at it.
func TestC28_C31_AFetchIsMadeAnewWhileOthersWantToFollow(t *testing.T) {
	for range 30 {
		h := newCache(t, cache.Config{}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=0")
				w.Header().Set("Vary", "Accept-Encoding")
				if r.Header.Get("If-None-Match") != "" {
					w.Header().Set("Etag", `"2"`)
					w.WriteHeader(http.StatusNotModified)
					return
				}
				w.Header().Set("Etag", `"1"`)
				_, _ = io.WriteString(w, "plain")
			}))
		get(h, "/", "Accept-Encoding", "gzip")
		var wg sync.WaitGroup
		var visits []*visit
		for range 20 {
			visits = append(visits, visitAs(h, request("/", "Accept-Encoding", "gzip"), &wg))
		}
		wg.Wait()
		for _, v := range visits {
			require.Equal(t, "plain", v.body)
		}
	}
}
