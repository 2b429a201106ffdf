package cache_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// slowly answers after d with the fields and the body, and counts.
func slowly(d time.Duration, body string, pairs ...string) *counted {
	return &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(d)
		for i := 0; i < len(pairs); i += 2 {
			w.Header().Add(pairs[i], pairs[i+1])
		}
		_, _ = io.WriteString(w, body)
	}}
}

// many sends n requests at once and returns the answers and how long all of them took.
func many(h http.Handler, n int, pairs ...string) (answers []*http.Response, took time.Duration) {
	began := time.Now()
	answers = make([]*http.Response, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { answers[i] = get(h, "/", pairs...) })
	}
	wg.Wait()
	return answers, time.Since(began)
}

func TestCoalescing_OneFetchForAThousandRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := slowly(time.Second, "body", "Cache-Control", "max-age=60")
		c := newCache(t, cache.Config{})
		answers, took := many(c.Middleware(origin), 1000)
		for _, resp := range answers {
			require.Equal(t, http.StatusOK, resp.StatusCode)
			require.Equal(t, "body", text(t, resp))
		}
		require.EqualValues(t, 1, origin.calls.Load())
		require.Equal(t, time.Second, took)
		require.EqualValues(t, 999, c.Stats().Coalesced)
	})
}

func TestC21_FollowersGetNothingPrivate(t *testing.T) {
	for name, fields := range map[string][]string{
		"set-cookie": {"Cache-Control", "max-age=60", "Set-Cookie", "id=1"},
		"private":    {"Cache-Control", "private, max-age=60"},
		"no-store":   {"Cache-Control", "no-store"},
		"vary star":  {"Cache-Control", "max-age=60", "Vary", "*"},
		"no-cache":   {"Cache-Control", "no-cache", "Etag", `"1"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := slowly(time.Second, "body", fields...)
				_, _ = many(newCache(t, cache.Config{}).Middleware(origin), 10)
				require.EqualValues(t, 10, origin.calls.Load(), "each client gets an answer of its own")
			})
		})
	}
}

func TestC21_FollowersDoNotGetTheLeadersOwnFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := slowly(time.Second, "body", "Cache-Control", `max-age=60, private="set-cookie"`,
			"Set-Cookie", "id=1",
			"Ratelimit", "x", "X-Ratelimit-Remaining", "3", "Retry-After", "1", "Server-Timing", "a")
		answers, _ := many(newCache(t, cache.Config{}).Middleware(origin), 10)
		require.EqualValues(t, 1, origin.calls.Load())
		for _, name := range []string{"Set-Cookie", "Ratelimit", "X-Ratelimit-Remaining", "Retry-After",
			"Server-Timing"} {
			n := 0
			for _, resp := range answers {
				n += len(resp.Header[name])
			}
			require.Equal(t, 1, n, name)
		}
	})
}

func TestC22_RequestsWithCredentialsNeverFollow(t *testing.T) {
	for _, name := range []string{"Authorization", "Cookie"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := slowly(time.Second, "body", "Cache-Control", "public, max-age=60")
				h := newCache(t, cache.Config{}).Middleware(origin)
				go get(h, "/")
				synctest.Wait()
				get(h, "/", name, "secret")
				require.EqualValues(t, 2, origin.calls.Load())
			})
		})
	}
}

func TestC26_WhatCannotBeSharedDoesNotMakeOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := slowly(time.Second, "body", "Cache-Control", "no-store")
		h := newCache(t, cache.Config{Detail: true}).Middleware(origin)
		_, took := many(h, 10)
		require.Equal(t, 2*time.Second, took, "the first time all wait for one header")
		answers, took := many(h, 10)
		require.Equal(t, time.Second, took)
		require.Equal(t, "Trivet; fwd=bypass; detail=no-store", answers[0].Header.Get("Cache-Status"))
	})
}

func TestC27_AFollowerWaitsForALimitedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		h := newCache(t, cache.Config{Wait: 3 * time.Second}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1) == 1 {
					time.Sleep(time.Minute)
				}
				w.Header().Set("Cache-Control", "max-age=60")
			}))
		go get(h, "/")
		synctest.Wait()
		began := time.Now()
		require.Equal(t, http.StatusOK, get(h, "/").StatusCode)
		require.Equal(t, 3*time.Second, time.Since(began))
		time.Sleep(time.Minute)
	})
}

func TestC16_AFollowerOfAnotherVariantGetsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "Accept-Language")
			_, _ = io.WriteString(w, r.Header.Get("Accept-Language"))
		}}
		h := newCache(t, cache.Config{}).Middleware(origin)
		var wg sync.WaitGroup
		for i := range 30 {
			language := []string{"de", "en", "fr"}[i%3]
			wg.Go(func() { require.Equal(t, language, text(t, get(h, "/", "Accept-Language", language))) })
		}
		wg.Wait()
		require.EqualValues(t, 3, origin.calls.Load())
	})
}

func TestC23_AFollowerLivesOnWithoutItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := slowly(time.Second, "body", "Cache-Control", "max-age=60")
		h := newCache(t, cache.Config{}).Middleware(origin)
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() {
			defer func() { require.Equal(t, http.ErrAbortHandler, recover()) }()
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com/", nil)
			do(h, r)
		}()
		synctest.Wait()
		done := make(chan string)
		go func() { done <- text(t, get(h, "/")) }()
		synctest.Wait()
		cancel(errors.New("gone"))
		require.Equal(t, "body", <-done)
		require.EqualValues(t, 1, origin.calls.Load())
	})
}

func TestC24_FollowersOfAFailedFetchFetchForThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		h := newCache(t, cache.Config{}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Second)
				if n.Add(1) == 1 {
					panic("boom")
				}
				w.Header().Set("Cache-Control", "max-age=60")
				_, _ = io.WriteString(w, "fine")
			}))
		panicked := make(chan any, 1)
		go func() {
			defer func() { panicked <- recover() }()
			get(h, "/")
		}()
		synctest.Wait()
		require.Equal(t, "fine", text(t, get(h, "/")))
		require.Equal(t, "boom", <-panicked)
	})
}

func TestFetchTimeout_EndsAFetchThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		c := newCache(t, cache.Config{FetchTimeout: 30 * time.Second})
		h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			ended <- context.Cause(r.Context())
		}))
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer func() { _ = recover() }()
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com/", nil)
			do(h, r)
		}()
		time.Sleep(time.Hour)
		require.Empty(t, ended, "while its client waits, a fetch takes as long as it takes")
		cancel()
		synctest.Wait()
		require.Equal(t, 1, c.Stats().Background)
		began := time.Now()
		require.ErrorIs(t, <-ended, context.DeadlineExceeded)
		require.Equal(t, 30*time.Second, time.Since(began))
	})
}

func TestMaxBackground_CancelsAbandonedFillsBeyond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var canceled atomic.Int64
		c := newCache(t, cache.Config{MaxBackground: 2})
		h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
				canceled.Add(1)
			case <-time.After(10 * time.Second):
			}
		}))
		ctx, cancel := context.WithCancel(context.Background())
		for _, path := range []string{"/a", "/b", "/c", "/d", "/e"} {
			go func() {
				defer func() { _ = recover() }()
				r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com"+path, nil)
				do(h, r)
			}()
		}
		synctest.Wait()
		cancel()
		time.Sleep(time.Minute)
		require.EqualValues(t, 3, canceled.Load())
		require.EqualValues(t, 3, c.Stats().PutOff)
	})
}

func TestC42_CloseEndsWhatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := cache.New(cache.Config{})
		require.NoError(t, err)
		ended := make(chan struct{})
		h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			time.Sleep(time.Second)
			close(ended)
		}))
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer func() { _ = recover() }()
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com/", nil)
			do(h, r)
		}()
		synctest.Wait()
		cancel()
		synctest.Wait()
		require.NoError(t, c.Close(context.Background()))
		select {
		case <-ended:
		default:
			t.Fatal("Close does not wait")
		}
	})
}

// What came from another cache is as old for a follower as for the one that it follows.
func TestC38_AFollowerIsToldTheAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := slowly(time.Second, "x", "Cache-Control", "max-age=6000", "Age", "3000")
		answers, _ := many(newCache(t, cache.Config{}).Middleware(origin), 5)
		for _, resp := range answers {
			require.Contains(t, []string{"3000", "3001"}, resp.Header.Get("Age"))
		}
	})
}

// What could not be shared is forgotten as soon as something comes that can.
func TestC26_WhatCanBeSharedAgainMakesOthersWaitAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := &counted{}
		origin.serve = func(w http.ResponseWriter, r *http.Request) {
			switch origin.calls.Load() {
			case 1: // so slow that the next request does not wait for it any more
				time.Sleep(3 * time.Second)
				w.Header().Set("Cache-Control", "max-age=1")
			case 2:
				w.Header().Set("Cache-Control", "private")
			default:
				time.Sleep(time.Second / 2)
				w.Header().Set("Cache-Control", "max-age=60")
			}
		}
		h := newCache(t, cache.Config{Wait: time.Second}).Middleware(origin)
		var wg sync.WaitGroup
		wg.Go(func() { get(h, "/") })
		synctest.Wait()
		get(h, "/")
		wg.Wait()
		time.Sleep(2 * time.Second)
		wg.Go(func() { get(h, "/") })
		synctest.Wait()
		get(h, "/")
		wg.Wait()
		require.EqualValues(t, 3, origin.calls.Load())
	})
}
