package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A pausingStore calls pause when it is asked for the second time whether something was purged: a
// follower asks then whether what it waited for is still good.
type pausingStore struct {
	*cache.MemoryStore
	asked atomic.Int64
	pause func()
}

func (s *pausingStore) Purged(e *cache.Entry) (cache.Invalidation, time.Time) {
	if s.asked.Add(1) == 2 {
		s.pause()
	}
	return s.MemoryStore.Purged(e)
}

// A fetch may be given up after a follower has seen that its response may be shared.
func TestC21_AFollowerOfWhatIsGivenUpGetsNothingOfTheLeaders(t *testing.T) {
	forLeader := []string{"Set-Cookie", "X-Private", "X-Dropped", "Retry-After"}
	for name, end := range map[string]func(w http.ResponseWriter){
		"too large": func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.Repeat("x", 100)) },
		"too short": func(http.ResponseWriter) {},
		"panic":     func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
				require.NoError(t, err)
				more := make(chan struct{})
				store := &pausingStore{MemoryStore: memory, pause: func() {
					close(more)
					synctest.Wait() // until the fetch is given up
				}}
				c := newCache(t, cache.Config{Store: store, MaxObject: 50, Drop: []string{"X-Dropped"}})
				h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					h := w.Header()
					h.Set("Cache-Control", `max-age=60, no-cache="Set-Cookie", private="X-Private"`)
					for _, name := range append(forLeader, "X-All") {
						h.Set(name, "leader")
					}
					if name == "too short" {
						h.Set("Content-Length", "9")
					}
					_, _ = io.WriteString(w, "begin")
					w.(http.Flusher).Flush()
					<-more
					end(w)
				}))
				var wg sync.WaitGroup
				leader := headerOf(h, request("/"), &wg)
				synctest.Wait()
				follower := headerOf(h, request("/"), &wg)
				wg.Wait()
				require.Contains(t, follower.Get("Cache-Status"), "collapsed")
				for _, name := range forLeader {
					require.Equal(t, "leader", leader.Get(name))
					require.Empty(t, follower.Get(name), name)
				}
				require.Equal(t, "leader", follower.Get("X-All"))
				require.Equal(t, "0", follower.Get("Age"))
			})
		})
	}
}

// headerOf sends r to h on a goroutine of wg. What it returns may be read when wg is done.
func headerOf(h http.Handler, r *http.Request, wg *sync.WaitGroup) http.Header {
	w := httptest.NewRecorder()
	wg.Go(func() {
		defer func() { _ = recover() }() // what is not whole is aborted
		h.ServeHTTP(w, r)
	})

	return w.Header()
}

// A 103 comes before anybody can tell whether the response may be shared.
func TestC21_FollowersGetNoInterimResponses(t *testing.T) {
	for _, control := range []string{"private", "max-age=60"} {
		t.Run(control, func(t *testing.T) {
			var store *pausingStore
			overBoth(t, func() http.Handler {
				memory, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
				require.NoError(t, err)
				var visitors atomic.Int64
				follows := make(chan struct{})
				store = &pausingStore{MemoryStore: memory, pause: func() { close(follows) }}
				store.asked.Store(1) // to join asks already
				return newCache(t, cache.Config{Store: store}).Middleware(
					http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						n := strconv.FormatInt(visitors.Add(1), 10)
						w.Header().Set("Set-Cookie", "visitor="+n)
						w.Header().Set("Link", "</"+n+".css>; rel=preload")
						w.WriteHeader(http.StatusEarlyHints)
						if n == "1" {
							<-follows
						}
						w.Header().Del("Set-Cookie")
						w.Header().Del("Link")
						w.Header().Set("Cache-Control", control)
						_, _ = io.WriteString(w, n)
					}))
			}, func(t *testing.T, client *http.Client, url string) {
				led := make(chan struct{})
				var leader, follower *hinted
				var wg sync.WaitGroup
				wg.Go(func() { leader = hintsOf(t, client, url, func() { close(led) }) })
				<-led
				wg.Go(func() { follower = hintsOf(t, client, url, func() {}) })
				wg.Wait()
				require.Equal(t, hinted{"1", []string{"103 </1.css>; rel=preload visitor=1"}}, *leader)
				if follower.body == "1" {
					require.Empty(t, follower.hints)
				} else {
					require.Equal(t, hinted{"2", []string{"103 </2.css>; rel=preload visitor=2"}}, *follower)
				}
			})
		})
	}
}

// A hinted answer is a body, and the interim responses before it.
type hinted struct {
	body  string
	hints []string
}

// hintsOf sends a GET, and calls onHint at each interim response.
func hintsOf(t *testing.T, client *http.Client, url string, onHint func()) *hinted {
	h := new(hinted)
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			hint := fmt.Sprint(code, " ", header.Get("Link"), " ", header.Get("Set-Cookie"))
			h.hints = append(h.hints, hint)
			onHint()
			return nil
		}})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Error(err)
		return h
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Error(err)
		return h
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	h.body = string(body)
	return h
}
