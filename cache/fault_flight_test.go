package cache_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/cache"
)

// A body that breaks off is not stored as a whole one, and no client takes it for one.
func TestC25_TruncatedBodiesAreNotStored(t *testing.T) {
	for name, answer := range map[string]string{
		"Content-Length":       "Content-Length: 6\r\n\r\ntea",
		"no last chunk":        "Transfer-Encoding: chunked\r\n\r\n3\r\ntea\r\n",
		"a chunk breaks off":   "Transfer-Encoding: chunked\r\n\r\n6\r\ntea",
		"nothing of the body":  "Content-Length: 6\r\n\r\n",
		"a part of a response": "Content-Range: bytes 0-5/6\r\nContent-Length: 6\r\n\r\ntea",
	} {
		t.Run(name, func(t *testing.T) {
			status := "200 OK"
			if strings.Contains(answer, "Range") {
				status = "206 Partial Content"
			}
			calls := make(chan struct{}, 100)
			origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls <- struct{}{}
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					panic(err)
				}
				fmt.Fprintf(rw, "HTTP/1.1 %s\r\nCache-Control: max-age=60\r\nETag: \"1\"\r\n", status)
				fmt.Fprint(rw, answer)
				_ = rw.Flush()
				conn.Close()
			}))
			defer origin.Close()
			base, err := url.Parse(origin.URL)
			require.NoError(t, err)
			proxy := httputil.NewSingleHostReverseProxy(base)
			proxy.ErrorLog = quiet
			over(t, newCache(t, cache.Config{}).Middleware(proxy), func(t *testing.T, s *httptest.Server) {
				for range 2 {
					r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
					require.NoError(t, err)
					if status[:3] == "206" {
						r.Header.Set("Range", "bytes=0-5")
					}
					before := len(calls)
					resp, err := s.Client().Do(r)
					if err == nil {
						require.False(t, fromCache(resp))
						_, err = io.ReadAll(resp.Body)
						resp.Body.Close()
					}
					require.Error(t, err)
					require.Greater(t, len(calls), before)
				}
			})
		})
	}
}

// Whatever clients do to what they got, others get it as it was. Run with -race.
func TestC28_C66_ResponsesShareNothingThatClientsChange(t *testing.T) {
	c := newCache(t, cache.Config{})
	origin := saying(fixed("tea"), "Cache-Control", "max-age=60", "X-Tea", "green", "X-Tea", "black",
		"Vary", "Accept", "Link", "</a>; rel=next")
	inner := c.Middleware(origin)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Origin")
		inner.ServeHTTP(w, r)
		for name, values := range w.Header() {
			for i := range values {
				values[i] = "changed"
			}
			w.Header()[name] = append(values, "added")
		}
		w.Header().Set("X-New", "1")
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, request("/"))
				if got := fmt.Sprint(w.Body, w.Result().Header["X-Tea"], w.Result().Header["Vary"]); got !=
					"tea [green black] [Origin Accept]" {
					panic(got)
				}
				copy(w.Body.Bytes(), "???")
			}
		})
	}
	wg.Wait()
}

// The same for a Transport, whose clients get the header map itself.
func TestC28_C66_ResponsesOfATransportShareNothing(t *testing.T) {
	c := newCache(t, cache.Config{Private: true})
	client := c.Transport(senderFunc(func(*http.Request) (*http.Response, error) {
		return reply(200, "tea", "Cache-Control", "max-age=60", "X-Tea", "green", "X-Tea", "black"), nil
	}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://a/", nil)
				if err != nil {
					panic(err)
				}
				resp, err := client.RoundTrip(r)
				if err != nil {
					panic(err)
				}
				body, err := io.ReadAll(resp.Body)
				got := fmt.Sprint(resp.Header["X-Tea"], err, string(body))
				if got != "[green black] <nil>tea" {
					panic(got)
				}
				resp.Body.Close()
				resp.Header["X-Tea"][0] = "changed"
				resp.Header.Add("X-Tea", "added")
				copy(body, "???")
			}
		})
	}
	wg.Wait()
}

// A client that does not read keeps nobody from reading, neither during a fetch nor after it.
func TestC53_SlowClientsHoldUpNobody(t *testing.T) {
	body := strings.Repeat("tea.", 1<<18) // 1 MiB, more than sockets buffer
	origin := saying(fixed(body), "Cache-Control", "max-age=60")
	server := httptest.NewServer(newCache(t, cache.Config{}).Middleware(origin))
	defer server.Close()
	for range 3 { // the first one begins the fetch
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
		fmt.Fprint(conn, "GET /tea HTTP/1.1\r\nHost: "+server.Listener.Addr().String()+"\r\n\r\n")
		line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 200 OK\r\n", line)

		_, got := askServer(t, server, http.MethodGet)
		require.Equal(t, len(body), len(got))
	}
	require.EqualValues(t, 1, origin.calls.Load())
}

// who says whose credentials a request has.
func who(r *http.Request) string {
	return "for <" + r.Header.Get("Authorization") + r.Header.Get("Cookie") + ">"
}

func TestC22_CredentialsFollowNobodyAndLeadNobody(t *testing.T) {
	for name, fields := range map[string][]string{
		"Authorization": {"Authorization", "Bearer a"},
		"Cookie":        {"Cookie", "id=a"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Second)
					w.Header().Set("Cache-Control", "public, max-age=60")
					fmt.Fprint(w, who(r))
				}}
				h := newCache(t, cache.Config{}).Middleware(origin)
				var wg sync.WaitGroup
				anonymous := []*visit{visitAs(h, request("/"), &wg)}
				synctest.Wait()
				known := []*visit{
					visitAs(h, request("/", fields...), &wg), visitAs(h, request("/", fields...), &wg),
				}
				synctest.Wait()
				require.EqualValues(t, 3, origin.calls.Load(), "none of the known waits for another's")
				anonymous = append(anonymous, visitAs(h, request("/"), &wg))
				wg.Wait()
				for _, v := range known {
					require.Equal(t, "for <"+fields[1]+">", v.body)
				}
				for _, v := range anonymous {
					require.Equal(t, "for <>", v.body)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Second)
					w.Header().Set("Cache-Control", "max-age=60")
					fmt.Fprint(w, who(r))
				}}
				h := newCache(t, cache.Config{}).Middleware(origin)
				var wg sync.WaitGroup
				visitAs(h, request("/", fields...), &wg)
				synctest.Wait()
				anonymous := visitAs(h, request("/"), &wg)
				synctest.Wait()
				require.EqualValues(t, 2, origin.calls.Load(), "a stranger does not wait for a known one's")
				wg.Wait()
				require.Equal(t, "for <>", anonymous.body)
			})
		})
	}
}

// Clients that reload at the same time are answered by one fetch.
func TestC35_ReloadsAtTheSameTimeAreOneFetch(t *testing.T) {
	for _, reload := range [][]string{
		{"Cache-Control", "no-cache"}, {"Cache-Control", "max-age=0"}, {"Pragma", "no-cache"},
	} {
		for _, tag := range []string{"", `"1"`} {
			synctest.Test(t, func(t *testing.T) {
				origin := &counted{serve: func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Second)
					w.Header().Set("Cache-Control", "max-age=60")
					if tag != "" {
						w.Header().Set("ETag", tag)
					}
					if tag != "" && r.Header.Get("If-None-Match") == tag {
						w.WriteHeader(http.StatusNotModified)
						return
					}
					_, _ = io.WriteString(w, "tea")
				}}
				h := newCache(t, cache.Config{}).Middleware(origin)
				get(h, "/")
				answers, took := many(h, 50, reload...)
				require.EqualValues(t, 2, origin.calls.Load())
				require.Equal(t, time.Second, took)
				for _, resp := range answers {
					require.Equal(t, "tea", text(t, resp))
				}
				get(h, "/", reload...)
				require.EqualValues(t, 3, origin.calls.Load(), "a later one fetches again")
			})
		}
	}
}
