package cache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// overBoth runs test against h on real servers of HTTP/1.1 and HTTP/2.
func overBoth(t *testing.T, h func() http.Handler, test func(t *testing.T, client *http.Client, url string)) {
	t.Run("http1", func(t *testing.T) {
		s := httptest.NewServer(h())
		t.Cleanup(s.Close)
		test(t, s.Client(), s.URL)
	})
	t.Run("http2", func(t *testing.T) {
		s := httptest.NewUnstartedServer(h())
		s.EnableHTTP2 = true
		s.StartTLS()
		t.Cleanup(s.Close)
		test(t, s.Client(), s.URL)
	})
}

// fetch sends a GET and returns the answer, whose body the test closes.
func fetch(t *testing.T, client *http.Client, url string, fields ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestMiddleware_StreamsEachByteToLeaderAndFollower(t *testing.T) {
	const steps = 5
	var turn chan struct{}
	var origin *counted
	overBoth(t, func() http.Handler {
		turn = make(chan struct{})
		turns := turn
		origin = &counted{serve: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			for i := range steps {
				fmt.Fprint(w, i)
				require.NoError(t, http.NewResponseController(w).Flush())
				<-turns // until both clients have the byte
			}
		}}
		return newCache(t, cache.Config{}).Middleware(origin)
	}, func(t *testing.T, client *http.Client, url string) {
		leader := fetch(t, client, url)
		follower := fetch(t, client, url)
		require.Equal(t, "Trivet; fwd=uri-miss; stored", leader.Header.Get("Cache-Status"))
		require.Equal(t, "Trivet; fwd=uri-miss; stored; collapsed", follower.Header.Get("Cache-Status"))
		for i := range steps {
			for _, resp := range []*http.Response{leader, follower} {
				var one [1]byte
				_, err := io.ReadFull(resp.Body, one[:])
				require.NoError(t, err)
				require.Equal(t, byte('0'+i), one[0])
			}
			turn <- struct{}{}
		}
		require.Empty(t, text(t, leader))
		require.Empty(t, text(t, follower))
		require.Equal(t, "01234", text(t, fetch(t, client, url)))
		require.EqualValues(t, 1, origin.calls.Load())
	})
}

func TestMiddleware_ServesAHandlerThatNeverFlushes(t *testing.T) {
	want := strings.Repeat("0123456789", 20_000)
	overBoth(t, func() http.Handler {
		return newCache(t, cache.Config{}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				for chunk := want; chunk != ""; {
					n := min(len(chunk), 777)
					_, _ = io.WriteString(w, chunk[:n])
					chunk = chunk[n:]
				}
			}))
	}, func(t *testing.T, client *http.Client, url string) {
		for range 3 {
			require.Equal(t, want, text(t, fetch(t, client, url)))
		}
	})
}

func TestC51_AnEndlessBodyStreamsThroughInFlatMemory(t *testing.T) {
	overBoth(t, func() http.Handler {
		block := make([]byte, 32<<10)
		return newCache(t, cache.Config{MaxObject: 1 << 20}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				for {
					if _, err := w.Write(block); err != nil {
						return
					}
				}
			}))
	}, func(t *testing.T, client *http.Client, url string) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		require.NoError(t, err)
		resp, err := client.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		_, err = io.CopyN(io.Discard, resp.Body, 8<<20)
		require.NoError(t, err)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		_, err = io.CopyN(io.Discard, resp.Body, 64<<20)
		require.NoError(t, err)
		runtime.GC()
		runtime.ReadMemStats(&after)
		require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(4<<20))
	})
}

func TestMiddleware_BodyBeyondMaxObjectReachesAllAndIsNotStored(t *testing.T) {
	want := strings.Repeat("x", 600<<10)
	origin := &counted{}
	gate := make(chan struct{})
	origin.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, want[:1000])
		_ = http.NewResponseController(w).Flush()
		<-gate
		_, _ = io.WriteString(w, want[1000:])
	}
	s := httptest.NewServer(newCache(t, cache.Config{MaxObject: 100 << 10}).Middleware(origin))
	defer s.Close()
	leader, follower := fetch(t, s.Client(), s.URL), fetch(t, s.Client(), s.URL)
	require.Contains(t, follower.Header.Get("Cache-Status"), "collapsed")
	close(gate)
	var wg sync.WaitGroup
	for _, resp := range []*http.Response{leader, follower} {
		wg.Go(func() {
			b, err := io.ReadAll(resp.Body)
			if err != nil || string(b) != want {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, want, text(t, fetch(t, s.Client(), s.URL)))
	require.EqualValues(t, 2, origin.calls.Load())
}

func TestC53_ASlowClientDoesNotKeepTheFillFromBeingStored(t *testing.T) {
	want := strings.Repeat("x", 3<<20) // more than the sockets take
	origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		_, _ = io.WriteString(w, want)
	}}
	c := newCache(t, cache.Config{})
	s := httptest.NewServer(c.Middleware(origin))
	defer s.Close()
	slow := fetch(t, s.Client(), s.URL) // reads nothing yet
	require.Equal(t, want, text(t, fetch(t, s.Client(), s.URL)))
	require.EqualValues(t, 1, origin.calls.Load())
	require.Equal(t, want, text(t, slow))
}

func TestC24_AbortMidBodyReachesLeaderAndFollowersAndStoresNothing(t *testing.T) {
	for name, value := range map[string]any{"abort": http.ErrAbortHandler, "panic": errors.New("boom")} {
		t.Run(name, func(t *testing.T) {
			var gate chan struct{}
			var origin *counted
			overBoth(t, func() http.Handler {
				gate = make(chan struct{})
				g := gate
				origin = &counted{}
				o := origin
				origin.serve = func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", "max-age=60")
					_, _ = io.WriteString(w, "half")
					_ = http.NewResponseController(w).Flush()
					if o.calls.Load() == 1 {
						<-g
						panic(value)
					}
				}
				return quietly(newCache(t, cache.Config{}).Middleware(origin))
			}, func(t *testing.T, client *http.Client, url string) {
				leader, follower := fetch(t, client, url), fetch(t, client, url)
				close(gate)
				for _, resp := range []*http.Response{leader, follower} {
					_, err := io.ReadAll(resp.Body)
					require.Error(t, err, "what is not whole must not seem so")
				}
				require.Equal(t, "half", text(t, fetch(t, client, url)))
				require.EqualValues(t, 2, origin.calls.Load())
			})
		})
	}
}

// quietly turns panics into aborts, so that net/http does not log them.
func quietly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil {
				panic(http.ErrAbortHandler)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

func TestC24_APanicGoesOnInTheClientsGoroutine(t *testing.T) {
	c := newCache(t, cache.Config{})
	h := c.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }))
	require.PanicsWithValue(t, "boom", func() { get(h, "/") })
	require.EqualValues(t, 1, c.Stats().Panics)
	h = c.Middleware(http.HandlerFunc(func(http.ResponseWriter,
		*http.Request) {
		panic(http.ErrAbortHandler)
	}))
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { get(h, "/other") })
	require.EqualValues(t, 1, c.Stats().Panics, "an abort is no panic")
}

func TestC23_TheFillOutlivesItsClient(t *testing.T) {
	var started, gate chan struct{}
	var origin *counted
	overBoth(t, func() http.Handler {
		started, gate = make(chan struct{}, 1), make(chan struct{})
		s, g := started, gate
		origin = &counted{serve: func(w http.ResponseWriter, r *http.Request) {
			s <- struct{}{}
			select {
			case <-g:
			case <-r.Context().Done():
				t.Error("the fetch was canceled")
			}
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, "whole")
		}}
		return newCache(t, cache.Config{}).Middleware(origin)
	}, func(t *testing.T, client *http.Client, url string) {
		ctx, cancel := context.WithCancel(context.Background())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		require.NoError(t, err)
		left := make(chan error)
		go func() {
			_, err := client.Do(r) //nolint:bodyclose // it fails
			left <- err
		}()
		<-started
		cancel()
		require.ErrorIs(t, <-left, context.Canceled)
		close(gate)
		require.Equal(t, "whole", text(t, fetch(t, client, url)))
		require.EqualValues(t, 1, origin.calls.Load())
	})
}

func TestC25_ATruncatedBodyIsNotStored(t *testing.T) {
	calls := 0
	h := newCache(t, cache.Config{}).Middleware(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls++
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "short")
		}))
	s := httptest.NewServer(h)
	defer s.Close()
	for range 2 {
		resp, err := s.Client().Get(s.URL)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		require.Error(t, err)
	}
	require.Equal(t, 2, calls)
}

func TestC65_TrailersAndRepeatedFieldsComeBackTheSame(t *testing.T) {
	overBoth(t, func() http.Handler {
		return newCache(t, cache.Config{StoreSetCookie: true}).Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h := w.Header()
				h.Set("Cache-Control", "max-age=60")
				h.Set("Trailer", "X-Sum")
				h.Add("Set-Cookie", "a=1")
				h.Add("Set-Cookie", "b=2")
				h.Add("Link", "</x>; rel=preload")
				h.Add("Link", "</y>; rel=preload")
				_, _ = io.WriteString(w, "body")
				h.Set("X-Sum", "42")
				h.Set(http.TrailerPrefix+"X-Late", "yes")
			}))
	}, func(t *testing.T, client *http.Client, url string) {
		for range 2 {
			resp := fetch(t, client, url)
			require.Equal(t, "body", text(t, resp))
			require.Equal(t, []string{"a=1", "b=2"}, resp.Header["Set-Cookie"])
			require.Equal(t, []string{"</x>; rel=preload", "</y>; rel=preload"}, resp.Header["Link"])
			require.Equal(t, "42", resp.Trailer.Get("X-Sum"))
			require.Equal(t, "yes", resp.Trailer.Get("X-Late"))
		}
	})
}

func TestC56_InterimResponsesAreForwardedAndNotStored(t *testing.T) {
	h := newCache(t, cache.Config{}).Middleware(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			w.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(w, "final")
		}))
	s := httptest.NewServer(h)
	defer s.Close()
	for i := range 2 {
		conn := dial(t, s.Listener.Addr().String())
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		answer, err := io.ReadAll(bufio.NewReader(conn))
		require.NoError(t, err)
		require.Equal(t, i == 0, strings.Contains(string(answer), "103 Early Hints"))
		require.Equal(t, i == 0, strings.Contains(string(answer), "Link:"))
		require.Contains(t, string(answer), "200 OK")
	}
}

// Many large bodies at the same time take no more memory than the store may: those beyond it stream
// through.
func TestC52_BodiesUnderWayAreBoundedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{MaxBytes: 64 << 10})
		require.NoError(t, err)
		body := strings.Repeat("x", 10<<10)
		more := make(chan struct{})
		c := newCache(t, cache.Config{Store: store, MaxObject: 12 << 10})
		h := c.Middleware(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				_, _ = io.WriteString(w, body[1:])
				<-more
				_, _ = io.WriteString(w, body[:1])
			}))
		stored := 0
		for range 2 { // what the first ones took is given back
			var wg sync.WaitGroup
			var visits []*visit
			for i := range 20 {
				visits = append(visits, visitAs(h, request(fmt.Sprint("/", i)), &wg))
				synctest.Wait()
			}
			close(more)
			wg.Wait()
			for _, v := range visits {
				require.Equal(t, body, v.body)
			}
			stored += 6
			require.EqualValues(t, stored, c.Stats().Stored)
			time.Sleep(2 * time.Minute)
			more = make(chan struct{})
		}
	})
}

// A smallStore says that it has room for forty bytes.
type smallStore struct{ *cache.MemoryStore }

func (smallStore) Capacity() int64 { return 40 }

// Bodies under way may be as much together as the store has room for, and not a byte more. One that
// fails or proves too large gives its room back at once.
func TestC52_TheRoomForBodiesUnderWayIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := cache.NewMemoryStore(cache.MemoryStoreConfig{})
		require.NoError(t, err)
		more := make(chan struct{})
		h := newCache(t, cache.Config{Store: smallStore{store}, MaxObject: 10}).Middleware(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				switch r.URL.Path[:2] {
				case "/f":
					w.Header().Set("Content-Length", "10")
					_, _ = io.WriteString(w, digits[:5])
					panic(http.ErrAbortHandler)
				case "/l":
					_, _ = io.WriteString(w, digits)
					_, _ = io.WriteString(w, "x")
					w.(http.Flusher).Flush()
					<-more
				default:
					_, _ = io.WriteString(w, digits)
					w.(http.Flusher).Flush()
					<-more
				}
			}))
		for range 2 {
			var wg sync.WaitGroup
			for i := range 8 {
				visitAs(h, request(fmt.Sprint("/fails", i)), &wg)
				visitAs(h, request(fmt.Sprint("/large", i)), &wg)
				synctest.Wait()
			}
			for i := range 5 {
				visitAs(h, request(fmt.Sprint("/", i)), &wg)
				synctest.Wait()
			}
			close(more)
			wg.Wait()
			for i := range 5 {
				require.Equal(t, i < 4, fromCache(get(h, fmt.Sprint("/", i))), i)
			}
			time.Sleep(2 * time.Minute)
			more = make(chan struct{})
		}
	})
}

// A writer that waits for a slow reader goes on when that leaves, or else in ten seconds: also if
// the reader is behind by exactly what it may be.
func TestC53_AWriterGoesOnWhenASlowReaderLeaves(t *testing.T) {
	for wait, leaves := range map[time.Duration]bool{time.Second: true, 10 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			more := make(chan struct{})
			h := newCache(t, cache.Config{MaxObject: 10 << 10}).Middleware(http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", "max-age=60")
					w.(http.Flusher).Flush()
					<-more
					_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
				}))
			var wg sync.WaitGroup
			leader := visitAs(h, request("/"), &wg)
			synctest.Wait()
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			wg.Go(func() {
				w := &waitingWriter{ResponseRecorder: httptest.NewRecorder(), ctx: ctx}
				defer func() { _ = recover() }()
				h.ServeHTTP(w, request("/").WithContext(ctx))
			})
			synctest.Wait()
			began := time.Now()
			close(more)
			if leaves {
				time.Sleep(time.Second)
				leave()
			}
			time.Sleep(wait - time.Since(began))
			synctest.Wait()
			require.True(t, leader.done)
			require.Len(t, leader.body, 1<<20)
			leave()
			wg.Wait()
		})
	}
}

// A waitingWriter takes nothing until its client leaves.
type waitingWriter struct {
	*httptest.ResponseRecorder
	ctx context.Context
}

func (w *waitingWriter) Write([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, context.Cause(w.ctx)
}

// A fetch that was given up takes its place among those that nobody waits for once, also if a
// reader that was too slow leaves after the last of the others.
func TestC53_AReaderThatWasTooSlowLeavesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		c := newCache(t, cache.Config{MaxObject: 10 << 10})
		h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.(http.Flusher).Flush()
			time.Sleep(time.Second)
			_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
			<-end
		}))
		var wg sync.WaitGroup
		var leave [2]context.CancelFunc
		for i := range leave {
			ctx, cancel := context.WithCancel(t.Context())
			leave[i] = cancel
			wg.Go(func() {
				defer func() { _ = recover() }()
				var w http.ResponseWriter = httptest.NewRecorder()
				if i > 0 {
					w = &waitingWriter{httptest.NewRecorder(), ctx}
				}
				h.ServeHTTP(w, request("/").WithContext(ctx))
			})
			synctest.Wait()
		}
		time.Sleep(20 * time.Second)
		for i := range leave {
			leave[i]()
			synctest.Wait()
			require.Equal(t, 1, c.Stats().Background)
		}
		close(end)
		wg.Wait()
		synctest.Wait()
		require.Zero(t, c.Stats().Background)
	})
}
